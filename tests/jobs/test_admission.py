"""Admission: who runs next, why the others wait, and that a wake-up is never lost."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone
from django_q.models import OrmQ

from jobs.admission import PIN_RENEWED_WITHIN, REDELIVER_AFTER, admit, database_now, retry_after
from jobs.models import Job, Pin, Proxy, Session, SessionKind, State
from tests.factories import make_chain, make_job, make_pin, make_point, make_proxy, make_session

pytestmark = pytest.mark.django_db


@pytest.fixture
def proxy() -> Proxy:
    proxy = make_proxy()
    Proxy.objects.filter(pk=proxy.pk).update(seen_at=timezone.now(), workers=2)
    proxy.refresh_from_db()
    return proxy


def waiting(proxy: Proxy, **fields: Any) -> Session:
    return make_session(make_job(proxy=proxy), **fields)


def queue() -> list[tuple[str, int]]:
    return [(row.key, row.task["args"][0]) for row in OrmQ.objects.order_by("pk")]


def states(*sessions: Session) -> list[str]:
    for session in sessions:
        session.refresh_from_db()
    return [session.state for session in sessions]


def test_a_waiting_session_is_queued_with_its_task(proxy: Proxy) -> None:
    session = waiting(proxy)
    assert admit() == 1
    assert states(session) == [State.QUEUED]
    assert session.queued_at is not None
    assert queue() == [("local", session.pk)]
    row = OrmQ.objects.get()
    assert row.task["func"] == "jobs.tasks.run_session"
    assert admit() == 0


def test_session_row_and_queue_row_are_written_together(proxy: Proxy) -> None:
    session = waiting(proxy)
    with pytest.raises(RuntimeError), transaction.atomic():
        admit()
        raise RuntimeError
    assert states(session) == [State.WAITING]
    assert queue() == []


def test_never_more_than_the_free_workers(proxy: Proxy) -> None:
    sessions = [waiting(proxy) for _ in range(3)]
    assert admit() == 2
    assert states(*sessions) == [State.QUEUED, State.QUEUED, State.WAITING]
    assert sessions[2].wait_reason == "proxy-busy"
    assert sessions[2].wait_params == {"proxy": proxy.name, "running": 2, "workers": 2}
    Session.objects.filter(pk=sessions[0].pk).update(state=State.SUCCEEDED)
    assert admit() == 1
    assert states(sessions[2]) == [State.QUEUED]
    assert (sessions[2].wait_reason, sessions[2].wait_params) == ("", {})


def test_priority_comes_before_age(proxy: Proxy) -> None:
    Proxy.objects.update(workers=1)
    old, urgent, young = waiting(proxy), waiting(proxy, priority=5), waiting(proxy)
    assert admit() == 1
    assert states(old, urgent, young) == [State.WAITING, State.QUEUED, State.WAITING]
    Session.objects.filter(pk=urgent.pk).update(state=State.FAILED)
    assert admit() == 1
    assert states(old, young) == [State.QUEUED, State.WAITING]


@pytest.mark.parametrize("writer", [SessionKind.BACKUP, SessionKind.PRUNE])
@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
def test_one_writer_a_job(proxy: Proxy, writer: SessionKind, state: State) -> None:
    job = make_job(proxy=proxy)
    first = make_session(job, kind=writer, state=state)
    second = make_session(job)
    assert admit() == 0
    assert states(second) == [State.WAITING]
    assert (second.wait_reason, second.wait_params) == ("chain-busy", {"session": str(first.uuid), "kind": writer})


def test_two_writers_of_one_job_are_not_admitted_together(proxy: Proxy) -> None:
    job = make_job(proxy=proxy)
    first, second = make_session(job), make_session(job, kind=SessionKind.PRUNE)
    assert admit() == 1
    assert states(first, second) == [State.QUEUED, State.WAITING]


@pytest.mark.parametrize("kind", [SessionKind.RESTORE, SessionKind.VERIFY])
def test_a_reader_does_not_wait_for_a_writer(proxy: Proxy, kind: SessionKind) -> None:
    job = make_job(proxy=proxy)
    make_session(job, state=State.RUNNING)
    reader = make_session(job, kind=kind)
    assert admit() == 1
    assert states(reader) == [State.QUEUED]


@pytest.mark.parametrize("seen", [None, timedelta(minutes=1)])
def test_nothing_is_queued_for_a_proxy_that_is_away(proxy: Proxy, seen: timedelta | None) -> None:
    seen_at = timezone.now() - seen if seen else None
    Proxy.objects.update(seen_at=seen_at)
    session = waiting(proxy)
    assert admit() == 0
    assert states(session) == [State.WAITING]
    assert session.wait_reason == "proxy-away"
    assert session.wait_params == {"proxy": proxy.name, "seen_at": seen_at.isoformat() if seen_at else None}


def test_a_full_proxy_does_not_hold_up_another(proxy: Proxy) -> None:
    other = make_proxy(seen_at=timezone.now(), workers=1)
    Proxy.objects.filter(pk=proxy.pk).update(workers=0)
    here, there = waiting(proxy), waiting(other)
    assert admit() == 1
    assert states(here, there) == [State.WAITING, State.QUEUED]
    assert queue() == [(other.cluster, there.pk)]


def age_queue(by: timedelta) -> None:
    Session.objects.filter(state=State.QUEUED).update(queued_at=timezone.now() - by)


def test_a_lost_task_is_made_again(proxy: Proxy) -> None:
    """django-q2 acknowledges a task that failed, for instance because the database was away when it wanted to claim."""
    session = waiting(proxy)
    admit()
    OrmQ.objects.all().delete()
    admit()
    assert queue() == []
    age_queue(REDELIVER_AFTER * 2)
    admit()
    assert queue() == [("local", session.pk)]
    admit()
    assert queue() == [("local", session.pk)]


def test_a_task_that_went_down_with_its_worker_is_delivered_again(proxy: Proxy) -> None:
    waiting(proxy)
    admit()
    age_queue(REDELIVER_AFTER * 2)
    fetched_just_now = database_now() + retry_after("local")
    OrmQ.objects.update(lock=fetched_just_now)
    admit()
    assert OrmQ.objects.get().lock == fetched_just_now
    OrmQ.objects.update(lock=fetched_just_now - REDELIVER_AFTER * 2)
    admit()
    assert OrmQ.objects.get().lock <= timezone.now()


def test_a_waiting_reader_keeps_its_point(proxy: Proxy) -> None:
    Proxy.objects.update(workers=0)
    point = make_point(make_chain())
    reader = make_session(make_job(proxy=proxy), kind=SessionKind.RESTORE, source_point=point)
    pin = make_pin(point, reader, lease_until=timezone.now() + timedelta(seconds=5))
    admit()
    pin.refresh_from_db()
    assert pin.lease_until > timezone.now() + PIN_RENEWED_WITHIN
    assert Pin.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_admissions_at_the_same_time_admit_once(proxy: Proxy) -> None:
    sessions = [waiting(proxy) for _ in range(4)]
    start = threading.Barrier(5)
    admitted: list[int] = []

    def work() -> None:
        start.wait()
        admitted.append(admit())
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(admitted) == 2
    assert sorted(states(*sessions)) == [State.QUEUED, State.QUEUED, State.WAITING, State.WAITING]
    assert len(queue()) == 2


def test_the_number_of_queries_does_not_grow_with_what_waits(proxy: Proxy, django_assert_max_num_queries: Any) -> None:
    Proxy.objects.update(workers=0)
    job = make_job(proxy=proxy)
    for _ in range(20):
        make_session(job, kind=SessionKind.VERIFY)
    admit()
    assert Job.objects.count() == 1
    with django_assert_max_num_queries(10):
        admit()
