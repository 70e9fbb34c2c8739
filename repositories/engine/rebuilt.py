"""A backup file whose trailer, seal or index is damaged or cut off: what can still be found in it.

The records are walked, also behind damage, and an index is made of them. Nothing is believed for it: an item opens only
under the file key, the epoch's random bytes, its kind and its number, and only where the record says the epoch that
this number belongs to; so what is read through such an index is what the writer sealed, or an error. What may be
missing is not known, and who wrote the file is not proven where the seal is lost: saying so is left to salvage.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import numpy as np

from repositories.engine.container import Container, Rebuilt
from repositories.engine.errors import CorruptFile
from repositories.engine.head import Head
from repositories.engine.index import ItemIndex, ItemTable, Origin, parse_index
from repositories.engine.layout import (
    EPOCH_RANDOM_BYTES,
    NO_ITEM,
    RECORD_HEADER_BYTES,
    TRAILER_BYTES,
    Epoch,
    ItemKind,
    Malformed,
    Trailer,
    parse_trailer,
    pread,
)
from repositories.engine.records import Record, found_records
from repositories.engine.seal import NO_HASH, NO_PARENT, Seal, Statement, parse_seal
from repositories.engine.sealing import EpochSealer

_OF_A_MERGED_FILE = (ItemKind.KEYRING, ItemKind.ROOT)  # the others that it holds are of other origins


def whole_or_rebuilt(fd: int, path: Path, head: Head, file_key: bytes | None) -> Container:
    """The file as it says itself, or as it was found. Takes over `fd`; `head` has been authenticated."""
    try:
        return Container(fd, path, head, file_key)
    except CorruptFile:
        return rebuilt(fd, path, head, file_key)


def rebuilt(fd: int, path: Path, head: Head, file_key: bytes | None) -> Container:
    """The file as it was found: with the index that it holds if that can be found and opened, else with a new one."""
    found = _Found(fd, head, file_key)
    trailer = Trailer(found.epochs[-1], 0, NO_ITEM, 0, os.fstat(fd).st_size)
    return Container(fd, path, head, file_key, Rebuilt(trailer, found.seal(), found.index()))


class _Found:
    """The records of one file, by kind and in the order in which they lie."""

    def __init__(self, fd: int, head: Head, file_key: bytes | None) -> None:
        self._fd, self._head, self._file_key = fd, head, file_key
        records = list(found_records(fd))
        self.epochs = _epochs(fd, records)
        self._sealers = {epoch: EpochSealer(file_key, head.chain_id, head.file_id, epoch) for epoch in self.epochs}
        self._origin = Origin(head.file_id, self.epochs)
        self._items = [record for record in records if record.kind is not ItemKind.EPOCH and self._fits(record)]

    def seal(self) -> Seal:
        """The one that it holds, or one that says nothing but whose file it is."""
        head = self._head
        for raw in self._opened(ItemKind.SEAL):
            try:
                seal = parse_seal(raw)
            except Malformed:
                continue
            said = seal.statement
            if (said.file_id, said.chain_id, said.sequence) == (head.file_id, head.chain_id, head.sequence):
                return seal
        return _unknown_seal(head)

    def index(self) -> ItemIndex:
        length = os.fstat(self._fd).st_size
        for raw in self._opened(ItemKind.INDEX):
            try:
                return parse_index(raw, self._head.file_id, length)
            except Malformed:
                continue
        return ItemIndex(self._origin, self._own_table())

    def _own_table(self) -> ItemTable:
        wanted = [one for one in self._items if not self._head.replaces or one.kind in _OF_A_MERGED_FILE]
        chosen: dict[int, Record] = {}
        for record in wanted:
            known = chosen.get(record.number)
            if known is None or (self._open(known) is None and self._open(record) is not None):
                chosen[record.number] = record
        rows = [chosen[number] for number in sorted(chosen)]
        return ItemTable(
            numbers=np.array([record.number for record in rows], np.uint32),
            kinds=np.array([int(record.kind) for record in rows], np.uint32),
            offsets=np.array([record.offset for record in rows], np.uint64),
            lengths=np.array([record.length for record in rows], np.uint32),
        )

    def _fits(self, record: Record) -> bool:
        """Whether the record's epoch is the one that its number belongs to."""
        try:
            return self._origin.epoch_of(record.number).number == record.epoch
        except Malformed:
            return False

    def _opened(self, kind: ItemKind) -> Iterator[bytes]:
        for record in self._items:
            if record.kind is kind and (raw := self._open(record)) is not None:
                yield raw

    def _open(self, record: Record) -> bytes | None:
        """None if it does not verify."""
        try:
            sealed = pread(self._fd, record.length, record.offset + RECORD_HEADER_BYTES)
            return self._sealers[self._origin.epoch_of(record.number)].open(record.kind, record.number, sealed)
        except Malformed:
            return None


def _epochs(fd: int, records: list[Record]) -> tuple[Epoch, ...]:
    """Those of the epoch records, and the trailer's if it can be read; their numbers and first items rise."""
    candidates = [_epoch(fd, record) for record in records if record.kind is ItemKind.EPOCH]
    try:
        length = os.fstat(fd).st_size
        last = parse_trailer(pread(fd, TRAILER_BYTES, max(length - TRAILER_BYTES, 0)), length).epoch
        candidates = [*(one for one in candidates if one.number < last.number), last]
    except Malformed:
        pass  # it is cut off, or damaged: then the records have to do
    epochs: list[Epoch] = []
    for epoch in candidates:
        if not epochs or (epoch.number > epochs[-1].number and epoch.first_item > epochs[-1].first_item):
            epochs.append(epoch)
    return tuple(epochs) or (Epoch(0, 0, bytes(EPOCH_RANDOM_BYTES)),)


def _epoch(fd: int, record: Record) -> Epoch:
    try:
        random = pread(fd, EPOCH_RANDOM_BYTES, record.offset + RECORD_HEADER_BYTES)
    except Malformed:
        random = bytes(EPOCH_RANDOM_BYTES)  # nothing opens with it
    return Epoch(record.epoch, record.number, random)


def _unknown_seal(head: Head) -> Seal:
    statement = Statement(
        chain_id=head.chain_id,
        file_id=head.file_id,
        sequence=head.sequence,
        encrypted=head.encrypted,
        parent_id=NO_PARENT,
        parent_seal_hash=NO_HASH,
        keyring_number=NO_ITEM,
        root_number=NO_ITEM,
        index_number=NO_ITEM,
        index_offset=0,
        index_length=0,
        keyring_digest=NO_HASH,
        root_digest=NO_HASH,
        index_digest=NO_HASH,
    )
    return Seal(statement, b"", b"", b"")


def has_unknown_seal(container: Container) -> bool:
    return not container.seal.seal_hash


def origin_ids(container: Container) -> list[UUID]:
    """The origins of what the file holds: itself, then those of a merge from the newest to the oldest."""
    return [container.file_id, *(origin.file_id for origin, _ in reversed(container.index.copied))]
