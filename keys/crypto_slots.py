"""Key slots: how a file key is wrapped for one recipient, byte by byte, and how a slot is read.

A slot has everything that is needed to open it with the secret alone; its kind fixes its exact length. Which slots a
file has, and that nobody took one away, is the head's business (engine/head.py); how a password becomes a KEK,
crypto_password.py's; how a secret is encapsulated, that of crypto_rsa.py and crypto_recovery.py.

    0    1  kind          1 password, 2 KMS, 3 recovery
    1    1  zero
    2    2  length of the whole slot, little-endian
    4   16  record id
   20    4  version of the record, little-endian
   24   32  salt of this slot, random
   56    .  of a password: 1 algorithm (1 = Argon2id), 1 lanes, 2 iterations, 4 memory in KiB, 16 salt of the version,
            1 length of the hint, 175 hint
            of a KMS key: 1 protocol (1 = KMIP), 1 padding (crypto_rsa.Oaep), 2 length of the encapsulated secret,
            32 SHA-256 of the public key (DER), 1 length of the key id, 185 key id, 1 length of the server's name,
            185 name, 512 encapsulated secret
            of a recovery key: 1 suite (1 = MLKEM768_X25519, HKDF-SHA256, AES-256-GCM), 1 zero, 2 length of the
            encapsulated secret, 32 SHA-256 of the public key (raw), 1 length of the name, 99 name, 1168 encapsulated
   -48  48  the file key, AES-256-GCM with a zero nonce under
            HKDF(secret, salt = slot salt, info = kind | record | version | chain id | file id), AAD = all bytes before

`secret` is the KEK of a password, else 32 fresh random bytes, encapsulated. Texts are UTF-8, all fields zero-padded.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from uuid import UUID

from keys import crypto, crypto_recovery, crypto_rsa
from keys.crypto_errors import BadSlot, OpenFailed, UnwrapFailed
from keys.crypto_password import KdfParameters
from keys.crypto_recipients import KmsRecipient, PasswordRecipient, Recipient, RecoveryRecipient
from keys.crypto_recovery import RecoveryPrivate


class SlotKind(IntEnum):
    PASSWORD = 1
    KMS = 2
    RECOVERY = 3


SLOT_BYTES = {SlotKind.PASSWORD: 304, SlotKind.KMS: 1024, SlotKind.RECOVERY: 1408}
MAX_HINT_BYTES = 175
MAX_KEY_ID_BYTES = 185
MAX_SERVER_BYTES = 185
MAX_NAME_BYTES = 99
WRAPPED_BYTES = crypto.KEY_BYTES + crypto.TAG_BYTES

_COMMON = struct.Struct("<BBH16sI32s")
_PASSWORD = struct.Struct("<BBHI16sB175s")
_KMS = struct.Struct("<BBH32sB185sB185s512s")
_RECOVERY = struct.Struct("<BBH32sB99s1168s")
_ARGON2ID = 1
_KMIP = 1
_HPKE = 1
_HPKE_BYTES = crypto_recovery.ENCAPSULATED_BYTES + crypto.KEY_BYTES + crypto_recovery.TAG_BYTES


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot as read: what can be said without a secret. `raw` is the whole slot.

    `hint` is what a person knows the secret by: the hint of a password, the name of a server or of a recovery key.
    `encapsulated` and `fingerprint` (SHA-256 of the public half) belong to KMS and recovery slots, `key_id` and `oaep`
    to KMS slots.
    """

    kind: SlotKind
    record: UUID
    version: int
    raw: bytes = field(repr=False)
    kdf_salt: bytes = b""
    kdf_parameters: KdfParameters | None = None
    hint: str = ""
    key_id: str = ""
    oaep: crypto_rsa.Oaep | None = None
    fingerprint: bytes = b""
    encapsulated: bytes = field(default=b"", repr=False)


def wrap(recipient: Recipient, file_key: bytes, *, chain_id: UUID, file_id: UUID) -> bytes:
    """One slot, ready for the head. Salt and encapsulated secret are fresh each time.

    Raises BadPublicKey, BadSlot, KdfRefused for what no slot can hold.
    """
    kind = kind_of(recipient)
    salt = os.urandom(32)
    common = _COMMON.pack(kind, 0, SLOT_BYTES[kind], recipient.record.bytes, recipient.version, salt)
    secret, body = _body(recipient, _place(kind, recipient.record, recipient.version, chain_id, file_id))
    header = common + body
    return header + crypto.seal(_slot_key(secret, header, chain_id, file_id), file_key, aad=header)


def kind_of(recipient: Recipient) -> SlotKind:
    match recipient:
        case PasswordRecipient():
            return SlotKind.PASSWORD
        case KmsRecipient():
            return SlotKind.KMS
        case RecoveryRecipient():
            return SlotKind.RECOVERY


def is_for(slot: Slot, recipient: Recipient) -> bool:
    """Whether a slot is the one that `recipient` would get, as far as can be said without a secret."""
    same = (slot.kind, slot.record, slot.version) == (kind_of(recipient), recipient.record, recipient.version)
    match recipient:
        case PasswordRecipient(salt=salt, parameters=parameters, hint=hint):
            shown = (salt, parameters, _cut(hint, MAX_HINT_BYTES).decode())
            return same and (slot.kdf_salt, slot.kdf_parameters, slot.hint) == shown
        case KmsRecipient(public=public, oaep=oaep, key_id=key_id):
            known = (hashlib.sha256(public).digest(), oaep, key_id)
            return same and (slot.fingerprint, slot.oaep, slot.key_id) == known
        case RecoveryRecipient(public=public):
            return same and slot.fingerprint == crypto_recovery.fingerprint(public)


def said_of(recipient: Recipient) -> str:
    """What a slot for the recipient says to a person (Slot.hint), as long as it fits."""
    match recipient:
        case PasswordRecipient(hint=hint):
            return _cut(hint, MAX_HINT_BYTES).decode()
        case KmsRecipient(server=server):
            return _cut(server, MAX_SERVER_BYTES).decode()
        case RecoveryRecipient(name=name):
            return _cut(name, MAX_NAME_BYTES).decode()


def unwrap(slot: Slot, secret: bytes, *, chain_id: UUID, file_id: UUID) -> bytes:
    """Return the file key sealed in `slot`; `secret` is the KEK of a password, else the encapsulated secret.

    Raises UnwrapFailed for a wrong secret, a slot of another file, or damage; these cannot be told apart.
    """
    header, wrapped = slot.raw[:-WRAPPED_BYTES], slot.raw[-WRAPPED_BYTES:]
    try:
        return crypto.unseal(_slot_key(secret, header, chain_id, file_id), wrapped, aad=header)
    except OpenFailed:
        raise UnwrapFailed(f"The key slot of record {slot.record} does not open with this secret.") from None


def secret_of(slot: Slot, private: RecoveryPrivate, *, chain_id: UUID, file_id: UUID) -> bytes:
    """The secret that a recovery slot encapsulates. Raises UnwrapFailed for another key or another file's slot."""
    bound = _place(slot.kind, slot.record, slot.version, chain_id, file_id)
    try:
        return crypto_recovery.open_sealed(private, slot.encapsulated, purpose=crypto_recovery.SLOT, bound=bound)
    except OpenFailed:
        raise UnwrapFailed(
            f"The key slot of {slot.hint or slot.record} does not open with this recovery key."
        ) from None


def read_slots(raw: bytes, count: int) -> tuple[list[Slot], int]:
    """Parse `count` slots from the start of `raw`; returns them and the bytes used. Raises BadSlot."""
    slots, at = [], 0
    for _ in range(count):
        slot = _read_slot(raw, at)
        slots.append(slot)
        at += len(slot.raw)
    return slots, at


def _body(recipient: Recipient, place: bytes) -> tuple[bytes, bytes]:
    """The secret that opens the slot, and what a slot of this kind has between its salt and the wrapped key."""
    match recipient:
        case PasswordRecipient():
            return recipient.kek, _password_body(recipient)
        case KmsRecipient():
            secret = crypto.random_key()
            return secret, _kms_body(recipient, crypto_rsa.encapsulate(secret, recipient.public, recipient.oaep))
        case RecoveryRecipient():
            secret = crypto.random_key()
            sealed = crypto_recovery.seal_to(recipient.public, secret, purpose=crypto_recovery.SLOT, bound=place)
            return secret, _recovery_body(recipient, sealed)


def _password_body(recipient: PasswordRecipient) -> bytes:
    hint = _cut(recipient.hint, MAX_HINT_BYTES)
    costs = recipient.parameters
    costs.check()
    return _PASSWORD.pack(_ARGON2ID, costs.lanes, costs.iterations, costs.memory_kib, recipient.salt, len(hint), hint)


def _kms_body(recipient: KmsRecipient, encapsulated: bytes) -> bytes:
    key_id = recipient.key_id.encode()
    if not 0 < len(key_id) <= MAX_KEY_ID_BYTES:
        raise BadSlot(f"A KMS key id has 1 to {MAX_KEY_ID_BYTES} bytes, not {len(key_id)}.")
    server = _cut(recipient.server, MAX_SERVER_BYTES)
    digest = hashlib.sha256(recipient.public).digest()
    length = len(encapsulated)
    return _KMS.pack(_KMIP, recipient.oaep, length, digest, len(key_id), key_id, len(server), server, encapsulated)


def _recovery_body(recipient: RecoveryRecipient, encapsulated: bytes) -> bytes:
    name = _cut(recipient.name, MAX_NAME_BYTES)
    digest = crypto_recovery.fingerprint(recipient.public)
    return _RECOVERY.pack(_HPKE, 0, len(encapsulated), digest, len(name), name, encapsulated)


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
    return _READERS[kind](body, UUID(bytes=record), version)


def _password_slot(raw: bytes, record: UUID, version: int) -> Slot:
    algorithm, lanes, iterations, memory_kib, salt, hint_length, hint = _PASSWORD.unpack_from(raw, _COMMON.size)
    if algorithm != _ARGON2ID:
        raise BadSlot("A password slot is malformed.")
    return Slot(
        kind=SlotKind.PASSWORD,
        record=record,
        version=version,
        raw=raw,
        kdf_salt=salt,
        kdf_parameters=KdfParameters(memory_kib=memory_kib, iterations=iterations, lanes=lanes),
        hint=_text(hint, hint_length, "password"),
    )


def _kms_slot(raw: bytes, record: UUID, version: int) -> Slot:
    protocol, oaep, length, digest, id_length, key_id, name_length, name, encapsulated = _KMS.unpack_from(
        raw, _COMMON.size
    )
    if protocol != _KMIP or oaep not in set(crypto_rsa.Oaep):
        return Slot(SlotKind.KMS, record, version, raw)  # of a later release: it has its place, and is passed over
    return Slot(
        kind=SlotKind.KMS,
        record=record,
        version=version,
        raw=raw,
        hint=_text(name, name_length, "KMS"),
        key_id=_text(key_id, id_length, "KMS"),
        oaep=crypto_rsa.Oaep(oaep),
        fingerprint=digest,
        encapsulated=_padded(encapsulated, length, "KMS"),
    )


def _recovery_slot(raw: bytes, record: UUID, version: int) -> Slot:
    suite, zero, length, digest, name_length, name, encapsulated = _RECOVERY.unpack_from(raw, _COMMON.size)
    if suite != _HPKE:
        return Slot(SlotKind.RECOVERY, record, version, raw)
    if zero or length != _HPKE_BYTES:
        raise BadSlot("A recovery slot is malformed.")
    return Slot(
        kind=SlotKind.RECOVERY,
        record=record,
        version=version,
        raw=raw,
        hint=_text(name, name_length, "recovery"),
        fingerprint=digest,
        encapsulated=encapsulated,
    )


_READERS = {SlotKind.PASSWORD: _password_slot, SlotKind.KMS: _kms_slot, SlotKind.RECOVERY: _recovery_slot}


def _text(padded: bytes, length: int, kind: str) -> str:
    return _padded(padded, length, kind).decode("utf-8", "replace")


def _padded(padded: bytes, length: int, kind: str) -> bytes:
    """The first `length` bytes, if zeros follow. Raises BadSlot."""
    if length > len(padded) or any(padded[length:]):
        raise BadSlot(f"A {kind} slot is malformed.")
    return padded[:length]


def _slot_key(secret: bytes, header: bytes, chain_id: UUID, file_id: UUID) -> bytes:
    kind, _zero, _length, record, version, salt = _COMMON.unpack_from(header)
    info = _place(kind, UUID(bytes=record), version, chain_id, file_id)
    return crypto.hkdf(secret, salt=salt, info=info)


def _place(kind: int, record: UUID, version: int, chain_id: UUID, file_id: UUID) -> bytes:
    """What a slot's keys are bound to."""
    return struct.pack("<B16sI", kind, record.bytes, version) + chain_id.bytes + file_id.bytes


def _cut(text: str, most_bytes: int) -> bytes:
    """The text as UTF-8, shortened at a character if it is too long."""
    return text.encode("utf-8", "replace")[:most_bytes].decode("utf-8", "ignore").encode("utf-8")
