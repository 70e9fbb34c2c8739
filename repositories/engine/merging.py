"""Merging the oldest points of a run into one, without reading the sources and without opening what they hold.

The merged file takes the place of the newest of the points that it replaces: its number, its manifest, its file key.
What this point or a later one still needs of the replaced files is copied byte for byte, with the table of its origins,
so every address stays valid and later points are not touched; what only the dropped points needed is left out. It does
not change data keys. It is published under a name of its own beside the files that it names as replaced; these are
removed afterwards, by settling.py. Which points are to go is decided by the callers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.crypto_recipients import Recipient
from repositories.engine.chain_keys import new_slots
from repositories.engine.chains import FileOnDisk, merged_name, remove_unfinished, scan_chain
from repositories.engine.container import Container
from repositories.engine.encrypted_only import check_plain
from repositories.engine.errors import BadOrder, PlainRefused, damaged, text
from repositories.engine.head import MAX_REPLACED, MAX_SLOTS, Head
from repositories.engine.index import ItemTable, Origin
from repositories.engine.keyring import Keyring, pack_keyring
from repositories.engine.layout import NO_ITEM, VERSION, ItemKind, pack_record_header
from repositories.engine.manifest import Root, RunRow, pack_root
from repositories.engine.observer import Observer, Progress, Pulse
from repositories.engine.order import FreeSpace, Kind, ParentPoint
from repositories.engine.pace import Limit, Pace
from repositories.engine.reader import Point
from repositories.engine.run_of_chain import Need, RunOfChain, find_run, needed_items
from repositories.engine.seal import NO_HASH, NO_PARENT, plain_chain_key
from repositories.engine.writer import FileWriter, SealParts


@dataclass(frozen=True, slots=True)
class MergeOrder:
    """`sequence` is the number of the point that shall be the oldest of its run; those before it in the run go.

    `newest` is the newest point of the chain. The recipients are those of the merged file, none in a plain chain.
    """

    root: Path
    chain_id: UUID
    file_id: UUID
    sequence: int
    newest: ParentPoint
    reason: str = "merged"
    recipients: tuple[Recipient, ...] = ()
    reserve: FreeSpace = field(default_factory=FreeSpace)
    signer: Ed25519PrivateKey | None = field(default=None, repr=False)
    clock: Callable[[], int] = time.time_ns
    limit: Limit | None = None  # of what is appended to the file
    plain_allowed: bool = True  # as in BackupOrder


@dataclass(frozen=True, slots=True)
class Merged:
    file_id: UUID
    sequence: int
    path: Path
    length: int
    seal_hash: bytes
    head_generation: int
    file_key: bytes | None = field(repr=False)  # that of the newest file replaced
    replaces: tuple[UUID, ...]  # oldest first
    copied_bytes: int
    left_out_bytes: int


def merge(order: MergeOrder, observer: Observer) -> Merged:
    """Write and publish the merged file; settle() then removes what it replaces.

    Nothing is left behind when it raises an EngineError. Every item is authenticated before it is copied, so damage
    of the chain is one. Raises BadOrder if there is nothing to merge, or an earlier merge was not settled, and
    PlaintextRefused.
    """
    if scan_chain(order.root / str(order.chain_id)).replaced:
        raise BadOrder(f"An earlier merge of the chain {order.chain_id} is not finished; settle it first.")
    if not order.recipients:
        check_plain(order.root, allowed=order.plain_allowed)
    pulse = Pulse(observer, time.monotonic)
    run = find_run(order.newest, order.sequence, lambda: pulse.beat(lambda: Progress(stage="merge")))
    going = tuple(file for file in run.files if file.sequence <= order.sequence)
    if not 2 <= len(going) <= MAX_REPLACED:
        raise BadOrder(
            f"A merge takes 2 to {MAX_REPLACED} points of one run together, not {len(going)} (up to point "
            f"{order.sequence} of {order.chain_id})."
        )
    with run.open(going[0]) as oldest, run.open(going[-1]) as newest:
        _check_recipients(order, newest)
        return _Merge(order, observer, run, going, oldest, newest).run()


def _check_recipients(order: MergeOrder, newest: Point) -> None:
    if newest.head.encrypted != bool(order.recipients):
        raise PlainRefused(
            f"The chain {order.chain_id} is {'encrypted' if newest.head.encrypted else 'plain'}, and stays so.",
            path=text(newest.path),
        )
    if len(order.recipients) > MAX_SLOTS or order.newest.path.parent != order.root / str(order.chain_id):
        raise BadOrder(f"The order to merge points of {order.chain_id} contradicts itself, or has too many recipients.")


class _Merge:
    """One merged file being written; run() once."""

    def __init__(
        self,
        order: MergeOrder,
        observer: Observer,
        run: RunOfChain,
        going: tuple[FileOnDisk, ...],
        oldest: Point,
        newest: Point,
    ) -> None:
        self._order, self._observer, self._run, self._going = order, observer, run, going
        self._oldest, self._newest = oldest, newest
        self._pulse = Pulse(observer, time.monotonic)
        self._replaces = tuple(file.head.file_id for file in going if file.head)
        self._total_bytes = sum(file.length for file in going)
        self._seen_bytes = self._copied_bytes = self._left_out_bytes = 0
        self._writer: FileWriter | None = None

    def run(self) -> Merged:
        needs = needed_items(self._run, self._run.files[len(self._going) - 1 :], self._beat)
        head, folder = self._head(), self._newest.path.parent
        self._writer = writer = FileWriter(folder, head, self._newest.file_key, None, self._order.reserve, 1)
        writer.final = folder / merged_name(head.sequence, head.file_id)
        if self._order.limit is not None:
            writer.pace = Pace(self._order.limit, self._beat)
        try:
            self._copy_everything(writer, needs)
            seal_hash, length = self._close_file(writer)
            self._observer.before_seal()
            remove_unfinished(folder, but=writer.path)
            writer.publish()
        except BaseException:
            writer.abort()
            raise
        writer.close()
        return Merged(
            file_id=head.file_id,
            sequence=head.sequence,
            path=writer.final,
            length=length,
            seal_hash=seal_hash,
            head_generation=head.generation,
            file_key=self._newest.file_key,
            replaces=self._replaces,
            copied_bytes=self._copied_bytes,
            left_out_bytes=self._left_out_bytes,
        )

    def _head(self) -> Head:
        order, file_key = self._order, self._newest.file_key
        return Head(
            version=VERSION,
            encrypted=file_key is not None,
            chain_id=order.chain_id,
            file_id=order.file_id,
            sequence=order.sequence,
            generation=1,
            slots=new_slots(order.recipients, file_key, chain_id=order.chain_id, file_id=order.file_id),
            replaces=self._replaces,
        )

    def _copy_everything(self, writer: FileWriter, needs: dict[Need, set[int]]) -> None:
        copied: list[tuple[Origin, ItemTable]] = []
        for file in self._going:
            with self._run.open(file) as point:
                copied += self._copy_file(writer, point.container, needs)
        writer.copied = tuple(copied)

    def _copy_file(
        self, writer: FileWriter, container: Container, needs: dict[Need, set[int]]
    ) -> list[tuple[Origin, ItemTable]]:
        """What is needed of one file, its own items and those that it copied itself."""
        copied = []
        for origin, table in container.index.parts():
            chosen = table.rows(_needed_rows(container, origin, table, needs))
            kept = self._copy_items(writer, container, origin, chosen)
            is_own = origin.file_id == container.file_id
            if is_own or len(kept):
                copied.append((_as_copied(origin, container) if is_own else origin, kept))
            self._left_out_bytes += int(table.lengths.sum(dtype=np.uint64)) - int(kept.lengths.sum(dtype=np.uint64))
        return copied

    def _copy_items(self, writer: FileWriter, container: Container, origin: Origin, chosen: ItemTable) -> ItemTable:
        """In the order in which they lie, which is how they are read again."""
        offsets = np.zeros(len(chosen), np.uint64)
        for row in np.argsort(chosen.offsets).tolist():
            self._beat()
            number, kind = int(chosen.numbers[row]), ItemKind(int(chosen.kinds[row]))
            sealed = container.read_sealed(number, kind, origin.file_id)
            header = pack_record_header(kind, origin.epoch_of(number).number, number, len(sealed))
            offsets[row] = writer.append_copy(header, sealed)
            self._copied_bytes += len(sealed)
        return ItemTable(chosen.numbers, chosen.kinds, offsets, chosen.lengths)

    def _close_file(self, writer: FileWriter) -> tuple[bytes, int]:
        order, oldest = self._order, self._oldest.summary
        keyring, keyring_number = self._keyring(writer), NO_ITEM
        if keyring is not None:
            keyring_number = writer.add_metadata(ItemKind.KEYRING, pack_keyring(keyring))
        root_number = writer.add_metadata(ItemKind.ROOT, pack_root(self._root()))
        return writer.finish(
            SealParts(
                sequence=order.sequence,
                parent_id=oldest.parent_id or NO_PARENT,
                parent_seal_hash=oldest.parent_seal_hash if oldest.parent_id else NO_HASH,
                chain_key=keyring.chain_key if keyring else plain_chain_key(order.chain_id),
                signer=order.signer,
                keyring=keyring_number,
                root=root_number,
            )
        )

    def _keyring(self, writer: FileWriter) -> Keyring | None:
        """That of the point, without the files that are replaced: their keys stand in the index."""
        known = self._newest.keyring
        if known is None:
            return None
        gone = {origin.file_id for origin, _ in writer.copied} | set(self._replaces)
        return Keyring(known.chain_key, {one: key for one, key in known.file_keys.items() if one not in gone})

    def _root(self) -> Root:
        """That of the point; this file comes first among the origins."""
        root = self._newest.root
        facts = msgspec.structs.replace(
            root.facts, kind=Kind.FULL.value, reason=self._order.reason, finished_at_ns=self._order.clock()
        )
        segments = [msgspec.structs.replace(row, origin=row.origin + 1) for row in root.segments]
        runs = [
            RunRow(run.entries, [(origin + 1, number, tag) for origin, number, tag in run.parts]) for run in root.runs
        ]
        return Root(facts, [self._order.file_id.bytes, *root.origins], segments, runs)

    def _beat(self) -> None:
        self._pulse.beat(
            lambda: Progress(
                stage="merge",
                bytes_processed=self._copied_bytes,
                bytes_total=self._total_bytes,
                bytes_read=self._copied_bytes,
                bytes_written=self._writer.position if self._writer else 0,
            )
        )


def _needed_rows(container: Container, origin: Origin, table: ItemTable, needs: dict[Need, set[int]]) -> np.ndarray:
    """Which items are needed. Raises CorruptFile if one of these is not there."""
    chosen = np.zeros(len(table), bool)
    for kind in (ItemKind.BLOCK, ItemKind.SEGMENT, ItemKind.IDENTITIES):
        wanted = needs.get((origin.file_id, kind), set())
        found = (table.kinds == kind) & np.isin(table.numbers, np.fromiter(wanted, np.uint32, len(wanted)))
        if int(np.count_nonzero(found)) != len(wanted):
            lost = min(wanted - set(table.numbers[found].tolist()))
            raise damaged(container.path, f"{kind.name.lower()} {lost}", "the index does not have it")
        chosen |= found
    return chosen


def _as_copied(origin: Origin, container: Container) -> Origin:
    """A file as the origin of items that lie in another file."""
    return Origin(origin.file_id, origin.epochs, container.file_key, container.seal.seal_hash)
