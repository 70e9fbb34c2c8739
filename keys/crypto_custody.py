"""The proof of custody: a challenge that only the holder of a recovery key's private half can answer, offline.

The console seals 32 random bytes to the public half; the holder opens them and returns a hash over them, the console,
the date and the nonce, never what was opened. So the answer is good for this challenge only, and nothing else that is
sealed for the key (the secret of a slot, a recovery request's answer) can be had by calling it a challenge: the purpose
is in HPKE's info, and the console's signature covers all of it.

The content of a challenge (its text is made by crypto_armor.py):

    0    1  version, 1
    1   32  SHA-256 of the public half
    33  32  the console: its raw Ed25519 public key
    65   8  date, seconds since 1970, little-endian
    73  16  nonce, random
    89 1168  HPKE: encapsulated key, ciphertext of 32 random bytes, tag; info = purpose | all bytes before
    1257 64  Ed25519 signature of all bytes before

    answer = SHA-256("backupsite custody answer 1|" | the 32 bytes | bytes 0 to 88), its first 20 bytes as base32

How often a proof is due, and what a wrong answer costs, is decided in `keys.recovery`.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import struct
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from keys import crypto_recovery
from keys.crypto_armor import armor, unarmor
from keys.crypto_errors import BadText, NotForThisKey, OpenFailed
from keys.crypto_recovery import RecoveryPrivate

NAME = "BACKUPSITE CUSTODY CHALLENGE"
ANSWER_BYTES = 20
ANSWER_LETTERS = 32
_VERSION = 1
_TOKEN_BYTES = 32
_FACTS = struct.Struct("<B32s32sQ16s")
_SEALED_BYTES = crypto_recovery.ENCAPSULATED_BYTES + _TOKEN_BYTES + crypto_recovery.TAG_BYTES
_SIGNATURE_BYTES = 64
_ANSWER = b"backupsite custody answer 1|"
_MISREAD = str.maketrans("018", "OIB")


@dataclass(frozen=True, slots=True)
class Challenge:
    """A challenge as read: who asks, and whom. Its signature was verified, so it is of this console."""

    fingerprint: bytes
    console: bytes
    at_seconds: int
    facts: bytes = field(repr=False)
    sealed: bytes = field(repr=False)


def new_challenge(public: bytes, signer: Ed25519PrivateKey, at_seconds: int) -> tuple[str, bytes]:
    """The text for the holder, and the answer that is expected. Raises BadPublicKey."""
    console = signer.public_key().public_bytes_raw()
    facts = _FACTS.pack(_VERSION, crypto_recovery.fingerprint(public), console, at_seconds, os.urandom(16))
    token = os.urandom(_TOKEN_BYTES)
    body = facts + crypto_recovery.seal_to(public, token, purpose=crypto_recovery.CUSTODY, bound=facts)
    return armor(NAME, body + signer.sign(body)), _answer(token, facts)


def read_challenge(text: str) -> Challenge:
    """Raises BadText for what is no challenge, or was not signed by the console that it names."""
    raw = unarmor(NAME, text)
    if len(raw) != _FACTS.size + _SEALED_BYTES + _SIGNATURE_BYTES or raw[0] != _VERSION:
        raise BadText("This custody challenge is of another version. Use the release of the program that made it.")
    _version, fingerprint, console, at_seconds, _nonce = _FACTS.unpack_from(raw)
    body, signature = raw[:-_SIGNATURE_BYTES], raw[-_SIGNATURE_BYTES:]
    try:
        Ed25519PublicKey.from_public_bytes(console).verify(signature, body)
    except InvalidSignature:
        raise BadText("This custody challenge was not made by the console that it names. Do not answer it.") from None
    return Challenge(fingerprint, console, at_seconds, raw[: _FACTS.size], body[_FACTS.size :])


def prove(challenge: Challenge, private: RecoveryPrivate) -> bytes:
    """The answer. Raises NotForThisKey, also for something else that was sealed for this key."""
    if challenge.fingerprint != crypto_recovery.fingerprint(private.public()):
        raise NotForThisKey("This challenge was made for another recovery key. Compare the fingerprints.")
    try:
        token = crypto_recovery.open_sealed(
            private, challenge.sealed, purpose=crypto_recovery.CUSTODY, bound=challenge.facts
        )
    except OpenFailed:
        raise NotForThisKey(
            "What this challenge holds was not sealed as a challenge for this key, so it is not opened. "
            "Tell the administrators of the console."
        ) from None
    return _answer(token, challenge.facts)


def answer_text(answer: bytes) -> str:
    """8 groups of 4 letters and digits, to be typed."""
    letters = base64.b32encode(answer).decode()
    return " ".join(letters[at : at + 4] for at in range(0, len(letters), 4))


def read_answer(text: str) -> bytes:
    """Read like a sheet: case, blanks and hyphens do not count. Raises BadText."""
    letters = re.sub(r"[\s-]", "", text).upper().translate(_MISREAD)
    if len(letters) != ANSWER_LETTERS or not re.fullmatch("[A-Z2-7]+", letters):
        raise BadText(f"An answer has {ANSWER_LETTERS} letters and digits, in groups of four. Type all of them.")
    return base64.b32decode(letters)


def _answer(token: bytes, facts: bytes) -> bytes:
    return hashlib.sha256(_ANSWER + token + facts).digest()[:ANSWER_BYTES]
