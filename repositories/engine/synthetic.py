"""A synthetic full: a new full made from the chain alone, without reading the sources again.

It holds what its parent holds, the newest point of the chain, and begins a new run: everything is opened, packed and
sealed anew under its own file key, so nothing of it depends on older files, and they may go. Its content is as old as
the parent's, so it says when the parent was started. When one is due is left to the callers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys import crypto
from keys.crypto_recipients import Recipient
from repositories.engine.blocks import Hole
from repositories.engine.chain_keys import new_slots, next_keyring
from repositories.engine.columns import Array
from repositories.engine.content import Packer
from repositories.engine.head import Head
from repositories.engine.identities import Address, Identities, identity_key, pack_parts
from repositories.engine.keyring import pack_keyring
from repositories.engine.layout import BLOCK_TARGET_BYTES, NO_ITEM, VERSION, ItemKind
from repositories.engine.manifest import Facts, ManifestBuilder, Root, RunRow, boundary_key, pack_root
from repositories.engine.observer import Busy, Observer, Progress, Pulse
from repositories.engine.order import BackupOrder, FreeSpace, Kind, Level, ParentPoint, Written, check_order
from repositories.engine.pace import Limit, Pace
from repositories.engine.reader import FileKey, Point, open_point
from repositories.engine.seal import plain_chain_key
from repositories.engine.sealing import ZSTD_LEVELS
from repositories.engine.segments import HOLE, Segment
from repositories.engine.writer import FileWriter, SealParts


@dataclass(frozen=True, slots=True)
class SyntheticOrder:
    """`parent` is the newest point of the chain; the recipients are those of the new file, none in a plain chain."""

    root: Path
    chain_id: UUID
    file_id: UUID
    sequence: int
    reason: str
    parent: ParentPoint
    recipients: tuple[Recipient, ...] = ()
    level: Level = Level.BALANCED
    reserve: FreeSpace = field(default_factory=FreeSpace)
    signer: Ed25519PrivateKey | None = field(default=None, repr=False)
    clock: Callable[[], int] = time.time_ns
    limit: Limit | None = None  # of what is appended to the file
    plain_allowed: bool = True  # as in BackupOrder


def write_synthetic_full(order: SyntheticOrder, observer: Observer) -> Written:
    """Write and publish it. Nothing is left behind when it raises an EngineError; damage of the chain is one."""
    secret = None if order.parent.file_key is None else FileKey(order.parent.file_key)
    with open_point(order.parent.path, secret) as parent:
        check_order(_as_backup(order, parent), parent)
        return _Synthesis(order, observer, parent).run()


def _as_backup(order: SyntheticOrder, parent: Point) -> BackupOrder:
    """The same rules of the chain hold for it as for an active full."""
    return BackupOrder(
        root=order.root,
        chain_id=order.chain_id,
        file_id=order.file_id,
        sequence=order.sequence,
        kind=Kind.FULL,
        reason=order.reason,
        started_at_ns=parent.summary.started_at_ns,
        sources=parent.summary.sources,
        recipients=order.recipients,
        parent=order.parent,
        plain_allowed=order.plain_allowed,
    )


class _Synthesis:
    """One synthetic full being written; run() once."""

    def __init__(self, order: SyntheticOrder, observer: Observer, parent: Point) -> None:
        self._order, self._observer, self._parent = order, observer, parent
        self._pulse = Pulse(observer, time.monotonic)
        self._file_key = crypto.random_key() if order.recipients else None
        self._keyring = next_keyring(parent)
        self._chain_key = self._keyring.chain_key if self._keyring else plain_chain_key(order.chain_id)
        self._path, self._stage = b"", "synthesize"
        self._files = self._bytes = 0

    def run(self) -> Written:
        order = self._order
        slots = new_slots(order.recipients, self._file_key, chain_id=order.chain_id, file_id=order.file_id)
        head = Head(VERSION, self._file_key is not None, order.chain_id, order.file_id, order.sequence, 1, slots)
        folder, threads = order.root / str(order.chain_id), max(2, min(8, len(os.sched_getaffinity(0))))
        level = ZSTD_LEVELS[order.level.value]
        self._writer = writer = FileWriter(folder, head, self._file_key, level, order.reserve, threads)
        if order.limit is not None:
            writer.pace = Pace(order.limit, self._beat)
        try:
            self._store_everything()
            seal_hash, length = self._close_file()
            self._observer.before_seal()
            writer.publish()
        except BaseException:
            writer.abort()
            raise
        writer.close()
        return self._written(head, seal_hash, length)

    def _store_everything(self) -> None:
        writer = self._writer
        self._identities = Identities(list)
        self._packer = Packer(writer, self._identities, identity_key(self._chain_key))
        self._builder = ManifestBuilder(writer, boundary_key(self._chain_key), {self._order.file_id: 0})
        for number in range(len(self._parent.root.segments)):
            self._beat()
            segment = self._parent.segment(number)
            self._path = segment.path(0)
            anew = self._stored_anew(segment)
            self._builder.add(anew, 0, len(anew), self._builder.boundaries_of(anew))
            self._files += len(segment)
        self._packer.flush()

    def _stored_anew(self, segment: Segment) -> Segment:
        """The same entries, their content stored in this file."""
        addresses = [address for batch in _batches(self._pieces(segment)) for address in self._packer.place_all(batch)]
        return replace(segment, origins=[self._order.file_id], chunks=_with_addresses(segment.chunks, addresses))

    def _pieces(self, segment: Segment) -> Iterator[bytes]:
        """The stored chunks in order, opened and copied, so that no whole block is held for the sake of a piece."""
        with_content = (entry for entry in segment.entries() if entry.chunks)
        for _, pieces in self._parent.read_many(with_content):
            self._beat()
            for piece in pieces:
                if not isinstance(piece, Hole):
                    self._bytes += len(piece)
                    yield bytes(piece)

    def _close_file(self) -> tuple[bytes, int]:
        self._stage = "seal"
        self._beat()
        writer, order, parent = self._writer, self._order, self._parent
        rows = self._builder.finish(writer.tag)
        root = Root(self._facts(), [order.file_id.bytes], rows, self._write_runs())
        keyring_number = NO_ITEM
        if self._keyring is not None:
            keyring_number = writer.add_metadata(ItemKind.KEYRING, pack_keyring(self._keyring))
        root_number = writer.add_metadata(ItemKind.ROOT, pack_root(root))
        return writer.finish(
            SealParts(
                sequence=order.sequence,
                parent_id=parent.head.file_id,
                parent_seal_hash=parent.seal_hash,
                chain_key=self._chain_key,
                signer=order.signer,
                keyring=keyring_number,
                root=root_number,
            )
        )

    def _write_runs(self) -> list[RunRow]:
        run = self._identities.fresh()
        if run is None:
            return []
        writer = self._writer
        numbers = [writer.add_metadata(ItemKind.IDENTITIES, raw) for _, raw in pack_parts(run, [self._order.file_id])]
        return [RunRow(len(run), [(0, number, writer.tag(number)) for number in numbers])]

    def _facts(self) -> Facts:
        """The parent's, but that the sources were not read."""
        facts = self._parent.root.facts
        return msgspec.structs.replace(
            facts,
            kind=Kind.FULL.value,
            reason=self._order.reason,
            level=self._order.level.value,
            finished_at_ns=self._order.clock(),
            read_bytes=0,
            new_files=0,
            changed_files=0,
            unchanged_files=facts.files,
            warnings=0,
        )

    def _beat(self) -> None:
        self._pulse.beat(self._progress)

    def _progress(self) -> Progress:
        facts, writer = self._parent.root.facts, self._writer
        return Progress(
            stage=self._stage,
            files_done=self._files,
            files_total=facts.files + facts.directories + facts.others,
            bytes_processed=self._bytes,
            bytes_total=facts.source_bytes,
            bytes_read=self._bytes,
            bytes_written=writer.position,
            current_path=self._path,
            busy=Busy(0.0, writer.proxy_seconds, writer.repository_seconds),
        )

    def _written(self, head: Head, seal_hash: bytes, length: int) -> Written:
        facts = self._facts()
        return Written(
            file_id=head.file_id,
            sequence=head.sequence,
            kind=Kind.FULL,
            path=self._writer.final,
            length=length,
            seal_hash=seal_hash,
            head_generation=head.generation,
            file_key=self._file_key,
            files=facts.files,
            directories=facts.directories,
            others=facts.others,
            source_bytes=facts.source_bytes,
            read_bytes=0,
            written_bytes=length,
            new_files=0,
            changed_files=0,
            unchanged_files=facts.files,
            warnings=0,
        )


def _batches(pieces: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Pieces of about one block together."""
    batch: list[bytes] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece)
        if size >= BLOCK_TARGET_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _with_addresses(chunks: Array, addresses: list[Address]) -> Array:
    """The rows of chunks with new addresses for those that are stored; holes stay."""
    renewed = chunks.copy()
    stored = chunks[:, 0] != HOLE
    if addresses:
        renewed[stored] = np.array(addresses, dtype=np.uint32)
    return renewed
