"""The heartbeat: everything that time alone makes true, once, and one step's fault doesn't stop the others."""

from datetime import UTC, datetime, time, timedelta
from threading import Thread

import pytest
from django.db import connection
from django.utils import timezone

from jobs.models import JobChainState, ScheduleKind, Session, SessionKind, State
from jobs.ticking import TICK_LOCK, tick
from tests.factories import make_chain, make_job, make_point, make_session

pytestmark = pytest.mark.django_db


def make_due_job(**fields):
    """Make a job that was due in the last hour."""
    since = timezone.now() - timedelta(hours=1)
    return make_job(schedule_kind=ScheduleKind.HOURLY, schedule_time=time(0, 0), schedule_since=since, **fields)


def test_a_due_job_gets_its_session_once():
    job = make_due_job()
    assert tick()
    assert tick()
    assert Session.objects.get().job == job


def test_a_session_whose_lease_ran_out_is_interrupted():
    session = make_session(state=State.RUNNING, lease_until=datetime(2026, 1, 1, tzinfo=UTC))
    tick()
    session.refresh_from_db()
    assert session.state == State.INTERRUPTED


def test_a_full_that_an_old_chain_waits_for_is_verified_once():
    job = make_job()
    make_point(make_chain(job, state=JobChainState.PREVIOUS, encrypted=False, delete_after_full=True))
    full = make_point(make_chain(job))
    make_session(job, state=State.SUCCEEDED, written_point=full)
    tick()
    tick()
    verify = Session.objects.get(kind=SessionKind.VERIFY)
    assert (verify.source_point, verify.claimed_settings) == (full, {"depth": "full"})


def test_one_fault_does_not_stop_the_rest():
    make_due_job(time_zone="Not/AZone")
    good = make_due_job()
    session = make_session(state=State.RUNNING, lease_until=datetime(2026, 1, 1, tzinfo=UTC))
    with pytest.raises(ExceptionGroup) as raised:
        tick()
    assert len(raised.value.exceptions) == 1
    assert good.sessions.exists()
    session.refresh_from_db()
    assert session.state == State.INTERRUPTED


@pytest.mark.django_db(transaction=True)
def test_a_second_tick_leaves_while_one_is_at_it():
    make_due_job()
    found = []

    def second() -> None:
        try:
            found.append(tick())
        finally:
            connection.close()

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [TICK_LOCK])
        thread = Thread(target=second)
        thread.start()
        thread.join(timeout=30)
        assert found == [False]
        assert not Session.objects.exists()
        cursor.execute("SELECT pg_advisory_unlock(%s)", [TICK_LOCK])
    assert tick()
    assert Session.objects.count() == 1
