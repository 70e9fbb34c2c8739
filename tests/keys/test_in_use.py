"""What refuses a deletion is counted through the relations that protect, also below what goes with the record."""

from __future__ import annotations

import pytest

from jobs.models import Encryption
from keys.in_use import MOST_NAMED, holders_of
from keys.models import KmsKey, PasswordRecord, RecoveryKey
from repositories.models import Slot
from tests.factories import make_chain, make_job, make_kms_key, make_password, make_point, make_recovery_key

pytestmark = pytest.mark.django_db


def test_nothing_needs_a_new_record() -> None:
    make_password(), make_recovery_key(), make_kms_key()
    for model in (PasswordRecord, RecoveryKey, KmsKey):
        assert holders_of(model.objects.all()) == []


def test_jobs_and_the_slots_of_versions_that_would_go_with_it() -> None:
    record = make_password()
    chain = make_chain(make_job(name="Ledger files", password=record))
    for _ in range(MOST_NAMED + 2):
        make_point(chain)
    make_point(make_chain(make_job()))
    found = holders_of(PasswordRecord.objects.filter(pk=record.pk))
    assert [(kind, number) for kind, number, _ in found] == [("jobs", 1), ("slots", MOST_NAMED + 2)]
    assert found[0][2] == ["Ledger files"] and len(found[1][2]) == MOST_NAMED


def test_of_a_kms_key_and_of_a_recovery_key() -> None:
    key = make_kms_key()
    point = make_point(make_chain(make_job(encryption=Encryption.KMS, password=None, kms_key=key)))
    recovery = make_recovery_key()
    Slot.objects.create(point=point, kind="recovery", record_uuid=recovery.uuid, version=1, recovery=recovery)
    assert [(kind, number) for kind, number, _ in holders_of(KmsKey.objects.all())] == [("jobs", 1), ("slots", 1)]
    assert [(kind, number) for kind, number, _ in holders_of(RecoveryKey.objects.all())] == [("slots", 1)]
