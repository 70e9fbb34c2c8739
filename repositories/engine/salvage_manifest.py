"""The list of files of a point whose root is lost: put together from what its file still holds of it.

That are the segments that the file sealed itself, what its checkpoints tell (segments of earlier points that it shares,
and the entries behind the last segment), and in a merged file the segments that it copied. Where two of them speak of
the same stretch of paths the younger one counts, for all of the stretch; between stretches the older one does, so a
file that was deleted between two sessions of one point may be listed. Segments that the point shared with earlier ones
and that no checkpoint tells of are not found: what was not changed since has to be recovered from an earlier point.
"""

from __future__ import annotations

import bisect
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np

from repositories.engine import segment_codec
from repositories.engine.checkpoint import parse_checkpoint
from repositories.engine.container import Container
from repositories.engine.entries import order_key
from repositories.engine.errors import EngineError, text
from repositories.engine.layout import Epoch, ItemKind, Malformed
from repositories.engine.manifest import Facts, Root, SegmentRow
from repositories.engine.reader import Point
from repositories.engine.rebuilt import origin_ids
from repositories.engine.segment_reader import read_segment
from repositories.engine.segments import Segment


@dataclass(frozen=True, slots=True)
class Part:
    """Entries `start` to `end` of one segment, or of a checkpoint's tail; `first` and `last` are their outer paths."""

    origin: UUID
    row: SegmentRow  # of the whole segment
    start: int
    end: int
    first: bytes
    last: bytes
    counts: tuple[int, int, int, int]  # files, directories, others, bytes
    tail: Segment | None = None


@dataclass(slots=True)
class _Covered:
    """Stretches of paths, by their order keys, of which something younger was found; disjoint and sorted."""

    firsts: list[bytes] = field(default_factory=list)
    lasts: list[bytes] = field(default_factory=list)

    def free_rows(self, keys: list[bytes]) -> list[tuple[int, int]]:
        """The ranges of entries that lie in none of the stretches."""
        free: list[tuple[int, int]] = []
        start = 0
        for at in range(bisect.bisect_left(self.lasts, keys[0]), len(self.firsts)):
            if self.firsts[at] > keys[-1]:
                break
            free.append((start, bisect.bisect_left(keys, self.firsts[at])))
            start = bisect.bisect_right(keys, self.lasts[at])
        free.append((start, len(keys)))
        return [(first, end) for first, end in free if first < end]

    def add(self, first: bytes, last: bytes) -> None:
        """The stretch and all that it overlaps become one."""
        low, high = bisect.bisect_left(self.lasts, first), bisect.bisect_right(self.firsts, last)
        self.firsts[low:high] = [min([first, *self.firsts[low:high]])]
        self.lasts[low:high] = [max([last, *self.lasts[low:high]])]


def found_parts(point: Point, findings: list[str]) -> list[Part]:
    """What can be opened of the manifest, in its order; what cannot be is told in `findings`."""
    covered, parts = _Covered(), list[Part]()
    for one in _candidates(point.container, findings):
        try:
            segment = one.segment or read_segment(point.container_of(one.origin), one.row, one.origin)
        except EngineError as error:
            row = one.row
            findings.append(
                f"The list of the {row.entries:,} entries from {text(row.first)} to {text(row.last)} cannot be read. "
                f"{error}"
            )
            continue
        keys = [order_key(path) for path in segment.paths()]
        parts += [_part(one, segment, start, end) for start, end in covered.free_rows(keys)]
        covered.add(keys[0], keys[-1])
    findings.append(
        f"The whole list of its files is lost; {sum(part.end - part.start for part in parts):,} entries were found "
        "otherwise. What was not changed since the restore point before may stand there only: recover that one too."
    )
    return sorted(parts, key=lambda part: order_key(part.first))


def root_of_parts(parts: list[Part], container: Container) -> Root:
    """A root that lists the parts, each as a segment of its own. The time of the file stands for that of the point."""
    origins = list(dict.fromkeys([container.file_id, *(part.origin for part in parts)]))
    rows = [
        SegmentRow(origins.index(part.origin), part.row.number, b"", part.end - part.start, part.first, part.last)
        for part in parts
    ]
    when_ns = os.fstat(container.fd).st_mtime_ns
    files, directories, others, size = (sum(part.counts[column] for part in parts) for column in range(4))
    facts = Facts(
        "partial", "best-effort", "", "", when_ns, when_ns, [], [], [], files, directories, others, size, 0, 0, 0, 0, 0
    )  # fmt: skip
    return Root(facts, [origin.bytes for origin in origins], rows, [])


def _part(one: _Candidate, segment: Segment, start: int, end: int) -> Part:
    kinds = segment.mode[start:end] & np.uint32(0o170000)
    files, directories = (int(np.count_nonzero(kinds == kind)) for kind in (stat.S_IFREG, stat.S_IFDIR))
    counts = (files, directories, end - start - files - directories, int(segment.size[start:end].sum(dtype=np.uint64)))
    tail = one.segment if one.is_tail else None
    return Part(one.origin, one.row, start, end, segment.path(start), segment.path(end - 1), counts, tail)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A segment that may belong to the manifest; opened already, or to be opened."""

    origin: UUID
    row: SegmentRow
    segment: Segment | None = None
    is_tail: bool = False  # it stands in a checkpoint, and is no item


def _candidates(container: Container, findings: list[str]) -> Iterator[_Candidate]:
    """The youngest first."""
    own = container.file_id
    for epoch in reversed(container.index.origin.epochs):
        rows, tail = _told(container, epoch, findings)
        told = {row.number for origin, row in rows if origin == own}
        yield from (_Candidate(origin, row) for origin, row in rows)
        numbers = [number for number in _numbers(container, own, ItemKind.SEGMENT, epoch) if number not in told]
        yield from _sealed(container, own, numbers, findings)
        if tail is not None and len(tail):
            yield _Candidate(own, _row_of(tail, 0, b""), tail, is_tail=True)
    for origin in origin_ids(container)[1:]:
        yield from _sealed(container, origin, _numbers(container, origin, ItemKind.SEGMENT), findings)


def _numbers(container: Container, origin: UUID, kind: ItemKind, epoch: Epoch | None = None) -> list[int]:
    """The items of a kind that the file holds of an origin, of one epoch or of all."""
    part = container.index.part(origin)
    numbers: list[int] = part[1].of_kind(kind).tolist() if part else []
    return [number for number in numbers if epoch is None or (part and part[0].epoch_of(number) == epoch)]


def _told(
    container: Container, epoch: Epoch, findings: list[str]
) -> tuple[list[tuple[UUID, SegmentRow]], Segment | None]:
    """What the checkpoints of one epoch tell: rows of segments, and the entries behind the last of them."""
    rows: list[tuple[UUID, SegmentRow]] = []
    tail: Segment | None = None
    for number in _numbers(container, container.file_id, ItemKind.CHECKPOINT, epoch):
        try:
            found = parse_checkpoint(container.read(number, ItemKind.CHECKPOINT))
            tail = segment_codec.parse(found.tail) if found.tail else None
        except (EngineError, Malformed) as error:
            findings.append(f"The checkpoint {number} cannot be read. {error}")
            continue
        rows += [(UUID(bytes=found.origins[row.origin]), row) for row in found.rows]
    return rows, tail


def _sealed(container: Container, origin: UUID, numbers: list[int], findings: list[str]) -> Iterator[_Candidate]:
    """Those of these segments that open."""
    for number in numbers:
        try:
            tag = container.tag(number, ItemKind.SEGMENT, origin)
            segment = segment_codec.parse(container.read(number, ItemKind.SEGMENT, origin))
        except (EngineError, Malformed) as error:
            findings.append(f"A part of its list of files cannot be read. {error}")
            continue
        if len(segment):
            yield _Candidate(origin, _row_of(segment, number, tag), segment)


def _row_of(segment: Segment, number: int, tag: bytes) -> SegmentRow:
    return SegmentRow(0, number, tag, len(segment), segment.path(0), segment.path(len(segment) - 1))
