"""The state folder: whose it is, who uses it now, and whether there is room.

Refuses what would end in a half-started console, in one line each. What is inside belongs to those who put it there.
"""

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import stat
import time
from pathlib import Path

from backupsite import processes

LEAST_FREE_BYTES = 256 * 2**20


class StateFolderError(Exception):
    """The state folder cannot be used. str() is one line: which folder, why, what to do."""


class Lock:
    """An exclusive lock on a file that says who holds it; the kernel takes it away at the end of the process."""

    def __init__(self, path: Path, purpose: str) -> None:
        """Raises StateFolderError that names the holder if there is one."""
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self.descriptor, 400, 0).decode(errors="replace").strip()
            os.close(self.descriptor)
            raise StateFolderError(f"{path.parent.parent} is in use by {holder or 'a process that starts'}.") from None
        now = time.strftime("%Y-%m-%d %H:%M:%S %z")
        text = f"process {os.getpid()} ({purpose}, started {now} by {user_name(os.geteuid())})\n"
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, text.encode(), 0)

    def release(self) -> None:
        os.close(self.descriptor)


def prepare(home: Path) -> None:
    """Make the folder if there is none and check that it is ours. Raises StateFolderError."""
    try:
        made = make(home)
        found = home.stat()
        if not stat.S_ISDIR(found.st_mode):
            raise StateFolderError(f"The state folder {home} is not a folder: set BACKUPSITE_HOME to one.")
        if found.st_uid != os.geteuid():
            raise StateFolderError(
                f"The state folder {home} belongs to {user_name(found.st_uid)}, and this is {user_name(os.geteuid())}: "
                "start as its owner, or set BACKUPSITE_HOME to another folder."
            )
        set_mode(home, found, own=made or not any(home.iterdir()))
        for name in ("run", "logs", "restores"):
            (home / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StateFolderError(f"The state folder {home} cannot be used: {error.strerror}: {error.filename}") from error


def make(home: Path) -> bool:
    home.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        home.mkdir(mode=0o700)
        return True
    return False


def set_mode(home: Path, found: os.stat_result, *, own: bool) -> None:
    """Close a new folder to others; as root they may pass, not list: Postgres runs as somebody else.

    A folder that holds anything may not be ours alone, so its mode is only checked.
    """
    if own:
        home.chmod(0o711 if os.geteuid() == 0 else 0o700)
    elif found.st_mode & 0o022:
        raise StateFolderError(f"Others may write into the state folder {home}: remove that right with chmod go-w.")
    elif os.geteuid() == 0 and (home / "secret-key").exists():
        home.chmod(stat.S_IMODE(found.st_mode) | 0o001)


def check_room(home: Path) -> None:
    """Raise StateFolderError where so little is free that Postgres would soon stop in the middle of something."""
    free_bytes = shutil.disk_usage(home).free
    if free_bytes < LEAST_FREE_BYTES:
        raise StateFolderError(
            f"Only {free_bytes // 2**20} MiB are free in the state folder {home}: "
            f"{LEAST_FREE_BYTES // 2**20} MiB are needed to start; make room, or move the folder."
        )


def end_leftovers(home: Path) -> None:
    """End what a killed supervisor of this folder left; call it with the lock held. Postgres sees to its own."""
    steps = ((signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0))
    if not processes.end_all(lambda: processes.marked(str(home)), steps):
        left = ", ".join(str(pid) for pid in processes.marked(str(home)))
        raise StateFolderError(f"Processes of an earlier start on {home} do not end: {left}.")
    for path in (home / "run").glob("*.pid"):
        path.unlink(missing_ok=True)


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
