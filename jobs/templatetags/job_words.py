"""Words that only the pages of jobs need: instants out of stored parameters, schedules, and what a filter keeps of the
URL.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from django import template
from django.utils import dateparse

from jobs.models import Job, ScheduleKind, Session
from jobs.secret_names import KINDS

register = template.Library()

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@register.filter
def instant(text: object) -> datetime | None:
    """{{ params.started_at|instant|moment }}: stored parameters hold ISO 8601."""
    if isinstance(text, datetime):
        return text
    try:
        return dateparse.parse_datetime(str(text))
    except ValueError:
        return None


@register.filter
def schedule_words(job: Job) -> str:
    """{{ job|schedule_words }}: daily at 02:00 Europe/Berlin"""
    at = f"at {job.schedule_time:%H:%M} {job.time_zone}" if job.schedule_time else ""
    match job.schedule_kind:
        case ScheduleKind.MINUTES:
            return f"every {job.schedule_minutes} minutes"
        case ScheduleKind.CRON:
            return f"by cron, {job.schedule_cron}, {job.time_zone}"
        case ScheduleKind.HOURLY if job.schedule_time:
            return f"every hour at minute {job.schedule_time.minute:02}"
        case ScheduleKind.DAILY:
            return f"daily {at}"
        case ScheduleKind.WEEKLY:
            return f"every {listed([DAYS[day] for day in job.schedule_weekdays])} {at}"
        case ScheduleKind.MONTHLY:
            return f"each month on {listed([day_words(day) for day in job.schedule_days or ()])} {at}"
    return "only when somebody starts it"


def day_words(day: int) -> str:
    """The day of a month; 0 is the last."""
    ending = "th" if day in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"the {day}{ending}" if day else "its last day"


STAGES = {
    "walk+write": "reading and writing",
    "seal": "sealing the file",
    "restore": "restoring",
    "verify": "verifying",
    "rewrap": "exchanging key slots",
}


@register.filter
def stage_words(stage: str) -> str:
    """{{ progress.stage|stage_words }}: what the engine is about"""
    return STAGES.get(stage, stage or "starting")


@register.filter
def key_kind(kind: str) -> str:
    """{{ secret.kind|key_kind }}: password, KMS key, recovery key"""
    return KINDS.get(kind, kind)


@register.filter
def listed(words: Sequence[object]) -> str:
    """{{ names|listed }}: one, two and three"""
    texts = [str(word) for word in words]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}" if texts else ""


@register.filter
def names_of(keys: list[dict[str, object]]) -> list[str]:
    """{{ params.keys|names_of|listed }}: the names of keys, with their version from the second on"""
    return [
        f"{key['name']}, version {key['version']}" if key.get("version", 1) != 1 else str(key["name"]) for key in keys
    ]


@register.filter
def closed(sentence: str) -> str:
    """{{ params.damage|closed }}: with one full stop at its end, whether it was stored with one or without"""
    return f"{sentence.rstrip('. ')}."


@register.filter
def took(session: Session) -> timedelta | None:
    """{{ session|took|duration }}: how long it ran"""
    return session.ended_at - session.started_at if session.started_at and session.ended_at else None
