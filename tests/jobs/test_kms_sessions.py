"""A session of a job with a KMS key: its file opens with what the server gives, and without the server's consent there
is no file.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from jobs.models import LogLine, Session, State
from jobs.recipients import recipients_of
from jobs.sessions import start_backup
from jobs.tasks import run_session
from keys.crypto_sealed import CannotOpenSealed
from keys.kms_servers import WrapRefused, declare_lost, key_for, slot_secrets
from keys.models import KmsServer, Outage
from keys.sealing import vouch_for
from repositories.engine.reader import SlotSecrets, open_point
from repositories.models import RestorePoint
from tests.factories import make_job, make_kms_key, make_kms_server, make_repository

NOW = timezone.now()


@pytest.fixture
def job(transactional_db, kmip_server, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "ledger.txt").write_text("all of it")
    server = make_kms_server(kmip_server, answered_at=NOW)
    return make_job(
        name="Ledger",
        sources=[str(source)],
        repository=make_repository(tmp_path / "repository"),
        kms_key=make_kms_key(server, kmip_server),
    )


def run_backup(job) -> Session:
    session = start_backup(job, by=None)
    Session.objects.filter(pk=session.pk).update(state=State.QUEUED)
    run_session(session.pk)
    session.refresh_from_db()
    return session


@pytest.mark.django_db(transaction=True)
def test_the_file_opens_with_what_the_server_gives(job):
    session = run_backup(job)
    assert session.state == State.SUCCEEDED, session.result_message
    point = RestorePoint.objects.get()
    assert point.slots.get(kind="kms").kms == job.kms_key.newest()
    with open_point(point.path, SlotSecrets(slot_secrets())) as opened:
        assert opened.summary.files == 1


@pytest.mark.django_db(transaction=True)
def test_a_server_that_must_be_asked_and_is_away_stops_the_session(job, kmip_server):
    server = job.kms_key.server
    server.outage = Outage.FAIL
    server.proof = vouch_for(server, "proof")
    server.save()
    kmip_server.mode(reply="cut")
    session = run_backup(job)
    assert (session.state, session.result_code) == (State.FAILED, "kms-wrap-refused")
    assert "set to be asked each time" in session.result_message
    assert not RestorePoint.objects.exists() and not list(job.repository.root.rglob("*"))
    assert "PRIVATE" not in "".join(line.message for line in LogLine.objects.all())


@pytest.mark.django_db
def test_recipients_ask_the_outage_policy(kmip_server):
    server = make_kms_server(kmip_server, answered_at=NOW)
    job = make_job(kms_key=make_kms_key(server, kmip_server))
    assert [recipient.record for recipient in recipients_of(job).kms] == [job.kms_key.uuid]
    KmsServer.objects.update(answered_at=NOW - timedelta(days=8))
    job.kms_key.server.refresh_from_db()
    with pytest.raises(WrapRefused, match="7 days only"):
        recipients_of(job)
    declare_lost(job.kms_key.newest())
    with pytest.raises(WrapRefused, match="declared lost"):
        recipients_of(job)


@pytest.mark.django_db
def test_a_server_that_was_changed_from_outside_gets_nothing(kmip_server):
    job = make_job(kms_key=key_for(make_kms_server(kmip_server), owner=make_job().uuid, owner_name="x", by=None))
    KmsServer.objects.update(host="203.0.113.1")
    job.kms_key.server.refresh_from_db()
    with pytest.raises(CannotOpenSealed):
        recipients_of(job)
