"""Years of many schedules in many zones, settled by schedulers that restart, run twice and have clocks that jump.

The schedulers keep what `jobs.due` keeps: the instant up to which a job is settled, and one row a slot. Whatever they
do, no slot may be lost and none made twice; and the slots are those that a calendar of the zone says, computed here
from the other end: day by day, from what the clock of the zone shows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest

from jobs.schedule import Kind, Schedule, due_between
from tests import soak

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
START = datetime(2006, 1, 1, tzinfo=UTC)
ODD = ("Australia/Lord_Howe", "Pacific/Apia", "Antarctica/Troll", "America/Sao_Paulo", "Africa/Casablanca")
CRON = ("30 2 * * *", "*/45 * * * *", "0 4 * * MON-FRI", "15 1 1,15 * *", "5 * * * *")


def schedules(chance: random.Random, zone: str) -> Iterator[Schedule]:
    at = time(chance.randrange(24), chance.randrange(60))
    yield Schedule(Kind.DAILY, at, time_zone=zone)
    yield Schedule(Kind.WEEKLY, at, tuple(sorted(chance.sample(range(7), chance.randint(1, 7)))), zone)
    days = chance.choice(((0,), (31,), (1, 15), (29, 30), tuple(chance.sample(range(32), 4))))
    yield Schedule(Kind.MONTHLY, at, days=days, time_zone=zone)
    yield Schedule(Kind.CRON, cron=chance.choice(CRON), time_zone=zone)
    yield Schedule(Kind.HOURLY, at, time_zone=zone)
    yield Schedule(Kind.MINUTES, minutes=chance.choice((7, 45, 90, 1440, 10_080)), time_zone=zone)


class Console:
    """What Postgres keeps of one job: up to when it is settled, and its rows; a second row for a slot is refused."""

    def __init__(self, schedule: Schedule, since: datetime) -> None:
        self.schedule, self.since, self.rows = schedule, since, list[datetime]()

    def tick(self, now: datetime) -> None:
        times = due_between(self.schedule, self.since, now)
        assert not set(times) & set(self.rows[-len(times) :] if times else ()), "a slot was made twice"
        self.rows += times
        self.since = times[-1] if times else self.since


def clocks(chance: random.Random, end: datetime, around: timedelta) -> Iterator[datetime]:
    """What the schedulers' clocks show, one reading after the other: sometimes the same twice, or long before."""
    now = START
    while now < end:
        yield now
        match chance.randrange(10):
            case 0:
                yield now  # another scheduler, at the same moment
            case 1:
                yield now - chance.random() * 3 * DAY  # a clock that was set back, for a while
            case 2:
                now += chance.random() * 20 * around  # nobody was there
        now += chance.random() * around
    yield end


def wanted_days(schedule: Schedule, end: datetime) -> int:
    """How many days of the zone's calendar the schedule names, from the start to the end."""
    zone = schedule.zone
    first, last = START.astimezone(zone).date(), end.astimezone(zone).date()
    days = (first + number * DAY for number in range((last - first).days + 1))
    return sum(_is_wanted(schedule, day) for day in days)


def _is_wanted(schedule: Schedule, day: date) -> bool:
    if schedule.kind is Kind.WEEKLY:
        return day.weekday() in schedule.weekdays
    if schedule.kind is Kind.MONTHLY:
        is_last = (day + DAY).month != day.month
        return day.day in schedule.days or (is_last and any(d == 0 or d > day.day for d in schedule.days))
    return True


def check_against_the_calendar(schedule: Schedule, rows: list[datetime], end: datetime) -> None:
    """Each slot of a day-wise schedule is on a day that it names, at its time or when the clock jumped over it."""
    local = [due.astimezone(schedule.zone) for due in rows]
    left_out = 1 if schedule.time_zone == "Pacific/Apia" else 0  # the 30th of December 2011 did not exist
    assert abs(len(rows) - wanted_days(schedule, end)) <= 1 + left_out  # the ends may cut a day off
    days = [moment.date() for moment in local]
    assert len(set(days)) >= len(days) - left_out
    for moment in local:
        shown = moment.replace(tzinfo=None)
        if (shown.hour, shown.minute) != (schedule.time.hour, schedule.time.minute):
            before = (moment.astimezone(UTC) - timedelta(seconds=1)).astimezone(schedule.zone)
            assert before.utcoffset() != moment.utcoffset(), f"{moment} is not its time, and no clock moved"


def check_steps(schedule: Schedule, rows: list[datetime]) -> None:
    """Elapsed time: N minutes between two slots; of an hourly one an hour, but for zones that move by less."""
    if schedule.kind is Kind.MINUTES:
        assert {b - a for a, b in pairwise(rows)} <= {schedule.minutes * MINUTE}
    if schedule.kind is Kind.HOURLY:
        assert all(due.astimezone(schedule.zone).minute == schedule.time.minute for due in rows)
        assert {b - a for a, b in pairwise(rows)} <= {HOUR, HOUR // 2, HOUR + HOUR // 2}


def simulate(seed: int, zones: list[str], years: float) -> int:
    """Return how many slots were made."""
    made = 0
    for zone in zones:
        chance = random.Random(f"{seed} {zone}")
        for schedule in schedules(chance, zone):
            often = schedule.kind in (Kind.HOURLY, Kind.MINUTES) or schedule.cron.startswith(("*", "5 *"))
            end = START + (years / 12 if often else years) * 365 * DAY
            console = Console(schedule, START)
            for now in clocks(chance, end, 6 * HOUR if often else 3 * DAY):
                console.tick(now)
            assert console.rows == due_between(schedule, START, end), "a slot was lost"
            assert console.rows == sorted(set(console.rows))
            if schedule.kind in (Kind.DAILY, Kind.WEEKLY, Kind.MONTHLY):
                check_against_the_calendar(schedule, console.rows, end)
            check_steps(schedule, console.rows)
            made += len(console.rows)
    return made


def chosen_zones(seed: int, number: int) -> list[str]:
    others = sorted(zone for zone in available_timezones() if zone not in ODD and _moves(zone))
    return [*ODD, *random.Random(seed).sample(others, number - len(ODD))]


def _moves(zone: str) -> bool:
    """Where clocks never move there is little to find."""
    tz = ZoneInfo(zone)
    return len({datetime(2007, month, 1, tzinfo=tz).utcoffset() for month in range(1, 13)}) > 1


def test_some_years_in_some_zones() -> None:
    assert simulate(20_260_101, chosen_zones(20_260_101, 8), years=7) > 20_000


@pytest.mark.soak
def test_thirty_years_in_fifty_zones() -> None:
    for round_number in range(soak.rounds(1)):
        seed = soak.seed() + round_number
        assert simulate(seed, chosen_zones(seed, 50), years=30) > 1_000_000
