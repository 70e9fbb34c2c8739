"""The head of a backup file: who it is and which slots open it, in two authenticated copies at fixed offsets.

    0    8  magic "BACKSITE"
    8    2  version
    10   1  encrypted (0 or 1)
    11   1  number of slots (at most 64; none in plain files)
    12   4  length of the copy, the checksum included; zeros follow up to 96 KiB
    16   4  generation, from 1; a rewrap adds one
    20   2  number of replaced files (a merge names what it replaces)
    22   2  zero
    24   8  sequence
    32  16  chain id
    48  16  file id
    64  32  key commitment HKDF(file key, info = "backupsite 1|commit|" + file id); zeros in plain files
    96   .  slots (keys/crypto_slots.py), then 16 bytes for each replaced file's id
    -64 32  HMAC-SHA256 of everything before under HKDF(file key, info = "backupsite 1|head|" + file id); zeros if plain
    -32 32  SHA-256 of everything before: it only chooses a copy before a key is known

What a slot is made of, and how it opens, is left to keys/crypto_slots.py.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

from keys import crypto
from keys.crypto_errors import BadSlot
from keys.crypto_slots import Slot, read_slots
from repositories.engine.errors import MissingFile, RepositoryUnreadable, UnknownVersion, damaged, text
from repositories.engine.layout import (
    HEAD_A_OFFSET,
    HEAD_B_OFFSET,
    HEAD_COPY_BYTES,
    MAGIC,
    VERSION,
    Malformed,
    pread,
)
from repositories.engine.sealing import INFO

MAX_SLOTS = 64
MAX_REPLACED = 64
MAX_SEQUENCE = (1 << 63) - 1
_FIXED = struct.Struct("<8sHBBIIHHQ16s16s32s")
_TAIL_BYTES = 64
MIN_COPY_BYTES = _FIXED.size + _TAIL_BYTES


@dataclass(frozen=True, slots=True)
class Head:
    """What a file says before a key is known. Authentic only once a Point was opened from it."""

    version: int
    encrypted: bool
    chain_id: UUID
    file_id: UUID
    sequence: int
    generation: int
    slots: tuple[Slot, ...]
    replaces: tuple[UUID, ...] = ()
    commitment: bytes = field(default=b"", repr=False)
    copies_differ: bool = False  # one copy is damaged or a rewrap was torn: reported, still readable
    raw: bytes = field(default=b"", repr=False)  # the copy that this was read from, without padding


def pack_head(head: Head, file_key: bytes | None) -> bytes:
    """One copy without its padding; commitment, HMAC and checksum are computed here."""
    slots = b"".join(slot.raw for slot in head.slots)
    replaced = b"".join(file_id.bytes for file_id in head.replaces)
    length = _FIXED.size + len(slots) + len(replaced) + _TAIL_BYTES
    body = (
        _FIXED.pack(
            MAGIC,
            VERSION,
            head.encrypted,
            len(head.slots),
            length,
            head.generation,
            len(head.replaces),
            0,
            head.sequence,
            head.chain_id.bytes,
            head.file_id.bytes,
            _commitment(file_key, head.file_id),
        )
        + slots
        + replaced
    )
    body += _mac(file_key, head.file_id, body)
    return body + hashlib.sha256(body).digest()


def authenticates(head: Head, file_key: bytes | None) -> bool:
    """Whether commitment and HMAC hold under this key; a plain head has neither."""
    if head.encrypted != (file_key is not None):
        return False
    mac = head.raw[-_TAIL_BYTES:-32]
    same_mac = crypto.equal(mac, _mac(file_key, head.file_id, head.raw[:-_TAIL_BYTES]))
    return crypto.equal(head.commitment, _commitment(file_key, head.file_id)) and same_mac


def read_heads(fd: int, path: Path) -> list[Head]:
    """The copies whose checksum holds, the better one (higher generation, then copy A) first; equal copies are one.

    Raises CorruptFile if there is none, UnknownVersion if it is of another version.
    """
    found: list[Head] = []
    versions: set[int] = set()
    for offset in (HEAD_A_OFFSET, HEAD_B_OFFSET):
        try:
            found.append(_parse(_read_copy(fd, offset, versions)))
        except Malformed:
            continue
    if not found:
        if versions and versions != {VERSION}:
            version = min(versions - {VERSION})
            raise UnknownVersion(
                f"{text(path)} has version {version} of the format; this program knows version {VERSION}. "
                + (
                    "It was written before the first release; write a new full backup."
                    if version < VERSION
                    else "Use the release of the program that wrote it, or a newer one."
                ),
                path=text(path),
                version=version,
            )
        raise damaged(path, "head")
    if len(found) == 2 and found[0].raw == found[1].raw:
        return found[:1]
    return [replace(head, copies_differ=True) for head in sorted(found, key=lambda head: -head.generation)]


def read_used(fd: int, offset: int) -> bytes:
    """One copy without its padding as it lies in the file; empty if its checksum does not hold."""
    try:
        return _read_copy(fd, offset, set())
    except Malformed:
        return b""


def padding_is_zero(fd: int) -> bool:
    """Whether both copies are followed by zeros up to their fixed length."""
    for offset in (HEAD_A_OFFSET, HEAD_B_OFFSET):
        try:
            used = len(_read_copy(fd, offset, set()))
        except Malformed:
            continue
        rest = HEAD_COPY_BYTES - used
        if pread(fd, rest, offset + used) != bytes(rest):
            return False
    return True


def open_for_reading(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFile(f"The backup file {text(path)} does not exist.", path=text(path)) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise RepositoryUnreadable(
            f"The backup file {text(path)} cannot be opened: {reason}. Check its rights and the disk.",
            path=text(path),
            reason=reason,
        ) from None


def _read_copy(fd: int, offset: int, versions: set[int]) -> bytes:
    """The used bytes of one copy, length bounded, checksum compared."""
    fixed = pread(fd, _FIXED.size, offset)
    if len(fixed) < _FIXED.size or not fixed.startswith(MAGIC):
        raise Malformed("no head")
    _magic, version, _encrypted, _slots, length, *_rest = _FIXED.unpack(fixed)
    versions.add(version)
    if version != VERSION or not MIN_COPY_BYTES <= length <= HEAD_COPY_BYTES:
        raise Malformed("impossible head")
    raw = pread(fd, length, offset)
    if len(raw) != length or hashlib.sha256(raw[:-32]).digest() != raw[-32:]:
        raise Malformed("the head's checksum is wrong")
    return raw


def _parse(raw: bytes) -> Head:
    _magic, version, encrypted, slot_count, _length, generation, replaced, zero, sequence, chain, file, commitment = (
        _FIXED.unpack_from(raw)
    )
    if (
        encrypted > 1
        or slot_count > MAX_SLOTS
        or replaced > MAX_REPLACED
        or zero
        or bool(slot_count) != bool(encrypted)
        or not generation
        or not 1 <= sequence <= MAX_SEQUENCE
    ):
        raise Malformed("impossible head")
    body = raw[_FIXED.size : -_TAIL_BYTES]
    try:
        slots, used = read_slots(body, slot_count)
    except BadSlot as error:
        raise Malformed(str(error)) from None
    if len(body) != used + 16 * replaced:
        raise Malformed("the head's length does not fit its slots")
    ids = tuple(UUID(bytes=body[at : at + 16]) for at in range(used, len(body), 16))
    return Head(
        version=version,
        encrypted=bool(encrypted),
        chain_id=UUID(bytes=chain),
        file_id=UUID(bytes=file),
        sequence=sequence,
        generation=generation,
        slots=tuple(slots),
        replaces=ids,
        commitment=commitment,
        raw=raw,
    )


def _commitment(file_key: bytes | None, file_id: UUID) -> bytes:
    if file_key is None:
        return bytes(32)
    return crypto.hkdf(file_key, salt=b"", info=INFO + b"commit|" + file_id.bytes)


def _mac(file_key: bytes | None, file_id: UUID, body: bytes) -> bytes:
    if file_key is None:
        return bytes(32)
    return crypto.hmac_sha256(crypto.hkdf(file_key, salt=b"", info=INFO + b"head|" + file_id.bytes), body)
