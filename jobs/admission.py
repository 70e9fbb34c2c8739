"""Which waiting session runs next, and why the others wait.

`admit()` runs after every insert, every end and every tick, under one advisory lock. It picks by priority and age what
all limits allow, never more than a proxy has free workers, and in one transaction turns it to *queued* and inserts its
django-q2 task: the queue is never longer than the workers, so nothing is prefetched and the waiting reason is a fact.

Waiting reasons (`wait_reason`, `wait_params`):

    proxy-away  {proxy, seen_at}           the proxy's cluster has not been seen for half a minute; seen_at is ISO or
    null proxy-busy  {proxy, running, workers}  every worker of the proxy has a session chain-busy  {session, kind}
    another session (its uuid) writes the chains of this job: one writer at a time

What a session does once its task arrives is decided in `jobs.running`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models.functions import Now
from django_q.models import OrmQ
from django_q.tasks import async_task

from jobs.models import Pin, Proxy, Session, SessionKind, State

ADMISSION_LOCK = 0x6261_636B_0001
PROXY_AWAY_AFTER = timedelta(seconds=30)
REDELIVER_AFTER = timedelta(seconds=10)
PIN_RENEWED_WITHIN = timedelta(minutes=30)
PIN_LENGTH = timedelta(hours=1)
WRITERS = (SessionKind.BACKUP, SessionKind.PRUNE, SessionKind.REWRAP)
TASK = "jobs.tasks.run_session"


@dataclass(frozen=True)
class Wait:
    """Why a session is not admitted."""

    reason: str
    params: dict[str, Any]


def admit() -> int:
    """Queue what may run now; return how many sessions."""
    with transaction.atomic():
        _lock()
        now = database_now()
        _deliver_again(now)
        _hold_pins(now)
        return _admit_all(now)


def database_now() -> datetime:
    """Return the database's clock: leases and due times are compared with no other."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
        return now


def _lock() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [ADMISSION_LOCK])


def _admit_all(now: datetime) -> int:
    under_way = list(
        Session.objects.filter(state__in=(State.QUEUED, State.RUNNING)).only("uuid", "kind", "job", "proxy")
    )
    taken = Counter(session.proxy_id for session in under_way)
    writing = {session.job_id: session for session in under_way if session.kind in WRITERS and session.job_id}
    admitted = 0
    waiting = Session.objects.filter(state=State.WAITING).select_related("proxy").defer("order_sealed")
    for session in waiting.order_by("-priority", "created_at", "pk"):
        wait = _why_wait(session, taken[session.proxy_id], writing, now)
        if wait is not None:
            _note(session, wait)
        elif _queue(session):
            admitted += 1
            taken[session.proxy_id] += 1
            if session.kind in WRITERS and session.job_id:
                writing[session.job_id] = session
    return admitted


def _why_wait(session: Session, running: int, writing: dict[int, Session], now: datetime) -> Wait | None:
    proxy = session.proxy
    if proxy.seen_at is None or now - proxy.seen_at > PROXY_AWAY_AFTER:
        return Wait(
            "proxy-away", {"proxy": proxy.name, "seen_at": proxy.seen_at.isoformat() if proxy.seen_at else None}
        )
    other = writing.get(session.job_id) if session.kind in WRITERS and session.job_id else None
    if other is not None:
        return Wait("chain-busy", {"session": str(other.uuid), "kind": other.kind})
    if running >= proxy.workers:
        return Wait("proxy-busy", {"proxy": proxy.name, "running": running, "workers": proxy.workers})
    return None


def _note(session: Session, wait: Wait) -> None:
    if (session.wait_reason, session.wait_params) != (wait.reason, wait.params):
        rows = Session.objects.filter(pk=session.pk, state=State.WAITING)
        rows.update(wait_reason=wait.reason, wait_params=wait.params)


def _queue(session: Session) -> bool:
    """Turn the session to queued and wake a worker; False when it was stopped in the meantime."""
    rows = Session.objects.filter(pk=session.pk, state=State.WAITING)
    if not rows.update(state=State.QUEUED, queued_at=Now(), wait_reason="", wait_params={}):
        return False
    _wake(session.proxy, session.pk)
    return True


def _wake(proxy: Proxy, session_id: int) -> None:
    async_task(TASK, session_id, cluster=proxy.cluster)


def _deliver_again(now: datetime) -> None:
    """Wake a worker again for sessions that nobody claimed: their task was lost with a worker, or with the database for
    a moment.

    A second delivery does no harm: whoever claims second leaves.
    """
    stale = list(
        Session.objects.filter(state=State.QUEUED, queued_at__lt=now - REDELIVER_AFTER).select_related("proxy")
    )
    for cluster in {session.proxy.cluster for session in stale}:
        tasks = {_session_id(row): row for row in OrmQ.objects.filter(key=cluster)}
        for session in stale:
            if session.proxy.cluster == cluster:
                _deliver_one(session, tasks.get(session.pk), now)


def _session_id(row: OrmQ) -> int | None:
    arguments = row.task.get("args") or (None,)
    found: int | None = arguments[0]
    return found


def _deliver_one(session: Session, task: OrmQ | None, now: datetime) -> None:
    if task is None:
        _wake(session.proxy, session.pk)
    elif task.lock - retry_after(session.proxy.cluster) < now - REDELIVER_AFTER and task.lock > now:
        OrmQ.objects.filter(pk=task.pk, lock=task.lock).update(lock=now)  # it was fetched and went down with its worker


def retry_after(cluster: str) -> timedelta:
    """Return after how long django-q2 itself delivers a fetched task again."""
    shared: dict[str, Any] = settings.Q_CLUSTER
    return timedelta(seconds=shared["ALT_CLUSTERS"].get(cluster, shared)["retry"])


def _hold_pins(now: datetime) -> None:
    """A session that waits for hours keeps its points."""
    pins = Pin.objects.filter(
        session__state__in=(State.WAITING, State.QUEUED), lease_until__lt=now + PIN_RENEWED_WITHIN
    )
    pins.update(lease_until=now + PIN_LENGTH)
