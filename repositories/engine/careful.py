"""What the reading of a batch left: large files, files with several names, what was exchanged since the walk, what has
too long a path. It is rare, or large, so each entry is looked at by itself here.

A file that is no longer the one that the walk saw is read by a way on which no folder may have become a link. What is
lost is a warning. Batches are left to storing.py, small files to small_files.py, cutting to content.py.
"""

from __future__ import annotations

import errno
import os
import stat
from array import array
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np

from repositories.engine.columns import Array
from repositories.engine.content import AnotherFile, ContentReader, NotRegular, is_same
from repositories.engine.entries import is_below
from repositories.engine.errors import text
from repositories.engine.far_paths import is_too_long, near
from repositories.engine.observer import Observer
from repositories.engine.segments import ANCESTOR, HARD_LINKED, RACY, TORN, Columns
from repositories.engine.small_files import NOTHING, SMALL, SMALL_FILE_BYTES, Answer, Attributes, read_attributes
from repositories.engine.walk import Stat, clamped

_GONE = (FileNotFoundError, NotADirectoryError)
_IFMT, _IFREG, _IFDIR, _IFLNK = 0o170000, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK
_MIN_NS, _MAX_NS = -(2**63), 2**63 - 1  # what the manifest holds


@dataclass(slots=True)
class Batch:
    """Consecutive entries as the walk found them; `kinds` is what small_files.py does with each."""

    columns: Columns
    kinds: Array
    stats: list[Stat]

    def path(self, number: int) -> bytes:
        return b"/" + self.columns.folders[number] + self.columns.names[number]


@dataclass(slots=True)
class Contents:
    """Of the entries of a batch: flags; the chunks or the content of files that were read here; which were lost."""

    flags: Array
    chunks: dict[int, array[int]] = field(default_factory=dict)
    small: dict[int, bytes] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)


class CarefulReader:
    """For all batches of a session, in order."""

    def __init__(
        self, reader: ContentReader, sources: list[bytes], observer: Observer, beat: Callable[[], None]
    ) -> None:
        self.reader = reader
        self.current_path = b""
        self._sources, self._observer, self._beat = sources, observer, beat
        self._linked: dict[tuple[int, int], tuple[Stat, array[int]]] = {}

    def columns_of(self, folders: list[bytes], names: list[bytes], stats: list[Stat]) -> Columns:
        """Times that a manifest cannot hold are replaced by the nearest, with a warning."""
        try:
            return Columns.of(folders, names, stats)
        except OverflowError:
            for number, found in enumerate(stats):
                if not (_MIN_NS <= found.st_mtime_ns <= _MAX_NS and _MIN_NS <= found.st_ctime_ns <= _MAX_NS):
                    stats[number] = clamped(found, _MIN_NS, _MAX_NS)
                    path = b"/" + folders[number] + names[number]
                    self._warn("time-out-of-range", path, "has a time before 1678 or after 2261; the nearest is kept")
            return Columns.of(folders, names, stats)

    def rest(self, batch: Batch, answer: Answer) -> Contents:
        """What `answer` left of the batch; its targets and attributes are completed. Warnings come in order."""
        contents = Contents(_flags(batch))
        lost, attributes = dict(answer.lost), dict(answer.closed)
        careful = {*_large(batch).tolist(), *answer.changed}
        for number in sorted({*careful, *lost, *attributes, *answer.unread}):
            path = batch.path(number)
            self.current_path = path[1:]
            if number in attributes:
                self._warn("xattrs-unreadable", path, attributes[number])
            error = OSError(lost[number], os.strerror(lost[number])) if number in lost else None
            if number in careful or error is not None:
                self._try(number, path, batch, answer, contents, error)
            if number in answer.unread and number not in contents.lost:
                self._attributes(number, path, answer)
        small = batch.kinds == SMALL
        small[[*answer.changed, *lost]] = False
        self.reader.bytes_read += int(batch.columns.size[small].sum())
        return contents

    def _try(
        self, number: int, path: bytes, batch: Batch, answer: Answer, contents: Contents, error: OSError | None
    ) -> None:
        """Read one entry, by another way if its path is too long; `error` is why it could not be read before."""
        try:
            if error is None:
                self._read(number, path, batch, answer, contents)
                return
        except OSError as first:
            error = first
        try:
            if is_too_long(error):
                with self._near(path) as short:
                    self._read(number, path, batch, answer, contents, short)
                return
        except OSError as again:
            error = again
        self._warn_lost(path, batch.stats[number], error)
        contents.lost.append(number)

    def _read(
        self, number: int, path: bytes, batch: Batch, answer: Answer, contents: Contents, way: bytes = b""
    ) -> None:
        """`way` is another path to it, where its own is too long. Raises OSError."""
        self._beat()
        expected = batch.stats[number]
        if expected.st_mode & _IFMT == _IFLNK:
            found, answer.targets[number] = self._read_link(path, expected, way)
            _replace_row(batch.columns, number, found, found.st_size)
            return
        linked = HARD_LINKED if expected.st_nlink > 1 else 0
        known = self._linked.get((expected.st_dev, expected.st_ino)) if linked else None
        if known is not None and is_same(known[0], expected):
            contents.chunks[number] = known[1]
            return
        if not expected.st_size:
            return
        try:
            read = self.reader.read(path, expected, way)
        except AnotherFile:
            with self._near(path) as safe:
                read = self.reader.read(path, expected, safe)
        _replace_row(batch.columns, number, read.stat, read.size)
        if isinstance(read.content, array):
            contents.chunks[number] = read.content
        elif read.content:
            contents.small[number] = read.content
        if read.torn:
            contents.flags[number] |= TORN | RACY
            self._warn("changed", path, "changed while it was read; the next session reads it again")
        elif linked and isinstance(read.content, array):
            self._linked[expected.st_dev, expected.st_ino] = (read.stat, read.content)

    def _read_link(self, path: bytes, expected: Stat, way: bytes) -> tuple[Stat, bytes]:
        """A link that was replaced since the walk is read by a way that follows no other one."""
        if way:
            return expected, os.readlink(way)
        with self._near(path) as safe:
            return os.lstat(safe), os.readlink(safe)

    def _attributes(self, number: int, path: bytes, answer: Answer) -> None:
        """Extended attributes of what has too long a path, or changed."""
        try:
            with self._near(path) as short:
                found = read_attributes(short)
        except OSError as error:
            found = Attributes((), "" if isinstance(error, _GONE) else "has extended attributes that cannot be listed")
        if found.pairs:
            answer.xattrs[number] = found.pairs
        if found.problem:
            self._warn("xattrs-unreadable", path, found.problem)

    def _near(self, path: bytes) -> AbstractContextManager[bytes]:
        return near(path, next(source for source in self._sources if is_below(path[1:], source[1:])))

    def _warn_lost(self, path: bytes, expected: Stat, error: OSError) -> None:
        if isinstance(error, _GONE):
            self._warn("vanished", path, "vanished before it was read")
        elif isinstance(error, NotRegular) or _is_another_kind(path, expected):
            self._warn("vanished", path, "turned into something else before it was read")
        else:
            reason = error.strerror or errno.errorcode.get(error.errno or 0, type(error).__name__)
            self._warn("unreadable", path, f"cannot be read: {reason}")

    def _warn(self, code: str, path: bytes, what: str) -> None:
        self._observer.warn(code, path[1:], f"{text(path)} {what}.")


def _flags(batch: Batch) -> Array:
    columns = batch.columns
    linked = (columns.links > 1) & (columns.mode & _IFMT != _IFDIR)
    flags = np.where(linked, np.uint32(HARD_LINKED), np.uint32(0))
    flags[batch.kinds == NOTHING] = ANCESTOR
    return flags


def _large(batch: Batch) -> Array:
    """The numbers of regular files that are large, or have several names."""
    columns = batch.columns
    regular = (columns.mode & _IFMT == _IFREG) & (batch.kinds != NOTHING)
    return np.flatnonzero(regular & ((columns.size > SMALL_FILE_BYTES) | (columns.links > 1)))


def _replace_row(columns: Columns, number: int, found: Stat, size: int) -> None:
    """A file is what it was when it was opened, not what the walk saw; `size` is what was read."""
    columns.mode[number], columns.links[number] = found.st_mode, found.st_nlink
    columns.uid[number], columns.gid[number] = found.st_uid, found.st_gid
    columns.device[number], columns.rdev[number] = found.st_dev, found.st_rdev
    columns.inode[number], columns.size[number] = found.st_ino, size
    columns.mtime[number] = max(_MIN_NS, min(found.st_mtime_ns, _MAX_NS))
    columns.ctime[number] = max(_MIN_NS, min(found.st_ctime_ns, _MAX_NS))


def _is_another_kind(path: bytes, expected: Stat) -> bool:
    """Whether something of another type has the path now."""
    try:
        return os.lstat(path).st_mode & _IFMT != expected.st_mode & _IFMT
    except OSError:
        return False
