"""A poll tells what became of keys, before anybody wants to restore; it is started by itself, and ends in any case."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from backupsite.models import AuditEvent
from jobs.kms_polling import start_due_polls, start_poll
from jobs.kms_usage import stake_of
from jobs.models import LogLine, Session, SessionKind, State
from jobs.running import run
from jobs.sessions import request_cancel
from jobs.ticking import tick
from keys.crypto_rsa import Oaep
from keys.kms.interface import KmsAway
from keys.kms_servers import connected, declare_lost, pair_name, pair_of
from keys.models import KeyState, KmsKeyVersion, KmsServer
from tests.factories import add_kms_version, make_chain, make_job, make_kms_key, make_kms_server, make_point, make_proxy

pytestmark = pytest.mark.django_db
NOW = timezone.now()


@pytest.fixture
def server(kmip_server):
    return make_kms_server(kmip_server, name="vault")


@pytest.fixture
def job(server, kmip_server):
    """A job whose chain has three points under its key on the running server."""
    job = make_job(name="Ledger", kms_key=make_kms_key(server, kmip_server, owner_name="Ledger"))
    chain = make_chain(job)
    for _ in range(3):
        make_point(chain)
    return job


def polled(server: KmsServer) -> Session:
    session = start_poll(server, by=None)
    Session.objects.filter(pk=session.pk).update(state=State.QUEUED)
    run(session.pk)
    session.refresh_from_db()
    server.refresh_from_db()
    return session


def log_of(session: Session) -> str:
    return "\n".join(f"{line.level} {line.code}: {line.message}" for line in LogLine.objects.filter(session=session))


def test_a_good_poll_proves_the_newest_pair(server, job):
    session = polled(server)
    assert (session.state, session.result_code) == (State.SUCCEEDED, "kms-polled")
    assert session.result_params == {"server": "vault", "keys": 1, "pairs": 1, "rotated": 0}
    version = job.kms_key.newest()
    assert version.proven_at and version.checked_at and version.state == KeyState.ACTIVE
    assert server.answered_at and server.polled_at and server.problem == ""
    assert "1 opened what was sealed" in log_of(session)


def test_a_good_poll_proves_the_points_sealed_since_the_last_one(server, job, kmip_server):
    KmsKeyVersion.objects.update(proven_at=timezone.now() - timedelta(days=3650))
    assert stake_of(job.kms_key.newest()).unproven == 3
    kmip_server.stop()
    try:
        assert polled(server).state == State.FAILED
    finally:
        kmip_server.start_again()
    assert stake_of(job.kms_key.newest()).unproven == 3
    assert polled(server).state == State.SUCCEEDED
    assert stake_of(job.kms_key.newest()).unproven == 0


def test_a_server_without_keys_is_greeted(server):
    assert polled(server).state == State.SUCCEEDED
    assert server.answered_at is not None


def test_a_server_that_is_away_fails_the_poll_and_keeps_the_last_good_one():
    server = make_kms_server(answered_at=NOW)
    session = polled(server)
    assert (session.state, session.result_code) == (State.FAILED, "kms-away")
    assert "Nothing listens" in session.result_message and "Nothing listens" in server.problem
    assert server.answered_at == NOW and server.polled_at > NOW


@pytest.mark.parametrize(
    ("reply", "code"), [("garbage", "kms-garbage"), ("cut", "kms-away"), ("no-kmip-key", "kms-polled")]
)
def test_what_is_not_an_answer_fails_the_poll(server, job, kmip_server, reply, code):
    kmip_server.mode(reply=reply)
    session = polled(server)
    assert session.result_code == code  # public halves are ours: a poll asks for none of them again
    assert (server.answered_at is None) == (code != "kms-polled")


def test_a_rotation_at_the_server_becomes_the_next_version(server, job):
    key = job.kms_key
    with connected(server) as kms:
        pair = kms.rotate(pair_name(key.uuid), 1, 3072)
    session = polled(server)
    assert (session.state, session.result_params["rotated"]) == (State.SUCCEEDED, 1)
    newest = key.newest()
    assert (newest.number, newest.private_id) == (2, pair.private_id) and newest.proven_at
    assert "kms-rotated: The key of Ledger on vault was rotated" in log_of(session)
    assert polled(server).result_params["rotated"] == 0


def test_a_pair_that_does_not_open_is_not_taken_over(server, job, kmip_server):
    """An administrator named a pair as the next one, but the server opens with another padding by now."""
    with connected(server) as kms:
        kms.rotate(pair_name(job.kms_key.uuid), 1, 3072)
    kmip_server.mode(decrypt="sha1")
    session = polled(server)
    assert (session.state, session.result_code) == (State.WARNING, "kms-doubt")
    assert job.kms_key.newest().number == 1
    assert "does not open with it" in server.problem and server.answered_at is None


def close(kmip_server, server, job, state):
    """Let the server do to the job's pair what makes this state of it."""
    pair = pair_of(job.kms_key.newest())
    if state == KeyState.SCHEDULED:
        kmip_server.mode(ending=[pair.private_id])
        return
    kmip_server.mode(destroys=state == KeyState.GONE)
    with connected(server) as kms:
        if state == KeyState.GONE:
            kms.destroy(pair)
        else:
            with pytest.raises(Exception, match="Destroy is not allowed"):
                kms.destroy(pair)
    kmip_server.mode()


@pytest.mark.parametrize(
    ("state", "ends", "words"),
    [
        (KeyState.SCHEDULED, State.WARNING, "is scheduled for deletion"),
        (KeyState.DISABLED, State.WARNING, "is disabled"),
        (KeyState.GONE, State.FAILED, "is not known to the server"),
    ],
)
def test_a_key_that_closes_is_told_with_what_is_at_stake(server, job, kmip_server, state, ends, words):
    close(kmip_server, server, job, state)
    session = polled(server)
    version = job.kms_key.newest()
    assert (session.state, session.result_code, version.state) == (ends, "kms-keys-closed", state)
    stake = "3 restore points of Ledger, 2026-01-01 to 2026-01-03; none of them with another key slot too."
    assert stake in session.result_message
    assert words in log_of(session) and stake in log_of(session)
    event = AuditEvent.objects.get(action="KMS key closed")
    assert (event.severity, event.before, event.after["state"]) == ("high", {"state": "active"}, state)
    assert (event.after["points"], event.after["jobs"]) == (3, ["Ledger"])
    assert event.after["session"] == str(session.uuid)

    again = polled(server)  # still an alarm at each poll, but news only once
    assert again.state == ends and AuditEvent.objects.filter(action="KMS key closed").count() == 1


def test_an_alarm_is_not_lost_when_the_server_goes_away_behind_it(server, job, kmip_server, monkeypatch):
    from keys.kms import kmip

    make_kms_key(server, kmip_server)  # is asked after the job's
    close(kmip_server, server, job, KeyState.DISABLED)
    whole, asked = kmip.Kmip.state, []

    def state(self, private_id):
        asked.append(private_id)
        if len(asked) == 2:
            raise KmsAway("The server went away.")
        return whole(self, private_id)

    monkeypatch.setattr(kmip.Kmip, "state", state)
    session = polled(server)
    assert (session.state, session.result_code) == (State.FAILED, "kms-away")
    assert AuditEvent.objects.get(action="KMS key closed").after["state"] == KeyState.DISABLED
    assert "is disabled" in log_of(session)
    polled(server)
    assert AuditEvent.objects.filter(action="KMS key closed").count() == 1


def test_a_destroyed_key_that_the_server_remembers(server, job, monkeypatch):
    """PyKMIP forgets what it destroys; others keep the state."""
    from kmip.core import enums

    from keys.kms import kmip

    monkeypatch.setitem(kmip.STATES, enums.State.ACTIVE, kmip.STATES[enums.State.DESTROYED])
    session = polled(server)
    assert session.state == State.FAILED and "is destroyed: nothing opens with it" in log_of(session)
    assert job.kms_key.newest().state == KeyState.DESTROYED


def test_a_key_that_comes_back_is_told(server, job, kmip_server):
    close(kmip_server, server, job, KeyState.SCHEDULED)
    polled(server)
    kmip_server.mode()
    session = polled(server)
    assert session.state == State.SUCCEEDED and "is active again" in log_of(session)


def test_a_pair_that_was_declared_lost_is_not_asked_for(server, job, kmip_server):
    declare_lost(job.kms_key.newest())
    add_kms_version(job.kms_key, kmip_server)
    close_first = job.kms_key.versions.get(number=1)
    session = polled(server)
    assert (session.state, session.result_params["pairs"]) == (State.SUCCEEDED, 1)
    close_first.refresh_from_db()
    assert close_first.state == KeyState.LOST


def test_a_weaker_padding_is_noticed(server, job, kmip_server):
    kmip_server.mode(decrypt="mgf1-sha1")
    session = polled(server)
    assert (session.result_code, session.state) == ("kms-doubt", State.WARNING)
    assert "does not open with it" in server.problem
    assert Oaep(server.oaep) == Oaep.SHA256  # only a test of the connection changes that


def test_a_poll_is_started_once_a_day_and_each_hour_while_there_is_a_problem():
    def due(**fields) -> bool:
        server = make_kms_server(**fields)
        started = [s for s in start_due_polls(NOW) if s.job_name == server.name]
        return bool(started)

    assert due()
    assert due(polled_at=NOW - timedelta(hours=24))
    assert not due(polled_at=NOW - timedelta(hours=23, minutes=59))
    assert due(polled_at=NOW - timedelta(hours=1), problem="away")
    assert not due(polled_at=NOW - timedelta(minutes=59), problem="away")


def test_a_tick_starts_one_poll_and_only_one():
    make_kms_server()
    tick()
    tick()
    session = Session.objects.get(kind=SessionKind.KMS_POLL)
    assert session.requested_by is None and session.proxy == make_proxy()


def test_where_the_packages_are_missing_nothing_is_started(monkeypatch):
    make_kms_server()
    monkeypatch.setattr("jobs.kms_polling.is_installed", lambda: False)
    assert start_due_polls(NOW) == []


def test_a_poll_that_is_stopped_ends(server, job):
    session = start_poll(server, by=None)
    Session.objects.filter(pk=session.pk).update(state=State.RUNNING)
    assert request_cancel(session)
    Session.objects.filter(pk=session.pk).update(state=State.QUEUED)
    run(session.pk)
    session.refresh_from_db()
    assert session.state == State.CANCELLED


def test_a_server_that_was_deleted_before_its_poll_fails_it():
    server = make_kms_server()
    session = start_poll(server, by=None)
    server.delete()
    Session.objects.filter(pk=session.pk).update(state=State.QUEUED)
    run(session.pk)
    session.refresh_from_db()
    assert (session.state, session.result_code) == (State.FAILED, "kms-server-gone")


def test_a_second_start_returns_the_first_poll():
    server = make_kms_server()
    assert start_poll(server, by=None) == start_poll(server, by=None)
