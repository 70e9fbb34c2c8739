"""Secrets at rest: one value, sealed under a key of the instance key ring and bound to its place in the database.

A sealed value is: version (1 byte, 1) | key id (8 bytes) | salt (32 bytes) | AES-256-GCM ciphertext and tag. The key
of each value is HKDF-SHA256(instance key, salt, info = "backupsite sealed value 1"); a key is used once, so the nonce
is zero. The AAD is the version, the key id and the place (table, column, primary key, and what else must not be
swapped), so that a value copied elsewhere does not open.

Where the ring is kept is decided in `keys.sealing`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

VERSION = 1
KEY_BYTES = 32
KEY_ID_BYTES = 8
SALT_BYTES = 32
HEAD_BYTES = 1 + KEY_ID_BYTES + SALT_BYTES
TAG_BYTES = 16
NONCE = bytes(12)


class CannotOpenSealed(Exception):
    """A sealed value does not open: its instance key is missing, it was moved from its place, or it is damaged."""


@dataclass(frozen=True)
class KeyRing:
    """The instance keys by id (8 bytes), in the order in which they were added; new values are sealed under the active
    one.
    """

    active: bytes
    keys: Mapping[bytes, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        if self.active not in self.keys:
            raise ValueError("The active instance key is not on the ring.")
        if any(len(i) != KEY_ID_BYTES or len(k) != KEY_BYTES for i, k in self.keys.items()):
            raise ValueError("An instance key id has 8 bytes and an instance key has 32.")

    @classmethod
    def new(cls) -> KeyRing:
        key_id = os.urandom(KEY_ID_BYTES)
        return cls(key_id, {key_id: os.urandom(KEY_BYTES)})

    @property
    def newest(self) -> bytes:
        """Return the id of the key that was added last."""
        return list(self.keys)[-1]

    def with_another(self) -> KeyRing:
        """Return this ring with a new key that opens, and does not seal yet."""
        return KeyRing(self.active, {**self.keys, **KeyRing.new().keys})

    def with_newest_active(self) -> KeyRing:
        return KeyRing(self.newest, self.keys)

    def with_active_only(self) -> KeyRing:
        return KeyRing(self.active, {self.active: self.keys[self.active]})


def key_id_of(value: bytes) -> bytes:
    """Return the id of the instance key that a sealed value or a proof names; whether it is true, opening shows."""
    return bytes(value[1 : 1 + KEY_ID_BYTES])


def seal(ring: KeyRing, value: bytes, place: tuple[str, ...]) -> bytes:
    """Seal `value` for `place` (table, column, primary key ...) under the active key."""
    head = bytes([VERSION]) + ring.active + os.urandom(SALT_BYTES)
    return head + AESGCM(_subkey(ring.keys[ring.active], head, b"sealed value")).encrypt(
        NONCE, value, _aad(head, place)
    )


def unseal(ring: KeyRing, sealed: bytes, place: tuple[str, ...]) -> bytes:
    """Return what `seal` was given for the same place. Raises CannotOpenSealed."""
    where = " / ".join(place)
    if len(sealed) < HEAD_BYTES + TAG_BYTES or sealed[0] != VERSION:
        raise CannotOpenSealed(f"The sealed value of {where} is damaged.")
    head = bytes(sealed[:HEAD_BYTES])
    key = ring.keys.get(key_id_of(head))
    if key is None:
        raise CannotOpenSealed(f"The instance key that seals {where} is not on the key ring of this console.")
    try:
        return AESGCM(_subkey(key, head, b"sealed value")).decrypt(NONCE, bytes(sealed[HEAD_BYTES:]), _aad(head, place))
    except InvalidTag:
        raise CannotOpenSealed(f"The sealed value of {where} was changed or moved from its place.") from None


def vouch(ring: KeyRing, statement: bytes, place: tuple[str, ...]) -> bytes:
    """Return a proof that this console wrote `statement` (not secret) at `place`: key id | salt | HMAC-SHA256."""
    head = bytes([VERSION]) + ring.active + os.urandom(SALT_BYTES)
    return head + _mac(ring.keys[ring.active], head, statement, place).finalize()


def check_vouched(ring: KeyRing, proof: bytes, statement: bytes, place: tuple[str, ...]) -> None:
    """Raise CannotOpenSealed unless `proof` is `vouch`'s for the same statement and place."""
    where = " / ".join(place)
    head = bytes(proof[:HEAD_BYTES])
    key = ring.keys.get(key_id_of(head))
    if len(head) != HEAD_BYTES or head[0] != VERSION or key is None:
        raise CannotOpenSealed(f"{where} is not vouched for by this console's instance key.")
    try:
        _mac(key, head, statement, place).verify(bytes(proof[HEAD_BYTES:]))
    except InvalidSignature as error:
        raise CannotOpenSealed(f"{where} was changed outside this console.") from error


def _subkey(key: bytes, head: bytes, purpose: bytes) -> bytes:
    salt = head[1 + KEY_ID_BYTES :]
    return HKDF(SHA256(), KEY_BYTES, salt, b"backupsite " + purpose + b" 1").derive(key)


def _mac(key: bytes, head: bytes, statement: bytes, place: tuple[str, ...]) -> HMAC:
    mac = HMAC(_subkey(key, head, b"vouched row"), SHA256())
    aad = _aad(head, place)
    mac.update(len(aad).to_bytes(4, "big") + aad + statement)
    return mac


def _aad(head: bytes, place: tuple[str, ...]) -> bytes:
    parts = [part.encode() for part in place]
    return head[: 1 + KEY_ID_BYTES] + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
