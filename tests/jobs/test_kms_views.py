"""Polling by a button, who uses a key, and declaring it lost with everything that follows from it on the page."""

from __future__ import annotations

import html

import pytest
from django.utils import timezone

from backupsite.models import AuditEvent, Role
from jobs.models import Session, SessionKind
from keys.models import KeyState, KmsKey, KmsServer
from tests import cast
from tests.factories import add_kms_version, make_chain, make_job, make_kms_key, make_kms_server, make_point, make_slot

pytestmark = pytest.mark.django_db


@pytest.fixture
def job():
    job = make_job(name="Ledger", kms_key=make_kms_key(make_kms_server(name="vault"), owner_name="Ledger"))
    chain = make_chain(job)
    for _ in range(3):
        make_point(chain)
    return job


def text_of(response) -> str:
    return html.unescape(response.content.decode())


def test_a_poll_is_started_by_a_button(job):
    server = job.kms_key.server
    response = cast.alice().post(f"/keys/kms/{server.uuid}/poll/")
    session = Session.objects.get(kind=SessionKind.KMS_POLL)
    assert response["Location"] == f"/sessions/{session.uuid}/"
    assert AuditEvent.objects.get(action="KMS poll requested").after == {"session": str(session.uuid)}


def test_the_session_of_a_poll_has_a_page(job):
    alice = cast.alice()
    alice.post(f"/keys/kms/{job.kms_key.server.uuid}/poll/")
    session = Session.objects.get(kind=SessionKind.KMS_POLL)
    page = text_of(alice.get(f"/sessions/{session.uuid}/"))
    assert "Poll of vault" in page
    Session.objects.update(state="failed", result_code="kms-away", result_message="Nothing listens there.")
    for person in (alice, cast.with_role(Role.SECURITY_ADMINISTRATOR), cast.with_role(Role.VIEWER)):
        assert "Nothing listens there." in text_of(person.get(f"/sessions/{session.uuid}/"))
    page = text_of(alice.get(f"/sessions/{session.uuid}/"))
    assert "See the server" in page and "Try again" not in page and "Speed" not in page


def test_who_uses_a_key(job):
    address = f"/keys/kms/keys/{job.kms_key.uuid}/usage/"
    page = text_of(cast.alice().get(address))
    assert "Where the key of Ledger is used" in page and f"/jobs/{job.uuid}/" in page
    row = '<td class="num">3</td><td class="num">0</td><td class="num">{}</td>'
    assert row.format(3) in page  # the server has not opened anything yet
    job.kms_key.versions.update(proven_at=timezone.now())
    assert row.format(0) in text_of(cast.with_role(Role.SECURITY_ADMINISTRATOR).get(address))


def test_a_pair_is_declared_lost_only_by_typing_its_name(job):
    version = job.kms_key.newest()
    address = f"/keys/kms/keys/{job.kms_key.uuid}/1/lost/"
    alice = cast.alice()
    page = text_of(alice.get(address))
    assert "3 restore points of Ledger have a key slot for it" in page
    assert "The next session of Ledger starts a new chain" in page
    assert "This is not the name. Type Ledger to go on." in text_of(alice.post(address, {"typed": "ledger"}))
    version.refresh_from_db()
    assert version.state == KeyState.ACTIVE
    assert "counts as lost" in text_of(alice.post(address, {"typed": "Ledger"}, follow=True))
    version.refresh_from_db()
    assert version.state == KeyState.LOST
    event = AuditEvent.objects.get(action="KMS key declared lost")
    assert (event.severity, event.before, event.after["points"]) == ("high", {"state": "active"}, 3)
    assert alice.get(address).status_code == 404


def test_points_with_another_slot_are_counted(job):
    second = add_kms_version(job.kms_key)
    make_slot(job.job_chains.get().chain.points.first(), second)
    page = text_of(cast.alice().get(f"/keys/kms/keys/{job.kms_key.uuid}/1/lost/"))
    assert "1 of them opens with another slot too" in page
    assert "starts a new chain" not in page  # it is not the newest version


def test_who_may_not_keep_keys_declares_nothing(job):
    address = f"/keys/kms/keys/{job.kms_key.uuid}/1/lost/"
    assert cast.bob().post(address, {"typed": "Ledger"}).status_code == 403
    assert cast.with_role(Role.SECURITY_ADMINISTRATOR).post(address, {"typed": "Ledger"}).status_code == 302


def test_a_server_in_use_is_not_deleted(job):
    server = job.kms_key.server
    alice, address = cast.alice(), f"/keys/kms/{server.uuid}/delete/"
    words = "its job seals with its key; 3 restore points open with it"
    page = text_of(alice.get(address))
    assert "It cannot be deleted: it is in use" in page and words in page and "Delete the server</button>" not in page
    assert "Not deleted: it is in use" in text_of(alice.post(address))
    job.delete()
    assert "3 restore points open with it" in text_of(alice.post(address))
    assert KmsServer.objects.exists() and KmsKey.objects.exists()
    assert not AuditEvent.objects.filter(action="KMS server deleted").exists()


def test_a_server_that_is_used_in_the_same_moment_is_not_deleted(job, monkeypatch):
    monkeypatch.setattr("jobs.kms_views.keys_in_use", lambda server: [])
    page = text_of(cast.alice().post(f"/keys/kms/{job.kms_key.server.uuid}/delete/"))
    assert "somebody began to use it a moment ago" in page and KmsKey.objects.exists()


def test_a_server_that_nothing_uses_is_deleted_with_its_keys():
    server = make_kms_key().server
    page = text_of(cast.alice().post(f"/keys/kms/{server.uuid}/delete/", follow=True))
    assert "is deleted here" in page
    assert not KmsServer.objects.exists() and not KmsKey.objects.exists()
    assert AuditEvent.objects.get(action="KMS server deleted").severity == "high"
