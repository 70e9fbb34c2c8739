"""The heartbeat of the runner: one idempotent function, called each second by the watchdog, each minute by the cluster.

It finds what time alone makes true: due times, proxies that are there, verifications that a deletion waits for, polls
of key management servers, leases that ran out, workers that became free, chains whose time is over. What each of them
means is decided where it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from django.db import connection

from jobs.admission import admit, database_now
from jobs.clusters import see_proxies
from jobs.due import start_due_sessions
from jobs.expiring import delete_expired
from jobs.kms_polling import start_due_polls
from jobs.leases import expire
from jobs.pruning import fulls_to_verify
from jobs.sessions import PointGone, start_verify

TICK_LOCK = 0x6261_636B_0003


def tick() -> bool:
    """Do what is due; False when another tick is at it. Raises ExceptionGroup after doing all that could be done."""
    with _alone() as alone:
        if alone:
            _tick(database_now())
        return alone


def _tick(now: datetime) -> None:
    errors = start_due_sessions(now)
    steps: tuple[Callable[[], object], ...] = (
        see_proxies,
        _verify_fulls,
        lambda: start_due_polls(now),
        expire,
        admit,
        delete_expired,
    )
    for step in steps:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - raised below: one fault must not stop the other steps
            errors.append(error)
    if errors:
        raise ExceptionGroup("The tick did not get everything done; the next one tries again.", errors)


def _verify_fulls() -> None:
    """An old chain goes only after its successor's full was verified: see to it."""
    for point in fulls_to_verify():
        try:
            start_verify(point, by=None, depth="full")
        except PointGone:
            continue  # retention was faster; the next full is verified instead


@contextmanager
def _alone() -> Iterator[bool]:
    """Hold the tick's advisory lock on this connection, or find it held; it goes with the connection if that breaks."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [TICK_LOCK])
        alone = bool(cursor.fetchone()[0])
        try:
            yield alone
        finally:
            if alone:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [TICK_LOCK])
