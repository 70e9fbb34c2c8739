"""Exchanging the key slots of many files: those that are as wanted already are passed over, the others rewritten.

The files are done from the first to the last, a few at a time because each waits for the disk, and the last one alone
when all others are done: it is the newest of its chain, whose keyring opens them all. A file that cannot be done is a
result with its error, and the others go on. How one head is written is decided in rewrap.py, whom files are wrapped for
by the callers.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from keys.crypto_recipients import Recipient
from keys.crypto_slots import is_for
from repositories.engine.errors import CannotUnwrap, EngineError, RepositoryUnwritable, damaged, text
from repositories.engine.expectation import Expected, difference
from repositories.engine.head import Head, authenticates, open_for_reading, read_heads
from repositories.engine.reader import FileKey
from repositories.engine.rewrap import RecordVersion, rewrap

THREADS = 8
_GET_FLAGS = 0x80086601  # FS_IOC_GETFLAGS
_IMMUTABLE, _APPEND_ONLY = 0x10, 0x20
_LONG = struct.Struct("@l")


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file whose slots are to be exchanged, what is known of it, and its key."""

    path: Path
    expected: Expected
    file_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Exchange:
    """Who shall open the files: a slot for each of `add`, none for those of `remove`; other slots stay."""

    add: tuple[Recipient, ...] = ()
    remove: tuple[RecordVersion, ...] = ()


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """What became of one file: its authentic head as it is on disk now and whether it was written, or the error."""

    file_id: UUID
    head: Head | None
    written: bool = False
    problem: EngineError | None = None


def rewrap_many(
    files: Sequence[KnownFile], wanted: Exchange, stopped: Callable[[], bool], threads: int = THREADS
) -> Iterator[Rewrapped]:
    """Results in the order of `files`; once `stopped` says so nothing more is begun, and what was begun is finished."""
    with ThreadPoolExecutor(threads, thread_name_prefix="rewrap") as pool:
        running: deque[Future[Rewrapped]] = deque()
        for file in files[:-1]:
            if stopped():
                break
            running.append(pool.submit(rewrap_one, file, wanted))
            if len(running) >= 2 * threads:
                yield running.popleft().result()
        for future in running:
            yield future.result()
    if files and not stopped():
        yield rewrap_one(files[-1], wanted)


def rewrap_one(file: KnownFile, wanted: Exchange) -> Rewrapped:
    """One file; an error of the engine is in the result."""
    try:
        head = known_head(file)
        add = tuple(one for one in wanted.add if not any(is_for(slot, one) for slot in head.slots))
        there = {(slot.record, slot.version) for slot in head.slots}
        remove = tuple(place for place in wanted.remove if place in there)
        if not add and not remove and not head.copies_differ:
            return Rewrapped(file.expected.file_id, head)
        return Rewrapped(file.expected.file_id, rewrap(file.path, FileKey(file.file_key), add, remove), written=True)
    except EngineError as error:
        return Rewrapped(file.expected.file_id, None, problem=error)


def known_head(file: KnownFile) -> Head:
    """The newest head that the file key authenticates. Raises CorruptFile for another file than the known one, or an
    older head; CannotUnwrap, MissingFile, UnknownVersion, RepositoryUnreadable.
    """
    fd = open_for_reading(file.path)
    try:
        heads, length = read_heads(fd, file.path), os.fstat(fd).st_size
    finally:
        os.close(fd)
    head = next((head for head in heads if authenticates(head, file.file_key)), None)
    if head is None:
        raise CannotUnwrap(
            f"The head of {text(file.path)} is not authentic under the key that is known for it: the file was "
            "exchanged or damaged. Verify it.",
            path=text(file.path),
        )
    problem = difference(head, length, file.expected)
    if problem:
        raise damaged(file.path, "head", f"it is not the file that is known: {problem}")
    return head


def obstacle(path: Path) -> str:
    """Why the head of a file cannot be rewritten, as a code; empty if it can. Nothing is changed to find out.

    missing, immutable, append-only, read-only-file-system, not-permitted, or unwritable for anything else.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK))
    except OSError as error:
        return _obstacle(path, error.errno)
    return ""


def obstacle_of(problem: EngineError, path: Path) -> str:
    """The same code for an error of rewrap(), or the error's own."""
    return obstacle(path) or problem.code if isinstance(problem, RepositoryUnwritable) else problem.code


def _obstacle(path: Path, number: int | None) -> str:
    match number:
        case errno.ENOENT | errno.ENOTDIR:
            return "missing"
        case errno.EROFS:
            return "read-only-file-system"
        case errno.EACCES:
            return "not-permitted"
        case errno.EPERM:
            return _attribute(path)
    return "unwritable"


def _attribute(path: Path) -> str:
    """Which attribute of the file system forbids it; it may know of none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return "not-permitted"
    try:
        (flags,) = _LONG.unpack(fcntl.ioctl(fd, _GET_FLAGS, bytes(_LONG.size)))
    except OSError:
        return "not-permitted"
    finally:
        os.close(fd)
    return "immutable" if flags & _IMMUTABLE else "append-only" if flags & _APPEND_ONLY else "not-permitted"
