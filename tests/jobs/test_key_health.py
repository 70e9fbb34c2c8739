"""What the dashboard says about keys: each rule and its boundaries, the facts, and who sees which names."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings
from django.urls import reverse
from django.utils import timezone

from jobs.key_facts import facts_for
from jobs.key_health import (
    RULES,
    Concern,
    Facts,
    KmsVersion,
    NamedJob,
    Password,
    Recovery,
    Server,
    health,
)
from jobs.models import Encryption
from keys.models import KeyState, KmsKeyVersion, KmsServer, PasswordVersion, RecoveryKey
from repositories.models import Slot
from tests.factories import (
    change_password,
    make_chain,
    make_job,
    make_kms_key,
    make_kms_server,
    make_password,
    make_point,
    make_recovery_key,
    make_user,
)
from tests.jobs.people import HTMX, alice, bob, sven, text_of, vera

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
YEAR_AGO = NOW - 365 * DAY
FACTS = Facts(ages_before=YEAR_AGO, proofs_before=NOW - timedelta(hours=25), held_before=YEAR_AGO, weak_below=3)
JOB = (NamedJob("job", "1"),)


def password(strength: int | None = 4, age: timedelta = DAY) -> Password:
    return Password("password", "1", NOW - age, strength)


def version(state: str = "active", **fields: object) -> KmsVersion:
    return replace(KmsVersion("key", "1", state, NOW, NOW), **fields)


def recovery(made: timedelta = DAY, proven: timedelta | None = None) -> Recovery:
    return Recovery("sheet", "1", NOW - made, None if proven is None else NOW - proven)


# Facts, and what is said of them.
TABLE = [
    ("nothing there", FACTS, []),
    ("a closed key that nothing needs", replace(FACTS, versions=(version("gone"),)), []),
    *(
        (f"{state}, needed", replace(FACTS, versions=(version(state, points=1),)), [Concern.KMS_KEY_CLOSED])
        for state in ("destroyed", "gone", "lost")
    ),
    *(
        (f"{state}, needed", replace(FACTS, versions=(version(state, points=1),)), [Concern.KMS_KEY_CLOSING])
        for state in ("disabled", "scheduled")
    ),
    ("an active key", replace(FACTS, versions=(version(points=5),)), []),
    ("a server that answers", replace(FACTS, servers=(Server("kms", "1"),)), []),
    ("one that does not", replace(FACTS, servers=(Server("kms", "1", "refused"),)), [Concern.KMS_SILENT]),
    ("a KMS job alone", replace(FACTS, kms_jobs=JOB), [Concern.KMS_WITHOUT_RECOVERY]),
    ("a KMS job and a sheet", replace(FACTS, kms_jobs=JOB, recovery=(recovery(),)), []),
    ("a password job alone", replace(FACTS, password_jobs=JOB), [Concern.NO_RECOVERY_KEY]),
    ("a password job and a sheet", replace(FACTS, password_jobs=JOB, recovery=(recovery(),)), []),
    ("both jobs: said once", replace(FACTS, kms_jobs=JOB, password_jobs=JOB), [Concern.KMS_WITHOUT_RECOVERY]),
    ("points since a fresh proof", replace(FACTS, versions=(version(unproven=2),)), []),
    (
        "points since a proof of a day ago",
        replace(FACTS, versions=(version(unproven=2, proven_at=NOW - timedelta(hours=25)),)),
        [],
    ),
    (
        "points since one of longer ago",
        replace(FACTS, versions=(version(unproven=2, proven_at=NOW - timedelta(hours=25) - SECOND),)),
        [Concern.KMS_NOT_PROVEN],
    ),
    ("never proven", replace(FACTS, versions=(version(unproven=1, proven_at=None),)), [Concern.KMS_NOT_PROVEN]),
    ("never proven, no points", replace(FACTS, versions=(version(proven_at=None),)), []),
    (
        "a closed key is not called unproven as well",
        replace(FACTS, versions=(version("gone", points=1, unproven=1, proven_at=None),)),
        [Concern.KMS_KEY_CLOSED],
    ),
    ("a sheet of 364 days", replace(FACTS, recovery=(recovery(made=365 * DAY - SECOND),)), []),
    ("a sheet of a year", replace(FACTS, recovery=(recovery(made=365 * DAY),)), [Concern.CUSTODY_DUE]),
    ("an old sheet, proven", replace(FACTS, recovery=(recovery(900 * DAY, 10 * DAY),)), []),
    ("proven long ago", replace(FACTS, recovery=(recovery(900 * DAY, 365 * DAY),)), [Concern.CUSTODY_DUE]),
    *((f"strength {n}", replace(FACTS, passwords=(password(n),)), [Concern.PASSWORD_WEAK]) for n in (0, 1, 2)),
    *((f"strength {n}", replace(FACTS, passwords=(password(n),)), []) for n in (3, 4, None)),
    ("just not old", replace(FACTS, passwords=(password(age=365 * DAY),)), []),
    ("old", replace(FACTS, passwords=(password(age=365 * DAY + SECOND),)), [Concern.PASSWORD_AGEING]),
    ("a plain job", replace(FACTS, plain_jobs=JOB), [Concern.NOT_ENCRYPTED]),
]


@pytest.mark.parametrize(("name", "facts", "concerns"), TABLE, ids=[row[0] for row in TABLE])
def test_each_rule_and_its_boundaries(name: str, facts: Facts, concerns: list[Concern]) -> None:
    assert [finding.concern for finding in health(facts)] == concerns


def test_every_concern_has_a_rule_and_a_case_in_the_order_of_gravity() -> None:
    assert [rule.concern for rule in RULES] == list(Concern)
    assert {concern for _, _, concerns in TABLE for concern in concerns} == set(Concern)
    tones = [rule.tone for rule in RULES]
    assert tones == sorted(tones)  # bad before warn


def test_keys_are_named_by_what_is_at_stake() -> None:
    versions = (version("gone", points=9), version("lost", name="second", points=3, only=2), version("gone"))
    found = health(replace(FACTS, versions=versions))[0]
    assert [subject.name for subject in found.subjects] == ["second", "key"]
    assert (found.points, found.only) == (12, 2)


# The facts and the page


def kms_job(**fields):
    server = fields.pop("server", None) or make_kms_server(name="vault-kms")
    key = make_kms_key(server, owner_name="Ledger files")
    return make_job(encryption=Encryption.KMS, password=None, kms_key=key, **fields)


def kms_point(job, **fields):
    return make_point(job.current_chain() or make_chain(job), **fields)


def concerns_of(user=None):
    return {finding.concern: finding for finding in health(facts_for(user or make_user(), timezone.now()))}


@pytest.mark.django_db
def test_counts_the_points_at_stake_and_those_that_nothing_else_opens() -> None:
    job = kms_job()
    kms_point(job)
    other = kms_point(job)
    recovery_key = make_recovery_key()
    Slot.objects.create(point=other, kind="recovery", record_uuid=recovery_key.uuid, version=1, recovery=recovery_key)
    kms_point(job, state="deleting")
    KmsKeyVersion.objects.update(state=KeyState.GONE)
    found = concerns_of()[Concern.KMS_KEY_CLOSED]
    assert (found.points, found.only) == (2, 1) and found.subjects[0].detail == "gone"


@pytest.mark.django_db
def test_counts_the_points_since_the_last_proof() -> None:
    job = kms_job()
    first = kms_point(job)
    kms_point(job)
    KmsKeyVersion.objects.update(proven_at=first.sealed_at)
    assert concerns_of()[Concern.KMS_NOT_PROVEN].points == 1
    KmsKeyVersion.objects.update(proven_at=timezone.now())
    assert Concern.KMS_NOT_PROVEN not in concerns_of()


@pytest.mark.django_db
def test_only_the_newest_version_of_a_password_counts_and_lost_ones_do_not() -> None:
    record = make_password(name="finance")
    PasswordVersion.objects.update(strength=1, created_at=timezone.now() - timedelta(days=400))
    assert {Concern.PASSWORD_WEAK, Concern.PASSWORD_AGEING} <= set(concerns_of())
    change_password(record)
    assert not concerns_of()
    PasswordVersion.objects.update(strength=1)
    record.lost_at = timezone.now()
    record.save()
    assert not concerns_of()


@pytest.mark.django_db
def test_a_retired_recovery_key_protects_nobody() -> None:
    make_job()
    key = make_recovery_key()
    assert not concerns_of()
    RecoveryKey.objects.filter(pk=key.pk).update(retired_at=timezone.now())
    assert set(concerns_of()) == {Concern.NO_RECOVERY_KEY}


@pytest.mark.django_db
def test_the_days_are_a_setting(settings) -> None:
    make_password()
    settings.BACKUPSITE = replace(settings.BACKUPSITE, password_age_days=10)
    PasswordVersion.objects.update(created_at=timezone.now() - timedelta(days=11))
    assert Concern.PASSWORD_AGEING in concerns_of()


def make_everything_wrong() -> None:
    job = kms_job()
    kms_point(job)
    closing = kms_job(server=job.kms_key.server)
    kms_point(closing)
    unproven = kms_job(server=job.kms_key.server)
    kms_point(unproven)
    KmsKeyVersion.objects.filter(key=unproven.kms_key).update(proven_at=None)
    KmsKeyVersion.objects.filter(key=job.kms_key).update(state=KeyState.DESTROYED)
    KmsKeyVersion.objects.filter(key=closing.kms_key).update(state=KeyState.DISABLED)
    KmsServer.objects.update(problem="The connection was refused.", answered_at=timezone.now() - timedelta(days=2))
    make_password(name="finance")
    PasswordVersion.objects.update(strength=1, created_at=timezone.now() - timedelta(days=400))
    make_job(name="In the open", encryption="off")


SENTENCES = [
    "1 restore point has lost the key it was sealed with</b>: nothing else opens it.",
    "1 restore point needs a key that is disabled or about to be deleted",
    "1 key server does not answer as it should.",
    "3 jobs depend on a key server alone",
    "1 restore point is not yet proven",
    "1 password is weak",
    f"1 password is older than {settings.BACKUPSITE.password_age_days} days",
    "1 job writes without encryption",
]


@pytest.mark.django_db
def test_the_dashboard_says_it_in_sentences_and_names_keys_to_those_who_keep_them() -> None:
    make_everything_wrong()
    for who in (alice, sven, bob, vera):
        page = text_of(who().get(reverse("dashboard"), headers=HTMX))
        assert [sentence for sentence in SENTENCES if sentence not in page] == []
        assert "In the open" in page
        for name in ("finance", "vault-kms", "The connection was refused."):
            assert (name in page) == (who in (alice, sven)), (who, name)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("days", "sentence"),
    [
        (None, "There is no recovery key."),
        (400, "1 recovery key waits for the yearly proof"),
        (1, "Nothing: every job is encrypted, every key answers"),
    ],
)
def test_and_about_recovery_keys(days: int | None, sentence: str) -> None:
    make_job()
    if days is not None:
        make_recovery_key()
        RecoveryKey.objects.update(created_at=timezone.now() - timedelta(days=days))
    assert sentence in text_of(sven().get(reverse("dashboard")))


@pytest.mark.django_db
def test_asks_the_database_equally_often_for_any_number_of_keys(django_assert_num_queries) -> None:
    user = make_user()
    make_everything_wrong()
    user.grants.all()
    facts_for(user, timezone.now())  # the rights are read once
    with django_assert_num_queries(6):
        few = facts_for(user, timezone.now())
    for number in range(3):
        kms_point(kms_job(server=KmsServer.objects.get()))
        make_password()
        make_recovery_key(name=f"sheet {number}")
    with django_assert_num_queries(6):
        more = facts_for(user, timezone.now())
    assert len(more.passwords) > len(few.passwords)
