"""Key slots: how a file key is wrapped for one recipient, byte by byte, and how a slot is read.

A slot has everything that is needed to open it with the secret alone. Its kind fixes its exact length, so that a slot
of a kind that this code cannot open yet still has its place. Which slots a file has, and that nobody took one away,
is the head's business (engine/head.py); how a password becomes a KEK, crypto_password.py's.

    0    1  kind          1 password, 2 KMS, 3 recovery
    1    1  zero
    2    2  length of the whole slot, little-endian
    4   16  record id
   20    4  version of the record, little-endian
   24   32  salt of this slot, random
   56    .  of a password: 1 algorithm (1 = Argon2id), 1 lanes, 2 iterations, 4 memory in KiB, 16 salt of the version,
            1 length of the hint, 175 hint (UTF-8, zero-padded)
   -48  48  the file key, AES-256-GCM with a zero nonce under
            HKDF(KEK, salt = slot salt, info = kind | record | version | chain id | file id), AAD = all bytes before
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from uuid import UUID

from keys import crypto
from keys.crypto_errors import BadSlot, OpenFailed, UnwrapFailed
from keys.crypto_password import KdfParameters


class SlotKind(IntEnum):
    PASSWORD = 1
    KMS = 2
    RECOVERY = 3


SLOT_BYTES = {SlotKind.PASSWORD: 304, SlotKind.KMS: 1024, SlotKind.RECOVERY: 1408}
MAX_HINT_BYTES = 175
WRAPPED_BYTES = crypto.KEY_BYTES + crypto.TAG_BYTES

_COMMON = struct.Struct("<BBH16sI32s")
_PASSWORD = struct.Struct("<BBHI16sB175s")
_ARGON2ID = 1


@dataclass(frozen=True, slots=True)
class PasswordRecipient:
    """A password version that a file is to be opened with; one slot. The password itself is not here."""

    record: UUID
    version: int
    salt: bytes
    parameters: KdfParameters
    kek: bytes = field(repr=False)
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot as read: what can be said without a secret. `raw` is the whole slot."""

    kind: SlotKind
    record: UUID
    version: int
    raw: bytes = field(repr=False)
    kdf_salt: bytes = b""
    kdf_parameters: KdfParameters | None = None
    hint: str = ""


def wrap_for_password(recipient: PasswordRecipient, file_key: bytes, *, chain_id: UUID, file_id: UUID) -> bytes:
    """One password slot, ready for the head. The slot's salt is fresh each time."""
    salt = os.urandom(32)
    hint = _cut(recipient.hint)
    parameters = recipient.parameters
    parameters.check()
    header = _COMMON.pack(
        SlotKind.PASSWORD, 0, SLOT_BYTES[SlotKind.PASSWORD], recipient.record.bytes, recipient.version, salt
    ) + _PASSWORD.pack(
        _ARGON2ID, parameters.lanes, parameters.iterations, parameters.memory_kib, recipient.salt, len(hint), hint
    )
    key = _slot_key(recipient.kek, header, chain_id, file_id)
    return header + crypto.seal(key, file_key, aad=header)


def unwrap(slot: Slot, secret: bytes, *, chain_id: UUID, file_id: UUID) -> bytes:
    """Return the file key sealed in `slot`; `secret` is the KEK of a password, else the encapsulated secret.

    Raises UnwrapFailed for a wrong secret, a slot of another file, or damage; these cannot be told apart.
    """
    header, wrapped = slot.raw[:-WRAPPED_BYTES], slot.raw[-WRAPPED_BYTES:]
    try:
        return crypto.unseal(_slot_key(secret, header, chain_id, file_id), wrapped, aad=header)
    except OpenFailed:
        raise UnwrapFailed(f"The key slot of record {slot.record} does not open with this secret.") from None


def read_slots(raw: bytes, count: int) -> tuple[list[Slot], int]:
    """Parse `count` slots from the start of `raw`; returns them and the bytes used. Raises BadSlot."""
    slots, at = [], 0
    for _ in range(count):
        slot = _read_slot(raw, at)
        slots.append(slot)
        at += len(slot.raw)
    return slots, at


def _read_slot(raw: bytes, at: int) -> Slot:
    if at + _COMMON.size > len(raw):
        raise BadSlot("A key slot is cut off.")
    kind_byte, zero, length, record, version, _salt = _COMMON.unpack_from(raw, at)
    try:
        kind = SlotKind(kind_byte)
    except ValueError:
        raise BadSlot(f"A key slot has the unknown kind {kind_byte}.") from None
    if zero or length != SLOT_BYTES[kind] or at + length > len(raw):
        raise BadSlot(f"A key slot of kind {kind.name.lower()} has a wrong length.")
    body = raw[at : at + length]
    if kind is SlotKind.PASSWORD:
        return _password_slot(body, UUID(bytes=record), version)
    return Slot(kind, UUID(bytes=record), version, body)


def _password_slot(body: bytes, record: UUID, version: int) -> Slot:
    algorithm, lanes, iterations, memory_kib, salt, hint_length, hint = _PASSWORD.unpack_from(body, _COMMON.size)
    if algorithm != _ARGON2ID or hint_length > MAX_HINT_BYTES or any(hint[hint_length:]):
        raise BadSlot("A password slot is malformed.")
    return Slot(
        kind=SlotKind.PASSWORD,
        record=record,
        version=version,
        raw=body,
        kdf_salt=salt,
        kdf_parameters=KdfParameters(memory_kib=memory_kib, iterations=iterations, lanes=lanes),
        hint=hint[:hint_length].decode("utf-8", "replace"),
    )


def _slot_key(secret: bytes, header: bytes, chain_id: UUID, file_id: UUID) -> bytes:
    kind, _zero, _length, record, version, salt = _COMMON.unpack_from(header)
    info = struct.pack("<B16sI", kind, record, version) + chain_id.bytes + file_id.bytes
    return crypto.hkdf(secret, salt=salt, info=info)


def _cut(hint: str) -> bytes:
    """The hint as UTF-8, shortened at a character if it is too long."""
    return hint.encode("utf-8", "replace")[:MAX_HINT_BYTES].decode("utf-8", "ignore").encode("utf-8")
