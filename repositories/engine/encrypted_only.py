"""A repository that takes encrypted backup files only, and says so itself: by a marker file in its folder.

Every writer of backup files looks for the marker, before it begins and again before it publishes, so that nothing plain
gets in whoever writes: a session, the command line, a console that knows nothing of the flag. An order can refuse plain
files too (`plain_allowed`), with or without a marker. Who sets and takes away the marker is left to the callers; what
is in the repository already stays readable.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from repositories.engine.errors import PlaintextRefused, RepositoryUnwritable, text

MARKER = ".backupsite-encrypted-only"
_WORDS = b"""\
This repository takes encrypted backup files only. Backupsite wrote this file when an administrator required encryption,
and takes it away when that is no longer required; its engine refuses to write plain backup files beside it.
"""


def is_marked(root: Path) -> bool:
    return os.path.lexists(root / MARKER)


def mark(root: Path) -> None:
    """Write the marker, unless it is there. The folder must exist. Raises RepositoryUnwritable."""
    with _told(root):
        try:
            fd = os.open(root / MARKER, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        except FileExistsError:
            return
        try:
            os.write(fd, _WORDS)
            os.fsync(fd)
        finally:
            os.close(fd)
        _sync(root)


def unmark(root: Path) -> None:
    """Take the marker away, if it is there. Raises RepositoryUnwritable."""
    with _told(root):
        if is_marked(root):
            os.unlink(root / MARKER)
            _sync(root)


def check_plain(root: Path, *, allowed: bool = True) -> None:
    """A plain file is to be written. Raises PlaintextRefused where the order or the repository takes encrypted ones."""
    if not allowed:
        raise PlaintextRefused(
            f"The repository {text(root)} takes encrypted backups only, so nothing was written. Choose a password or a "
            "key for the job, or write to another repository.",
            repository=text(root),
        )
    if is_marked(root):
        raise PlaintextRefused(
            f"The repository {text(root)} takes encrypted backups only: the file {text(root / MARKER)} says so. "
            "Nothing was written. Encrypt the backup, or write to another folder.",
            repository=text(root),
        )


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _told(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RepositoryUnwritable(
            f"The marker {text(root / MARKER)} cannot be changed ({error.strerror}): mend the rights of the folder or "
            "its disk, then try again.",
            path=text(root),
            reason=str(error.strerror),
        ) from error
