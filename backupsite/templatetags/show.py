"""How numbers and times look on every page: binary sizes, relative times with the exact one on hover, and so on.

The words are made by plain functions of their arguments; the filters below them add the current time and the markup.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta

from django import template
from django.apps import apps
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
MINUTE, HOUR, DAY = 60, 3600, 86400

AGES = (
    (90 * MINUTE, MINUTE, "minute"),
    (36 * HOUR, HOUR, "hour"),
    (60 * DAY, DAY, "day"),
    (730 * DAY, 30.44 * DAY, "month"),
    (float("inf"), 365.25 * DAY, "year"),
)
SPANS = ((90, 1, "second"), *AGES[:2], (float("inf"), DAY, "day"))

# What a state looks like: the classes of pills. States that are not here are quiet.
TONES = {
    "succeeded": "good",
    "proven": "good",
    "encrypted": "good",
    "active": "good",
    "warning": "warn",
    "interrupted": "warn",
    "skipped": "warn",
    "notice": "warn",
    "not encrypted": "warn",
    "failed": "bad",
    "missed": "bad",
    "damaged": "bad",
    "high": "bad",
    "running": "live",
    "queued": "live",
}


def size_words(size_bytes: float) -> str:
    """Return three significant digits and a binary unit: 890 MiB, 1.1 GiB, 0 B."""
    value, unit = float(size_bytes), 0
    while abs(value) >= 1023.5 and unit < len(UNITS) - 1:
        value /= 1024
        unit += 1
    number = f"{value:.1f}" if unit and abs(value) < 99.95 else f"{value:.0f}"
    return f"{number.removesuffix('.0')} {UNITS[unit]}"


def relative_words(delta_seconds: float) -> str:
    """Return how long ago (negative) or how far ahead (positive) something is, in the largest unit that says enough."""
    span = abs(delta_seconds)
    if span < 45:
        return "just now" if delta_seconds <= 0 else "in a moment"
    words = _in_units(span, AGES)
    return f"{words} ago" if delta_seconds < 0 else f"in {words}"


def clock_words(seconds: float) -> str:
    """Return a duration as a clock shows it: 0:07, 1:42, 2:11:08."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // HOUR, whole % HOUR // MINUTE, whole % MINUTE
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def about_words(seconds: float) -> str:
    """Return a duration in words, roughly: 40 seconds, 11 minutes, 2 hours, 3 days."""
    return _in_units(seconds, SPANS)


def _in_units(seconds: float, units: tuple[tuple[float, float, str], ...]) -> str:
    """Return a number and the first unit of the table (below which limit, seconds of the unit, name) that fits."""
    unit_seconds, name = next((unit, name) for limit, unit, name in units if seconds < limit)
    amount = max(0 if unit_seconds == 1 else 1, round(seconds / unit_seconds))
    return f"{amount} {name}{'' if amount == 1 else 's'}"


def exact_words(at: datetime) -> str:
    """Return the full local time with its zone, for the person who is signed in."""
    local = timezone.localtime(at)
    return f"{local:%A} {local.day} {local:%B %Y, %H:%M:%S} {local.tzname()}"


def short_words(at: datetime, now: datetime) -> str:
    """Return a point in time for lists: today 02:00, yesterday 02:00, 14 Nov 02:00, 14 Nov 2025 02:00."""
    local, today = timezone.localtime(at), timezone.localtime(now).date()
    day: date = local.date()
    if day == today:
        return f"today {local:%H:%M}"
    if day == today - timedelta(days=1):
        return f"yesterday {local:%H:%M}"
    if day == today + timedelta(days=1):
        return f"tomorrow {local:%H:%M}"
    year = "" if day.year == today.year else f" {day.year}"
    return f"{local.day} {local:%b}{year} {local:%H:%M}"


@register.filter
def size(size_bytes: float | None) -> str:
    """{{ point.size_bytes|size }}"""
    return "" if size_bytes is None else size_words(size_bytes)


@register.filter
def kib(size_kib: float) -> str:
    """{{ version.memory_kib|kib }}: 64 MiB"""
    return size_words(size_kib * 1024)


@register.filter
def rate(bytes_a_second: float | None) -> str:
    """{{ speed|rate }}"""
    return "" if bytes_a_second is None else f"{size_words(bytes_a_second)}/s"


@register.filter
def count(number: int | None) -> str:
    """{{ files|count }}: 62,000"""
    return "" if number is None else f"{number:,}"


@register.filter
def counted(number: int, words: str) -> str:
    """{{ points|counted:"restore point,restore points" }}: 7 restore points"""
    one, _, many = words.partition(",")
    return f"{number:,} {one if number == 1 else many or one + 's'}"


@register.filter
def ago(at: datetime | None) -> SafeString | str:
    """{{ session.ended_at|ago }}: a relative time, past or future, with the exact one on hover"""
    if at is None:
        return "never"
    return _time(at, relative_words((at - timezone.now()).total_seconds()))


@register.filter
def moment(at: datetime | None) -> SafeString | str:
    """{{ session.started_at|moment }}: today 02:00, with the exact time on hover"""
    return "" if at is None else _time(at, short_words(at, timezone.now()))


@register.filter
def exact(at: datetime | None) -> SafeString | str:
    """{{ event.at|exact }}: the full local time"""
    return "" if at is None else _time(at, exact_words(at))


@register.filter
def duration(span: timedelta | float | None) -> str:
    """{{ seconds_or_timedelta|duration }}: 1:42"""
    return "" if span is None else clock_words(_seconds(span))


@register.filter
def about(span: timedelta | float | None) -> str:
    """{{ seconds_or_timedelta|about }}: 11 minutes"""
    return "" if span is None else about_words(_seconds(span))


@register.filter
def percent(part: float | None, whole: float | None) -> str:
    """{{ done|percent:total }}: 34 %"""
    return "" if part is None or not whole else f"{min(100, int(100 * part / whole))} %"


@register.filter
def tone(state: str) -> str:
    """{{ session.state|tone }}: the pill's class"""
    return TONES.get(str(state), "quietly")


@register.filter
def plain(value: object) -> str:
    """{{ value_of_an_audit_event|plain }}: lists and yes or no as words"""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(plain(part) for part in value) or "none"
    return "none" if value is None else str(value) or "empty"


@register.filter
def kind(model_name: str) -> str:
    """{{ event.object_type|kind }}: password record, for passwordrecord; the name itself for a model that is gone"""
    names = (str(model._meta.verbose_name) for model in apps.get_models() if model._meta.model_name == model_name)
    return next(names, model_name)


@register.filter
def widget_type(field: object) -> str:
    """{{ field|widget_type }}: text, password, checkbox, radio, select ..., as components/_field.html needs it"""
    widget = field.field.widget  # type: ignore[attr-defined]  # a BoundField
    return getattr(widget, "input_type", "") or type(widget).__name__.lower()


def _seconds(span: timedelta | float) -> float:
    return span.total_seconds() if isinstance(span, timedelta) else float(span)


def _time(at: datetime, words: str) -> SafeString:
    return format_html('<time datetime="{}" title="{}">{}</time>', at.isoformat(), exact_words(at), words)
