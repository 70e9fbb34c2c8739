"""What happened to a job's chains, in order of time: its points, the sessions that left none, the due times that passed
by, the next run.

The same rows make the picture (`chain_picture`) and its twin, the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.urls import reverse
from django.utils import timezone

from backupsite.templatetags.show import short_words, size_words
from jobs.chain_picture import KeyName, Mark, Picture, draw, name_keys
from jobs.consequences import ExistingChain
from jobs.models import ACTIVE, DueState, DueTime, Job, Session, SessionKind
from jobs.pruning import Waiting, old_chains_waiting
from jobs.secret_names import RECORDS, RECOVERY, name_of
from jobs.situation import existing_chains
from repositories.models import RestorePoint

MOST_POINTS = 400
MOST_GAPS = 60
LEFT_NO_POINT = ("failed", "cancelled", "interrupted")
ONLY_SHEETS = "recovery keys alone"


@dataclass(frozen=True)
class ChainRow:
    """One line of the table: a point, or a gap (a session without a point, or a due time without a session)."""

    kind: str
    at: datetime
    point: RestorePoint | None = None
    session: Session | None = None
    due: DueTime | None = None
    keys: tuple[KeyName, ...] = ()
    recovery: int = 0
    chain_number: int = 0


@dataclass(frozen=True)
class NumberedChain:
    """One chain of the job, numbered from the oldest."""

    number: int
    chain: ExistingChain
    waiting: Waiting | None = None  # for this, where it is to be deleted


@dataclass(frozen=True)
class Story:
    picture: Picture
    rows: list[ChainRow]  # newest first
    chains: list[NumberedChain]  # oldest first
    points: int
    stored_bytes: int
    newest: RestorePoint | None


def story_of(job: Job, next_at: datetime | None, now: datetime) -> Story:
    points = _points(job)
    gaps = [*_failed(job, points), *_passed_by(job, points)]
    chains = _numbered(job)
    numbers = {numbered.chain.id: numbered.number for numbered in chains}
    marks = sorted([*(_mark(point, now) for point in points), *(mark for mark, _ in gaps)], key=lambda mark: mark.at)
    keys = name_keys(marks)
    rows = [
        ChainRow(
            point.kind,
            point.started_at,
            point=point,
            keys=tuple(keys[name] for name in keys_of(point) or ("",)),
            recovery=recovery_keys_of(point),
            chain_number=numbers.get(str(point.chain.uuid), 0),
        )
        for point in points
    ]
    rows += [row for _, row in gaps]
    if next_at is not None:
        marks.append(Mark("next", next_at, title=f"Next session: {short_words(next_at, now)}"))
    return Story(
        picture=draw(marks),
        rows=sorted(rows, key=lambda row: row.at, reverse=True),
        chains=chains,
        points=sum(numbered.chain.points for numbered in chains),
        stored_bytes=sum(numbered.chain.size_bytes for numbered in chains),
        newest=points[-1] if points else None,
    )


def _numbered(job: Job) -> list[NumberedChain]:
    existing = existing_chains(job)
    doomed = any(chain.delete_after_full for chain in existing)
    waiting = {str(wait.chain.uuid): wait for wait in old_chains_waiting(job)} if doomed else {}
    numbered = enumerate(existing, start=1)
    return [NumberedChain(number, chain, waiting.get(chain.id)) for number, chain in numbered if chain.points]


def key_of(point: RestorePoint) -> str:
    """Return the names of what opens the point, in one line; empty for a plain one."""
    names = " + ".join(keys_of(point))
    sheets = recovery_keys_of(point)
    return (
        f"{names} and {sheets} recovery key{'' if sheets == 1 else 's'}" if sheets and names != ONLY_SHEETS else names
    )


def keys_of(point: RestorePoint) -> tuple[str, ...]:
    """Return the names of the passwords and KMS keys that open the point; none for a plain one."""
    slots = list(point.slots.all())
    names = tuple(name_of(slot) for slot in slots if slot.kind != RECOVERY)
    return names or ((ONLY_SHEETS,) if slots else ())


def recovery_keys_of(point: RestorePoint) -> int:
    return sum(slot.kind == RECOVERY for slot in point.slots.all())


def _points(job: Job) -> list[RestorePoint]:
    """Return the newest points of all chains of the job, oldest first."""
    newest = (
        RestorePoint.objects.sealed()
        .filter(chain__job_chain__job=job)
        .select_related("chain__repository")
        .prefetch_related(*(f"slots__{record}" for record in RECORDS))
        .order_by("-started_at", "-pk")[:MOST_POINTS]
    )
    return list(reversed(newest))


def _failed(job: Job, points: list[RestorePoint]) -> list[tuple[Mark, ChainRow]]:
    sessions = job.sessions.filter(kind=SessionKind.BACKUP, state__in=LEFT_NO_POINT)
    if points:
        sessions = sessions.filter(created_at__gte=points[0].started_at)
    found = []
    for session in sessions.order_by("-created_at")[:MOST_GAPS]:
        at = session.started_at or session.created_at
        title = f"{session.get_state_display().capitalize()} {short_words(at, timezone.now())}"
        link = reverse("session_detail", args=[session.uuid])
        found.append((Mark("failed", at, title=title, link=link), ChainRow(session.state, at, session=session)))
    return found


def _passed_by(job: Job, points: list[RestorePoint]) -> list[tuple[Mark, ChainRow]]:
    due_times = job.due_times.filter(state__in=(DueState.MISSED, DueState.SKIPPED))
    if points:
        due_times = due_times.filter(due_at__gte=points[0].started_at)
    return [
        (
            Mark(
                due.state,
                due.due_at,
                title=f"{due.get_state_display().capitalize()} {short_words(due.due_at, timezone.now())}",
            ),
            ChainRow(due.state, due.due_at, due=due),
        )
        for due in due_times.order_by("-due_at")[:MOST_GAPS]
    ]


def _mark(point: RestorePoint, now: datetime) -> Mark:
    key = key_of(point)
    when, stored = short_words(point.started_at, now), size_words(point.size_bytes)
    title = f"{point.get_kind_display().capitalize()}, {when}, {stored}, "
    return Mark(
        kind=point.kind,
        at=point.started_at,
        size_bytes=point.size_bytes,
        keys=keys_of(point),
        recovery=recovery_keys_of(point),
        chain=str(point.chain_id),
        title=title + (f"opens with {key}" if key else "not encrypted"),
        link=reverse("point_detail", args=[point.uuid]),
    )


def has_active_backup(job: Job) -> bool:
    return job.sessions.filter(kind=SessionKind.BACKUP, state__in=ACTIVE).exists()
