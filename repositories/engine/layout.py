"""The outer form of a backup file: fixed offsets, record headers, the epoch record and the trailer; and every bound.

docs/FORMAT.md describes the same bytes in words. What is inside a sealed item is left to the module of its kind; the
head, to head.py. All integers are little-endian.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from enum import IntEnum

VERSION = 1
MAGIC = b"BACKSITE"
TRAILER_MAGIC = b"BKPTRAIL"

HEAD_COPY_BYTES = 96 * 1024
HEAD_A_OFFSET = 0
HEAD_B_OFFSET = HEAD_COPY_BYTES
BODY_OFFSET = 2 * HEAD_COPY_BYTES

MIB = 1024 * 1024
BLOCK_TARGET_BYTES = 4 * MIB
BLOCK_MAX_RAW_BYTES = 8 * MIB
MAX_FILE_BYTES = 1 << 50
NO_ITEM = 0xFFFFFFFF
MAX_ITEMS = NO_ITEM - 1


class ItemKind(IntEnum):
    EPOCH = 1
    BLOCK = 2
    SEGMENT = 3
    IDENTITIES = 4
    KEYRING = 5
    ROOT = 6
    INDEX = 7
    SEAL = 8
    CHECKPOINT = 9


MAX_RAW_BYTES = {
    ItemKind.BLOCK: BLOCK_MAX_RAW_BYTES,
    ItemKind.SEGMENT: 256 * MIB,
    ItemKind.IDENTITIES: 4 * MIB,
    ItemKind.KEYRING: 16 * MIB,
    ItemKind.ROOT: 128 * MIB,
    ItemKind.INDEX: 512 * MIB,
    ItemKind.SEAL: 4096,
    ItemKind.CHECKPOINT: 64 * MIB,
}
TAG_BYTES = 16
PAYLOAD_HEADER_BYTES = 8
OVERHEAD_BYTES = PAYLOAD_HEADER_BYTES + TAG_BYTES

_RECORD = struct.Struct("<BBHIQ")
RECORD_HEADER_BYTES = _RECORD.size
EPOCH_RANDOM_BYTES = 32
_TRAILER = struct.Struct("<8sHHI32sQIIQ")
_TRAILER_CHECK_BYTES = 24
TRAILER_BYTES = _TRAILER.size + _TRAILER_CHECK_BYTES


_KINDS = frozenset(int(kind) for kind in ItemKind)


class Malformed(Exception):
    """Bytes that the format does not allow; the caller knows the file and names it."""


def pread(fd: int, length: int, offset: int) -> bytes:
    """os.pread, for which a disk that cannot be read is damage like any other: raises Malformed."""
    try:
        return os.pread(fd, length, offset)
    except OSError as error:
        raise Malformed(f"it cannot be read: {error.strerror or type(error).__name__}") from None


def max_sealed_bytes(kind: ItemKind) -> int:
    return MAX_RAW_BYTES[kind] + OVERHEAD_BYTES


def pack_record_header(kind: ItemKind, epoch: int, number: int, length: int) -> bytes:
    """The 16 bytes in front of every record of the body; `length` counts what follows them."""
    return _RECORD.pack(kind, 0, epoch, number, length)


def parse_record_header(raw: bytes) -> tuple[ItemKind, int, int, int]:
    """Kind, epoch number, item number, length of what follows. Raises Malformed; nothing of it is authenticated."""
    if len(raw) != RECORD_HEADER_BYTES:
        raise Malformed("a record is cut off")
    kind, zero, epoch, number, length = _RECORD.unpack(raw)
    if zero or kind not in _KINDS:
        raise Malformed("a record has an unknown kind")
    known = ItemKind(kind)
    if length > (EPOCH_RANDOM_BYTES if known is ItemKind.EPOCH else max_sealed_bytes(known)):
        raise Malformed("a record has an impossible length")
    return known, epoch, number, length


@dataclass(frozen=True, slots=True)
class Epoch:
    """One process' part of a file: its number, the first item number in it, its random bytes."""

    number: int
    first_item: int
    random: bytes


@dataclass(frozen=True, slots=True)
class Trailer:
    epoch: Epoch  # the one that sealed the file
    seal_offset: int
    seal_number: int
    seal_length: int
    file_length: int


def pack_trailer(trailer: Trailer) -> bytes:
    raw = _TRAILER.pack(
        TRAILER_MAGIC,
        VERSION,
        trailer.epoch.number,
        trailer.epoch.first_item,
        trailer.epoch.random,
        trailer.seal_offset,
        trailer.seal_number,
        trailer.seal_length,
        trailer.file_length,
    )
    return raw + hashlib.sha256(raw).digest()[:_TRAILER_CHECK_BYTES]


def parse_trailer(raw: bytes, file_length: int) -> Trailer:
    """Raises Malformed. The trailer is not authenticated: whatever it points to is."""
    body, check = raw[: _TRAILER.size], raw[_TRAILER.size :]
    if len(raw) != TRAILER_BYTES or hashlib.sha256(body).digest()[:_TRAILER_CHECK_BYTES] != check:
        raise Malformed("there is no valid trailer; the file is truncated or unfinished")
    magic, version, epoch, first, random, offset, number, length, total = _TRAILER.unpack(body)
    if magic != TRAILER_MAGIC or version != VERSION or total != file_length:
        raise Malformed("the trailer does not fit the file")
    if not BODY_OFFSET <= offset <= file_length - TRAILER_BYTES or length > max_sealed_bytes(ItemKind.SEAL):
        raise Malformed("the trailer points outside the file")
    return Trailer(Epoch(epoch, first, random), offset, number, length, total)
