"""An unfinished file, read up to its last checkpoint that opens: what it holds of the new manifest, and its items.

Whether it may be written on is decided in adoption.py; what a checkpoint says, and when one is written, in
checkpoint.py.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import numpy as np

from repositories.engine import identities, segment_codec
from repositories.engine.checkpoint import Checkpoint, parse_checkpoint
from repositories.engine.columns import Array
from repositories.engine.content import BegunFile
from repositories.engine.entries import order_key
from repositories.engine.errors import damaged
from repositories.engine.head import Head
from repositories.engine.layout import (
    EPOCH_RANDOM_BYTES,
    RECORD_HEADER_BYTES,
    TAG_BYTES,
    Epoch,
    ItemKind,
    Malformed,
    pread,
)
from repositories.engine.manifest import SegmentRow
from repositories.engine.reader import Point
from repositories.engine.records import Record, whole_records
from repositories.engine.sealing import EpochSealer
from repositories.engine.segment_reader import read_segment
from repositories.engine.segments import HOLE, Segment
from repositories.engine.writer import WrittenPart


@dataclass(slots=True)
class Manifest:
    """What one epoch knew of the new manifest at its last checkpoint: its beginning."""

    origins: list[UUID] = field(default_factory=list)
    rows: list[SegmentRow] = field(default_factory=list)
    tail: Segment | None = None
    news: list[tuple[int, int]] = field(default_factory=list)
    begun: dict[bytes, BegunFile] = field(default_factory=dict)


class Unfinished:
    """An unfinished file, locked, and everything up to its last checkpoint. Made by adopt(); the writer closes `fd`."""

    def __init__(
        self, fd: int, path: Path, head: Head, file_key: bytes | None, beat: Callable[[], None] = lambda: None
    ) -> None:
        self._beat = beat
        self.fd, self.path, self.head, self.file_key = fd, path, head, file_key
        self.part = WrittenPart((), array("I"), array("Q"), array("I"), 0)
        self.manifests: list[Manifest] = []  # by epoch
        self.checkpoint: Checkpoint | None = None  # the last one
        self._identities: list[int] = []
        self._sealers: dict[Epoch, EpochSealer] = {}
        self._scan()

    def read(self, number: int, kind: ItemKind, origin: UUID | None = None) -> bytes:
        """The raw content of an item before the last checkpoint. Raises CorruptFile."""
        try:
            sealed = self._sealed(number, kind)
            epoch = next(epoch for epoch in reversed(self.part.epochs) if epoch.first_item <= number)
            return self._sealer(epoch).open(kind, number, sealed)
        except Malformed as error:
            raise damaged(self.path, f"{kind.name.lower()} {number}", str(error)) from None

    def tag(self, number: int, kind: ItemKind, origin: UUID | None = None) -> bytes:
        try:
            return self._sealed(number, kind)[-TAG_BYTES:]
        except Malformed as error:
            raise damaged(self.path, f"{kind.name.lower()} {number}", str(error)) from None

    def segments(self, base: Point | None) -> Iterator[tuple[Manifest, SegmentRow | None, Segment]]:
        """What the epochs knew, the newest first, each from where the one before ended. `base` has what they share."""
        covered = b""
        for manifest in reversed(self.manifests):
            news, at = _spread(manifest.news), 0
            for row in manifest.rows:
                at += row.entries
                if order_key(row.last) > covered:
                    segment = self._segment(manifest, row, base)
                    segment.news = news[at - row.entries : at]
                    yield manifest, row, segment
                    covered = order_key(row.last)
            tail = manifest.tail
            if tail is not None and (last := order_key(tail.path(len(tail) - 1))) > covered:
                tail.news = news[at:]
                yield manifest, None, tail
                covered = last

    def covered(self) -> bytes:
        """The order key of the last path of the new manifest that is known."""
        keys = [b""]
        for manifest in self.manifests:
            keys += [order_key(row.last) for row in manifest.rows[-1:]]
            keys += [order_key(tail.path(len(tail) - 1)) for tail in [manifest.tail] if tail is not None]
        return max(keys)

    def begun(self, origin_number: dict[UUID, int]) -> dict[bytes, BegunFile]:
        """Large files that were being read, their chunks' origins numbered by `origin_number`, which grows."""
        found: dict[bytes, BegunFile] = {}
        for manifest in self.manifests:
            for path, file in manifest.begun.items():
                numbers = array("I", file.chunks)
                for at in range(0, len(numbers), 4):
                    if numbers[at] != HOLE:
                        origin = manifest.origins[numbers[at]]
                        numbers[at] = origin_number.setdefault(origin, len(origin_number))
                known = found.get(path)
                if known is None or known.facts != file.facts or len(known.chunks) <= len(numbers):
                    found[path] = BegunFile(file.facts, numbers)
        return found

    def identity_runs(self) -> list[identities.Run]:
        numbers = {self.head.file_id: 0}
        runs = []
        for number in self._identities:
            self._beat()
            try:
                runs.append(identities.parse_part(self.read(number, ItemKind.IDENTITIES), numbers))
            except Malformed as error:
                raise damaged(self.path, f"identities {number}", str(error)) from None
        return runs

    def check(self, base: Point | None) -> None:
        """Open all of the manifest that lies in the file itself; the rest of it must be in the files of `base`.

        Raises CorruptFile, MissingFile, CannotUnwrap.
        """
        for manifest in self.manifests:
            for row in manifest.rows:
                self._beat()
                origin = manifest.origins[row.origin]
                if origin == self.head.file_id:
                    read_segment(self, row, origin)
                elif base is None or base.container_of(origin).tag(row.number, ItemKind.SEGMENT, origin) != row.tag:
                    raise damaged(self.path, f"segment {row.number}", "it shares what its parent does not have")
        self.identity_runs()

    def _segment(self, manifest: Manifest, row: SegmentRow, base: Point | None) -> Segment:
        origin = manifest.origins[row.origin]
        if origin == self.head.file_id or base is None:
            return read_segment(self, row, self.head.file_id)
        return read_segment(base.container_of(origin), row, origin)

    def _scan(self) -> None:
        """Keep what stands before the last checkpoint that opens; what follows it does not count."""
        epochs: list[Epoch] = []
        pending: dict[int, Record] = {}
        for record in whole_records(self.fd):
            self._beat()
            try:
                if record.kind is ItemKind.EPOCH:
                    epochs = [*self.part.epochs, self._epoch(record, pending)]
                elif not epochs or record.epoch != epochs[-1].number or record.number in pending:
                    raise Malformed("an item stands where it cannot be")
                else:
                    pending[record.number] = record
                if record.kind is ItemKind.CHECKPOINT:
                    self._take(record, epochs, pending)
                    pending = {}
            except Malformed:
                return

    def _epoch(self, record: Record, pending: dict[int, Record]) -> Epoch:
        """An epoch begins right behind a checkpoint: everything behind that was cut off."""
        epoch = Epoch(
            record.epoch, record.number, pread(self.fd, EPOCH_RANDOM_BYTES, record.offset + RECORD_HEADER_BYTES)
        )
        if pending or epoch.number != len(self.part.epochs) or epoch.first_item != len(self.part.kinds):
            raise Malformed("an epoch stands where it cannot be")
        return epoch

    def _take(self, record: Record, epochs: list[Epoch], pending: dict[int, Record]) -> None:
        """Raises Malformed, and then nothing is taken."""
        first = len(self.part.kinds)
        if sorted(pending) != list(range(first, record.number + 1)):
            raise Malformed("a checkpoint does not follow all items before it")
        sealed = pread(self.fd, record.length, record.offset + RECORD_HEADER_BYTES)
        checkpoint = parse_checkpoint(self._sealer(epochs[-1]).open(ItemKind.CHECKPOINT, record.number, sealed))
        is_new_epoch = len(epochs) > len(self.part.epochs)
        manifest = _follow(Manifest() if is_new_epoch else self.manifests[-1], checkpoint)
        self.manifests = [*self.manifests, manifest] if is_new_epoch else [*self.manifests[:-1], manifest]
        for number in range(first, record.number + 1):
            self.part.kinds.append(pending[number].kind)
            self.part.offsets.append(pending[number].offset)
            self.part.lengths.append(pending[number].length)
        self.part = WrittenPart(tuple(epochs), self.part.kinds, self.part.offsets, self.part.lengths, record.end)
        self._identities += checkpoint.identities
        self.checkpoint = checkpoint

    def _sealed(self, number: int, kind: ItemKind) -> bytes:
        if not 0 <= number < len(self.part.kinds) or self.part.kinds[number] != kind:
            raise Malformed("the file does not have it")
        return pread(self.fd, self.part.lengths[number], self.part.offsets[number] + RECORD_HEADER_BYTES)

    def _sealer(self, epoch: Epoch) -> EpochSealer:
        sealer = self._sealers.get(epoch)
        if sealer is None:
            sealer = EpochSealer(self.file_key, self.head.chain_id, self.head.file_id, epoch)
            self._sealers[epoch] = sealer
        return sealer


def _spread(news: list[tuple[int, int]]) -> Array:
    return np.repeat(np.array([kind for kind, _ in news], np.uint32), np.array([count for _, count in news], np.int64))


def _follow(before: Manifest, checkpoint: Checkpoint) -> Manifest:
    """The manifest at a checkpoint, from that at the one before. Raises Malformed."""
    begun = {}
    for file in checkpoint.begun:
        known = before.begun.get(file.path) if file.first else None
        known = known or BegunFile(file.facts, array("I"))
        if 4 * file.first > len(known.chunks) or known.facts != file.facts:
            raise Malformed("a checkpoint continues a file that the one before does not know")
        more = np.frombuffer(file.chunks, "<u4").tolist()
        begun[file.path] = BegunFile(file.facts, known.chunks[: 4 * file.first] + array("I", more))
    tail = segment_codec.parse(checkpoint.tail) if checkpoint.tail else None
    origins = [UUID(bytes=origin) for origin in checkpoint.origins]
    if origins[: len(before.origins)] != before.origins or (tail is not None and not len(tail)):
        raise Malformed("a checkpoint does not continue the one before")
    rows, news = before.rows + checkpoint.rows, before.news + checkpoint.news
    if sum(row.entries for row in rows) + len(tail or ()) != sum(count for _, count in news):
        raise Malformed("a checkpoint counts other entries than it has")
    return Manifest(
        origins=origins,
        rows=rows,
        tail=tail,
        news=news,
        begun=begun,
    )
