"""Who works on a session: claiming it, keeping it, and taking it away from whoever fell silent.

A claim is one compare-and-set with a lease on the database's clock and a fencing number. Delivery is at least once, so
whoever comes second gets nothing. A claim is good only while it can be renewed; a supervisor that cannot renew writes
nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from threading import Event, Thread

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now

from backupsite.audit import record_for
from jobs.models import Pin, Session, SessionKind, SessionProgress, State


@dataclass(frozen=True)
class Claim:
    """The right to work on a session and to store its end."""

    session_id: int
    fence: int


class Stale(Exception):
    """The session was taken away: its lease ran out, so nothing may be written in its name any more."""


def lease_length() -> timedelta:
    return timedelta(seconds=settings.LEASE_SECONDS)


def claim(session_id: int) -> Claim | None:
    """Take a queued session; None when it isn't queued (any more): the caller leaves."""
    with transaction.atomic():
        queued = Session.objects.filter(pk=session_id, state=State.QUEUED)
        if not queued.update(
            state=State.RUNNING, started_at=Now(), lease_until=Now() + lease_length(), fence=F("fence") + 1
        ):
            return None
        fence = Session.objects.values_list("fence", flat=True).get(pk=session_id)  # our update still locks the row
        _hold_points(session_id)
        return Claim(session_id, fence)


def renew(held: Claim) -> bool:
    """Extend the lease; False when the claim is stale."""
    with transaction.atomic():
        if not held_row(held).update(lease_until=Now() + lease_length()):
            return False
        _hold_points(held.session_id)
        return True


@contextmanager
def kept(held: Claim) -> Iterator[None]:
    """Renew the lease beside work that doesn't do so itself: large repositories take longer than one lease."""
    over = Event()
    beside = Thread(target=_renew_until, args=(held, over), name="lease", daemon=True)
    beside.start()
    try:
        yield
    finally:
        over.set()
        beside.join()


def _renew_until(held: Claim, over: Event) -> None:
    """Stop when the claim is stale: whoever works on finds that out at the next write."""
    try:
        while not over.wait(settings.LEASE_SECONDS / 3):
            try:
                if not renew(held):
                    return
            except (OperationalError, InterfaceError):
                connection.close()  # the database is away: try again at the next beat
    finally:
        connection.close()


def held_row(held: Claim) -> QuerySet[Session]:
    """Return the session as rows: none once somebody else may have it.

    Every write of a supervisor goes through this.
    """
    return Session.objects.filter(pk=held.session_id, fence=held.fence, state=State.RUNNING)


def expire() -> list[int]:
    """End every running session whose lease ran out; return their ids.

    It is interrupted, but for one whose point was registered already: that one has done its work.
    """
    late = Session.objects.filter(state=State.RUNNING, lease_until__lt=Now())
    return [pk for pk in late.values_list("pk", flat=True) if _expire(pk)]


def _expire(pk: int) -> bool:
    late = Session.objects.filter(pk=pk, state=State.RUNNING, lease_until__lt=Now())
    with transaction.atomic():
        if not (_has_done_its_work(late) or _interrupt(late)):
            return False
        _audit_restore(pk)
        Pin.objects.filter(session=pk).delete()
        SessionProgress.objects.filter(session=pk).update(current_path="")
        return True


def _has_done_its_work(late: QuerySet[Session]) -> bool:
    done = late.filter(written_point__isnull=False).exclude(result_code="")
    without_warnings = done.filter(warnings=0).update(state=State.SUCCEEDED, ended_at=Now(), lease_until=None)
    return bool(without_warnings or done.update(state=State.WARNING, ended_at=Now(), lease_until=None))


def _interrupt(late: QuerySet[Session]) -> bool:
    message = (
        "The process that supervised this session fell silent: it was killed, or could not reach the database. "
        "Nothing that it left unfinished counts; start the session again."
    )
    return bool(
        late.update(
            state=State.INTERRUPTED,
            ended_at=Now(),
            lease_until=None,
            result_code="lease-lost",
            result_params={},
            result_message=message,
        )
    )


def _audit_restore(pk: int) -> None:
    """A restore's end is in the audit also when nobody was left to say it: files may be there."""
    session = Session.objects.filter(pk=pk, kind=SessionKind.RESTORE).select_related("requested_by", "source_point")
    for restore in session:
        after = {"session": str(restore.uuid), "state": restore.state, "result": restore.result_code}
        record_for(restore.requested_by, "restore ended", restore.source_point, after=after)


def _hold_points(session_id: int) -> None:
    """What a reader needs stays pinned a little longer than its lease, so that no gap opens between two renewals."""
    Pin.objects.filter(session=session_id).update(lease_until=Now() + 2 * lease_length())
