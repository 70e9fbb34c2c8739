"""Putting a restore point, or a selection of it, back below a folder: the order, and what became of it.

Entries are restored in the order of the manifest, in which the blocks of their content mostly stand; folders get
their owner, mode and times last of all, since every entry made in them moves those times. Damage concerns the files
that it touches: each is reported, and everything else is restored.

How one entry is written safely is left to `repositories.engine.target` and `fidelity`; how blocks are read ahead, to
`repositories.engine.reader`; how the work is shared between processes, to `repositories.engine.restore_share`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from repositories.engine.backup import FreeSpace
from repositories.engine.entries import Entry, is_below, order_key
from repositories.engine.errors import NothingToRestore, OutOfSpace, text
from repositories.engine.fidelity import LOSS_SENTENCES
from repositories.engine.observer import Busy, Observer, Progress, Pulse
from repositories.engine.reader import Point
from repositories.engine.restore_entry import EntryWriter, Failure, Tally
from repositories.engine.target import Existing, Target

FAILURES_NAMED_MAX = 1_000


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
    clock: Callable[[], float] = time.monotonic  # seconds; only paces the reports


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
    paths = selection(order.point, order.paths)
    with Target(order.into, order.existing, order.below) as target:
        run = _Run(order, observer, target)
        run.check_room(paths)
        run.entries(paths)
        run.folders()
        return run.result()


def selection(point: Point, paths: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The paths without those that another one covers, in the order of the manifest. Raises NothingToRestore."""
    chosen: list[bytes] = []
    for path in sorted(set(paths), key=order_key):
        if chosen and is_below(path, chosen[-1]):
            continue
        point.entry(path)
        chosen.append(path)
    return tuple(chosen) or (b"",)


def walk(point: Point, paths: tuple[bytes, ...]) -> Iterator[Entry]:
    for path in paths:
        yield from point.walk(path)


class _Run:
    """One restore from its first entry to its result."""

    def __init__(self, order: RestoreOrder, observer: Observer, target: Target) -> None:
        self._order = order
        self._observer = observer
        self._target = target
        self._tally = Tally()
        self._failures: list[Failure] = []
        self._folders: list[Entry] = []
        self._pulse = Pulse(observer, order.clock)
        self._writer = EntryWriter(target, self._tally, self._failed, self._beat)
        self._files_total: int | None = None
        self._bytes_total: int | None = None
        self._waited_seconds = 0.0
        self._started_seconds = order.clock()

    def check_room(self, paths: tuple[bytes, ...]) -> None:
        """Count what is wanted and compare it with the free space, before anything is written. Raises OutOfSpace."""
        summary = self._order.point.summary
        if paths == (b"",):
            self._files_total, self._bytes_total = summary.files, summary.source_bytes
        else:
            self._count(paths)
        wanted_bytes = self._bytes_total or 0
        if self._may_use_bytes() >= wanted_bytes or self._target.root.names:
            return  # what stands in the target may be skipped or replaced: then only writing can tell
        stored_bytes = sum(_stored_bytes(entry) for entry in walk(self._order.point, paths) if entry.is_file)
        if stored_bytes > self._may_use_bytes():
            raise self._no_room(stored_bytes)

    def _count(self, paths: tuple[bytes, ...]) -> None:
        self._files_total = self._bytes_total = 0
        for entry in walk(self._order.point, paths):
            if entry.is_file:
                self._files_total += 1
                self._bytes_total += entry.size

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

    def entries(self, paths: tuple[bytes, ...]) -> None:
        """Restore everything but the folders' own metadata."""
        clock = self._order.clock
        before = clock()
        for entry, pieces in self._order.point.read_many(self._wanted(paths)):
            self._waited_seconds += clock() - before
            self._writer.write(entry, pieces)
            before = clock()

    def _wanted(self, paths: tuple[bytes, ...]) -> Iterator[Entry]:
        """Every entry of the selection; its folders, and those above it that the point describes, are remembered."""
        for path in paths:
            self._folders += described_above(self._order.point, path)
        for entry in walk(self._order.point, paths):
            if entry.is_directory:
                self._folders.append(entry)
            yield entry

    def folders(self) -> None:
        """Complete the folders, each after those inside it. One that was there before keeps what it has, unless the
        order says overwrite.
        """
        overwrite = self._order.existing is Existing.OVERWRITE
        for entry in reversed(self._folders):
            if entry.path in self._target.created or (overwrite and not entry.ancestor):
                self._writer.complete_folder(entry)
            self._beat()

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

    def _beat(self) -> None:
        self._pulse.beat(self._report)

    def _report(self) -> Progress:
        tally = self._tally
        if self._order.reserve and self._may_use_bytes() < 0:
            raise self._no_room(max((self._bytes_total or 0) - tally.bytes_done, 0))
        elapsed_seconds = self._order.clock() - self._started_seconds
        return Progress(
            stage="restore",
            files_done=tally.files + tally.links + tally.skipped + tally.failed,
            files_total=self._files_total,
            bytes_processed=tally.bytes_done,
            bytes_total=self._bytes_total,
            bytes_read=tally.bytes_done,
            bytes_written=tally.bytes_written,
            current_path=tally.current_path,
            busy=Busy(source=elapsed_seconds - self._waited_seconds, repository=self._waited_seconds),
        )


def described_above(point: Point, path: bytes) -> list[Entry]:
    """The folders above a path that the point describes, the outermost first."""
    entries = []
    parts = path.split(b"/")
    for depth in range(1, len(parts)):
        with suppress(NothingToRestore):
            entries.append(point.entry(b"/".join(parts[:depth])))
    return entries


def _stored_bytes(entry: Entry) -> int:
    return sum(chunk.length for chunk in entry.chunks if chunk.block is not None)
