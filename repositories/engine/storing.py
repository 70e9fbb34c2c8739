"""What the comparison says becomes rows and blocks: files are read in batches, and the order of entries is kept.

A batch ends at 4 MiB of small files, 1,000 entries or 8 kept segments; then its files are read, their content is
placed, and its rows go to the manifest. Per file there is as little Python as possible: the loop of _read_all() is
what a backup of many small files costs. Counting and warning happen here; what a chunk is, and whether it is stored
already, is left to content.py.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import time
from array import array
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from repositories.engine import segments
from repositories.engine.compare import Event, Keep, Store
from repositories.engine.content import (
    RACY_NS,
    SMALL_FILE_BYTES,
    AnotherFile,
    ContentReader,
    NotRegular,
    Packer,
    is_same,
    read_small,
)
from repositories.engine.entries import is_below
from repositories.engine.errors import text
from repositories.engine.far_paths import is_too_long, near
from repositories.engine.layout import BLOCK_TARGET_BYTES
from repositories.engine.manifest import ManifestBuilder
from repositories.engine.observer import Observer
from repositories.engine.segments import (
    ANCESTOR,
    CHANGED,
    HARD_LINKED,
    NEW,
    RACY,
    TORN,
    UNCHANGED,
    Rows,
    Segment,
    Xattrs,
)
from repositories.engine.walk import Stat, clamped

_BATCH_ENTRIES = 1_000
_BATCH_SEGMENTS = 8
_BEAT_MASK = 63
_MIN_NS, _MAX_NS = -(2**63), 2**63 - 1  # what the manifest holds
_LABEL_ALONE = ["security.selinux"]  # what every file has where there are any; it tells nothing of the content
_GONE = (FileNotFoundError, NotADirectoryError)
_IFMT, _IFREG, _IFDIR, _IFLNK = 0o170000, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK

_Read: TypeAlias = "tuple[Stat, int, int, Content, bytes | None]"  # and the target of a link
Content: TypeAlias = "bytes | array[int] | None"  # of a small file; the chunks of a large one; nothing


@dataclass(slots=True)
class Counts:
    files: int = 0
    directories: int = 0
    others: int = 0
    source_bytes: int = 0
    new_files: int = 0
    changed_files: int = 0
    unchanged_files: int = 0


@dataclass(slots=True)
class _Batch:
    """What comes next, in order: entries to store, and ranges to keep before the n-th of them."""

    stores: list[Store] = field(default_factory=list)
    keeps: list[tuple[int, Keep]] = field(default_factory=list)
    small_bytes: int = 0
    kept_segments: int = 0

    def is_full(self) -> bool:
        return (
            self.small_bytes >= BLOCK_TARGET_BYTES
            or len(self.stores) >= _BATCH_ENTRIES
            or self.kept_segments >= _BATCH_SEGMENTS
        )


class Storer:
    """Takes the events of compare() in order. `clock` is the time of day in ns; `beat` may raise Cancelled.

    `pause` is called when everything that came so far is in the manifest.
    """

    def __init__(
        self,
        builder: ManifestBuilder,
        reader: ContentReader,
        packer: Packer,
        observer: Observer,
        clock: Callable[[], int],
        beat: Callable[[], None],
        pause: Callable[[], None],
        sources: list[bytes],
    ) -> None:
        self.counts = Counts()
        self.news: list[tuple[int, int]] = []  # what became of the entries in order: (UNCHANGED, NEW or CHANGED, count)
        self.current_path = b""
        self.source_seconds = 0.0
        self._builder, self._reader, self._packer = builder, reader, packer
        self._observer, self._clock, self._beat, self._pause = observer, clock, beat, pause
        self._sources = sources
        self._without_xattrs: set[int] = set()
        self._linked: dict[tuple[int, int], tuple[Stat, array[int]]] = {}

    def take_all(self, events: Iterable[Event]) -> None:
        batch = _Batch()
        stores = batch.stores
        for event in events:
            if isinstance(event, Keep):
                if not stores:
                    self._keep(event)
                    continue
                batch.keeps.append((len(stores), event))
                batch.kept_segments += event.end == len(event.segment)
            else:
                stores.append(event)
                size = event[0][2].st_size
                if size <= SMALL_FILE_BYTES:
                    batch.small_bytes += size
            if batch.is_full():
                self._store(batch)
                batch = _Batch()
                stores = batch.stores
        self._store(batch)

    def _store(self, batch: _Batch) -> None:
        """Read the files of the batch, place their content, and give all rows to the manifest in order."""
        if not batch.stores:
            return
        now_ns = self._clock()
        rows, contents, new, lost = self._read_all(batch.stores)
        addresses = iter(self._packer.place_all([content for content in contents if isinstance(content, bytes)]))
        for content in contents:
            if content is None:
                rows.chunk_counts.append(0)
            elif isinstance(content, bytes):
                rows.chunk_counts.append(1)
                rows.chunks.extend(next(addresses))
            else:
                rows.chunk_counts.append(len(content) // 4)
                rows.chunks.extend(content)
        try:
            segment = segments.from_rows(rows, self._builder.origins())
        except OverflowError:
            self._clamp_times(rows)
            segment = segments.from_rows(rows, self._builder.origins())
        recent = np.maximum(segment.mtime, segment.ctime) > now_ns - RACY_NS
        segment.flags |= np.where(recent & (segment.mode & _IFMT != _IFDIR), np.uint32(RACY), np.uint32(0))
        segment.news = np.where(np.array(new, bool), np.uint32(NEW), np.uint32(CHANGED))
        self._hand_over(segment, batch.keeps, lost)
        self._reader.begun.clear()
        self._pause()

    def _clamp_times(self, rows: Rows) -> None:
        for row, found in enumerate(rows.stats):
            if not (_MIN_NS <= found.st_mtime_ns <= _MAX_NS and _MIN_NS <= found.st_ctime_ns <= _MAX_NS):
                rows.stats[row] = clamped(found, _MIN_NS, _MAX_NS)
                path = b"/" + rows.folders[row] + rows.names[row]
                self._warn("time-out-of-range", path, "has a time before 1678 or after 2261; the nearest is kept")

    def _hand_over(self, segment: Segment, keeps: list[tuple[int, Keep]], lost: list[int]) -> None:
        """`keeps` count the entries that were to be stored; `lost` are those among them that could not be."""
        start = 0
        for position, keep in keeps:
            end = position - sum(1 for number in lost if number < position)
            self._add(segment, start, end)
            self._keep(keep)
            start = end
        self._add(segment, start, len(segment))

    def _add(self, segment: Segment, start: int, end: int) -> None:
        self._count(segment, start, end)
        self._builder.add(segment, start, end)

    def _read_all(self, stores: list[Store]) -> tuple[Rows, list[Content], list[bool], list[int]]:
        """Rows without their chunks, their contents, which are new, and the numbers of those that were lost."""
        rows, new, lost = Rows(), [], []
        contents: list[Content] = []
        names, without_xattrs = rows.names, self._without_xattrs
        started, bytes_read = time.perf_counter(), 0
        for number, ((folder, name, found, ancestor), is_new) in enumerate(stores):
            if not number & _BEAT_MASK:
                self.current_path = folder + name
                self._beat()
            path = b"/" + folder + name
            mode, size, flags = found.st_mode, found.st_size, 0
            content: Content = None
            try:
                if mode & _IFMT == _IFREG:
                    if 0 < size <= SMALL_FILE_BYTES and found.st_nlink == 1:
                        content = read_small(path, found)
                        bytes_read += size
                    if content is None and (size or found.st_nlink > 1):
                        found, size, flags, content = self._read_carefully(path, found)
                else:
                    size = 0
                    if ancestor:
                        flags = ANCESTOR
                    elif mode & _IFMT != _IFDIR:
                        flags = HARD_LINKED if found.st_nlink > 1 else 0
                        if mode & _IFMT == _IFLNK:
                            found, rows.targets[len(names)] = self._read_link(path, found)
            except OSError as error:
                far = self._read_far(path, found, error)
                if far is None:
                    lost.append(number)
                    continue
                found, size, flags, content, target = far
                if target is not None:
                    rows.targets[len(names)] = target
            if not ancestor and found.st_dev not in without_xattrs and (xattrs := self._xattrs(path, found)):
                rows.xattrs[len(names)] = xattrs
            rows.folders.append(folder)
            names.append(name)
            rows.stats.append(found)
            rows.sizes.append(size)
            rows.flags.append(flags)
            contents.append(content)
            new.append(is_new)
        self._reader.bytes_read += bytes_read
        self.source_seconds += time.perf_counter() - started
        return rows, contents, new, lost

    def _read_far(self, path: bytes, expected: Stat, error: OSError) -> _Read | None:
        """What failed since its path is too long is read from near by. Otherwise a warning, and None."""
        if is_too_long(error):
            try:
                with self._near(path) as short:
                    if expected.st_mode & _IFMT == _IFLNK:
                        linked = HARD_LINKED if expected.st_nlink > 1 else 0
                        return expected, 0, linked, None, os.readlink(short)
                    return *self._read_carefully(path, expected, short), None
            except OSError as again:
                error = again
        self._warn_lost(path, expected, error)
        return None

    def _near(self, path: bytes) -> AbstractContextManager[bytes]:
        return near(path, next(source for source in self._sources if is_below(path[1:], source[1:])))

    def _read_carefully(self, path: bytes, expected: Stat, way: bytes = b"") -> tuple[Stat, int, int, Content]:
        """Large, linked, and changed files: (what was found, bytes read, flags, content). Raises OSError.

        `way` is another path to it, where its own is too long.
        """
        linked = HARD_LINKED if expected.st_nlink > 1 else 0
        known = self._linked.get((expected.st_dev, expected.st_ino)) if linked else None
        if known is not None and is_same(known[0], expected):
            return expected, expected.st_size, linked, known[1]
        if not expected.st_size:
            return expected, 0, linked, None
        try:
            read = self._reader.read(path, expected, way)
        except AnotherFile:
            with self._near(path) as safe:
                read = self._reader.read(path, expected, safe)
        flags = linked
        if read.torn:
            flags |= TORN | RACY
            self._warn("changed", path, "changed while it was read; the next session reads it again")
        elif linked and isinstance(read.content, array):
            self._linked[expected.st_dev, expected.st_ino] = (read.stat, read.content)
        return read.stat, read.size, flags, read.content

    def _read_link(self, path: bytes, expected: Stat) -> tuple[Stat, bytes]:
        """A link that was replaced since the walk is read by a way that follows no other one."""
        target = os.readlink(path)
        if _is_still(path, expected):
            return expected, target
        with self._near(path) as safe:
            return os.lstat(safe), os.readlink(safe)

    def _xattrs(self, path: bytes, found: Stat) -> Xattrs:
        try:
            names = os.listxattr(path, follow_symlinks=False)
            if not names:
                return ()
            values = self._values(path, path, names)
            if names == _LABEL_ALONE or _is_still(path, found):
                return values
            self._warn("xattrs-unreadable", path, "was exchanged while its extended attributes were read")
        except OSError as error:
            try:
                if is_too_long(error):
                    with self._near(path) as short:
                        return self._values(path, short, os.listxattr(short, follow_symlinks=False))
            except OSError as again:
                error = again
            if error.errno == errno.ENOTSUP:
                self._without_xattrs.add(found.st_dev)
            elif not isinstance(error, _GONE):
                self._warn("xattrs-unreadable", path, "has extended attributes that cannot be listed")
        return ()

    def _values(self, path: bytes, short: bytes, names: list[str]) -> Xattrs:
        """`short` is the same as `path`, or another way to it."""
        found, lost = [], []
        for name in sorted(names):
            try:
                found.append((os.fsencode(name), os.getxattr(short, name, follow_symlinks=False)))
            except OSError as error:
                if error.errno != errno.ENODATA and not isinstance(error, _GONE):  # it was removed meanwhile
                    lost.append(text(name))
        if lost:
            self._warn("xattrs-unreadable", path, f"has extended attributes that cannot be read: {', '.join(lost)}")
        return tuple(found)

    def _keep(self, keep: Keep) -> None:
        segment, start, end, shared = keep
        self._count(segment, start, end)
        self.current_path = segment.path(end - 1)
        self._builder.keep(segment, start, end, shared)

    def _count(self, segment: Segment, start: int, end: int) -> None:
        counts, formats = self.counts, segment.mode[start:end] & np.uint32(_IFMT)
        regular = formats == _IFREG
        files, folders = int(np.count_nonzero(regular)), int(np.count_nonzero(formats == _IFDIR))
        counts.files += files
        counts.directories += folders
        counts.others += end - start - files - folders
        counts.source_bytes += int(segment.size[start:end].sum(dtype=np.uint64))
        if segment.news is None:
            counts.unchanged_files += files
            self._tell(UNCHANGED, end - start)
            return
        news = segment.news[start:end]
        new, changed = (int(np.count_nonzero(regular & (news == kind))) for kind in (NEW, CHANGED))
        counts.new_files += new
        counts.changed_files += changed
        counts.unchanged_files += files - new - changed
        if not len(news):
            return
        borders = np.flatnonzero(np.diff(news)).tolist()
        for first, last in itertools.pairwise([-1, *borders, len(news) - 1]):
            self._tell(int(news[last]), last - first)

    def _tell(self, kind: int, count: int) -> None:
        if self.news and self.news[-1][0] == kind:
            count += self.news.pop()[1]
        if count:
            self.news.append((kind, count))

    def _warn_lost(self, path: bytes, expected: Stat, error: OSError) -> None:
        if isinstance(error, _GONE):
            self._warn("vanished", path, "vanished before it was read")
        elif isinstance(error, NotRegular) or _is_another_kind(path, expected):
            self._warn("vanished", path, "turned into something else before it was read")
        else:
            self._warn("unreadable", path, f"cannot be read: {error.strerror or type(error).__name__}")

    def _warn(self, code: str, path: bytes, what: str) -> None:
        self._observer.warn(code, path[1:], f"{text(path)} {what}.")


def _is_still(path: bytes, expected: Stat) -> bool:
    """Whether the path leads to what the walk saw there."""
    now = os.lstat(path)
    return (now.st_dev, now.st_ino) == (expected.st_dev, expected.st_ino)


def _is_another_kind(path: bytes, expected: Stat) -> bool:
    """Whether something of another type has the path now."""
    try:
        return os.lstat(path).st_mode & _IFMT != expected.st_mode & _IFMT
    except OSError:
        return False
