"""Putting a restore point, or a selection of it, back below a folder: the order, and what became of it.

Entries are restored in the order of the manifest, in which the blocks of their content mostly stand; folders get
their owner, mode and times last of all, since every entry made in them moves those times. Damage concerns the files
that it touches: each is reported, and everything else is restored.

How one entry is written safely is left to `repositories.engine.target` and `fidelity`; how blocks are read ahead,
to `repositories.engine.reader`; how the work is shared between processes, to `repositories.engine.restore_share`
and `restore_helpers`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from repositories.engine.entries import Entry, is_below, order_key
from repositories.engine.errors import DAMAGES, Cancelled, EngineError, NothingToRestore, OutOfSpace, text
from repositories.engine.fidelity import LOSS_SENTENCES
from repositories.engine.file_groups import FileGroup
from repositories.engine.observer import Busy, Observer, Progress, Pulse
from repositories.engine.order import FreeSpace
from repositories.engine.pace import Limit, Pace
from repositories.engine.reader import Point
from repositories.engine.restore_entry import EntryWriter, Failure, Tally
from repositories.engine.restore_groups import GroupWriter
from repositories.engine.restore_helpers import Helpers, Standby, helpers_worth
from repositories.engine.restore_share import EVERYTHING, CommonList, Selection
from repositories.engine.restore_walk import Walker, no_beat
from repositories.engine.target import Existing, Target, open_into

FAILURES_NAMED_MAX = 1_000
STOPPED = "The restore was stopped. What is complete stays; start it again with existing files skipped to get the rest."


@dataclass(frozen=True, slots=True)
class RestoreOrder:
    """What to put back, and where. No paths means everything.

    `below` is a folder that `into` may not leave, symbolic links included; None where `into` is the caller's own.
    `reserve` is what must stay free where `into` lies; None where using the last byte is the caller's business.
    """

    point: Point
    into: Path
    paths: tuple[bytes, ...] = ()
    existing: Existing = Existing.SKIP
    below: Path | None = None
    reserve: FreeSpace | None = None
    helpers: int | None = None  # further processes; None where the engine decides
    standby: Standby = field(default_factory=Standby)  # those that were started already
    clock: Callable[[], float] = time.monotonic  # seconds; only paces the reports
    limit: Limit | None = None  # of the blocks that are read; one process does it all then


@dataclass(frozen=True, slots=True)
class Restored:
    """What became of the order. `failed` are entries that are not there; `losses` what is there, but not as it was."""

    files: int
    directories: int
    others: int
    links: int
    skipped: int
    bytes_written: int
    losses: dict[str, int] = field(default_factory=dict)
    failed_count: int = 0
    damaged_count: int = 0  # of the failed ones, those whose content in the repository is damaged
    failed: tuple[Failure, ...] = ()

    @property
    def warnings(self) -> int:
        return self.failed_count + sum(self.losses.values())


def restore(order: RestoreOrder, observer: Observer) -> Restored:
    """Put the selection back and return what became of it; whatever could not be restored was reported as a warning.

    Raises NothingToRestore, BadTarget, OutOfSpace, Cancelled. Complete files stay then, unfinished ones do not.
    """
    selection = Selection(order.point, selected(order.point, order.paths))
    with Target(open_into(order.into, order.below), order.existing) as target:
        run = _Run(order, selection, observer, target)
        run.check_room()
        try:
            run.entries()
            run.folders()
        except EngineError as error:
            run.folders_after_stop()
            if isinstance(error, Cancelled):
                raise Cancelled(STOPPED) from error
            raise
        return run.result()


def selected(point: Point, paths: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The paths without those that another one covers, in the order of the manifest. Raises NothingToRestore."""
    chosen: list[bytes] = []
    for path in sorted(set(paths), key=order_key):
        if chosen and is_below(path, chosen[-1]):
            continue
        if path:
            with suppress(*DAMAGES):  # whether it is there cannot be known; the restore reports what is damaged
                point.entry(path)
        chosen.append(path)
    return tuple(chosen) or EVERYTHING


class _Run:
    """One restore from its first entry to its result."""

    def __init__(self, order: RestoreOrder, selection: Selection, observer: Observer, target: Target) -> None:
        self._order = order
        self._selection = selection
        self._observer = observer
        self._target = target
        self._tally = Tally()
        self._failures: list[Failure] = []
        self._helpers = Helpers(self._failed)
        self._pulse = Pulse(observer, order.clock)
        self._writer = EntryWriter(target, self._tally, self._failed, self.beat)
        groups = GroupWriter(target, self._tally, self._writer, order.point.pieces)
        self._walker = Walker(selection, self._writer, groups, order.clock)
        self._files_total: int | None = None
        self._bytes_total: int | None = None
        self._started_seconds = order.clock()

    def check_room(self) -> None:
        """Count what is wanted and compare it with the free space, before anything is written. Raises OutOfSpace."""
        summary = self._order.point.summary
        if self._selection.paths == EVERYTHING:
            self._files_total, self._bytes_total = summary.files, summary.source_bytes
        else:
            self._count()
        wanted_bytes = self._bytes_total or 0
        if self._may_use_bytes() >= wanted_bytes or self._target.root.names:
            return  # what stands in the target may be skipped or replaced: then only writing can tell
        stored_bytes = sum(
            _stored_bytes(entry) for entry in self._selection.entries(self._beat_counting) if entry.is_file
        )
        if stored_bytes > self._may_use_bytes():
            raise self._no_room(stored_bytes)

    def _count(self) -> None:
        self._files_total = self._bytes_total = 0
        for entry in self._selection.entries(self._beat_counting):
            if entry.is_file:
                self._files_total += 1
                self._bytes_total += entry.size

    def _beat_counting(self) -> None:
        self._pulse.beat(lambda: Progress(stage="count"))

    def _may_use_bytes(self) -> int:
        free_bytes, total_bytes = self._target.free_bytes()
        reserve = self._order.reserve
        return free_bytes - (max(reserve.bytes, int(total_bytes * reserve.share)) if reserve else 0)

    def _no_room(self, needed_bytes: int) -> OutOfSpace:
        free_bytes, _ = self._target.free_bytes()
        name = text(self._order.into)
        return OutOfSpace(
            f"There is not enough room in {name}: {needed_bytes:,} bytes are needed beside the reserve, and "
            f"{free_bytes:,} are free. Make room, choose another folder, or restore less.",
            path=name,
            free_bytes=free_bytes,
            needed_bytes=needed_bytes,
        )

    def entries(self) -> None:
        """Restore everything but the folders' own metadata, with as many processes as are worth it."""
        for path in self._selection.paths:
            self._walker.folders += described_above(self._order.point, path)
        numbers = self._selection.segment_numbers()
        count = self._helper_count(len(numbers))
        with self._helpers as helpers, closing(CommonList.of(numbers)) as common:
            processes = (self._order.standby.take() for _ in range(count))
            helpers.start(processes, self._order.point, self._selection.paths, self._target, common)
            mine: list[int] = []
            self._walker.run(self._mine(common, mine))
            self._walker.run(self._of_others(sorted(set(numbers).difference(mine))))
            helpers.wait(self.beat)
            helpers.add_to(self._tally, self._target)

    def _helper_count(self, segments: int) -> int:
        order = self._order
        if order.limit is not None:
            order.point.set_pace(Pace(order.limit, self.beat))
            return 0
        return helpers_worth(order.point, segments) if order.helpers is None else order.helpers

    def _mine(self, common: CommonList, mine: list[int]) -> Iterator[Entry | FileGroup]:
        """Everything in the segments that this process gets."""
        for number in common:
            mine.append(number)
            yield from self._walker.items_of(number)

    def _of_others(self, numbers: list[int]) -> Iterator[Entry]:
        """Of the segments that helpers got, what only this process does: hard links, and completing folders."""
        for number in numbers:
            yield from self._walker.left_by_others(number)

    def folders(self) -> None:
        self._walker.complete_folders(self._target, self.beat)

    def folders_after_stop(self) -> None:
        """Complete what was made, so that the same restore can be started again with existing files skipped."""
        self._target.created.update(self._helpers.incomplete)
        for path in self._walker.incomplete(self._target):
            with suppress(EngineError):
                self._walker.folders.append(self._order.point.entry(path))
        self._walker.complete_folders(self._target, no_beat)

    def result(self) -> Restored:
        tally, losses = self._tally, self._tally.losses
        for code, count in losses.counts.items():
            path = losses.first_paths[code]
            self._observer.warn(code, path, f"{LOSS_SENTENCES[code]} Entries: {count:,}; the first: {text(path)}.")
        self._observer.progress(self._report())
        return Restored(
            files=tally.files,
            directories=tally.directories,
            others=tally.others,
            links=tally.links,
            skipped=tally.skipped,
            bytes_written=tally.bytes_written,
            losses=dict(losses.counts),
            failed_count=tally.failed,
            damaged_count=tally.damaged,
            failed=tuple(self._failures),
        )

    def _failed(self, failure: Failure) -> None:
        if len(self._failures) < FAILURES_NAMED_MAX:
            self._failures.append(failure)
        self._observer.warn(failure.code, failure.path, failure.sentence)

    def beat(self) -> None:
        self._pulse.beat(self._report)

    def _report(self) -> Progress:
        self._helpers.hear()
        if self._order.reserve and self._may_use_bytes() < 0:
            raise self._no_room(0)
        tally, helped = self._tally, self._helpers.counted()
        done = tally.files + tally.links + tally.skipped + tally.failed
        bytes_done = tally.bytes_done + sum(helper.bytes_done for helper in helped)
        elapsed_seconds = self._order.clock() - self._started_seconds
        waited_seconds = min(self._walker.waited_seconds, elapsed_seconds)
        return Progress(
            stage="restore",
            files_done=done + sum(helper.files + helper.skipped + helper.failed for helper in helped),
            files_total=self._files_total,
            bytes_processed=bytes_done,
            bytes_total=self._bytes_total,
            bytes_read=bytes_done,
            bytes_written=tally.bytes_written + sum(helper.bytes_written for helper in helped),
            current_path=tally.current_path,
            busy=Busy(source=elapsed_seconds - waited_seconds, repository=waited_seconds),
        )


def described_above(point: Point, path: bytes) -> list[Entry]:
    """The folders above a path that the point describes, the outermost first."""
    entries = []
    parts = path.split(b"/")
    for depth in range(1, len(parts)):
        with suppress(NothingToRestore, *DAMAGES):  # then it is made as a new folder is
            entries.append(point.entry(b"/".join(parts[:depth])))
    return entries


def _stored_bytes(entry: Entry) -> int:
    return sum(chunk.length for chunk in entry.chunks if chunk.block is not None)
