"""What the comparison says becomes rows and blocks: files are read in batches, and the order of entries is kept.

A batch ends at 4 MiB of small files, 1,000 entries or 8 kept segments; then its files are read, a few batches ahead of
their use, their content is placed, and its rows go to the manifest. Per file there is as little Python as possible: a
batch is handled in columns. Counting and warning happen here; who reads small files is left to read_ahead.py, what a
chunk is, and whether it is stored already, to content.py.
"""

from __future__ import annotations

import itertools
import os
import stat
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from repositories.engine import segments
from repositories.engine.columns import Array
from repositories.engine.compare import Event, Keep, Store
from repositories.engine.content import RACY_NS, ContentReader, NotRegular, Packer, is_same
from repositories.engine.errors import text
from repositories.engine.layout import BLOCK_TARGET_BYTES
from repositories.engine.manifest import ManifestBuilder
from repositories.engine.observer import Observer
from repositories.engine.read_ahead import BATCHES_AHEAD, ReadAhead, Ticket
from repositories.engine.segments import (
    ANCESTOR,
    CHANGED,
    HARD_LINKED,
    NEW,
    RACY,
    TORN,
    UNCHANGED,
    Columns,
    Segment,
)
from repositories.engine.small_files import (
    ATTRIBUTES,
    IDENTITY_BYTES,
    LINK,
    NOTHING,
    SMALL,
    SMALL_FILE_BYTES,
    Answer,
    Request,
)
from repositories.engine.walk import Stat

_BATCH_ENTRIES = 1_000
_BATCH_SEGMENTS = 8
_GONE = (FileNotFoundError, NotADirectoryError)
_IFMT, _IFREG, _IFDIR, _IFLNK = 0o170000, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK


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


@dataclass(slots=True)
class _Begun:
    """A batch whose small files are being read."""

    columns: Columns
    kinds: Array
    stats: list[Stat]
    new: list[bool]
    keeps: list[tuple[int, Keep]]
    now_ns: int
    ticket: Ticket


@dataclass(slots=True)
class _Contents:
    """Of each entry of a batch: flags, and its chunks if it was read here; those of small files are filled in later."""

    flags: Array
    chunks: dict[int, array[int]] = field(default_factory=dict)
    small: dict[int, bytes] = field(default_factory=dict)  # content of small files that were read carefully
    lost: list[int] = field(default_factory=list)


class Storer:
    """Takes the events of compare() in order. `clock` is the time of day in ns; `beat` may raise Cancelled.

    `pause` is called when everything that came so far is in the manifest, or will be read again.
    """

    def __init__(
        self,
        builder: ManifestBuilder,
        reader: ContentReader,
        packer: Packer,
        ahead: ReadAhead,
        observer: Observer,
        clock: Callable[[], int],
        beat: Callable[[], None],
        pause: Callable[[], None],
    ) -> None:
        self.counts = Counts()
        self.news: list[tuple[int, int]] = []  # what became of the entries in order: (UNCHANGED, NEW or CHANGED, count)
        self.current_path = b""
        self.source_seconds = 0.0
        self._builder, self._reader, self._packer, self._ahead = builder, reader, packer, ahead
        self._observer, self._clock, self._beat, self._pause = observer, clock, beat, pause
        self._begun: deque[_Begun] = deque()
        self._linked: dict[tuple[int, int], tuple[Stat, array[int]]] = {}

    def take_all(self, events: Iterable[Event]) -> None:
        """There may be a million events, so the loop has what it needs at hand."""
        batch = _Batch()
        stores, small_bytes, kept_segments = batch.stores, 0, 0
        for event in events:
            if isinstance(event, Keep):
                if not stores and not self._begun:
                    self._keep(event)
                    continue
                batch.keeps.append((len(stores), event))
                kept_segments += event.end == len(event.segment)
            else:
                stores.append(event)
                size = event[0][2].st_size
                if size <= SMALL_FILE_BYTES:
                    small_bytes += size
            if small_bytes >= BLOCK_TARGET_BYTES or len(stores) >= _BATCH_ENTRIES or kept_segments >= _BATCH_SEGMENTS:
                self._begin(batch)
                batch = _Batch()
                stores, small_bytes, kept_segments = batch.stores, 0, 0
        self._begin(batch)
        while self._begun:
            self._finish(self._begun.popleft())

    def _begin(self, batch: _Batch) -> None:
        """Have the small files of the batch read; finish those before it that are read, or are too many."""
        if batch.stores or batch.keeps:
            self._begun.append(self._asked_for(batch))
        while self._begun and (len(self._begun) > BATCHES_AHEAD or self._ahead.is_ready(self._begun[0].ticket)):
            self._finish(self._begun.popleft())

    def _asked_for(self, batch: _Batch) -> _Begun:
        self._beat()
        found = [store[0] for store in batch.stores]
        stats = [one[2] for one in found]
        columns = Columns.of([one[0] for one in found], [one[1] for one in found], stats)
        kinds = _kinds(columns, [one[3] for one in found])
        if found:
            self.current_path = columns.folders[0] + columns.names[0]
        now_ns = self._clock()
        ticket = self._ahead.begin(_request(columns, kinds))
        return _Begun(columns, kinds, stats, [store[1] for store in batch.stores], batch.keeps, now_ns, ticket)

    def _finish(self, begun: _Begun) -> None:
        """Place the content of the batch, and give all rows to the manifest in order."""
        answer = self._ahead.wait(begun.ticket)
        started = time.perf_counter()
        contents = self._read_rest(begun, answer)
        self.source_seconds += answer.seconds + time.perf_counter() - started
        segment = self._segment(begun, answer, contents)
        self._ahead.release(begun.ticket)
        boundaries = answer.boundaries
        if contents.lost:
            segment, boundaries = _without(segment, boundaries, contents.lost)
        self._hand_over(segment, boundaries, begun.keeps, contents.lost)
        self._reader.begun.clear()
        self._pause()

    def _segment(self, begun: _Begun, answer: Answer, contents: _Contents) -> Segment:
        """All rows of the batch, their content placed."""
        columns, count = begun.columns, len(begun.columns.names)
        chunk_count, chunks = self._place(begun, answer, contents)
        segment = segments.from_columns(
            columns, contents.flags, chunk_count, chunks, self._builder.origins(), answer.targets, answer.xattrs
        )
        segment.size = np.where(columns.mode & _IFMT == _IFREG, columns.size, np.uint64(0))
        recent = np.maximum(segment.mtime, segment.ctime) > begun.now_ns - RACY_NS
        segment.flags |= np.where(recent & (segment.mode & _IFMT != _IFDIR), np.uint32(RACY), np.uint32(0))
        segment.news = np.where(np.fromiter(begun.new, bool, count), np.uint32(NEW), np.uint32(CHANGED))
        return segment

    def _place(self, begun: _Begun, answer: Answer, contents: _Contents) -> tuple[Array, Array]:
        """The number of chunks of each entry, and all chunks; new content goes into blocks."""
        read = np.flatnonzero(begun.kinds == SMALL)
        missed = [number for number, _ in answer.lost] + answer.changed
        read = np.setdiff1d(read, missed, assume_unique=True) if missed else read
        joined = answer.identities
        names = [joined[at : at + IDENTITY_BYTES] for at in range(0, len(joined), IDENTITY_BYTES)]
        sizes = begun.columns.size[read].tolist()
        addresses = self._packer.place_run(names, sizes, self._ahead.content(begun.ticket))
        chunk_count = np.zeros(len(begun.columns.names), np.uint32)
        chunk_count[read] = 1
        careful = list(contents.small)
        for number, address in zip(careful, self._packer.place_all(list(contents.small.values())), strict=True):
            contents.chunks[number] = array("I", address)
        for number, more in contents.chunks.items():
            chunk_count[number] = len(more) // 4
        small = np.array(addresses, np.uint32).reshape(-1, 4)
        if not contents.chunks:
            return chunk_count, small
        starts = np.cumsum(chunk_count, dtype=np.int64) - chunk_count
        chunks = np.zeros((int(chunk_count.sum()), 4), np.uint32)
        chunks[starts[read]] = small
        for number, more in contents.chunks.items():
            start = int(starts[number])
            chunks[start : start + len(more) // 4] = np.frombuffer(more, np.uint32).reshape(-1, 4)
        return chunk_count, chunks

    def _hand_over(
        self, segment: Segment, boundaries: list[int], keeps: list[tuple[int, Keep]], lost: list[int]
    ) -> None:
        """`keeps` count the entries that were to be stored; `lost` are those among them that could not be."""
        start = 0
        for position, keep in keeps:
            end = position - sum(1 for number in lost if number < position)
            self._add(segment, start, end, boundaries)
            self._keep(keep)
            start = end
        self._add(segment, start, len(segment), boundaries)

    def _add(self, segment: Segment, start: int, end: int, boundaries: list[int]) -> None:
        self._count(segment, start, end)
        self._builder.add(segment, start, end, boundaries)

    def _read_rest(self, begun: _Begun, answer: Answer) -> _Contents:
        """What small_files.py left: large files, linked ones, those that changed. Warnings come in order."""
        columns, stats = begun.columns, begun.stats
        ancestors = begun.kinds == NOTHING
        contents = _Contents(np.where(ancestors, np.uint32(ANCESTOR), np.uint32(0)))
        lost = dict(answer.lost)
        large = (columns.mode & _IFMT == _IFREG) & ((columns.size > SMALL_FILE_BYTES) | (columns.links > 1))
        careful = {*np.flatnonzero(large).tolist(), *answer.changed}
        for number in sorted({*careful, *lost, *answer.closed_xattrs}):
            path = b"/" + columns.folders[number] + columns.names[number]
            self.current_path = path[1:]
            try:
                if number in lost:
                    raise OSError(lost[number], os.strerror(lost[number]))
                if number in answer.closed_xattrs:
                    self._warn("xattrs-unreadable", path, "has extended attributes that cannot be read")
                if number in careful:
                    self._read_carefully(number, path, stats[number], columns, contents)
            except OSError as error:
                self._warn_lost(path, error)
                contents.lost.append(number)
        self._reader.bytes_read += int(columns.size[begun.kinds == SMALL].sum()) - int(
            columns.size[list({*answer.changed, *lost})].sum()
        )
        return contents

    def _read_carefully(self, number: int, path: bytes, expected: Stat, columns: Columns, contents: _Contents) -> None:
        """Large, linked, and changed files. Raises OSError."""
        self._beat()
        linked = HARD_LINKED if expected.st_nlink > 1 else 0
        contents.flags[number] |= linked
        known = self._linked.get((expected.st_dev, expected.st_ino)) if linked else None
        if known is not None and is_same(known[0], expected):
            contents.chunks[number] = known[1]
            return
        if not expected.st_size:
            return
        read = self._reader.read(path, expected)
        _replace_row(columns, number, read.stat, read.size)
        if isinstance(read.content, array):
            contents.chunks[number] = read.content
        elif read.content:
            contents.small[number] = read.content
        if read.torn:
            contents.flags[number] |= TORN | RACY
            self._warn("changed", path, "changed while it was read; the next session reads it again")
        elif linked and isinstance(read.content, array):
            self._linked[expected.st_dev, expected.st_ino] = (read.stat, read.content)

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

    def _warn_lost(self, path: bytes, error: OSError) -> None:
        if isinstance(error, _GONE):
            self._warn("vanished", path, "vanished before it was read")
        elif isinstance(error, NotRegular):
            self._warn("vanished", path, "turned into something else before it was read")
        else:
            self._warn("unreadable", path, f"cannot be read: {error.strerror or type(error).__name__}")

    def _warn(self, code: str, path: bytes, what: str) -> None:
        self._observer.warn(code, path[1:], f"{text(path)} {what}.")


def _kinds(columns: Columns, ancestors: list[bool]) -> Array:
    """What small_files.py is to do with each entry."""
    formats = columns.mode & _IFMT
    kinds = np.full(len(columns.names), ATTRIBUTES, np.uint8)
    kinds[formats == _IFLNK] = LINK
    regular = (formats == _IFREG) & (columns.links == 1)
    kinds[regular & (columns.size > 0) & (columns.size <= SMALL_FILE_BYTES)] = SMALL
    kinds[np.fromiter(ancestors, bool, len(kinds))] = NOTHING
    return kinds


def _request(columns: Columns, kinds: Array) -> Request:
    runs = [(b"/" + folder, len(list(same))) for folder, same in itertools.groupby(columns.folders)]
    return Request(
        runs,
        b"\0".join(columns.names),
        kinds.tobytes(),
        columns.size.tobytes(),
        columns.inode.tobytes(),
        columns.mtime.tobytes(),
        columns.ctime.tobytes(),
        columns.device.tobytes(),
    )


def _replace_row(columns: Columns, number: int, found: Stat, size: int) -> None:
    """A file is what it was when it was opened, not what the walk saw; `size` is what was read."""
    columns.mode[number], columns.links[number] = found.st_mode, found.st_nlink
    columns.uid[number], columns.gid[number] = found.st_uid, found.st_gid
    columns.device[number], columns.rdev[number] = found.st_dev, found.st_rdev
    columns.inode[number], columns.size[number] = found.st_ino, size
    columns.mtime[number], columns.ctime[number] = found.st_mtime_ns, found.st_ctime_ns


def _without(segment: Segment, boundaries: list[int], lost: list[int]) -> tuple[Segment, list[int]]:
    """The segment, and where it ends, without the lost rows."""
    gone, news = set(lost), segment.news
    kept = np.array([row not in gone for row in range(len(segment))], bool)
    shorter = segments.without_rows(segment, lost)
    shorter.news = None if news is None else news[kept]
    number = np.cumsum(kept) - 1
    return shorter, [int(number[row]) for row in boundaries if row not in gone]
