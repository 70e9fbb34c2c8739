"""When a schedule is due: pure, over a frozen dataclass; every instant comes in and goes out in UTC.

Daylight saving by rule: a time of a day (daily, weekly) that does not exist is due at the next instant that does; one
that exists twice is due once, the first time. An hourly schedule follows elapsed time: it is due at each instant at
which the zone's clock shows its minute, so an hour that exists twice is due twice, and one that does not is not due.
(Only where clocks move by half an hour, on Lord Howe Island, two of them are half an hour or an hour and a half apart.)
Every N minutes follows elapsed time too, counted from 1970. A month that does not have a wanted day has it on its last.
A cron expression is cronsim's to read: fixed hours as a daily time, wildcards as elapsed time.

What happens at a due time, and to those that nobody was there for, is decided in `jobs.due`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from itertools import takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
LONGEST_SHIFT = (
    2 * DAY
)  # more than any zone is off UTC, and more than any ever moved (a whole day, across the date line)
FURTHEST = datetime(9990, 1, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Kind(StrEnum):
    MANUAL = "manual"
    HOURLY = "hourly"
    MINUTES = "minutes"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    CRON = "cron"


@dataclass(frozen=True)
class Schedule:
    """`time` is of the zone's clock (of an hourly schedule only its minute counts); weekday 0 is Monday; day 0 is the
    last of the month.
    """

    kind: Kind
    time: time = time(0, 0)
    weekdays: tuple[int, ...] = ()
    time_zone: str = "UTC"
    minutes: int = 0
    days: tuple[int, ...] = ()
    cron: str = ""

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)


def next_after(schedule: Schedule, after: datetime) -> datetime | None:
    """Return the first due instant later than `after`; None if there is none (manual, or on no day)."""
    return next(_due_after(schedule, after.astimezone(UTC)), None)


def due_between(schedule: Schedule, after: datetime, until: datetime) -> list[datetime]:
    """Return the due instants later than `after`, up to and with `until`, in order, each once."""
    last = until.astimezone(UTC)
    return list(takewhile(lambda due: due <= last, _due_after(schedule, after.astimezone(UTC))))


def _due_after(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    return _RULES[schedule.kind](schedule, after)


def _never(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    return iter(())


def _hourly(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    zone, minute = schedule.zone, schedule.time.minute
    due = after
    while due < FURTHEST:
        due = _next_at_minute(zone, minute, due)
        yield due


def _next_at_minute(zone: ZoneInfo, minute: int, after: datetime) -> datetime:
    """Return the first full minute later than `after` at which the zone's clock shows `minute`."""
    local = after.astimezone(zone)
    ahead = timedelta(minutes=(minute - local.minute) % 60, seconds=-local.second, microseconds=-local.microsecond)
    found = after + (ahead if ahead > timedelta(0) else ahead + HOUR)
    if found.astimezone(zone).minute == minute:
        return found
    # The clock moved in between, by less than an hour: look at each minute.
    found = after - timedelta(seconds=local.second, microseconds=local.microsecond) + MINUTE
    while found.astimezone(zone).minute != minute:
        found += MINUTE
    return found


def _minutes(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    if schedule.minutes < 1:
        return
    step = schedule.minutes * MINUTE
    due = EPOCH + (after - EPOCH) // step * step + step
    while due < FURTHEST:
        yield due
        due += step


def _daily(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    return _on_days(schedule, after, lambda day: True)


def _weekly(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    wanted = frozenset(schedule.weekdays)
    return _on_days(schedule, after, lambda day: day.weekday() in wanted) if wanted else iter(())


def _monthly(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    wanted = frozenset(schedule.days)

    def is_wanted(day: date) -> bool:
        is_last = (day + DAY).day == 1
        return day.day in wanted or (is_last and any(other == 0 or other > day.day for other in wanted))

    return _on_days(schedule, after, is_wanted) if wanted else iter(())


def _cron(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    """Raises ValueError for an expression that cannot be read."""
    last = after
    for local in _times_of(schedule.cron, after.astimezone(schedule.zone)):
        due = local.astimezone(UTC)
        if due > last:
            yield due
            last = due


def _times_of(expression: str, after: datetime) -> Iterator[datetime]:
    try:
        return iter(CronSim(expression, after))
    except CronSimError as error:
        raise ValueError(f"The cron expression {expression!r} cannot be read: {error}.") from None


def check_cron(expression: str) -> None:
    """Raises ValueError for an expression that cannot be read, or that is never due."""
    if len(expression.split()) != 5:
        raise ValueError("A cron expression has five parts: minute, hour, day of the month, month, day of the week.")
    if next(_cron(Schedule(Kind.CRON, cron=expression), datetime(2026, 1, 1, tzinfo=UTC)), None) is None:
        raise ValueError(f"The cron expression {expression!r} is never due.")


def _on_days(schedule: Schedule, after: datetime, is_wanted: Callable[[date], bool]) -> Iterator[datetime]:
    zone = schedule.zone
    day, last = (after - LONGEST_SHIFT).date(), after
    while day < FURTHEST.date():
        due = _instant(zone, datetime.combine(day, schedule.time)) if is_wanted(day) else last
        if due > last:  # where a zone left out a whole day, two days are due at the same instant: once
            yield due
            last = due
        day += DAY


def _instant(zone: ZoneInfo, wall: datetime) -> datetime:
    """Return when the zone's clock shows `wall` the first time; if it never does, when it jumps over it."""
    early = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if early.astimezone(zone).replace(tzinfo=None) == wall:
        return early
    return _jump(zone, wall.replace(tzinfo=zone, fold=1).astimezone(UTC), early)


def _jump(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """Return the instant of the one change of the zone's clock in (before, after], to the second."""
    old = before.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + timedelta(seconds=(after - before) // timedelta(seconds=2))
        if middle.astimezone(zone).utcoffset() == old:
            before = middle
        else:
            after = middle
    return after


_RULES: dict[Kind, Callable[[Schedule, datetime], Iterator[datetime]]] = {
    Kind.MANUAL: _never,
    Kind.HOURLY: _hourly,
    Kind.DAILY: _daily,
    Kind.WEEKLY: _weekly,
    Kind.MINUTES: _minutes,
    Kind.MONTHLY: _monthly,
    Kind.CRON: _cron,
}
