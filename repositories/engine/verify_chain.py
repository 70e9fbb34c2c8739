"""Proving that restore points of one chain can be restored, together: what they share is read once for all of them.

For each point the outer form, the parent's seal and every segment and run of identities that no earlier point has; then
each block of the chain once (*full*), a seeded share of the blocks (*sample*), or none (*quick*). Each damage is
reported with the points that need what is damaged, and the files in them; what is not touched stays restorable.

In memory are one segment, the parts of it that points share as bits, and how far chunks reach into each block, by
origin: it does not grow with what the blocks hold. What is done about damage is left to the callers; verify.py is this
for one open point.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np

from repositories.engine.columns import Array
from repositories.engine.container import Container
from repositories.engine.entries import BlockAddress
from repositories.engine.errors import EngineError, MissingFile, damaged
from repositories.engine.layout import ItemKind
from repositories.engine.manifest import SegmentRow
from repositories.engine.observer import Observer, Progress, Pulse
from repositories.engine.pace import Limit, Pace
from repositories.engine.reader import Point
from repositories.engine.segments import HOLE, Segment
from repositories.engine.verify_findings import MAX_FILES_NAMED, Finding, Findings, Touched, places_in
from repositories.engine.verify_form import form_damages
from repositories.engine.verify_report import CLOSED, ChainDamage, ChainReport, Depth, PointVerified
from repositories.engine.verify_sample import Sample

_POINT_FILES_NAMED = 10 * MAX_FILES_NAMED  # of all points of a chain together


@dataclass(frozen=True, slots=True)
class PointToVerify:
    """One point under the number that the report shall call it by. `open` may raise any EngineError."""

    number: int
    open: Callable[[], AbstractContextManager[Point]]


def verify_chain(
    points: Sequence[PointToVerify],
    depth: Depth,
    observer: Observer,
    *,
    sample: Sample | None = None,
    limit: Limit | None = None,
) -> ChainReport:
    """Verify points of one chain, the oldest first. `sample` is needed for its depth; `limit` is that of the blocks.

    Raises Cancelled. Damage is reported, not raised; so is a point that does not open.
    """
    if (depth == "sample") != (sample is not None):
        raise ValueError("a sample is needed for the depth sample, and for no other one")
    return _ChainVerification(points, depth, observer, sample, limit).run()


@dataclass(slots=True)
class _Shared:
    """What several points may have in common: which do, of which origins blocks are needed, and why it fails."""

    points: int = 0
    origins: tuple[UUID, ...] = ()
    finding: Finding | None = None

    @property
    def reader(self) -> int:
        """The newest point that has it, which opens most of the chain."""
        return self.points.bit_length() - 1


@dataclass(slots=True)
class _Looked:
    """What is known of one point."""

    problem: EngineError | None = None
    notes: list[str] = field(default_factory=list)
    touched: Touched = field(default_factory=Touched)


class _ChainVerification:
    def __init__(
        self,
        points: Sequence[PointToVerify],
        depth: Depth,
        observer: Observer,
        sample: Sample | None,
        limit: Limit | None,
    ) -> None:
        self._points, self._depth, self._sample = points, depth, sample
        self._pulse = Pulse(observer, time.monotonic)
        self._pace = None if limit is None else Pace(limit, self._beat)
        self._looked = [_Looked() for _ in points]
        self._findings = Findings()
        self._segments: dict[tuple[UUID, int, bytes], _Shared] = {}
        self._runs: dict[tuple[tuple[UUID, int, bytes], ...], _Shared] = {}
        self._needed: dict[UUID, Array] = {}  # by origin: how far chunks reach into each block, by number
        self._beyond: dict[UUID, set[int]] = {}  # by origin: needed blocks with a number that it does not have
        self._limits: dict[UUID, int] = {}  # by origin: above its highest item number
        self._origins: dict[UUID, _Shared] = {}  # the points that need blocks of an origin, or hold them
        self._whole: set[UUID] = set()  # files whose blocks are all looked at: those of the points
        self._interned: dict[tuple[UUID, ...], tuple[UUID, ...]] = {}
        self._items = self._bytes = self._blocks = self._passed_over = 0
        self._bytes_total: int | None = None
        self._named_max = max(_POINT_FILES_NAMED // max(len(points), 1), 10)

    def run(self) -> ChainReport:
        for place in range(len(self._points)):
            with_point = self._opened(place)
            if with_point is not None:
                with with_point as point:
                    self._look_at(place, point)
        self._all_blocks()
        self._name_files()
        return self._report()

    def _opened(self, place: int) -> AbstractContextManager[Point] | None:
        """None where it does not open: that is noted once."""
        self._beat()
        try:
            return self._points[place].open()
        except EngineError as error:
            looked = self._looked[place]
            if looked.problem is None:
                looked.problem = error
                if error.code not in CLOSED:
                    self._findings.add(error, 1 << place)
            return None

    # What each point says

    def _look_at(self, place: int, point: Point) -> None:
        looked, bit = self._looked[place], 1 << place
        for error in form_damages(point.container):
            self._findings.add(error, bit)
        if not point.summary.signer:
            looked.notes.append("The point is unsigned.")
        try:
            self._compare_parent(point, looked)
        except EngineError as error:
            self._findings.add(error, bit)
        self._whole.add(point.head.file_id)
        for origin, _ in point.container.index.parts():
            self._origins.setdefault(origin.file_id, _Shared()).points |= bit
        for number, row in enumerate(point.root.segments):
            self._beat()
            self._segment(place, point, number, row)
        self._identities(place, point)

    def _compare_parent(self, point: Point, looked: _Looked) -> None:
        """The parent's seal is the one that this point was written after."""
        summary = point.summary
        if summary.parent_id is None:
            return
        try:
            parent = point.container_of(summary.parent_id)
        except MissingFile:
            looked.notes.append("The parent is no longer beside it, so its seal was not compared.")
            return
        if parent.seal_hash_of(summary.parent_id) != summary.parent_seal_hash:
            raise damaged(parent.path, "seal", "it is not the parent that was there when the point was written")

    def _segment(self, place: int, point: Point, number: int, row: SegmentRow) -> None:
        """A segment opens, once for all points that have it; how far its chunks reach into each block is noted."""
        bit, key = 1 << place, _key_of(point, row)
        shared = self._segments.get(key)
        if shared is None:
            shared = self._segments[key] = _Shared()
            try:
                shared.origins = self._note_chunks(point, point.segment(number))
                self._items += 1
            except EngineError as error:
                shared.finding = self._findings.add(error, 0)
        shared.points |= bit
        for origin in shared.origins:
            self._origins.setdefault(origin, _Shared()).points |= bit
        if shared.finding is not None:
            shared.finding.touches(bit, (row.first, row.last), row.entries)
            self._looked[place].touched.add((row.first, row.last), row.entries, self._named_max)

    def _note_chunks(self, point: Point, segment: Segment) -> tuple[UUID, ...]:
        """Returns the origins of its blocks."""
        chunks = segment.chunks[segment.chunks[:, 0] != HOLE]
        used = np.unique(chunks[:, 0]).tolist()
        for origin in used:
            file_id = segment.origins[origin]
            rows = chunks[chunks[:, 0] == origin]
            there = rows[:, 1] < self._limit(point, file_id)
            self._beyond.setdefault(file_id, set()).update(rows[~there, 1].tolist())
            rows = rows[there]
            if len(rows):
                reach = self._reach(file_id, int(rows[:, 1].max()))
                np.maximum.at(reach, rows[:, 1], rows[:, 2].astype(np.uint64) + rows[:, 3])
        origins = tuple(segment.origins[origin] for origin in used)
        return self._interned.setdefault(origins, origins)

    def _limit(self, point: Point, origin: UUID) -> int:
        """Above the highest item number of an origin, so that no number decides how much memory is taken; 0 where its
        file cannot be opened, which is reported when its blocks are looked for.
        """
        if origin not in self._limits:
            try:
                part = point.container_of(origin).index.part(origin)
                self._limits[origin] = int(part[1].numbers[-1]) + 1 if part and len(part[1]) else 0
            except EngineError:
                return 0
        return self._limits[origin]

    def _reach(self, origin: UUID, highest: int) -> Array:
        reach = self._needed.get(origin, np.zeros(0, np.uint64))
        if len(reach) <= highest:
            reach = np.concatenate((reach, np.zeros(max(highest + 1, 2 * len(reach)) - len(reach), np.uint64)))
        self._needed[origin] = reach
        return reach

    def _identities(self, place: int, point: Point) -> None:
        """A damaged run costs deduplication, nothing that is to be restored; still it is damage of the file."""
        numbers: dict[UUID, int] = {}
        for run in point.root.runs:
            self._beat()
            key = tuple((_origin_of(point, origin), number, tag) for origin, number, tag in run.parts)
            shared = self._runs.get(key)
            if shared is None:
                shared = self._runs[key] = _Shared()
                try:
                    self._items += len(run.parts)
                    point.identity_run(run, numbers)
                except EngineError as error:
                    shared.finding = self._findings.add(error, 0)
            if shared.finding is not None:
                shared.finding.points |= 1 << place

    # The blocks

    def _all_blocks(self) -> None:
        """Each block once, through the newest point that needs its origin; the next one is tried where that fails."""
        self._bytes_total = sum(int(reach.sum()) for reach in self._needed.values())
        waiting, errors = dict(self._origins), dict[UUID, EngineError]()
        for place in reversed(range(len(self._points))):
            mine = [origin for origin, shared in waiting.items() if shared.points >> place & 1]
            with_point = self._opened(place) if mine and self._looked[place].problem is None else None
            if with_point is None:
                continue
            with with_point as point:
                if self._pace is not None:
                    point.set_pace(self._pace)
                readable = dict(self._containers(point, mine, errors))
                for origin in readable:
                    del waiting[origin]
                self._read_blocks(point, readable)
        for origin in waiting:
            error = errors.get(origin) or self._looked[self._origins[origin].reader].problem
            if error is not None and self._needed_numbers(origin):
                self._findings.add_origin(origin, error)

    def _containers(
        self, point: Point, origins: list[UUID], errors: dict[UUID, EngineError]
    ) -> Iterator[tuple[UUID, Container]]:
        for origin in origins:
            try:
                yield origin, point.container_of(origin)
            except EngineError as error:
                errors.setdefault(origin, error)

    def _read_blocks(self, point: Point, readable: dict[UUID, Container]) -> None:
        wanted = [(origin, self._wanted(origin, container)) for origin, container in readable.items()]
        if self._depth == "quick":
            return
        for address, outcome in point.blocks(self._taken(wanted)):
            self._beat()
            self._blocks += 1
            if isinstance(outcome, EngineError):
                self._findings.add_block(address.origin, address.number, outcome)
                continue
            if isinstance(outcome, Exception):
                raise outcome
            self._bytes += len(outcome)
            reach = self._needed.get(address.origin)
            if reach is not None and address.number < len(reach) and int(reach[address.number]) > len(outcome):
                error = damaged(readable[address.origin].path, f"block {address.number}", "a chunk reaches beyond it")
                self._findings.add_block(address.origin, address.number, error)

    def _wanted(self, origin: UUID, container: Container) -> list[int]:
        """The blocks that are there and needed, or lie in the file of a point; what is needed and not there is bad."""
        part = container.index.part(origin)
        there: list[int] = part[1].of_kind(ItemKind.BLOCK).tolist() if part else []
        needed = self._needed_numbers(origin)
        for number in sorted(set(needed).difference(there)):
            error = damaged(container.path, f"block {number}", "the index does not have it")
            self._findings.add_block(origin, number, error)
        return there if container.file_id in self._whole else sorted(set(needed).intersection(there))

    def _needed_numbers(self, origin: UUID) -> list[int]:
        reach = self._needed.get(origin)
        numbers: list[int] = [] if reach is None else np.flatnonzero(reach).tolist()
        return numbers + sorted(self._beyond.get(origin, set()).difference(numbers))

    def _taken(self, wanted: Iterable[tuple[UUID, list[int]]]) -> Iterator[BlockAddress]:
        for origin, numbers in wanted:
            for number in numbers:
                if self._sample is None or self._sample.takes(origin, number):
                    yield BlockAddress(origin, number)
                else:
                    self._passed_over += 1

    # The files

    def _name_files(self) -> None:
        """Every segment with a bad block once, for all points that have it."""
        touched = {key for key, shared in self._segments.items() if self._findings.has_bad_blocks(shared.origins)}
        readers = {self._segments[key].reader for key in touched}
        for place in sorted(readers, reverse=True):
            with_point = self._opened(place)
            if with_point is None:
                continue
            with with_point as point:
                for number, row in enumerate(point.root.segments):
                    shared = self._segments.get(_key_of(point, row))
                    if shared is not None and shared.reader == place and _key_of(point, row) in touched:
                        self._beat()
                        self._name_files_of(point, number, shared.points)

    def _name_files_of(self, point: Point, number: int, points: int) -> None:
        try:
            segment = point.segment(number)
        except EngineError:
            return  # reported before
        paths, count = self._findings.name_files(segment, points)
        for place in places_in(points):
            self._looked[place].touched.add(paths, count, self._named_max)

    def _beat(self) -> None:
        self._pulse.beat(
            lambda: Progress(
                stage="verify",
                bytes_processed=self._bytes,
                bytes_total=self._bytes_total if self._depth == "full" else None,
                bytes_read=self._bytes,
            )
        )

    def _report(self) -> ChainReport:
        numbers = [point.number for point in self._points]
        return ChainReport(
            depth=self._depth,
            points=tuple(self._verified(place) for place in range(len(self._points))),
            damages=tuple(_as_damage(finding, numbers) for finding in self._findings),
            damages_count=self._findings.count,
            items_checked=self._items,
            bytes_checked=self._bytes,
            blocks_checked=self._blocks,
            blocks_passed_over=self._passed_over,
        )

    def _verified(self, place: int) -> PointVerified:
        looked = self._looked[place]
        return PointVerified(
            number=self._points[place].number,
            problem=looked.problem,
            damages=self._findings.touching(place),
            damaged_files=tuple(looked.touched.named),
            damaged_files_count=looked.touched.count,
            notes=tuple(looked.notes),
        )


def _key_of(point: Point, row: SegmentRow) -> tuple[UUID, int, bytes]:
    return _origin_of(point, row.origin), row.number, row.tag


def _origin_of(point: Point, index: int) -> UUID:
    return UUID(bytes=point.root.origins[index])


def _as_damage(finding: Finding, numbers: list[int]) -> ChainDamage:
    error = finding.error
    return ChainDamage(
        part=str(error.fields.get("part", error.code)),
        path=str(error.fields.get("path", "")),
        sentence=str(error),
        points=tuple(numbers[place] for place in places_in(finding.points)),
        files=tuple(finding.files),
        files_count=finding.most_files,
    )
