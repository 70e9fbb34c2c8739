"""The manifest of a point: its root, and where its segments end.

A segment ends behind an entry whose path says so (small_files.is_boundary), or behind 8,000 entries, or 100,000 chunks.
So an insertion changes one segment, and unchanged ones are shared with the parent's. What is inside a segment is
decided in segments.py.

Raw content of the ROOT item, MessagePack arrays in the order of the fields of Root, Facts, SegmentRow and RunRow here.
A field with a default may be missing at the end of its array; what follows the fields known here is passed over.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from typing import Annotated, Protocol
from uuid import UUID

import msgspec
import numpy as np
from msgspec import Meta

from keys import crypto
from repositories.engine import messages, segment_codec, segments
from repositories.engine.entries import order_key
from repositories.engine.layout import NO_ITEM, ItemKind, Malformed
from repositories.engine.messages import Id, Tag
from repositories.engine.sealing import INFO
from repositories.engine.segments import Segment
from repositories.engine.small_files import is_boundary

MAX_ENTRIES = 8_000
MAX_CHUNKS = 100_000
MAX_SEGMENTS, MAX_ORIGINS, MAX_PARTS, MAX_PATTERNS = 1 << 20, 1 << 17, 1 << 17, 1 << 17  # in one root
KINDS = ("full", "incremental")
MAX_FACT = (1 << 63) - 1


class Facts(msgspec.Struct, array_like=True, frozen=True):
    """What the point says about itself."""

    kind: str
    reason: str
    job_name: str
    level: str
    started_at_ns: int
    finished_at_ns: int
    sources: Annotated[list[bytes], Meta(max_length=MAX_PATTERNS)]
    include: Annotated[list[str], Meta(max_length=MAX_PATTERNS)]
    exclude: Annotated[list[str], Meta(max_length=MAX_PATTERNS)]
    files: int
    directories: int
    others: int
    source_bytes: int
    read_bytes: int
    new_files: int
    changed_files: int
    unchanged_files: int
    warnings: int
    options: Annotated[list[str], Meta(max_length=MAX_PATTERNS)] = []  # sorted; the values of Omission


class SegmentRow(msgspec.Struct, array_like=True, frozen=True):
    """A segment's address (origin by index into the root's origins), its tag, its entries, its first and last path."""

    origin: int
    number: int
    tag: Tag
    entries: int
    first: bytes
    last: bytes


class RunRow(msgspec.Struct, array_like=True, frozen=True):
    """A run of identities: how many entries, and its parts as (origin, item number, tag)."""

    entries: int
    parts: Annotated[list[tuple[int, int, Tag]], Meta(max_length=MAX_PARTS)]


class Root(msgspec.Struct, array_like=True, frozen=True):
    facts: Facts
    origins: Annotated[list[Id], Meta(max_length=MAX_ORIGINS)]
    segments: Annotated[list[SegmentRow], Meta(max_length=MAX_SEGMENTS)]
    runs: Annotated[list[RunRow], Meta(max_length=MAX_PARTS)]


def pack_root(root: Root) -> bytes:
    return msgspec.msgpack.encode(root)


def parse_root(raw: bytes) -> Root:
    """Raises Malformed; afterwards origins are in range, segments are in order, and every number is possible."""
    root = messages.decode(raw, Root, "the root")
    count = len(root.origins)
    check_rows(root.segments, count)
    for run in root.runs:
        for origin, number, _tag in run.parts:
            _check_address(origin, number, count)
    _check_facts(root.facts)
    return root


def check_rows(rows: list[SegmentRow], origin_count: int) -> None:
    """Raises Malformed for addresses and sizes that cannot be, and for segments out of order."""
    before = b""
    for row in rows:
        _check_address(row.origin, row.number, origin_count)
        if not 1 <= row.entries <= segment_codec.MAX_ENTRIES:
            raise Malformed("a segment has an impossible number of entries")
        first, last = order_key(row.first), order_key(row.last)
        if not before < first <= last:
            raise Malformed("the segments are not in order")
        before = last


def _check_address(origin: int, number: int, origin_count: int) -> None:
    if not 0 <= origin < origin_count or not 0 <= number < NO_ITEM:
        raise Malformed("an item has an impossible address")


def _check_facts(facts: Facts) -> None:
    numbers = [value for value in msgspec.structs.astuple(facts) if isinstance(value, int)]
    if facts.kind not in KINDS or not all(0 <= number <= MAX_FACT for number in numbers):
        raise Malformed("the root states impossible facts")


def segment_at(root: Root, path: bytes) -> int:
    """The number of the segment that would hold `path`: the last one that begins at or before it, else the first."""
    keys = [order_key(row.first) for row in root.segments]
    return max(bisect.bisect_right(keys, order_key(path)) - 1, 0)


def folder_segments(root: Root, folder: bytes) -> Iterator[int]:
    """The numbers of the segments that may hold direct children of `folder`; those inside one child are left out."""
    prefix = folder + b"/" if folder else b""
    for number in range(segment_at(root, folder), len(root.segments)):
        row = root.segments[number]
        if order_key(row.first) > order_key(prefix) and not row.first.startswith(prefix):
            return
        child = _child(row.first, prefix)
        if child is None or row.first == prefix + child or _child(row.last, prefix) != child:
            yield number


def _child(path: bytes, prefix: bytes) -> bytes | None:
    """The name of the direct child of the folder that `path` is or lies in; None if it is not below the folder."""
    return path[len(prefix) :].partition(b"/")[0] if path.startswith(prefix) and path != prefix else None


def boundary_key(chain_key: bytes) -> bytes:
    """For small_files.is_boundary()."""
    return crypto.hkdf(chain_key, salt=b"", info=INFO + b"boundaries")


class SegmentSink(Protocol):
    def add_metadata(self, kind: ItemKind, raw: bytes) -> int: ...


class ManifestBuilder:
    """Takes the entries of the new manifest in order, as ranges of the parent's segments or as new rows.

    `origin_number` gives a file its number in the session's table of origins, and grows; 0 is the file being written.
    Tags of own segments are asked for at the end, when they are sealed.
    """

    def __init__(self, sink: SegmentSink, boundary_key: bytes, origin_number: dict[UUID, int]) -> None:
        self._sink, self._boundary_key, self._origin_number = sink, boundary_key, origin_number
        self._pieces: list[tuple[Segment, int, int]] = []
        self._entries = self._chunks = 0
        self.rows: list[SegmentRow] = []  # tag empty: an own segment

    def origins(self) -> list[UUID]:
        """The session's table, for the chunks of new entries."""
        return list(self._origin_number)

    def keep(self, segment: Segment, start: int, end: int, shared: SegmentRow | None) -> None:
        """Entries of a segment of the parent; `shared` is its row if it is taken whole and may be shared as it is.

        Inside a segment of the parent no path is a boundary, but perhaps the last one.
        """
        if shared is not None and not self._entries:
            self.rows.append(shared)
            return
        ends = end == len(segment) and is_boundary(segment.path(end - 1), self._boundary_key)
        self._take(segment, start, end, ends)

    def add(self, segment: Segment, start: int, end: int, boundaries: list[int]) -> None:
        """New entries; `boundaries` are the rows of the segment, sorted, behind which a segment ends."""
        for row in boundaries[bisect.bisect_left(boundaries, start) : bisect.bisect_left(boundaries, end)]:
            self._take(segment, start, row + 1, True)
            start = row + 1
        self._take(segment, start, end, False)

    def boundaries_of(self, segment: Segment) -> list[int]:
        """For add(), where nobody found them before."""
        return [row for row, path in enumerate(segment.paths()) if is_boundary(path, self._boundary_key)]

    def _take(self, segment: Segment, start: int, end: int, ends: bool) -> None:
        """Entries without a boundary inside; the last one may be one."""
        while start < end:
            stop = self._fits(segment, start, end)
            self._pieces.append((segment, start, stop))
            self._entries += stop - start
            self._chunks += int(segment.chunk_count[start:stop].sum())
            start = stop
            if self._is_full() or (ends and stop == end):
                self._end_segment()

    def _fits(self, segment: Segment, start: int, end: int) -> int:
        """How far entries may go into the current segment: at least one, until it is full."""
        stop = min(end, start + MAX_ENTRIES - self._entries)
        chunks = np.cumsum(segment.chunk_count[start:stop], dtype=np.int64)
        return min(stop, start + int(np.searchsorted(chunks, MAX_CHUNKS - self._chunks)) + 1)

    def finish(self, tag: Callable[[int], bytes]) -> list[SegmentRow]:
        if self._entries:
            self._end_segment()
        return self.rows_from(0, tag)

    def rows_from(self, start: int, tag: Callable[[int], bytes]) -> list[SegmentRow]:
        """The rows of the segments that ended so far, from the `start`-th."""
        return [row if row.tag else msgspec.structs.replace(row, tag=tag(row.number)) for row in self.rows[start:]]

    def tail(self) -> bytes:
        """The entries behind the last row, packed; empty if there are none."""
        return segment_codec.pack(segments.concat(self._pieces)) if self._pieces else b""

    def _is_full(self) -> bool:
        return self._entries >= MAX_ENTRIES or self._chunks >= MAX_CHUNKS

    def _end_segment(self) -> None:
        segment = segments.concat(self._pieces)
        number = self._sink.add_metadata(ItemKind.SEGMENT, segment_codec.pack(segment))
        self.rows.append(SegmentRow(0, number, b"", len(segment), segment.path(0), segment.path(len(segment) - 1)))
        self._pieces = []
        self._entries = self._chunks = 0
