"""What opens what, counted from rows alone: by slot, through a newer point's keyring, and what nothing else opens."""

from __future__ import annotations

import sys
from uuid import uuid4

import pytest
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from jobs.key_map import Lost, Use, only_opened_by, secrets, secrets_of, span_of, uses
from jobs.models import Job
from jobs.secret_names import name_of
from keys.models import KeyState, KmsKeyVersion, PasswordRecord, RecoveryKey
from repositories.models import Chain, Kind, PointState, RestorePoint, Slot
from tests.factories import (
    FIRST_POINT_AT,
    add_kms_version,
    change_password,
    make_chain,
    make_job,
    make_kms_key,
    make_password,
    make_point,
    make_recovery_key,
    make_slot,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def old() -> PasswordRecord:
    return make_password(name="finance")


@pytest.fixture
def job(old: PasswordRecord) -> Job:
    return make_job(name="Ledger", password=old)


def numbers(found: list[Use], record: object) -> dict[int, tuple[int, int]]:
    return {use.version: (use.own.points, use.through_keyring) for use in found if use.record == record}


def closed(lost: Lost) -> tuple[list[int], list[int]]:
    """Sequences that stay closed for good, and those that only the console opens."""
    return (
        sorted(only_opened_by(lost, console=False).values_list("sequence", flat=True)),
        sorted(only_opened_by(lost, console=True).values_list("sequence", flat=True)),
    )


def recovery_slot(point: RestorePoint, key: RecoveryKey) -> Slot:
    return Slot.objects.create(point=point, kind="recovery", record_uuid=key.uuid, version=1, recovery=key)


def test_slots_and_keyrings_are_counted_apart(job: Job, old: PasswordRecord) -> None:
    chain = make_chain(job)
    first = old.newest()
    points = [make_point(chain, opens_with=first) for _ in range(3)]
    second = change_password(old)
    points += [make_point(chain, opens_with=second) for _ in range(2)]
    make_point(chain, opens_with=first, state=PointState.DELETING)
    found = uses()
    assert numbers(found, old.uuid) == {1: (3, 0), 2: (2, 3)}
    [newer] = [use for use in found if use.version == 2]
    assert (newer.own.size_bytes, newer.opens.size_bytes) == (20_000, sum(point.size_bytes for point in points))
    assert (newer.own.first, newer.opens.first) == (points[3].started_at, FIRST_POINT_AT)
    assert [secret.name for secret in secrets(found).values()] == ["finance", "finance, version 2"]


def test_a_newer_chain_opens_nothing_of_an_older_one(job: Job, old: PasswordRecord) -> None:
    make_point(make_chain(job, state="previous"), opens_with=old.newest())
    other = make_password()
    make_point(make_chain(job), opens_with=other.newest())
    assert numbers(uses(), other.uuid) == {1: (1, 0)}
    assert numbers(uses([old.uuid]), other.uuid) == {}


def test_what_opens_a_point(job: Job, old: PasswordRecord) -> None:
    chain = make_chain(job)
    point = make_point(chain, opens_with=old.newest())
    key, sheet = make_kms_key(), make_recovery_key(name="Blue sheet")
    later = make_point(chain, opens_with=key.newest())
    recovery_slot(later, sheet)
    Slot.objects.create(point=later, record_uuid=uuid4(), version=1, hint="the cat")
    own, through = secrets_of(point)
    assert [name_of(slot) for slot in own] == ["finance"]
    assert [name_of(slot) for slot in through] == [
        f"{key.server.name} / {key.owner_name}",
        "unknown password “the cat”",
        "Blue sheet",
    ]
    assert secrets_of(later)[1] == []


def test_points_that_nothing_else_opens(job: Job, old: PasswordRecord) -> None:
    chain = make_chain(job)
    for _ in range(2):
        make_point(chain, opens_with=old.newest())
    lost = Lost((old.uuid,))
    assert closed(lost) == ([1, 2], [])
    RestorePoint.objects.filter(sequence=1).update(file_key_sealed=b"sealed")
    assert closed(lost) == ([2], [1])
    RestorePoint.objects.filter(sequence=2).update(file_key_sealed=b"sealed")
    assert closed(lost) == ([], [1, 2])
    assert span_of(only_opened_by(lost, console=True)).size_bytes == 1_010_000
    make_point(chain, opens_with=make_password().newest())
    assert closed(lost) == ([], []), "the newest one's keyring opens them all"


def test_only_what_is_newer_than_the_last_other_secret_stays_closed(job: Job, old: PasswordRecord) -> None:
    chain = make_chain(job)
    sheet = make_recovery_key()
    points = [make_point(chain, opens_with=old.newest()) for _ in range(4)]
    recovery_slot(points[1], sheet)
    assert closed(Lost((old.uuid,))) == ([3, 4], [])
    assert closed(Lost((sheet.uuid,))) == ([], [])
    assert closed(Lost((old.uuid, sheet.uuid))) == ([1, 2, 3, 4], [])


def test_one_version_of_a_record(job: Job, old: PasswordRecord) -> None:
    chain = make_chain(job)
    make_point(chain, opens_with=old.newest())
    make_point(chain, opens_with=change_password(old))
    assert closed(Lost((old.uuid,), version=1)) == ([], [])
    assert closed(Lost((old.uuid,), version=2)) == ([2], [])


@pytest.mark.parametrize("state", ["lost password", "destroyed", "declared lost", "retired", "stranger", "disabled"])
def test_a_secret_that_may_be_gone_itself_does_not_count(job: Job, old: PasswordRecord, state: str) -> None:
    point = make_point(make_chain(job), opens_with=old.newest())
    if state == "lost password":
        make_slot(point, (lost := make_password()).newest())
        PasswordRecord.objects.filter(pk=lost.pk).update(lost_at=timezone.now())
    elif state == "retired":
        recovery_slot(point, make_recovery_key(retired_at=timezone.now()))
    elif state == "stranger":
        Slot.objects.create(point=point, record_uuid=uuid4(), version=1)
    else:
        make_slot(point, make_kms_key().newest())
        states = {"destroyed": KeyState.DESTROYED, "declared lost": KeyState.LOST, "disabled": KeyState.DISABLED}
        KmsKeyVersion.objects.update(state=states[state])
    assert closed(Lost((old.uuid,))) == ([] if state == "disabled" else [1], [])


def test_a_password_that_was_changed_since_it_was_lost_counts(job: Job, old: PasswordRecord) -> None:
    other = make_password()
    PasswordRecord.objects.filter(pk=other.pk).update(lost_at=timezone.now())
    make_slot(make_point(make_chain(job), opens_with=old.newest()), change_password(other))
    assert closed(Lost((old.uuid,))) == ([], [])


def test_a_server_is_all_keys_on_it(job: Job) -> None:
    key = make_kms_key()
    make_point(make_chain(job), opens_with=key.newest())
    make_point(make_chain(make_job()), opens_with=add_kms_version(key))
    assert closed(Lost((key.uuid,))) == ([1, 1], [])
    assert sorted(numbers(uses(), key.uuid)) == [1, 2]


def test_a_hundred_thousand_points_take_a_constant_number_of_queries(
    job: Job, old: PasswordRecord, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    many_points(make_chain(job), old, 300)
    with django_assert_num_queries(6):
        found = uses()
        secrets(found)
        span_of(only_opened_by(Lost((old.uuid,)), console=True))
        span_of(only_opened_by(Lost((old.uuid,)), console=False))
    assert numbers(found, old.uuid) == {1: (300, 0)}


@pytest.mark.soak
def test_a_hundred_thousand_points(job: Job, old: PasswordRecord) -> None:
    for _ in range(20):
        many_points(make_chain(make_job(password=old)), old, 5_000)
    started = timezone.now()
    secrets(uses())
    assert span_of(only_opened_by(Lost((old.uuid,)), console=False)).points == 100_000
    seconds = (timezone.now() - started).total_seconds()
    sys.stdout.write(f"The map of 100,000 points, and what if one password were lost, took {seconds:.2f} s.\n")
    assert seconds < 5


def many_points(chain: Chain, record: PasswordRecord, count: int) -> None:
    """Rows alone, in two statements."""
    points = RestorePoint.objects.bulk_create(
        RestorePoint(
            uuid=uuid4(),
            chain=chain,
            sequence=number,
            kind=Kind.FULL,
            started_at=FIRST_POINT_AT,
            sealed_at=FIRST_POINT_AT,
            size_bytes=1,
            source_bytes=1,
            files=1,
            seal_hash=b"",
        )
        for number in range(1, count + 1)
    )
    version = record.newest()
    Slot.objects.bulk_create(Slot(point=p, record_uuid=record.uuid, version=1, password=version) for p in points)
