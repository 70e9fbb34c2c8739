"""The due times of schedules, as rows: made when due, each settled once.

Rows are made under an advisory lock and are unique per job and instant, so that a slot starts one session however many
schedulers run. After a gap with nobody there, one *missed* row stands for all due times of the gap but the last, and
that one starts a session, unless the job's misfire policy says that it is too late for it. While a job is paused, one
*skipped* row grows. When an instant is due is decided in `jobs.schedule`; who calls this, and how often, in
`jobs.ticking`.

Reasons (`DueTime.reason`, `DueTime.params`) of missed and skipped rows; each row stands for `count` due times, from
`due_at` up to `last_due_at`:

    missed    nobody-there      (none)            no scheduler ran; a later due time started a session
    missed    too-late          policy, hours     no scheduler ran, and the job's policy starts none that late
    skipped   previous-active   session, state    the previous session of the job still waits or runs
    skipped   paused            (none)            the job was paused
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfoNotFoundError

from django.db import connection, transaction

from jobs.models import DueState, DueTime, Job, Misfire, ScheduleKind
from jobs.schedule import Kind, Schedule, due_between, next_after
from jobs.sessions import AlreadyActive, start_backup

DUE_LOCK = 0x6261_636B_0002
IN_TIME = timedelta(minutes=5)
SCHEDULE_FIELDS = (
    "schedule_kind",
    "schedule_time",
    "schedule_weekdays",
    "schedule_minutes",
    "schedule_days",
    "schedule_cron",
    "time_zone",
    "schedule_since",
)


class Reason(StrEnum):
    NOBODY_THERE = "nobody-there"
    TOO_LATE = "too-late"
    PREVIOUS_ACTIVE = "previous-active"
    PAUSED = "paused"


def schedule_of(job: Job) -> Schedule:
    at = job.schedule_time or time(0, 0)
    return Schedule(
        Kind(job.schedule_kind),
        at,
        tuple(job.schedule_weekdays),
        job.time_zone,
        job.schedule_minutes or 0,
        tuple(job.schedule_days or ()),
        job.schedule_cron,
    )


def is_too_late(job: Job, due_at: datetime, now: datetime) -> bool:
    """Tell whether the job's misfire policy leaves this due time alone. A scheduler may be a little late."""
    late = now - due_at
    match job.misfire:
        case Misfire.SKIP:
            return late > IN_TIME
        case Misfire.WITHIN:
            return late > timedelta(hours=job.misfire_hours or 0)
    return False


def start_due_sessions(now: datetime) -> list[Exception]:
    """Make the rows of all due times up to `now`, and start the sessions of those that are open.

    One job's fault must not stop the others' schedules: what went wrong is returned, and its slots stay open.
    """
    errors = _for_each(_jobs_with_due_times(now), _record, now)
    return errors + _for_each(_open_due_times(), _start, now)


def _for_each(ids: list[int], action: Callable[[int, datetime], None], now: datetime) -> list[Exception]:
    errors: list[Exception] = []
    for row_id in ids:
        try:
            action(row_id, now)
        except Exception as error:  # noqa: BLE001 - handed back to the caller, who raises it
            errors.append(error)
    return errors


def record_due_times(job: Job, now: datetime) -> None:
    """Make the rows of one job's due times up to `now`; its row must be locked, and is settled up to the last of them.

    A job that was never settled begins now.
    """
    times = due_between(schedule_of(job), job.schedule_since, now) if job.schedule_since else []
    if times and job.paused:
        _add_paused(job, times)
    elif times and is_too_late(job, times[-1], now):
        params = {"policy": job.misfire, "hours": job.misfire_hours}
        _add(job, times, DueState.MISSED, Reason.TOO_LATE, params)
    elif times:
        *missed, last = times
        if missed:
            _add(job, missed, DueState.MISSED, Reason.NOBODY_THERE)
        _add(job, [last], DueState.DUE)
    job.schedule_since = times[-1] if times else job.schedule_since or now
    Job.objects.filter(pk=job.pk).update(schedule_since=job.schedule_since)


@lru_cache(maxsize=10_000)
def _first_due(schedule: Schedule, since: datetime) -> datetime | None:
    """The tick asks the same of every job each second: the answer changes once a due time is settled."""
    return next_after(schedule, since)


def _jobs_with_due_times(now: datetime) -> list[int]:
    jobs = Job.objects.exclude(schedule_kind=ScheduleKind.MANUAL).only(*SCHEDULE_FIELDS).order_by("pk")
    return [job.pk for job in jobs if _has_due_times(job, now)]


def _has_due_times(job: Job, now: datetime) -> bool:
    """Tell it cheaply; yes for a schedule that cannot be computed (its zone is gone): `_record` names the fault."""
    if job.schedule_since is None:
        return True
    try:
        first = _first_due(schedule_of(job), job.schedule_since)
    except (ZoneInfoNotFoundError, ValueError):
        return True
    return first is not None and first <= now


@transaction.atomic
def _record(job_id: int, now: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [DUE_LOCK])
    job = Job.objects.select_for_update().filter(pk=job_id).first()
    if job is not None:
        record_due_times(job, now)


def _open_due_times() -> list[int]:
    return list(DueTime.objects.filter(state=DueState.DUE).order_by("job", "due_at").values_list("pk", flat=True))


@transaction.atomic
def _start(due_time_id: int, now: datetime) -> None:
    """Settle one open row: a session, unless the job is paused, busy, or has a later row open."""
    job = Job.objects.select_for_update().filter(due_times=due_time_id).first()
    row = DueTime.objects.filter(pk=due_time_id, state=DueState.DUE).first()
    if job is None or row is None:
        return
    if job.due_times.filter(state=DueState.DUE, due_at__gt=row.due_at).exists():
        _settle(row, DueState.MISSED, Reason.NOBODY_THERE)
    elif job.paused:
        _settle(row, DueState.SKIPPED, Reason.PAUSED)
    else:
        _start_session(job, row)


def _start_session(job: Job, row: DueTime) -> None:
    try:
        start_backup(job, by=None, due_time=row)
    except AlreadyActive as error:
        params = {"session": str(error.session.uuid), "state": str(error.session.state)}
        _settle(row, DueState.SKIPPED, Reason.PREVIOUS_ACTIVE, params)


def _settle(row: DueTime, state: DueState, reason: Reason, params: dict[str, str] | None = None) -> None:
    DueTime.objects.filter(pk=row.pk, state=DueState.DUE).update(state=state, reason=reason, params=params or {})


def _add(
    job: Job,
    times: list[datetime],
    state: DueState,
    reason: Reason | None = None,
    params: Mapping[str, object] | None = None,
) -> None:
    """Add one row for these due times; one that has a row already is settled."""
    row = {
        "state": state,
        "reason": reason or "",
        "params": dict(params or {}),
        "count": len(times),
        "last_due_at": times[-1],
    }
    DueTime.objects.get_or_create(job=job, due_at=times[0], defaults=row)


def _add_paused(job: Job, times: list[datetime]) -> None:
    newest = job.due_times.order_by("-due_at").first()
    if newest is None or newest.reason != Reason.PAUSED:
        _add(job, times, DueState.SKIPPED, Reason.PAUSED)
        return
    newest.count += len(times)
    newest.last_due_at = times[-1]
    newest.save(update_fields=["count", "last_due_at"])
