"""Proving that a restore point can be restored, and naming what cannot.

What open_point() proves already (one head copy, trailer, seal, index, keyring, root, chain MAC, signature) is raised
there; here follow the rest of the outer form, the parent's seal, every segment and, in a full verification, every
block. What is to be done about damage is left to the callers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import numpy as np

from repositories.engine.columns import Array
from repositories.engine.container import Container
from repositories.engine.entries import BlockAddress
from repositories.engine.errors import EngineError, MissingFile, damaged, text
from repositories.engine.head import padding_is_zero, read_heads
from repositories.engine.layout import (
    BODY_OFFSET,
    EPOCH_RANDOM_BYTES,
    RECORD_HEADER_BYTES,
    TRAILER_BYTES,
    ItemKind,
    Malformed,
    pack_record_header,
    pread,
)
from repositories.engine.observer import Observer, Progress, Pulse
from repositories.engine.reader import Point
from repositories.engine.segments import HOLE, Segment

MAX_NAMED = 1_000
Depth = Literal["quick", "full"]


@dataclass(frozen=True, slots=True)
class Damage:
    part: str  # head, padding, epoch, segment 3, block 17, ...
    path: str  # of the backup file
    sentence: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    depth: Depth
    damages: tuple[Damage, ...] = ()
    damaged_files: tuple[bytes, ...] = ()  # paths in the point that cannot be restored, at most MAX_NAMED
    damaged_files_count: int = 0
    items_checked: int = 0
    bytes_checked: int = 0
    blocks_checked: int = 0
    notes: tuple[str, ...] = ()  # not damage: unsigned, the parent is not beside it

    @property
    def sound(self) -> bool:
        return not self.damages


def verify(point: Point, depth: Depth, observer: Observer) -> VerifyReport:
    """*quick*: head, slots, seal, index, manifest. *full*: every block that the point needs as well.

    Raises Cancelled. Damage is reported, not raised.
    """
    return _Verification(point, depth, observer).run()


class _Verification:
    def __init__(self, point: Point, depth: Depth, observer: Observer) -> None:
        self._point, self._depth = point, depth
        self._pulse = Pulse(observer, time.monotonic)
        self._damages: list[Damage] = []
        self._notes: list[str] = []
        self._needed: dict[UUID, Array] = {}  # by origin: how far chunks reach into each block, by number
        self._bad: dict[UUID, set[int]] = {}
        self._limits: dict[UUID, int] = {}  # by origin: above its highest item number
        self._away: set[UUID] = set()  # origins whose file cannot be opened
        self._named: list[bytes] = []
        self._files = self._items = self._bytes = self._blocks = 0

    def run(self) -> VerifyReport:
        self._try(self._outer_form)
        self._try(self._parent)
        self._segments()
        self._identities()
        self._places()
        if self._depth == "full":
            self._all_blocks()
        if self._bad:
            self._name_files()
        return VerifyReport(
            depth=self._depth,
            damages=tuple(self._damages),
            damaged_files=tuple(self._named),
            damaged_files_count=self._files,
            items_checked=self._items,
            bytes_checked=self._bytes,
            blocks_checked=self._blocks,
            notes=tuple(self._notes),
        )

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except EngineError as error:
            self._report(error)
        except Malformed as error:
            self._report(damaged(self._point.path, "file", str(error)))

    def _report(self, error: EngineError) -> None:
        part = str(error.fields.get("part", error.code))
        self._damages.append(Damage(part, str(error.fields.get("path", "")), str(error)))

    def _beat(self) -> None:
        summary = self._point.summary
        self._pulse.beat(
            lambda: Progress(
                stage="verify",
                files_total=summary.files,
                bytes_processed=self._bytes,
                bytes_total=summary.source_bytes,
                bytes_read=self._bytes,
            )
        )

    def _outer_form(self) -> None:
        container = self._point.container
        if container.head.copies_differ or len(read_heads(container.fd, container.path)) != 1:
            self._report(damaged(container.path, "head", "its two copies differ; it still opens"))
        if not padding_is_zero(container.fd):
            self._report(damaged(container.path, "padding", "there are bytes behind the head; it still opens"))
        _check_tiling(container)
        if not self._point.summary.signer:
            self._notes.append("The point is unsigned.")

    def _parent(self) -> None:
        """The parent's seal is the one that this point was written after."""
        summary = self._point.summary
        if summary.parent_id is None:
            return
        try:
            parent = self._point.container_of(summary.parent_id)
        except MissingFile:
            self._notes.append("The parent is no longer beside it, so its seal was not compared.")
            return
        if parent.seal_hash_of(summary.parent_id) != summary.parent_seal_hash:
            raise damaged(parent.path, "seal", "it is not the parent that was there when the point was written")

    def _segments(self) -> None:
        """Every segment opens; how far chunks reach into each block is noted."""
        for number, row in enumerate(self._point.root.segments):
            self._beat()
            try:
                self._note_chunks(self._point.segment(number))
                self._items += 1
            except EngineError as error:
                self._report(error)
                self._files += row.entries
                self._named += [row.first, row.last][: MAX_NAMED - len(self._named)]

    def _note_chunks(self, segment: Segment) -> None:
        chunks = segment.chunks[segment.chunks[:, 0] != HOLE]
        for origin in np.unique(chunks[:, 0]).tolist():
            file_id = segment.origins[origin]
            rows = chunks[chunks[:, 0] == origin]
            there = rows[:, 1] < self._limit(file_id)
            self._beyond(file_id, np.unique(rows[~there, 1]).tolist())
            rows = rows[there]
            if len(rows):
                reach = self._reach(file_id, int(rows[:, 1].max()))
                np.maximum.at(reach, rows[:, 1], rows[:, 2].astype(np.uint64) + rows[:, 3])

    def _limit(self, origin: UUID) -> int:
        """Above the highest item number of an origin, so that no number decides how much memory is taken; 0, and
        reported, where its file cannot be opened.
        """
        if origin not in self._limits:
            self._limits[origin] = 0
            try:
                part = self._point.container_of(origin).index.part(origin)
                self._limits[origin] = int(part[1].numbers[-1]) + 1 if part and len(part[1]) else 0
            except EngineError as error:
                self._report(error)
                self._away.add(origin)
        return self._limits[origin]

    def _beyond(self, origin: UUID, numbers: list[int]) -> None:
        """Blocks that are needed and are not there."""
        if origin in self._away:
            self._bad.setdefault(origin, set()).update(numbers)
            return
        for number in set(numbers) - self._bad.get(origin, set()):
            self._bad_block(origin, number, "the index does not have it")

    def _reach(self, origin: UUID, highest: int) -> Array:
        reach = self._needed.get(origin, np.zeros(0, np.uint64))
        if len(reach) <= highest:
            reach = np.concatenate((reach, np.zeros(max(highest + 1, 2 * len(reach)) - len(reach), np.uint64)))
        self._needed[origin] = reach
        return reach

    def _identities(self) -> None:
        """A damaged run costs deduplication, nothing that is to be restored; still it is damage of the file."""
        numbers: dict[UUID, int] = {}
        for run in self._point.root.runs:
            self._beat()
            try:
                self._items += len(run.parts)
                self._point.identity_run(run, numbers)
            except EngineError as error:
                self._report(error)

    def _places(self) -> None:
        """Every needed block is in the index of its file."""
        for origin, reach in self._needed.items():
            numbers = np.flatnonzero(reach).tolist()
            part = self._point.container_of(origin).index.part(origin)
            blocks = set(part[1].of_kind(ItemKind.BLOCK).tolist()) if part else set()
            for number in set(numbers) - blocks:
                self._bad_block(origin, number, "the index does not have it")

    def _bad_block(self, origin: UUID, number: int, detail: str) -> None:
        self._report(damaged(self._point.container_of(origin).path, f"block {number}", detail))
        self._bad.setdefault(origin, set()).add(number)

    def _all_blocks(self) -> None:
        for address, outcome in self._point.blocks(self._block_addresses()):
            self._beat()
            self._blocks += 1
            if isinstance(outcome, EngineError):
                self._report(outcome)
                self._bad.setdefault(address.origin, set()).add(address.number)
                continue
            if isinstance(outcome, Exception):
                raise outcome
            self._bytes += len(outcome)
            reach = self._needed.get(address.origin)
            if reach is not None and address.number < len(reach) and int(reach[address.number]) > len(outcome):
                self._bad_block(address.origin, address.number, "a chunk reaches beyond it")

    def _block_addresses(self) -> Iterator[BlockAddress]:
        """All blocks of the own file, and those of others that the point needs; without those known to be bad."""
        own = {
            origin.file_id: table.of_kind(ItemKind.BLOCK).tolist()
            for origin, table in self._point.container.index.parts()
        }
        wanted = {origin: np.flatnonzero(reach).tolist() for origin, reach in self._needed.items()}
        for origin, numbers in {**wanted, **own}.items():
            bad = self._bad.get(origin, set())
            yield from (BlockAddress(origin, number) for number in numbers if number not in bad)

    def _name_files(self) -> None:
        for number in range(len(self._point.root.segments)):
            self._beat()
            try:
                segment = self._point.segment(number)
            except EngineError:
                continue  # reported before
            for row in _touched(segment, self._bad):
                self._files += 1
                if len(self._named) < MAX_NAMED:
                    self._named.append(segment.path(row))


def _touched(segment: Segment, bad: dict[UUID, set[int]]) -> list[int]:
    """The rows that have a chunk in a bad block."""
    chunks = segment.chunks
    hit = np.zeros(len(chunks), bool)
    for origin, file_id in enumerate(segment.origins):
        if file_id in bad:
            hit |= (chunks[:, 0] == origin) & np.isin(chunks[:, 1], np.fromiter(bad[file_id], np.uint32))
    rows = np.searchsorted(segment.chunk_starts(), np.flatnonzero(hit), side="right") - 1
    return sorted(set(rows.tolist()))


def _check_tiling(container: Container) -> None:
    """Records follow each other without a gap from the body's begin to the trailer; epoch records are intact."""
    index, said, trailer = container.index, container.seal.statement, container.trailer
    records = [
        *index.records(),
        (said.index_offset, said.index_length),
        (trailer.seal_offset, trailer.seal_length),
    ]
    records.sort()
    epochs = {
        pack_record_header(ItemKind.EPOCH, epoch.number, epoch.first_item, EPOCH_RANDOM_BYTES) + epoch.random
        for epoch in index.origin.epochs
    }
    position = BODY_OFFSET
    for offset, length in [*records, (container.length - TRAILER_BYTES, 0)]:
        while position < offset:
            record = pread(container.fd, RECORD_HEADER_BYTES + EPOCH_RANDOM_BYTES, position)
            if record not in epochs:
                raise damaged(container.path, "epoch", f"there are unknown bytes at {position}")
            epochs.discard(record)
            position += len(record)
        if position != offset:
            raise damaged(container.path, "index", f"records overlap at {offset}")
        position = offset + RECORD_HEADER_BYTES + length
    if epochs:
        raise damaged(container.path, "epoch", f"an epoch record is missing in {text(container.path)}")
