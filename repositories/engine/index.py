"""The index of a file: which items it holds, of which origin, and where they lie.

Raw content of the INDEX item:

    u32 number of origins, u32 number of items
    each origin: 16 file id | 32 file key (zeros: the file itself, or plain) | u32 number of epochs
                 each epoch: u16 number | u16 zero | u32 first item number | 32 random bytes
                 but for the first origin, the file itself: 32 seal hash of the file that the items come from
    columns (columns.py) over the items, sorted by (origin, number):
                 origin u32, number u32 (delta), kind u32, offset u64 (delta), sealed length u32

An item's address is (origin file id, number); offsets exist only here. A merged file holds items of the files that it
replaced, each under the keys and epochs of its origin.
"""

from __future__ import annotations

import itertools
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
_SEAL_HASH_BYTES = 32
_NO_KEY = bytes(32)
MAX_EPOCHS = 0xFFFF


@dataclass(frozen=True, slots=True)
class Origin:
    file_id: UUID
    epochs: tuple[Epoch, ...]
    file_key: bytes | None = field(default=None, repr=False)  # None: that of the file itself, or plain
    seal_hash: bytes = b""  # of the file that the items come from; empty for the file itself

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
class ItemTable:
    """The items of one origin, sorted by number; four columns of equal length."""

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

    def of_kind(self, kind: ItemKind) -> Array:
        """The numbers of all items of a kind, sorted."""
        numbers: Array = self.numbers[self.kinds == kind]
        return numbers

    def rows(self, chosen: Array | slice) -> ItemTable:
        return ItemTable(self.numbers[chosen], self.kinds[chosen], self.offsets[chosen], self.lengths[chosen])


@dataclass(frozen=True, slots=True)
class ItemIndex:
    """`own` are the items that the file sealed itself, `copied` those of other origins."""

    origin: Origin
    own: ItemTable
    copied: tuple[tuple[Origin, ItemTable], ...] = ()

    def parts(self) -> tuple[tuple[Origin, ItemTable], ...]:
        return ((self.origin, self.own), *self.copied)

    def part(self, file_id: UUID) -> tuple[Origin, ItemTable] | None:
        """The origin with this file id, and its items here."""
        if file_id == self.origin.file_id:
            return self.origin, self.own
        return next(((origin, table) for origin, table in self.copied if origin.file_id == file_id), None)

    def place(self, number: int) -> Place | None:
        """Of one of the file's own items."""
        return self.own.place(number)

    def records(self) -> list[tuple[int, int]]:
        """Offset and sealed length of every item."""
        return [
            pair
            for _, table in self.parts()
            for pair in zip(table.offsets.tolist(), table.lengths.tolist(), strict=True)
        ]


def pack_index(index: ItemIndex) -> bytes:
    parts = index.parts()
    tables = [table for _, table in parts]
    counts = [len(table) for table in tables]
    return b"".join(
        (
            _COUNTS.pack(len(parts), sum(counts)),
            *(_pack_origin(origin) for origin, _ in parts),
            columns.pack(np.repeat(np.arange(len(parts)), counts), U32),
            columns.pack(np.concatenate([table.numbers for table in tables]), U32, delta=True),
            columns.pack(np.concatenate([table.kinds for table in tables]), U32),
            columns.pack(np.concatenate([table.offsets for table in tables]), U64, delta=True),
            columns.pack(np.concatenate([table.lengths for table in tables]), U32),
        )
    )


def _pack_origin(origin: Origin) -> bytes:
    epochs = b"".join(_EPOCH.pack(epoch.number, 0, epoch.first_item, epoch.random) for epoch in origin.epochs)
    header = _ORIGIN.pack(origin.file_id.bytes, origin.file_key or _NO_KEY, len(origin.epochs))
    return header + epochs + origin.seal_hash


def parse_index(raw: bytes, file_id: UUID, body_end: int) -> ItemIndex:
    """Raises Malformed; afterwards every item lies inside the body and has a kind and a length that are allowed."""
    reader = columns.ColumnReader(raw)
    origin_count, count = _COUNTS.unpack(reader.take_bytes(_COUNTS.size))
    origins = [_parse_origin(reader, is_own=not number) for number in range(origin_count)]
    ids = [origin.file_id for origin in origins]
    if not origins or ids[0] != file_id or origins[0].file_key is not None:
        raise Malformed("the index belongs to another file")
    if len(set(ids)) != len(ids):
        raise Malformed("the index has an origin twice")
    origin = reader.take(count, U32)
    items = ItemTable(
        numbers=reader.take(count, U32, delta=True),
        kinds=reader.take(count, U32),
        offsets=reader.take(count, U64, delta=True),
        lengths=reader.take(count, U32),
    )
    reader.end()
    _check(items, origin, origin_count, body_end)
    tables = _split(items, origin, origin_count)
    return ItemIndex(origins[0], tables[0], tuple(zip(origins[1:], tables[1:], strict=True)))


def _parse_origin(reader: columns.ColumnReader, *, is_own: bool) -> Origin:
    file_id, key, count = _ORIGIN.unpack(reader.take_bytes(_ORIGIN.size))
    if not 1 <= count <= MAX_EPOCHS:
        raise Malformed("the index has an impossible origin")
    epochs: list[Epoch] = []
    for _ in range(count):
        number, zero, first, random = _EPOCH.unpack(reader.take_bytes(_EPOCH.size))
        if zero or number != len(epochs) or (epochs and first <= epochs[-1].first_item):
            raise Malformed("the index has an impossible epoch")
        epochs.append(Epoch(number, first, random))
    seal_hash = b"" if is_own else reader.take_bytes(_SEAL_HASH_BYTES)
    return Origin(UUID(bytes=file_id), tuple(epochs), key if any(key) else None, seal_hash)


def _split(items: ItemTable, origin: Array, origin_count: int) -> list[ItemTable]:
    bounds = np.searchsorted(origin, np.arange(origin_count + 1))
    return [items.rows(slice(start, end)) for start, end in itertools.pairwise(bounds.tolist())]


def _check(items: ItemTable, origin: Array, origin_count: int, body_end: int) -> None:
    if not len(items):
        return
    ends = items.offsets + items.lengths + np.uint64(RECORD_HEADER_BYTES)
    kinds = set(np.unique(items.kinds).tolist())
    if kinds - {int(kind) for kind in ItemKind if kind is not ItemKind.EPOCH} or int(origin.max()) >= origin_count:
        raise Malformed("the index has unknown kinds or origins")
    for kind in kinds:
        if int(items.lengths[items.kinds == kind].max()) > max_sealed_bytes(ItemKind(kind)):
            raise Malformed("the index has an impossible length")
    places = (origin.astype(np.int64) << 32) + items.numbers
    if np.any(np.diff(places) <= 0):
        raise Malformed("the index is not sorted")
    inside = (items.offsets >= BODY_OFFSET) & (ends <= body_end) & (ends > items.offsets)
    if not bool(np.all(inside)):
        raise Malformed("the index points outside the file")
