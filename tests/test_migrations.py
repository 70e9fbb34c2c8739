"""The migrations of the key records, forward and backward on a filled database, and the release before on the tables
of this one. Everything happens in one transaction, which is rolled back.
"""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from jobs.models import Encryption, Job, Session, State
from jobs.planning import plan
from jobs.situation import situation_of
from keys import passwords, sealing
from keys.models import PasswordVersion
from repositories.models import RestorePoint, Slot
from repositories.reading import file_key_of, seal_file_key
from tests.factories import (
    change_password,
    make_chain,
    make_due_time,
    make_job,
    make_kms_key,
    make_password,
    make_point,
    make_recovery_key,
    make_session,
)

pytestmark = pytest.mark.django_db

BEFORE = [("keys", "0002_signing_key"), ("repositories", "0001_initial"), ("jobs", "0003_open_due_times")]
APPS = ("keys", "repositories", "jobs")


def migrate(targets: list[tuple[str, str]]) -> Any:
    """Take the tables to a state and return the models of then."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET CONSTRAINTS ALL DEFERRED")
    executor = MigrationExecutor(connection)
    return executor.migrate(targets).apps


def newest() -> list[tuple[str, str]]:
    return [node for node in MigrationExecutor(connection).loader.graph.leaf_nodes() if node[0] in APPS]


def rows() -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table of the apps, as it stands; wrong passwords of the last minutes apart."""
    found = {}
    with connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1")
        for (table,) in cursor.fetchall():
            if table.split("_")[0] in APPS and table != "keys_verifyattempt":
                cursor.execute(f'SELECT * FROM "{table}" ORDER BY 1')
                names = [column.name for column in cursor.description]
                found[table] = [tuple(sorted(zip(names, map(plain, row), strict=True))) for row in cursor.fetchall()]
    return found


def plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


def fill() -> tuple[Job, RestorePoint]:
    record = make_password(name="finance", hint="notebook")
    job = make_job(name="Ledger files", password=record)
    chain = make_chain(job)
    full = make_point(chain)
    change_password(record)
    point = make_point(chain)
    seal_file_key(full, b"f" * 32), seal_file_key(point, b"k" * 32)
    make_point(make_chain(make_job(name="In the open", encryption=Encryption.OFF)))
    make_session(job, state=State.SUCCEEDED, written_point=point)
    make_due_time(job)
    return job, point


def test_there_and_back_on_a_filled_database_nothing_is_lost() -> None:
    job, point = fill()
    kek = passwords.kek_of(job.password.newest())
    migrate(BEFORE)
    before = rows()
    assert {name: len(found) for name, found in before.items()}["repositories_restorepoint"] == 3
    migrate(newest())
    job, point = Job.objects.get(pk=job.pk), RestorePoint.objects.get(pk=point.pk)
    sealing.check_vouched_row(job, "protection_proof")
    assert passwords.kek_of(job.password.newest()) == kek and file_key_of(point) == b"k" * 32
    assert (job.kms_key, job.strict_custody, job.ask_password) == (None, False, False)
    assert [slot.hint for slot in Slot.objects.all()] == ["", ""]
    assert plan(situation_of(job)).reason == "changes-since-parent"
    assert PasswordVersion.objects.filter(strength=None).count() == 2
    migrate(BEFORE)
    assert rows() == before
    migrate(newest())


def test_a_session_of_the_release_before_ends_well_on_the_tables_of_this_one() -> None:
    """It writes with the models that it knows: columns that it does not know have a value of their own."""
    job, point = fill()
    old = MigrationExecutor(connection).loader.project_state(BEFORE).apps
    old_point = old.get_model("repositories", "RestorePoint").objects.get(pk=point.pk)
    known = {f.attname: getattr(old_point, f.attname) for f in old_point._meta.concrete_fields if f.name != "id"}
    fields = {**known, "uuid": "00000000-0000-4000-8000-000000000001", "sequence": 99, "file_key_sealed": None}
    written = old.get_model("repositories", "RestorePoint").objects.create(**fields)
    version = job.password.newest()
    old.get_model("repositories", "Slot").objects.create(
        point=written, record_uuid=job.password.uuid, version=version.number, password_id=version.pk
    )
    old.get_model("jobs", "Session").objects.filter(job_id=job.pk).update(
        state="succeeded", written_point_id=written.pk
    )
    old_job = old.get_model("jobs", "Job").objects.get(pk=job.pk)
    old_job.full_requested = False
    old_job.save()
    slot = Slot.objects.get(point_id=written.pk)
    assert (slot.kind, slot.hint, slot.kms) == ("password", "", None)
    assert Session.objects.get().written_point_id == written.pk
    sealing.check_vouched_row(Job.objects.get(pk=job.pk), "protection_proof")


def test_jobs_that_the_release_before_does_not_know_are_not_turned_into_plain_ones() -> None:
    """Back on the old tables there is no place for a KMS job: the way back says so and changes nothing."""
    job = make_job(encryption=Encryption.KMS, password=None, kms_key=make_kms_key())
    make_recovery_key()
    with pytest.raises(RuntimeError, match="1 job encrypts with a key management server"):
        migrate(BEFORE)
    migrate(newest())  # later ones had been taken back before
    job.refresh_from_db()
    assert job.encryption == Encryption.KMS and job.kms_key is not None


@pytest.mark.parametrize("kind", ["minutes", "monthly", "cron"])
def test_schedules_that_the_release_before_does_not_know_are_not_silenced(kind: str) -> None:
    job = make_job(schedule_kind=kind)
    with pytest.raises(RuntimeError, match="1 job runs every few minutes"):
        migrate([("jobs", "0004_job_keys")])
    job.refresh_from_db()
    assert job.schedule_kind == kind
