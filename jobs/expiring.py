"""When a chain that no job goes on with is deleted: by its own expiry, or because somebody asked for it now.

`Chain.expires_at` is the whole state: null keeps it for ever, an instant that has passed lets it go at the next tick.
*Delete now* marks every point and sets that instant, so that whatever ends the console, the deletion goes on. A chain
that a job owns never goes this way, whatever stands in its row; nor one of which a session holds a point or on which
one works, and nothing is concluded from a repository that is not there. Files go newest first, some at each tick, by
the functions of `repositories.catalogue`. Who may ask for it is decided in the views.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Count, Sum
from django.db.models.functions import Now
from django.utils import timezone

from backupsite.audit import record_for
from backupsite.models import Severity, User
from jobs.admission import database_now
from jobs.lone_chains import LONE, sessions_on
from jobs.models import Pin, Session
from repositories.catalogue import delete_chain, delete_points, holds_chains
from repositories.engine.errors import EngineError
from repositories.models import Chain, PointState

POINTS_A_TICK = 100  # a deleted file costs two syncs of its folder, and a tick has more to do


class OwnedByJob(Exception):
    """The job goes on with the chain, or keeps it under its retention: detach it first."""

    def __init__(self, chain: Chain) -> None:
        super().__init__(f"{chain} belongs to the retention of its job: detach it first.")


class GoingAlready(Exception):
    """The deletion of the chain has begun: it cannot be kept any more."""

    def __init__(self, chain: Chain) -> None:
        super().__init__(f"The deletion of {chain} has begun: what is gone does not come back.")


class InUse(Exception):
    """Sessions read from the chain or work on it: `sessions` are these."""

    def __init__(self, chain: Chain, sessions: tuple[Session, ...]) -> None:
        named = ", ".join(f"the {session} ({session.state})" for session in sessions)
        super().__init__(f"{chain} is in use by {named}: stop that, or wait for its end.")
        self.sessions = sessions


class NotThere(Exception):
    """The repository's folder is not there: its files cannot be deleted."""

    def __init__(self, chain: Chain) -> None:
        path = chain.repository.root
        super().__init__(f"The repository {path} is not there, or empty: mount its disk, then delete the chain.")


@dataclass(frozen=True)
class Swept:
    """What one tick did: points removed, and chains that are due and had to stay, with the reason."""

    points: int = 0
    chains: int = 0
    kept: tuple[tuple[Chain, Exception], ...] = ()


def end_of(day: date) -> datetime:
    """Return the instant at which a chain goes that is kept until that day: the midnight at its end, local time."""
    return timezone.make_aware(datetime.combine(day + timedelta(days=1), time()), timezone.get_current_timezone())


@transaction.atomic
def set_expiry(chain: Chain, at: datetime | None, *, by: User | None) -> bool:
    """Let the chain go at that instant, or keep it for ever; False when nothing changes.

    Raises OwnedByJob, GoingAlready.
    """
    row = _locked(chain)
    if row.points.filter(state=PointState.DELETING).exists():
        raise GoingAlready(row)
    if row.expires_at == at:
        return False
    Chain.objects.filter(pk=row.pk).update(expires_at=at)
    before, after = {"expires_at": _iso(row.expires_at)}, {"expires_at": _iso(at)}
    record_for(by, "chain expiry changed", row, before=before, after=after, severity=Severity.NOTICE)
    return True


@transaction.atomic
def delete_now(chain: Chain, *, by: User | None) -> None:
    """Mark every point of the chain: none is offered from here on, and the next ticks remove the files.

    Raises OwnedByJob, InUse, NotThere.
    """
    row = _locked(chain)
    facts = _facts(row)
    _mark(row)
    Chain.objects.filter(pk=row.pk).update(expires_at=Now())
    record_for(by, "delete chain", row, before=facts, severity=Severity.HIGH)


def delete_expired() -> Swept:
    """Go on with the chains whose time is over, oldest first, for at most POINTS_A_TICK points. Called by the tick.

    Raises ExceptionGroup, after the other chains had their turn, when files of one cannot be deleted.
    """
    swept, errors = Swept(), []
    due = Chain.objects.filter(LONE, expires_at__lte=database_now()).order_by("expires_at", "pk")
    for chain in due.select_related("repository"):
        if swept.points >= POINTS_A_TICK:
            break
        try:
            swept = _go_on(chain, swept)
        except (InUse, NotThere, OwnedByJob) as error:
            swept = Swept(swept.points, swept.chains, (*swept.kept, (chain, error)))
        except (EngineError, OSError) as error:
            errors.append(error)
    if errors:
        raise ExceptionGroup("Files of chains whose time is over cannot be deleted; the next tick tries again.", errors)
    return swept


def _go_on(chain: Chain, swept: Swept) -> Swept:
    with transaction.atomic():
        row = _locked(chain)
        if row.expires_at is None or row.expires_at > database_now():
            return swept  # kept a moment ago
        facts = _facts(row)
        if _mark(row):
            record_for(None, "chain expired", row, before=facts, severity=Severity.HIGH)
    going = row.points.select_related("chain__repository").order_by("-sequence")[: POINTS_A_TICK - swept.points]
    count = delete_points(going)
    if row.points.exists():
        return Swept(swept.points + count, swept.chains, swept.kept)
    delete_chain(row)
    after = {"chain": str(row.uuid), "repository": row.repository.name}
    record_for(None, "chain deleted", row, after=after)
    return Swept(swept.points + count, swept.chains + 1, swept.kept)


def _locked(chain: Chain) -> Chain:
    """Return the chain's row, locked. Raises OwnedByJob."""
    rows = Chain.objects.select_for_update(of=("self",)).select_related("repository", "job_chain")
    row = rows.get(pk=chain.pk)
    if not Chain.objects.filter(LONE, pk=row.pk).exists():
        raise OwnedByJob(row)
    return row


def _mark(row: Chain) -> int:
    """Mark what is not marked yet; return how many points. Raises InUse and NotThere before anything is changed."""
    sealed = row.points.sealed()
    list(sealed.select_for_update().values_list("pk", flat=True))  # nobody pins one from now on
    if sessions := sessions_on([row])[row.pk]:
        raise InUse(row, tuple(sessions))
    if not _is_there(row):
        raise NotThere(row)
    Pin.objects.filter(point__chain=row, lease_until__lt=Now()).delete()
    return sealed.update(state=PointState.DELETING)


def _is_there(chain: Chain) -> bool:
    root = chain.repository.root
    return root.is_dir() and (chain.folder.is_dir() or holds_chains(root) or not chain.points.exists())


def _facts(chain: Chain) -> dict[str, Any]:
    sums = chain.points.aggregate(points=Count("pk"), size_bytes=Sum("size_bytes", default=0))
    expires = {"expires_at": _iso(chain.expires_at)} if chain.expires_at else {}
    return {"chain": str(chain.uuid), "repository": chain.repository.name, **sums, **expires}


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
