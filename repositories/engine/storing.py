"""What the comparison says becomes rows and blocks: files are read in batches, and the order of entries is kept.

A batch ends at 4 MiB of small files, 1,000 entries or 8 kept segments; then its files are read, a few batches ahead of
their use, their content is placed, and its rows go to the manifest. Per file there is as little Python as possible: a
batch is handled in columns. Counting and warning happen here; who reads small files is left to read_ahead.py, what
it leaves to careful.py, what a chunk is, and whether it is stored already, to content.py.
"""

from __future__ import annotations

import itertools
import stat
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from repositories.engine import segments
from repositories.engine.careful import Batch, CarefulReader, Contents
from repositories.engine.columns import Array
from repositories.engine.compare import Event, Keep, Store
from repositories.engine.content import RACY_NS, Packer
from repositories.engine.layout import BLOCK_TARGET_BYTES
from repositories.engine.manifest import ManifestBuilder
from repositories.engine.observer import Observer
from repositories.engine.read_ahead import BATCHES_AHEAD, ReadAhead, Ticket
from repositories.engine.segments import (
    CHANGED,
    NEW,
    RACY,
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

_BATCH_ENTRIES = 1_000
_BATCH_SEGMENTS = 8
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
class _Coming:
    """What comes next, in order: entries to store, and ranges to keep before the n-th of them."""

    stores: list[Store] = field(default_factory=list)
    keeps: list[tuple[int, Keep]] = field(default_factory=list)


@dataclass(slots=True)
class _Begun:
    """A batch whose small files are being read."""

    batch: Batch
    new: list[bool]
    keeps: list[tuple[int, Keep]]
    now_ns: int
    ticket: Ticket


class Storer:
    """Takes the events of compare() in order. `clock` is the time of day in ns; `beat` may raise Cancelled.

    `pause` is called when everything that came so far is in the manifest, or will be read again.
    """

    def __init__(
        self,
        builder: ManifestBuilder,
        careful: CarefulReader,
        packer: Packer,
        ahead: ReadAhead,
        observer: Observer,
        clock: Callable[[], int],
        beat: Callable[[], None],
        pause: Callable[[], None],
    ) -> None:
        self.counts = Counts()
        self.news: list[tuple[int, int]] = []  # what became of the entries in order: (UNCHANGED, NEW or CHANGED, count)
        self.source_seconds = 0.0
        self._builder, self._careful, self._packer, self._ahead = builder, careful, packer, ahead
        self._observer, self._clock, self._beat, self._pause = observer, clock, beat, pause
        self._begun: deque[_Begun] = deque()

    @property
    def current_path(self) -> bytes:
        return self._careful.current_path

    def take_all(self, events: Iterable[Event]) -> None:
        """There may be a million events, so the loop has what it needs at hand."""
        coming = _Coming()
        stores, small_bytes, kept_segments = coming.stores, 0, 0
        for event in events:
            if isinstance(event, Keep):
                if not stores and not self._begun:
                    self._keep(event)
                    continue
                coming.keeps.append((len(stores), event))
                kept_segments += event.end == len(event.segment)
            else:
                stores.append(event)
                size = event[0][2].st_size
                if size <= SMALL_FILE_BYTES:
                    small_bytes += size
            if small_bytes >= BLOCK_TARGET_BYTES or len(stores) >= _BATCH_ENTRIES or kept_segments >= _BATCH_SEGMENTS:
                self._begin(coming)
                coming = _Coming()
                stores, small_bytes, kept_segments = coming.stores, 0, 0
        self._begin(coming)
        while self._begun:
            self._finish(self._begun.popleft())

    def _begin(self, coming: _Coming) -> None:
        """Have the small files of the batch read; finish those before it that are read, or are too many."""
        if coming.stores or coming.keeps:
            self._begun.append(self._asked_for(coming))
        while self._begun and (len(self._begun) > BATCHES_AHEAD or self._ahead.is_ready(self._begun[0].ticket)):
            self._finish(self._begun.popleft())

    def _asked_for(self, coming: _Coming) -> _Begun:
        self._beat()
        found = [store[0] for store in coming.stores]
        stats = [one[2] for one in found]
        columns = self._careful.columns_of([one[0] for one in found], [one[1] for one in found], stats)
        batch = Batch(columns, _kinds(columns, [one[3] for one in found]), stats)
        if found:
            self._careful.current_path = batch.path(0)[1:]
        now_ns = self._clock()
        ticket = self._ahead.begin(_request(batch))
        return _Begun(batch, [store[1] for store in coming.stores], coming.keeps, now_ns, ticket)

    def _finish(self, begun: _Begun) -> None:
        """Place the content of the batch, and give all rows to the manifest in order."""
        answer = self._ahead.wait(begun.ticket)
        started = time.perf_counter()
        contents = self._careful.rest(begun.batch, answer)
        self.source_seconds += answer.seconds + time.perf_counter() - started
        segment = self._segment(begun, answer, contents)
        self._ahead.release(begun.ticket)
        boundaries = answer.boundaries
        if contents.lost:
            segment, boundaries = _without(segment, boundaries, contents.lost)
        self._hand_over(segment, boundaries, begun.keeps, contents.lost)
        self._careful.reader.begun.clear()
        self._pause()

    def _segment(self, begun: _Begun, answer: Answer, contents: Contents) -> Segment:
        """All rows of the batch, their content placed."""
        columns = begun.batch.columns
        chunk_count, chunks = self._place(begun, answer, contents)
        segment = segments.from_columns(
            columns, contents.flags, chunk_count, chunks, self._builder.origins(), answer.targets, answer.xattrs
        )
        segment.size = np.where(columns.mode & _IFMT == _IFREG, columns.size, np.uint64(0))
        recent = np.maximum(segment.mtime, segment.ctime) > begun.now_ns - RACY_NS
        segment.flags |= np.where(recent & (segment.mode & _IFMT != _IFDIR), np.uint32(RACY), np.uint32(0))
        segment.news = np.where(np.fromiter(begun.new, bool, len(begun.new)), np.uint32(NEW), np.uint32(CHANGED))
        return segment

    def _place(self, begun: _Begun, answer: Answer, contents: Contents) -> tuple[Array, Array]:
        """The number of chunks of each entry, and all chunks; new content goes into blocks."""
        columns, packer = begun.batch.columns, self._packer
        read = np.flatnonzero(begun.batch.kinds == SMALL)
        missed = [number for number, _ in answer.lost] + answer.changed
        read = np.setdiff1d(read, missed, assume_unique=True) if missed else read
        joined = answer.identities
        names = [joined[at : at + IDENTITY_BYTES] for at in range(0, len(joined), IDENTITY_BYTES)]
        addresses = packer.place_run(names, columns.size[read].tolist(), begun.ticket.content)
        small = np.array(addresses, np.uint32).reshape(-1, 4)
        for number, address in zip(contents.small, packer.place_all(list(contents.small.values())), strict=True):
            contents.chunks[number] = array("I", address)
        return _chunks(len(columns.names), read, small, contents.chunks)

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

    def _keep(self, keep: Keep) -> None:
        segment, start, end, shared = keep
        self._count(segment, start, end)
        self._careful.current_path = segment.path(end - 1)
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


def _kinds(columns: Columns, ancestors: list[bool]) -> Array:
    """What small_files.py is to do with each entry."""
    formats = columns.mode & _IFMT
    kinds = np.full(len(columns.names), ATTRIBUTES, np.uint8)
    kinds[formats == _IFLNK] = LINK
    regular = (formats == _IFREG) & (columns.links == 1)
    kinds[regular & (columns.size > 0) & (columns.size <= SMALL_FILE_BYTES)] = SMALL
    kinds[np.fromiter(ancestors, bool, len(kinds))] = NOTHING
    return kinds


def _request(batch: Batch) -> Request:
    columns = batch.columns
    runs = [(b"/" + folder, len(list(same))) for folder, same in itertools.groupby(columns.folders)]
    return Request(
        runs,
        b"\0".join(columns.names),
        batch.kinds.tobytes(),
        columns.size.tobytes(),
        columns.inode.tobytes(),
        columns.mtime.tobytes(),
        columns.ctime.tobytes(),
        columns.device.tobytes(),
    )


def _chunks(count: int, read: Array, small: Array, others: dict[int, array[int]]) -> tuple[Array, Array]:
    """The number of chunks of each of `count` entries, and all chunks: one of each entry of `read`, and the others'."""
    chunk_count = np.zeros(count, np.uint32)
    chunk_count[read] = 1
    if not others:
        return chunk_count, small
    for number, more in others.items():
        chunk_count[number] = len(more) // 4
    starts = np.cumsum(chunk_count, dtype=np.int64) - chunk_count
    chunks = np.zeros((int(chunk_count.sum()), 4), np.uint32)
    chunks[starts[read]] = small
    for number, more in others.items():
        start = int(starts[number])
        chunks[start : start + len(more) // 4] = np.frombuffer(more, np.uint32).reshape(-1, 4)
    return chunk_count, chunks


def _without(segment: Segment, boundaries: list[int], lost: list[int]) -> tuple[Segment, list[int]]:
    """The segment, and where it ends, without the lost rows."""
    gone, news = set(lost), segment.news
    kept = np.array([row not in gone for row in range(len(segment))], bool)
    shorter = segments.without_rows(segment, lost)
    shorter.news = None if news is None else news[kept]
    number = np.cumsum(kept) - 1
    return shorter, [int(number[row]) for row in boundaries if row not in gone]
