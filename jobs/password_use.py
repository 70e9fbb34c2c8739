"""What depends on a password record: jobs, chains, restore points and their sizes, as totals; and what the next session
of each job would do if the record had one more version.

Which point opens with what, and what if a password were lost, is the key map's. The planner decides; this module only
asks it about a version that does not exist yet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from django.db.models import Count, Max, Min, QuerySet, Sum

from backupsite.models import User
from jobs.consequences import ActiveSession
from jobs.models import Job
from jobs.planning import Key, Plan, PlanRefused, plan
from jobs.situation import active_backup, situation_of
from keys.models import PasswordRecord
from repositories.models import PointState, RestorePoint, Slot

MOST_NAMED = 10
MOST_JOBS = 50


@dataclass(frozen=True)
class Use:
    """Who needs a record. `chains` are rows with a name, a number of points and a size, the newest first."""

    jobs: QuerySet[Job]
    job_count: int
    chains: list[dict[str, Any]]
    chain_count: int
    points: int
    size_bytes: int
    slots: int  # of points that are being deleted, too

    @property
    def is_used(self) -> bool:
        return bool(self.job_count or self.slots)


@dataclass(frozen=True)
class Outlook:
    """What the next session of a job will do; no plan where it may write nothing."""

    job: Job
    plan: Plan | None
    points: int  # that exist in the chain it goes on with
    active: ActiveSession | None


def use_of(record: PasswordRecord, user: User) -> Use:
    """Count, without loading a row a point."""
    jobs = Job.objects.visible_to(user).filter(password=record)
    points = RestorePoint.objects.visible_to(user).sealed().filter(slots__password__record=record).distinct()
    sums = RestorePoint.objects.filter(pk__in=points.values("pk")).aggregate(
        points=Count("pk"), size=Sum("size_bytes", default=0), chains=Count("chain", distinct=True)
    )
    chains = RestorePoint.objects.filter(pk__in=points.values("pk")).order_by()
    by_chain = chains.values("chain__uuid", "chain__job_name", "chain__repository__name").annotate(
        points=Count("pk"), size=Sum("size_bytes"), last=Max("started_at")
    )
    return Use(
        jobs=jobs,
        job_count=jobs.count(),
        chains=[dict(row) for row in by_chain.order_by("-last")[:MOST_NAMED]],
        chain_count=sums["chains"],
        points=sums["points"],
        size_bytes=sums["size"],
        slots=Slot.objects.filter(password__record=record).count(),
    )


def slots_by_version(record: PasswordRecord, user: User) -> list[dict[str, Any]]:
    """Return the restore points of each version and chain, counted by their key slots."""
    slots = Slot.objects.filter(password__record=record, point__state=PointState.SEALED)
    rows = slots.filter(point__in=RestorePoint.objects.visible_to(user)).values(
        "version",
        "point__chain__uuid",
        "point__chain__job_name",
        "point__chain__repository__name",
        "point__chain__job_chain__job__uuid",
    )
    counted = rows.annotate(
        points=Count("pk"),
        size=Sum("point__size_bytes"),
        first=Min("point__started_at"),
        last=Max("point__started_at"),
    )
    return [dict(row) for row in counted.order_by("-last", "-version")]


def outlooks(record: PasswordRecord, user: User) -> list[Outlook]:
    """Return what each job's next session will do under the next version of the record, at most MOST_JOBS of them."""
    key = Key(str(record.uuid), record.newest().number + 1, record.name)
    jobs = Job.objects.visible_to(user).filter(password=record).select_related("repository", "password")
    return [_outlook(job, key) for job in jobs[:MOST_JOBS]]


def _outlook(job: Job, key: Key) -> Outlook:
    situation = replace(situation_of(job), key=key)
    try:
        answer = plan(situation)
    except PlanRefused:
        answer = None
    return Outlook(job, answer, situation.chain.points if situation.chain else 0, active_backup(job))
