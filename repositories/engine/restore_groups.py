"""Writing groups of ordinary files, with as few calls of the system for each as there can be: create, write, times,
mode, close.

What a backup of a million files restores in is the loop of _write_files(). Whatever does not go as it should there (a
name that is taken, an owner that may not be set, a file system with rules of its own) leaves nothing, and the file goes
the careful way of `repositories.engine.restore_entry`, which knows what to do and what to say.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable

from repositories.engine.entries import Entry
from repositories.engine.errors import EngineError
from repositories.engine.file_groups import LENGTH, NAME, FileGroup, GroupFile
from repositories.engine.reader import Piece
from repositories.engine.restore_entry import EntryWriter, Tally
from repositories.engine.target import FILE_FLAGS, Existing, Folder, Target
from repositories.engine.target_content import HOLE_BYTES, write_pieces
from repositories.engine.target_names import Blocked
from repositories.engine.target_unfinished import UNFINISHED_MODE, has_mark

Read = Callable[[Entry], Iterable[Piece]]
EMPTY = memoryview(b"")


class GroupWriter:
    """Writes groups into a target; `read` gives the content of a single entry."""

    def __init__(self, target: Target, tally: Tally, writer: EntryWriter, read: Read) -> None:
        self._target = target
        self._tally = tally
        self._writer = writer
        self._read = read
        self._is_root = os.geteuid() == 0

    @property
    def is_possible(self) -> bool:
        """Whether most names are free, or those that are not are passed over."""
        return self._target.fresh or self._target.existing is Existing.SKIP

    def without_existing(self, group: FileGroup) -> FileGroup | None:
        """The group but for the files whose names are taken, which are counted as skipped; None if nothing is left."""
        if self._target.fresh:
            return group
        try:
            folder = self._target.folder(group.folder)
            taken = {name for _, name, *_ in group.files if self._target.is_taken(folder, name)}
        except (Blocked, OSError):
            return group  # writing it will say why not
        if taken:
            self._writer.skip([file[LENGTH] for file in group.files if file[NAME] in taken])
            group.files = [file for file in group.files if file[NAME] not in taken]
        return group if group.files else None

    def write(self, group: FileGroup, pieces: Iterable[Piece]) -> None:
        """Restore the files of a group, or report why not. Raises OutOfSpace, and what the entry writer's beat does."""
        careful: Iterable[GroupFile] = group.files
        try:
            raw = next(iter(pieces), EMPTY)
            if isinstance(raw, memoryview):
                folder = self._target.folder(group.folder)
                self._tally.current_path = group.path_of(group.files[-1])
                careful = self._write_files(folder, group, raw)
        except (EngineError, Blocked, OSError):
            pass  # the careful way finds the same again, for each file, and reports it
        for file in careful:
            entry = group.entry(file)
            self._writer.write(entry, self._read(entry))
        self._writer.beat()

    def _write_files(self, folder: Folder, group: FileGroup, raw: memoryview) -> list[GroupFile]:
        """Write what can be written at once; return what needs care."""
        careful: list[GroupFile] = []
        here, taken, xattrs = folder.descriptor, folder.names, group.segment.xattrs
        done = done_bytes = 0
        for file in group.files:
            row, name, mode, uid, gid, mtime_ns, offset, length = file
            if name in taken or folder.shows_unfinished is False or mode == UNFINISHED_MODE:
                careful.append(file)
                continue
            try:
                descriptor = os.open(name, FILE_FLAGS, UNFINISHED_MODE, dir_fd=here)
            except OSError:
                careful.append(file)
                continue
            try:
                if folder.shows_unfinished is None:
                    _look_at_first(folder, descriptor)
                if length:
                    _write_content(descriptor, raw[offset : offset + length], length)
                if folder.owner_of_new != (uid, gid):
                    self._set_owner(descriptor, uid, gid)
                if row in xattrs:
                    self._set_attributes(descriptor, xattrs[row])
                os.utime(descriptor, ns=(mtime_ns, mtime_ns))
                os.fchmod(descriptor, mode)
            except (OSError, OverflowError):
                os.unlink(name, dir_fd=here)
                careful.append(file)
            except BaseException:
                os.unlink(name, dir_fd=here)
                raise
            else:
                taken.add(name)
                done += 1
                done_bytes += length
            finally:
                os.close(descriptor)
        self._count(done, done_bytes)
        return careful

    def _count(self, files: int, size_bytes: int) -> None:
        self._tally.files += files
        self._tally.bytes_done += size_bytes
        self._tally.bytes_written += size_bytes

    def _set_owner(self, descriptor: int, uid: int, gid: int) -> None:
        if not self._is_root:
            raise PermissionError(errno.EPERM, "only root gives files away")
        os.fchown(descriptor, uid, gid)

    def _set_attributes(self, descriptor: int, xattrs: Iterable[tuple[bytes, bytes]]) -> None:
        if not self._is_root:
            raise PermissionError(errno.EPERM, "only root sets all of them")
        for name, value in xattrs:
            os.setxattr(descriptor, name, value)


def _look_at_first(folder: Folder, descriptor: int) -> None:
    """Learn from the first file what new files in a folder are like. Raises OSError where the mark does not hold."""
    facts = os.fstat(descriptor)
    folder.owner_of_new = (facts.st_uid, facts.st_gid)
    folder.shows_unfinished = has_mark(facts)
    if not folder.shows_unfinished:
        raise OSError(errno.ENOTSUP, "the file system has modes of its own")


def _write_content(descriptor: int, content: memoryview, length: int) -> None:
    if length >= HOLE_BYTES:
        write_pieces(descriptor, (content,), _took)
    elif os.write(descriptor, content) != length:
        raise OSError(errno.EIO, "not everything was written")


def _took(_size_bytes: int) -> None:
    """The group is counted file by file."""
