"""The manifest of a point: its root, and where its segments end.

A segment ends after an entry whose path says so: the first 4 bytes (little-endian) of BLAKE3 keyed with
HKDF(chain key, info = "backupsite 1|boundaries") over the path are 0 modulo 2,048; or after 8,000 entries, or after
100,000 chunks. So an insertion changes one segment, and unchanged ones are shared with the parent's. What is inside a
segment is decided in segments.py.

Raw content of the ROOT item, MessagePack arrays in the order of the fields of Root, Facts, SegmentRow and RunRow here.
A field with a default may be missing at the end of its array; what follows the fields known here is passed over.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterator
from typing import Protocol
from uuid import UUID

import msgspec
import numpy as np

from keys import crypto
from repositories.engine import segment_codec, segments
from repositories.engine.entries import order_key
from repositories.engine.layout import ItemKind, Malformed
from repositories.engine.sealing import INFO
from repositories.engine.segments import Segment
from repositories.engine.small_files import is_boundary

MAX_ENTRIES = 8_000
MAX_CHUNKS = 100_000


class Facts(msgspec.Struct, array_like=True, frozen=True):
    """What the point says about itself."""

    kind: str
    reason: str
    job_name: str
    level: str
    started_at_ns: int
    finished_at_ns: int
    sources: list[bytes]
    include: list[str]
    exclude: list[str]
    files: int
    directories: int
    others: int
    source_bytes: int
    read_bytes: int
    new_files: int
    changed_files: int
    unchanged_files: int
    warnings: int
    options: list[str] = []  # sorted; the values of Omission


class SegmentRow(msgspec.Struct, array_like=True, frozen=True):
    """A segment's address (origin by index into the root's origins), its tag, its entries, its first and last path."""

    origin: int
    number: int
    tag: bytes
    entries: int
    first: bytes
    last: bytes


class RunRow(msgspec.Struct, array_like=True, frozen=True):
    """A run of identities: how many entries, and its parts as (origin, item number, tag)."""

    entries: int
    parts: list[tuple[int, int, bytes]]


class Root(msgspec.Struct, array_like=True, frozen=True):
    facts: Facts
    origins: list[bytes]
    segments: list[SegmentRow]
    runs: list[RunRow]


def pack_root(root: Root) -> bytes:
    return msgspec.msgpack.encode(root)


def parse_root(raw: bytes) -> Root:
    """Raises Malformed; afterwards origins are in range and segments are in order."""
    try:
        root = msgspec.msgpack.decode(raw, type=Root)
    except msgspec.DecodeError as error:
        raise Malformed(f"the root cannot be read: {error}") from None
    count = len(root.origins)
    origins = [row.origin for row in root.segments] + [part[0] for run in root.runs for part in run.parts]
    if any(len(origin) != 16 for origin in root.origins) or any(not 0 <= origin < count for origin in origins):
        raise Malformed("the root names an unknown origin")
    bounds = [order_key(path) for row in root.segments for path in (row.first, row.last)]
    if any(a > b for a, b in itertools.pairwise(bounds)):
        raise Malformed("the root's segments are not in order")
    return root


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
