"""What the dashboard counts: the last day, what runs, what comes next, what is not encrypted, and what each repository
holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, Q, QuerySet, Sum

from backupsite.models import User
from backupsite.templatetags.shell import address
from jobs.job_rows import next_run
from jobs.models import DueState, DueTime, Encryption, Job, Session, SessionKind, State
from keys.models import PasswordRecord
from repositories.models import PointState, Repository

LAST = timedelta(hours=24)
MOST_NEXT = 6
MOST_ATTENTION = 6
SAYS_SO = (State.FAILED, State.INTERRUPTED, State.WARNING)


@dataclass(frozen=True)
class Day:
    succeeded: int
    warning: int
    failed: int
    missed: int

    @property
    def ended(self) -> int:
        return self.succeeded + self.warning + self.failed


@dataclass(frozen=True)
class NextRun:
    job: Job
    at: datetime


@dataclass(frozen=True)
class Protected:
    jobs: int
    plain: int

    @property
    def encrypted(self) -> int:
        return self.jobs - self.plain


@dataclass(frozen=True)
class Step:
    """One of the three steps of an empty installation."""

    title: str
    text: str
    url_name: str
    action: str
    right: str
    done: bool

    @property
    def url(self) -> str:
        return address(self.url_name)


def last_day(user: User, now: datetime) -> Day:
    states = dict(
        Session.objects.visible_to(user)
        .filter(kind=SessionKind.BACKUP, created_at__gte=now - LAST)
        .order_by()
        .values_list("state")
        .annotate(Count("pk"))
    )
    return Day(
        succeeded=states.get(State.SUCCEEDED, 0),
        warning=states.get(State.WARNING, 0),
        failed=states.get(State.FAILED, 0) + states.get(State.INTERRUPTED, 0),
        missed=missed(user).filter(due_at__gte=now - LAST).count(),
    )


def missed(user: User) -> QuerySet[DueTime]:
    return DueTime.objects.filter(job__in=Job.objects.visible_to(user), state__in=(DueState.MISSED, DueState.SKIPPED))


def running(user: User) -> QuerySet[Session]:
    return Session.objects.visible_to(user).active().select_related("progress", "job", "proxy").order_by("created_at")


def attention(user: User, now: datetime) -> list[Session]:
    """Return the newest backup sessions of the last day that did not simply succeed."""
    rows = Session.objects.visible_to(user).filter(
        kind=SessionKind.BACKUP, state__in=SAYS_SO, created_at__gte=now - LAST
    )
    return list(rows.select_related("job")[:MOST_ATTENTION])


def next_runs(user: User, now: datetime) -> list[NextRun]:
    jobs = Job.objects.visible_to(user).filter(paused=False).exclude(schedule_kind="manual")
    runs = [NextRun(job, at) for job in jobs if (at := next_run(job, now))]
    return sorted(runs, key=lambda run: run.at)[:MOST_NEXT]


def protected(user: User) -> Protected:
    counts = Job.objects.visible_to(user).aggregate(
        jobs=Count("pk"), plain=Count("pk", filter=Q(encryption=Encryption.OFF))
    )
    return Protected(**counts)


def repositories(user: User) -> list[Repository]:
    """Return each repository with `stored` bytes and the number of its `points`, as the catalogue knows them."""
    sealed = Q(chains__points__state=PointState.SEALED)
    rows = Repository.objects.visible_to(user).annotate(
        stored=Sum("chains__points__size_bytes", filter=sealed, default=0),
        points=Count("chains__points", filter=sealed),
    )
    return list(rows)


def first_steps() -> list[Step]:
    """Return the way to the first backup; what is done already is marked."""
    return [
        Step(
            "Add a repository",
            "A directory where backup files are kept: best on another disk than the data.",
            "repository_new",
            "Add a repository",
            "administer",
            Repository.objects.exists(),
        ),
        Step(
            "Choose a password",
            "What opens your backups, also without this console. You can also make it with the job.",
            "password_new",
            "Make a password",
            "keys",
            PasswordRecord.objects.exists(),
        ),
        Step(
            "Create a job",
            "Which directories, how often, and how many restore points to keep. Then run it.",
            "job_new",
            "Create a job",
            "edit",
            Job.objects.exists(),
        ),
    ]
