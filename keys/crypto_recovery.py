"""Recovery keys: hybrid post-quantum HPKE pairs (MLKEM768_X25519, HKDF-SHA256, AES-256-GCM), and what they open.

The info of each purpose differs, so that nothing sealed for one opens as another: the secret of a key slot, the
challenge of a proof of custody, and a recovery request's answer. The printable form of the private half is decided in
crypto_sheet.py, a challenge in crypto_custody.py.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from keys.crypto_armor import armor, unarmor
from keys.crypto_errors import BadPublicKey, OpenFailed

ENCAPSULATED_BYTES: Final = 1120
TAG_BYTES: Final = 16

SLOT: Final = b"backupsite recovery slot 1"
CUSTODY: Final = b"backupsite custody challenge 1"
ANSWER: Final = b"backupsite recovery answer 1"

PUBLIC_NAME: Final = "BACKUPSITE RECOVERY KEY PUBLIC HALF"

SEED_BYTES: Final = 32
MLKEM_PUBLIC_BYTES: Final = 1184
PUBLIC_BYTES: Final = MLKEM_PUBLIC_BYTES + 32

_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


@dataclass(frozen=True, slots=True)
class RecoveryPrivate:
    """The private half: a seed of 32 bytes, from which both keys are expanded as X-Wing does."""

    seed: bytes = field(repr=False)

    def public(self) -> bytes:
        """The raw public half: ML-KEM-768 (1,184 bytes), then X25519 (32)."""
        mlkem, x25519 = _expanded(self.seed)
        return mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()


def new_private() -> RecoveryPrivate:
    return RecoveryPrivate(os.urandom(SEED_BYTES))


def fingerprint(public: bytes) -> bytes:
    """SHA-256 of the raw public half: what the console, a slot and a sheet call the key by."""
    return hashlib.sha256(public).digest()


def check_public(public: bytes) -> None:
    """Raises BadPublicKey for what cannot be sealed to."""
    _public(public)


def public_text(public: bytes) -> str:
    """The public half as text to paste into the console."""
    return armor(PUBLIC_NAME, public)


def read_public(text: str) -> bytes:
    """Raises BadText for what is no such text, BadPublicKey for what cannot be sealed to."""
    public = unarmor(PUBLIC_NAME, text)
    check_public(public)
    return public


def fingerprint_text(public: bytes) -> str:
    """The fingerprint for people to compare: 16 groups of 4 hexadecimal digits."""
    digits = fingerprint(public).hex()
    return " ".join(digits[at : at + 4] for at in range(0, len(digits), 4))


def seal_to(public: bytes, plain: bytes, *, purpose: bytes, bound: bytes) -> bytes:
    """HPKE in base mode: encapsulated key (1,120 bytes), ciphertext, tag. `bound` must be given again to open it.

    Raises BadPublicKey.
    """
    return _SUITE.encrypt(plain, _public(public), info=_info(purpose, bound))


def open_sealed(private: RecoveryPrivate, sealed: bytes, *, purpose: bytes, bound: bytes) -> bytes:
    """Raises OpenFailed for another key, another purpose, another place or damage; these cannot be told apart."""
    try:
        return _SUITE.decrypt(sealed, MLKEM768X25519PrivateKey(*_expanded(private.seed)), info=_info(purpose, bound))
    except (InvalidTag, ValueError):
        raise OpenFailed("What was sealed for a recovery key does not open with this one.") from None


def _info(purpose: bytes, bound: bytes) -> bytes:
    return purpose + b"|" + bound


def _public(public: bytes) -> MLKEM768X25519PublicKey:
    if len(public) != PUBLIC_BYTES:
        raise BadPublicKey(f"The public half of a recovery key has {PUBLIC_BYTES} bytes, not {len(public)}.")
    try:
        return MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(public[:MLKEM_PUBLIC_BYTES]),
            X25519PublicKey.from_public_bytes(public[MLKEM_PUBLIC_BYTES:]),
        )
    except ValueError:
        raise BadPublicKey("The public half of a recovery key is damaged.") from None


def _expanded(seed: bytes) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
    """SHAKE256 of the seed, as in draft-connolly-cfrg-xwing-kem: 64 bytes for ML-KEM-768, 32 for X25519."""
    if len(seed) != SEED_BYTES:
        raise BadPublicKey(f"The private half of a recovery key has {SEED_BYTES} bytes, not {len(seed)}.")
    expanded = hashlib.shake_256(seed).digest(96)
    return MLKEM768PrivateKey.from_seed_bytes(expanded[:64]), X25519PrivateKey.from_private_bytes(expanded[64:])
