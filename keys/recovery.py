"""Recovery keys: adding, making, retiring, and the yearly proof that somebody still holds the private half.

Of a key only the public half is kept. The bytes of a challenge are decided in `keys.crypto_custody`, what a slot is
sealed with in `keys.crypto_recovery`; who gets slots, in `keys.public_recipients`.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.db import transaction
from django.utils import timezone

from backupsite.models import User
from keys import attempts
from keys.crypto_custody import new_challenge
from keys.crypto_recovery import RecoveryPrivate, new_private
from keys.models import CustodyChallenge, MadeBy, RecoveryKey
from keys.sealing import check_vouched_row, vouch_for
from keys.signing import private_bytes

CUSTODY_EVERY = timedelta(days=365)
CHALLENGE_GOOD_FOR = timedelta(days=30)


class Custody(StrEnum):
    """What is known of who holds the private half."""

    PROVEN = "proven"
    DUE = "proof is due"
    NEVER = "never proven"


def custody_of(key: RecoveryKey, now: datetime) -> Custody:
    if key.proven_at is None:
        return Custody.NEVER
    return Custody.PROVEN if now < key.proven_at + CUSTODY_EVERY else Custody.DUE


def custody_due(key: RecoveryKey, now: datetime) -> bool:
    """Tell whether a proof is wanted: of an active key that was not proven within a year, or never."""
    return key.retired_at is None and custody_of(key, now) is not Custody.PROVEN


@transaction.atomic
def add(name: str, public: bytes, made_by: MadeBy, by: User | None) -> RecoveryKey:
    """Take a public half; from now on every new backup file gets a slot for it."""
    key = RecoveryKey.objects.create(name=name, public=public, made_by=made_by, created_by=by)
    return _vouched(key)


def make(name: str, by: User | None) -> tuple[RecoveryKey, RecoveryPrivate]:
    """Make a pair here. The private half is returned to be shown once, and kept nowhere."""
    private = new_private()
    return add(name, private.public(), MadeBy.CONSOLE, by), private


@transaction.atomic
def retire(key: RecoveryKey) -> None:
    """Give it no more slots; those that exist stay. Raises CannotOpenSealed for a row changed from outside."""
    _set_retired(key, timezone.now())


@transaction.atomic
def take_back(key: RecoveryKey) -> None:
    """Give it slots again. Raises CannotOpenSealed: a public half put in from outside is not vouched for by this."""
    _set_retired(key, None)


def _set_retired(key: RecoveryKey, at: datetime | None) -> None:
    row = RecoveryKey.objects.select_for_update().get(pk=key.pk)
    check_vouched_row(row, "proof")
    row.retired_at = at
    _vouched(row)


def _vouched(key: RecoveryKey) -> RecoveryKey:
    key.proof = vouch_for(key, "proof")
    key.save(update_fields=["retired_at", "proof"])
    return key


@transaction.atomic
def challenge(key: RecoveryKey, by: User | None) -> CustodyChallenge:
    """Make a challenge, in the place of one that was not answered. Raises CannotOpenSealed."""
    check_vouched_row(key, "proof")
    key.challenges.filter(answered_at=None).delete()
    text, expected = new_challenge(bytes(key.public), _signer(), int(timezone.now().timestamp()))
    return CustodyChallenge.objects.create(key=key, text=text, expected_hash=_hashed(expected), made_by=by)


def open_challenge(key: RecoveryKey) -> CustodyChallenge | None:
    """Return the one that waits for its answer, if it is not too old."""
    return key.challenges.filter(answered_at=None, made_at__gt=timezone.now() - CHALLENGE_GOOD_FOR).first()


def answer(key: RecoveryKey, typed: bytes) -> bool:
    """Take the answer to the open challenge, and note the proof. Raises attempts.TooManyAttempts without comparing."""
    attempt = attempts.begin(key.uuid)
    waiting = open_challenge(key)
    if waiting is None or not hmac.compare_digest(bytes(waiting.expected_hash), _hashed(typed)):
        return False
    attempt.delete()
    return _proven(key, waiting, timezone.now())


@transaction.atomic
def _proven(key: RecoveryKey, waiting: CustodyChallenge, now: datetime) -> bool:
    """Tell whether it was this answer that closed the challenge: each is answered once."""
    closed = CustodyChallenge.objects.filter(pk=waiting.pk, answered_at=None).update(answered_at=now)
    if closed:
        RecoveryKey.objects.filter(pk=key.pk).update(proven_at=now)
    return bool(closed)


def console_id() -> bytes:
    """Return what a challenge names this console by: the public key that it signs with, made at the first use."""
    return _signer().public_key().public_bytes_raw()


def _signer() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(private_bytes())


def _hashed(answer_bytes: bytes) -> bytes:
    return hashlib.sha256(answer_bytes).digest()
