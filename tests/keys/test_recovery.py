"""Recovery keys of the console: only public halves are kept, custody is proven by answers and falls due each year."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from backupsite.models import Role
from keys import attempts, recovery
from keys.crypto_custody import prove, read_challenge
from keys.crypto_recovery import RecoveryPrivate, new_private
from keys.crypto_sealed import CannotOpenSealed
from keys.models import CustodyChallenge, MadeBy, RecoveryKey, VerifyAttempt
from keys.public_recipients import recovery_recipients
from keys.recovery import CUSTODY_EVERY, Custody, custody_due, custody_of
from keys.sealing import ensure_ring
from keys.signing import public_bytes
from tests.factories import make_recovery_key, make_user

pytestmark = pytest.mark.django_db
PRIVATE = RecoveryPrivate(bytes(range(32)))
NOW = timezone.now()


@pytest.fixture(autouse=True)
def _ring() -> None:
    ensure_ring()


@pytest.fixture
def key() -> RecoveryKey:
    return make_recovery_key(PRIVATE, name="safe in Bonn")


def answered(challenge: CustodyChallenge) -> bytes:
    return prove(read_challenge(challenge.text), PRIVATE)


def active() -> list[str]:
    return [recipient.name for recipient in recovery_recipients()]


def test_a_public_half_is_added_and_gets_slots() -> None:
    user = make_user(Role.SECURITY_ADMINISTRATOR)
    key = recovery.add("safe", PRIVATE.public(), MadeBy.OFFLINE, user)
    assert (key.made_by, key.created_by, key.proven_at, key.retired_at) == ("offline", user, None, None)
    assert active() == ["safe"]


def test_a_pair_made_here_leaves_its_public_half_only() -> None:
    key, private = recovery.make("safe", None)
    key.refresh_from_db()
    assert bytes(key.public) == private.public() and key.made_by == MadeBy.CONSOLE
    columns = [bytes(v) if isinstance(v, memoryview) else str(v).encode() for v in RecoveryKey.objects.values_list()[0]]
    assert not [c for c in columns if private.seed in c or private.seed.hex().encode() in c]


def test_retired_and_taken_back(key: RecoveryKey) -> None:
    recovery.retire(key)
    assert active() == []
    recovery.take_back(key)
    assert active() == ["safe in Bonn"]


@pytest.mark.parametrize("verb", [recovery.retire, recovery.take_back, lambda key: recovery.challenge(key, None)])
def test_a_row_changed_from_outside_is_not_vouched_for(key: RecoveryKey, verb) -> None:
    """Whoever exchanged a public half would otherwise have it vouched for by retiring it."""
    RecoveryKey.objects.filter(pk=key.pk).update(public=new_private().public())
    key.refresh_from_db()
    with pytest.raises(CannotOpenSealed):
        verb(key)
    with pytest.raises(CannotOpenSealed):
        recovery_recipients()


def test_custody_is_proven(key: RecoveryKey) -> None:
    challenge = recovery.challenge(key, make_user())
    read = read_challenge(challenge.text)
    assert read.console == public_bytes() == recovery.console_id()
    assert abs(read.at_seconds - challenge.made_at.timestamp()) < 60
    assert answered(challenge) not in bytes(challenge.expected_hash) and len(bytes(challenge.expected_hash)) == 32
    assert recovery.answer(key, answered(challenge))
    key.refresh_from_db()
    challenge.refresh_from_db()
    assert key.proven_at == challenge.answered_at is not None
    assert VerifyAttempt.objects.count() == 0


def test_an_answer_counts_once_and_for_its_challenge(key: RecoveryKey) -> None:
    first = recovery.challenge(key, None)
    second = recovery.challenge(key, None)
    assert list(key.challenges.all()) == [second], "an unanswered one is replaced"
    assert not recovery.answer(key, answered(first))
    assert recovery.answer(key, answered(second))
    assert not recovery.answer(key, answered(second))
    other = make_recovery_key()
    assert not recovery.answer(other, answered(recovery.challenge(key, None)))


def test_an_old_challenge_does_not_count(key: RecoveryKey) -> None:
    challenge = recovery.challenge(key, None)
    CustodyChallenge.objects.update(made_at=timezone.now() - recovery.CHALLENGE_GOOD_FOR)
    assert recovery.open_challenge(key) is None
    assert not recovery.answer(key, answered(challenge))


def test_wrong_answers_are_slowed_down(key: RecoveryKey) -> None:
    challenge, other = recovery.challenge(key, None), make_recovery_key(PRIVATE_2)
    for _ in range(attempts.WRONG_IN_A_MINUTE):
        assert not recovery.answer(key, bytes(20))
    with pytest.raises(attempts.TooManyAttempts):
        recovery.answer(key, answered(challenge))
    assert not recovery.answer(other, bytes(20)), "another key is not blocked"
    VerifyAttempt.objects.update(at=timezone.now() - attempts.BLOCKED_FOR - timedelta(minutes=1))
    assert recovery.answer(key, answered(challenge))


PRIVATE_2 = RecoveryPrivate(bytes(32))
MOMENT = timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("proven_ago", "retired", "custody", "due"),
    [
        (None, False, Custody.NEVER, True),
        (timedelta(0), False, Custody.PROVEN, False),
        (CUSTODY_EVERY - MOMENT, False, Custody.PROVEN, False),
        (CUSTODY_EVERY, False, Custody.DUE, True),
        (None, True, Custody.NEVER, False),
        (CUSTODY_EVERY, True, Custody.DUE, False),
    ],
)
def test_when_a_proof_is_due(proven_ago: timedelta | None, retired: bool, custody: Custody, due: bool) -> None:
    proven_at = None if proven_ago is None else NOW - proven_ago
    key = RecoveryKey(proven_at=proven_at, retired_at=NOW if retired else None)
    assert (custody_of(key, NOW), custody_due(key, NOW)) == (custody, due)
