"""The index of a file: which items it holds, of which origin, and where they lie.

Raw content of the INDEX item:

    u32 number of origins, u32 number of items
    each origin: 16 file id | 32 file key (zeros: the file itself, or plain) | u32 number of epochs
                 each epoch: u16 number | u16 zero | u32 first item number | 32 random bytes
    columns (columns.py) over the items, sorted by (origin, number):
                 origin u32, number u32 (delta), kind u32, offset u64 (delta), sealed length u32

An item's address is (origin file id, number); offsets exist only here. Files of version 0 hold their own items only;
a merge will add the origins of the items that it copies verbatim.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np

from repositories.engine import columns
from repositories.engine.columns import U32, U64, Array
from repositories.engine.layout import BODY_OFFSET, RECORD_HEADER_BYTES, Epoch, ItemKind, Malformed, max_sealed_bytes

_COUNTS = struct.Struct("<II")
_ORIGIN = struct.Struct("<16s32sI")
_EPOCH = struct.Struct("<HHI32s")
MAX_EPOCHS = 0xFFFF


@dataclass(frozen=True, slots=True)
class Origin:
    file_id: UUID
    epochs: tuple[Epoch, ...]
    file_key: bytes | None = field(default=None, repr=False)

    def epoch_of(self, number: int) -> Epoch:
        for epoch in reversed(self.epochs):
            if epoch.first_item <= number:
                return epoch
        raise Malformed("an item belongs to no epoch")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an item lies; `offset` is that of its record header."""

    kind: ItemKind
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class ItemIndex:
    own: Origin
    numbers: Array
    kinds: Array
    offsets: Array
    lengths: Array

    def __len__(self) -> int:
        return len(self.numbers)

    def place(self, number: int) -> Place | None:
        at = int(np.searchsorted(self.numbers, number))
        if at >= len(self.numbers) or int(self.numbers[at]) != number:
            return None
        return Place(ItemKind(int(self.kinds[at])), int(self.offsets[at]), int(self.lengths[at]))


def pack_index(index: ItemIndex) -> bytes:
    own = index.own
    epochs = b"".join(_EPOCH.pack(epoch.number, 0, epoch.first_item, epoch.random) for epoch in own.epochs)
    return b"".join(
        (
            _COUNTS.pack(1, len(index)),
            _ORIGIN.pack(own.file_id.bytes, bytes(32), len(own.epochs)),
            epochs,
            columns.pack(np.zeros(len(index)), U32),
            columns.pack(index.numbers, U32, delta=True),
            columns.pack(index.kinds, U32),
            columns.pack(index.offsets, U64, delta=True),
            columns.pack(index.lengths, U32),
        )
    )


def parse_index(raw: bytes, file_id: UUID, body_end: int) -> ItemIndex:
    """Raises Malformed; afterwards every item lies inside the body and has a kind and a length that are allowed."""
    reader = columns.ColumnReader(raw)
    origins, count = _COUNTS.unpack(reader.take_bytes(_COUNTS.size))
    if origins != 1:
        raise Malformed("the index has several origins, which version 0 does not know")
    own = _parse_origin(reader)
    if own.file_id != file_id:
        raise Malformed("the index belongs to another file")
    origin = reader.take(count, U32)
    index = ItemIndex(
        own=own,
        numbers=reader.take(count, U32, delta=True),
        kinds=reader.take(count, U32),
        offsets=reader.take(count, U64, delta=True),
        lengths=reader.take(count, U32),
    )
    reader.end()
    _check(index, origin, body_end)
    return index


def _parse_origin(reader: columns.ColumnReader) -> Origin:
    file_id, key, count = _ORIGIN.unpack(reader.take_bytes(_ORIGIN.size))
    if not 1 <= count <= MAX_EPOCHS or any(key):
        raise Malformed("the index has an impossible origin")
    epochs: list[Epoch] = []
    for _ in range(count):
        number, zero, first, random = _EPOCH.unpack(reader.take_bytes(_EPOCH.size))
        if zero or number != len(epochs) or (epochs and first < epochs[-1].first_item):
            raise Malformed("the index has an impossible epoch")
        epochs.append(Epoch(number, first, random))
    return Origin(UUID(bytes=file_id), tuple(epochs))


def _check(index: ItemIndex, origin: Array, body_end: int) -> None:
    if not len(index):
        return
    ends = index.offsets + index.lengths + np.uint64(RECORD_HEADER_BYTES)
    kinds = set(np.unique(index.kinds).tolist())
    if kinds - {int(kind) for kind in ItemKind} or np.any(origin):
        raise Malformed("the index has unknown kinds")
    for kind in kinds:
        if int(index.lengths[index.kinds == kind].max()) > max_sealed_bytes(ItemKind(kind)):
            raise Malformed("the index has an impossible length")
    if np.any(np.diff(index.numbers.astype(np.int64)) <= 0):
        raise Malformed("the index is not sorted")
    inside = (index.offsets >= BODY_OFFSET) & (ends <= body_end) & (ends > index.offsets)
    if not bool(np.all(inside)):
        raise Malformed("the index points outside the file")
