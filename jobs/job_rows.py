"""What the list of jobs shows of each: last result, next run, newest point, size and key, in a constant number of
queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db.models import BigIntegerField, Count, IntegerField, OuterRef, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce

from jobs.due import schedule_of
from jobs.models import ACTIVE, Job, Session, SessionKind
from jobs.schedule import next_after
from repositories.models import RestorePoint

PAGE = 100


@dataclass(frozen=True)
class JobRow:
    job: Job
    last: Session | None  # the newest backup session that has ended
    active: Session | None
    point: RestorePoint | None
    points: int
    stored_bytes: int
    next_at: datetime | None


def with_latest(jobs: QuerySet[Job]) -> QuerySet[Job]:
    """Add the ids and sums that a row needs; `last_state` can be filtered on."""
    sessions = Session.objects.filter(job=OuterRef("pk"), kind=SessionKind.BACKUP).order_by("-created_at", "-pk")
    ended = sessions.exclude(state__in=ACTIVE)
    points = RestorePoint.objects.sealed().filter(chain__job_chain__job=OuterRef("pk"))
    summed = points.order_by().values("chain__job_chain__job")
    return jobs.select_related("repository", "password", "kms_key__server", "proxy").annotate(
        last_id=Subquery(ended.values("pk")[:1]),
        last_state=Subquery(ended.values("state")[:1]),
        active_id=Subquery(sessions.filter(state__in=ACTIVE).values("pk")[:1]),
        point_id=Subquery(points.order_by("-started_at", "-pk").values("pk")[:1]),
        point_count=Coalesce(Subquery(summed.annotate(n=Count("pk")).values("n"), output_field=IntegerField()), 0),
        stored=Coalesce(Subquery(summed.annotate(n=Sum("size_bytes")).values("n"), output_field=BigIntegerField()), 0),
    )


def rows_of(jobs: list[Job], now: datetime) -> list[JobRow]:
    """Return the rows of jobs that came from `with_latest`."""
    sessions = Session.objects.select_related("progress").in_bulk(_ids(jobs, "last_id", "active_id"))
    points = RestorePoint.objects.in_bulk(_ids(jobs, "point_id"))
    return [
        JobRow(
            job=job,
            last=sessions.get(job.last_id),  # type: ignore[attr-defined]  # annotated
            active=sessions.get(job.active_id),  # type: ignore[attr-defined]
            point=points.get(job.point_id),  # type: ignore[attr-defined]
            points=job.point_count,  # type: ignore[attr-defined]
            stored_bytes=job.stored,  # type: ignore[attr-defined]
            next_at=next_run(job, now),
        )
        for job in jobs
    ]


def next_run(job: Job, now: datetime) -> datetime | None:
    return None if job.paused else next_after(schedule_of(job), now)


def _ids(jobs: list[Job], *names: str) -> set[int]:
    return {found for job in jobs for name in names if (found := getattr(job, name)) is not None}
