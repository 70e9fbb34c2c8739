"""The chains that no job goes on with: detached ones, imported ones, and those whose job was deleted.

No retention ever touches them: they stay until an administrator deletes them or lets them expire (`jobs.expiring`).
Here is only which they are, and what the list shows of them: where each comes from, what opens it, who reads from it
now. All of it takes a number of queries that grows with nothing.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from django.db.models import Count, Max, Min, OuterRef, Q, QuerySet, Subquery, Sum
from django.utils import timezone

from jobs.models import Job, JobChainState, Pin, Session, SessionKind, State
from jobs.secret_names import stranger, versioned
from repositories.models import Chain, PointState, RestorePoint, Slot

SOON = timedelta(days=7)
LONE = Q(job_chain=None) | Q(job_chain__state=JobChainState.DETACHED)
SEALED = Q(points__state=PointState.SEALED)


class Origin(StrEnum):
    """Why a chain stands alone."""

    DETACHED = "detached"
    IMPORTED = "imported"
    JOB_DELETED = "job-deleted"


@dataclass(frozen=True)
class ChainKey:
    """One secret that opens points of a chain by a slot of their own."""

    kind: str
    name: str
    points: int


@dataclass(frozen=True)
class Expiry:
    """When a chain goes. `last_day` is the last one on which it is kept for sure; `due` that it goes now."""

    at: datetime
    last_day: datetime
    due: bool
    soon: bool


@dataclass(frozen=True)
class LoneChain:
    chain: Any  # Chain, annotated by `with_figures`
    origin: Origin
    job: Job | None
    keys: tuple[ChainKey, ...]
    sessions: tuple[Session, ...]  # that read from it or work on it
    expiry: Expiry | None

    @property
    def going(self) -> bool:
        """Tell whether its deletion has begun."""
        return bool(self.chain.going_count)


def is_lone(chain: Chain) -> bool:
    return Chain.objects.filter(LONE, pk=chain.pk).exists()


def origin_of(chain: Chain) -> Origin:
    if hasattr(chain, "job_chain"):
        return Origin.DETACHED
    return Origin.IMPORTED if chain.imported_at else Origin.JOB_DELETED


def with_figures(chains: QuerySet[Chain]) -> QuerySet[Chain]:
    newest = RestorePoint.objects.sealed().filter(chain=OuterRef("pk")).order_by("-sequence")
    return chains.select_related("repository", "job_chain__job").annotate(
        point_count=Count("points", filter=SEALED),
        going_count=Count("points", filter=Q(points__state=PointState.DELETING)),
        stored_bytes=Sum("points__size_bytes", filter=SEALED, default=0),
        first_at=Min("points__started_at", filter=SEALED),
        last_at=Max("points__started_at", filter=SEALED),
        newest_uuid=Subquery(newest.values("uuid")[:1]),
    )


def described(chains: list[Chain], now: datetime) -> list[LoneChain]:
    """Return what the page shows of chains that `with_figures` found."""
    keys, sessions = _keys(chains), sessions_on(chains)
    return [
        LoneChain(
            chain=chain,
            origin=origin_of(chain),
            job=chain.job_chain.job if hasattr(chain, "job_chain") else None,
            keys=tuple(keys[chain.pk]),
            sessions=tuple(sessions[chain.pk]),
            expiry=expiry_of(chain.expires_at, now),
        )
        for chain in chains
    ]


def expiry_of(at: datetime | None, now: datetime) -> Expiry | None:
    if at is None:
        return None
    return Expiry(at, timezone.localtime(at - timedelta(microseconds=1)), due=at <= now, soon=at <= now + SOON)


def sessions_on(chains: list[Chain]) -> dict[int, list[Session]]:
    """Return per chain who holds points of it, and who writes or rewraps it, or is about to."""
    found: dict[int, dict[int, Session]] = defaultdict(dict)
    pins = Pin.objects.filter(point__chain__in=chains, lease_until__gt=timezone.now())
    for pin in pins.select_related("session", "point"):
        found[pin.point.chain_id][pin.session_id] = pin.session
    by_uuid = {str(chain.uuid): chain.pk for chain in chains}
    by_job: dict[int | None, list[int]] = defaultdict(list)
    for chain in chains:
        if hasattr(chain, "job_chain"):
            by_job[chain.job_chain.job_id].append(chain.pk)
    working = Q(claimed_settings__chain__in=list(by_uuid))
    planning = Q(job__in=list(by_job), kind=SessionKind.BACKUP, state=State.RUNNING, claimed_settings={})
    for session in Session.objects.active().filter(working | planning).defer("order_sealed"):
        claimed = session.claimed_settings.get("chain")
        for pk in [by_uuid[claimed]] if claimed else by_job[session.job_id]:
            found[pk][session.pk] = session
    return defaultdict(list, {pk: [rows[key] for key in sorted(rows)] for pk, rows in found.items()})


def _keys(chains: list[Chain]) -> dict[int, list[ChainKey]]:
    names = ("password__record__name", "kms__key__server__name", "kms__key__owner_name", "recovery__name")
    slots = Slot.objects.filter(point__chain__in=chains, point__state=PointState.SEALED).order_by()
    rows = slots.values("point__chain", "kind", "record_uuid", "version", *names)
    found: dict[int, list[ChainKey]] = defaultdict(list)
    for row in rows.annotate(points=Count("pk"), hint=Max("hint")).order_by("kind", "record_uuid", "-version"):
        found[row["point__chain"]].append(ChainKey(row["kind"], _name(row), row["points"]))
    return found


def _name(row: dict[str, Any]) -> str:
    if row["password__record__name"]:
        return versioned(row["password__record__name"], row["version"])
    if row["kms__key__server__name"]:
        return versioned(f"{row['kms__key__server__name']} / {row['kms__key__owner_name']}", row["version"])
    known: str = row["recovery__name"] or ""
    return known or stranger(row["kind"], str(row["record_uuid"]), row["version"], row["hint"])
