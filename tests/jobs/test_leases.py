"""Claims: one winner, a fence that grows, and silence that ends a session."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.db.models.functions import Now
from django.utils import timezone

from backupsite.models import AuditEvent
from jobs import leases
from jobs.leases import Claim, claim, expire, held_row, kept, renew
from jobs.models import Pin, Session, SessionKind, State
from tests.factories import make_chain, make_pin, make_point, make_session

pytestmark = pytest.mark.django_db


def queued(**fields: object) -> Session:
    return make_session(state=State.QUEUED, **fields)


def let_lease_run_out(session: Session) -> None:
    Session.objects.filter(pk=session.pk).update(lease_until=Now() - timedelta(seconds=1))


def test_claim_takes_a_queued_session() -> None:
    session = queued()
    held = claim(session.pk)
    session.refresh_from_db()
    assert held == Claim(session.pk, 1)
    assert session.state == State.RUNNING
    assert session.started_at is not None
    assert session.lease_until is not None
    assert session.lease_until > timezone.now()


@pytest.mark.parametrize("state", [state for state in State if state != State.QUEUED])
def test_claim_leaves_every_other_state_alone(state: State) -> None:
    session = make_session(state=state)
    assert claim(session.pk) is None
    session.refresh_from_db()
    assert (session.state, session.fence) == (state, 0)


@pytest.mark.django_db(transaction=True)
def test_of_many_workers_one_claims() -> None:
    session = queued()
    claims: list[Claim | None] = []
    start = threading.Barrier(6)

    def work() -> None:
        start.wait()
        claims.append(claim(session.pk))
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [held for held in claims if held] == [Claim(session.pk, 1)]
    assert len(claims) == 6


def test_renew_moves_the_lease_on() -> None:
    session = queued()
    held = claim(session.pk)
    assert held
    let_lease_run_out(session)
    assert renew(held)
    session.refresh_from_db()
    assert session.lease_until is not None
    assert session.lease_until > timezone.now()


def test_a_stale_fence_renews_and_writes_nothing() -> None:
    session = queued()
    held = claim(session.pk)
    assert held
    Session.objects.filter(pk=session.pk).update(fence=2)
    assert not renew(held)
    assert not held_row(held).exists()
    assert renew(Claim(session.pk, 2))


def test_an_ended_session_is_not_renewed() -> None:
    session = queued()
    held = claim(session.pk)
    assert held
    Session.objects.filter(pk=session.pk).update(state=State.FAILED)
    assert not renew(held)


def test_expire_interrupts_whoever_fell_silent() -> None:
    silent, alive = queued(), queued()
    held = claim(silent.pk)
    assert held
    assert claim(alive.pk)
    let_lease_run_out(silent)
    assert expire() == [silent.pk]
    silent.refresh_from_db()
    alive.refresh_from_db()
    assert (silent.state, silent.result_code) == (State.INTERRUPTED, "lease-lost")
    assert silent.ended_at is not None
    assert "start the session again" in silent.result_message
    assert alive.state == State.RUNNING
    assert not renew(held)
    assert expire() == []


def test_expire_lets_go_of_the_points() -> None:
    point = make_point(make_chain())
    session = queued(kind=SessionKind.RESTORE, source_point=point)
    make_pin(point, session)
    assert claim(session.pk)
    let_lease_run_out(session)
    expire()
    assert not Pin.objects.exists()
    event = AuditEvent.objects.get(action="restore ended")
    assert event.after == {"session": str(session.uuid), "state": "interrupted", "result": "lease-lost"}


def test_a_registered_point_counts_although_its_worker_fell_silent() -> None:
    """The worker was killed between registering and ending: the backup is there, and the session says so."""
    point = make_point(make_chain())
    for warnings, state in ((0, State.SUCCEEDED), (2, State.WARNING)):
        session = queued()
        assert claim(session.pk)
        let_lease_run_out(session)
        Session.objects.filter(pk=session.pk).update(written_point=point, result_code="backed-up", warnings=warnings)
        assert expire() == [session.pk]
        session.refresh_from_db()
        assert (session.state, session.result_code) == (state, "backed-up")
        assert session.ended_at is not None


def test_renewing_holds_the_points_too() -> None:
    point = make_point(make_chain())
    session = queued(kind=SessionKind.RESTORE, source_point=point)
    pin = make_pin(point, session, lease_until=timezone.now())
    held = claim(session.pk)
    assert held
    pin.refresh_from_db()
    session.refresh_from_db()
    assert session.lease_until is not None
    assert pin.lease_until > session.lease_until


@pytest.mark.django_db(transaction=True)
def test_a_lease_is_kept_beside_long_work(settings: Any) -> None:
    session = queued()
    held = claim(session.pk)
    assert held
    let_lease_run_out(session)
    settings.LEASE_SECONDS = 0.03
    with kept(held):
        wait_for(lambda: Session.objects.filter(pk=session.pk, lease_until__gt=Now()).exists())
    assert not [thread for thread in threading.enumerate() if thread.name == "lease"]


def test_a_lease_is_kept_until_it_is_stale_also_while_the_database_is_away(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.LEASE_SECONDS = 0.03
    answers = iter([True, OperationalError("away"), True, False])
    ended = threading.Event()

    def renewed(held: Claim) -> bool:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        if not answer:
            ended.set()
        return answer

    monkeypatch.setattr(leases, "renew", renewed)
    with kept(Claim(1, 1)):
        assert ended.wait(10)
    assert list(answers) == []


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)  # the pace of asking, not a guess of how long it takes
