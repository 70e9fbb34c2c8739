"""Making, changing and re-typing passwords: versions are added and never overwritten, guessing is slowed down."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
from django.utils import timezone

from backupsite.models import Role
from keys import attempts, passwords
from keys.crypto_errors import BadPassword
from keys.crypto_sealed import CannotOpenSealed
from keys.models import PasswordRecord, PasswordVersion, VerifyAttempt
from keys.sealing import ensure_ring
from tests.factories import change_password, make_password, make_user
from tests.forks import fork

pytestmark = pytest.mark.django_db
WRONG, BLOCKED = 10, 11  # how a process ends
TYPED = "correct horse battery staple"


@pytest.fixture(autouse=True)
def _ring() -> None:
    ensure_ring()


def test_a_record_begins_with_version_1_whose_key_the_password_derives() -> None:
    user = make_user(Role.ADMINISTRATOR)
    record = passwords.create_record("finance", "the green notebook", TYPED, user)
    version = record.newest()
    assert (version.number, version.created_by, record.created_by) == (1, user, user)
    assert len(passwords.kek_of(version)) == 32 and len(bytes(version.salt)) == 16
    assert passwords.verify(record, TYPED)
    assert not passwords.verify(record, TYPED + " ")


def test_a_change_adds_a_version_and_leaves_the_earlier_as_it_was() -> None:
    record = make_password(TYPED)
    first = record.newest()
    before = passwords.kek_of(first)
    second = passwords.add_version(record, "a new horse", None)
    assert second.number == 2 and record.newest() == second
    first.refresh_from_db()
    assert passwords.kek_of(first) == before
    assert bytes(second.salt) != bytes(first.salt)
    assert passwords.verify(record, "a new horse") and not passwords.verify(record, TYPED)


def test_new_versions_use_the_default_costs_whatever_the_old_ones_had() -> None:
    record = make_password(TYPED)
    second = passwords.add_version(record, "a new horse", None)
    assert (second.memory_kib, second.iterations, second.lanes) == (64 * 1024, 3, 1)


def test_a_refused_password_leaves_no_record() -> None:
    with pytest.raises(BadPassword):
        passwords.create_record("empty", "", "", None)
    assert not PasswordRecord.objects.exists()


def test_each_version_keeps_how_strong_it_was_with_name_hint_and_person_known() -> None:
    user = make_user(Role.ADMINISTRATOR, username="wilhelmine")
    record = passwords.create_record("ledgerhouse", "pianostool", TYPED, user)
    assert record.newest().strength == 4
    for known in ("ledgerhouse1", "pianostool1", "wilhelmine1"):
        weak = passwords.add_version(record, known, user).strength
        assert weak is not None and weak < 2


@pytest.mark.parametrize("field", ["salt", "memory_kib", "iterations", "lanes", "number"])
def test_what_derives_the_key_cannot_be_changed_behind_the_console(field: str) -> None:
    version = make_password(TYPED).newest()
    value = getattr(version, field)
    changed = bytes(16) if field == "salt" else value + 1
    PasswordVersion.objects.filter(pk=version.pk).update(**{field: changed})
    with pytest.raises(CannotOpenSealed):
        passwords.kek_of(PasswordVersion.objects.get(pk=version.pk))


def test_nothing_of_the_password_is_stored() -> None:
    record = make_password(TYPED)
    kek = passwords.kek_of(record.newest())
    for row in (*PasswordVersion.objects.values_list(), *PasswordRecord.objects.values_list()):
        for value in row:
            stored = bytes(value) if isinstance(value, memoryview | bytes) else str(value).encode()
            assert TYPED.encode() not in stored and kek not in stored


def wrong(record: PasswordRecord, times: int, ago: timedelta = timedelta(0)) -> None:
    rows = VerifyAttempt.objects.bulk_create(VerifyAttempt(subject=record.uuid) for _ in range(times))
    VerifyAttempt.objects.filter(pk__in=[row.pk for row in rows]).update(at=timezone.now() - ago)


def test_wrong_passwords_are_counted_and_right_ones_not() -> None:
    record = make_password(TYPED)
    assert not passwords.verify(record, "wrong")
    assert passwords.verify(record, TYPED)
    assert VerifyAttempt.objects.filter(subject=record.uuid).count() == 1


def test_the_fifteenth_wrong_one_within_a_minute_blocks_also_the_right_one() -> None:
    record, other = make_password(TYPED), make_password(TYPED)
    wrong(record, 14)
    assert not passwords.verify(record, "wrong")
    with pytest.raises(attempts.TooManyAttempts):
        passwords.verify(record, TYPED)
    assert VerifyAttempt.objects.filter(subject=record.uuid).count() == 15  # a blocked attempt is not counted again
    assert passwords.verify(other, TYPED)


def test_fourteen_do_not_block() -> None:
    record = make_password(TYPED)
    wrong(record, 14)
    assert passwords.verify(record, TYPED)


@pytest.mark.parametrize(("minutes", "blocked"), [(4.9, True), (5.1, False)])
def test_a_block_lasts_five_minutes(minutes: float, blocked: bool) -> None:
    record = make_password(TYPED)
    wrong(record, 15, timedelta(minutes=minutes))
    if blocked:
        with pytest.raises(attempts.TooManyAttempts):
            passwords.verify(record, TYPED)
    else:
        assert passwords.verify(record, TYPED)


def test_slow_guesses_do_not_block() -> None:
    record = make_password(TYPED)
    for number in range(15):
        wrong(record, 1, timedelta(seconds=5 * number))
    assert passwords.verify(record, TYPED)


def test_only_the_newest_version_counts() -> None:
    record = make_password(TYPED)
    change_password(record, "a new horse")
    assert not passwords.verify(record, TYPED)
    assert passwords.verify(record, "a new horse")


@pytest.mark.django_db(transaction=True)
def test_parallel_guesses_of_many_processes_get_fifteen_tries_together() -> None:
    """Each web process counts for all: of 24 at once, 15 are compared, and 9 are told to wait."""
    record = make_password(TYPED)

    def guess() -> None:
        try:
            raise SystemExit(WRONG if not passwords.verify(record, "wrong") else 0)
        except attempts.TooManyAttempts:
            raise SystemExit(BLOCKED) from None

    ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in [fork(guess) for _ in range(24)]]
    assert (ends.count(WRONG), ends.count(BLOCKED)) == (15, 9)
    assert VerifyAttempt.objects.filter(subject=record.uuid).count() == 15
