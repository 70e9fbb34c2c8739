"""The few primitives that everything else is made of: HKDF, AES-256-GCM with the nonce given, HMAC, random bytes.

Keys are 32 random bytes from the operating system. What is derived for which purpose is decided by the callers
(crypto_slots.py for key slots, the engine for backup files).
"""

from __future__ import annotations

import hashlib
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keys.crypto_errors import OpenFailed

KEY_BYTES = 32
TAG_BYTES = 16
NONCE_BYTES = 12


def random_key() -> bytes:
    return os.urandom(KEY_BYTES)


def hkdf(secret: bytes, *, salt: bytes, info: bytes, length: int = KEY_BYTES) -> bytes:
    """HKDF-SHA256 (RFC 5869). An empty salt means 32 zero bytes, as the RFC says."""
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt or None, info=info).derive(secret)


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def equal(a: bytes, b: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(a, b)


def counter_nonce(count: int) -> bytes:
    """The nonce for the `count`-th thing sealed under one key: 96 bits, big-endian."""
    return count.to_bytes(NONCE_BYTES, "big")


def seal(key: bytes, plain: bytes, *, aad: bytes, nonce: bytes = bytes(NONCE_BYTES)) -> bytes:
    """AES-256-GCM, tag at the end. The default nonce is only for keys that seal exactly one thing."""
    return AESGCM(key).encrypt(nonce, plain, aad)


def unseal(key: bytes, sealed: bytes, *, aad: bytes, nonce: bytes = bytes(NONCE_BYTES)) -> bytes:
    """Raises OpenFailed for a wrong key, a wrong place or damage; these cannot be told apart."""
    try:
        return AESGCM(key).decrypt(nonce, sealed, aad)
    except InvalidTag:
        raise OpenFailed("A sealed value does not verify: wrong key, wrong place or damage.") from None
