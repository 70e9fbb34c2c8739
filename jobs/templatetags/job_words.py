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
    at = job.schedule_time
    if job.schedule_kind == ScheduleKind.MANUAL or at is None:
        return "only when somebody starts it"
    if job.schedule_kind == ScheduleKind.HOURLY:
        return f"every hour at minute {at.minute:02}"
    if job.schedule_kind == ScheduleKind.DAILY:
        return f"daily at {at:%H:%M} {job.time_zone}"
    days = [DAYS[day] for day in job.schedule_weekdays]
    return f"every {listed(days)} at {at:%H:%M} {job.time_zone}"


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
