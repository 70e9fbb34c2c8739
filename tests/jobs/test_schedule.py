"""Due instants over daylight saving: known transitions by hand, then properties over many zones and years."""

from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.schedule import Kind, Schedule, due_between, next_after

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
STEADY = settings(derandomize=True, deadline=None)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def due_on(zone: str, day: str, kind: Kind, at: str, weekdays: tuple[int, ...] = ()) -> list[str]:
    """Return what is due while the zone's calendar shows `day`, as local time and offset."""
    tz = ZoneInfo(zone)
    first = datetime.combine(date.fromisoformat(day), time(0), tz).astimezone(UTC)
    last = datetime.combine(date.fromisoformat(day) + DAY, time(0), tz).astimezone(UTC)
    schedule = Schedule(kind, time.fromisoformat(at), weekdays, zone)
    tick = timedelta(microseconds=1)
    return [f"{due.astimezone(tz):%H:%M %z}" for due in due_between(schedule, first - tick, last - tick)]


DAILY = [
    # zone, day, at, due
    ("UTC", "2026-03-29", "02:30", ["02:30 +0000"]),
    (BERLIN, "2026-03-28", "02:30", ["02:30 +0100"]),
    (BERLIN, "2026-03-29", "01:59", ["01:59 +0100"]),
    (BERLIN, "2026-03-29", "02:00", ["03:00 +0200"]),  # does not exist: the next that does
    (BERLIN, "2026-03-29", "02:30", ["03:00 +0200"]),
    (BERLIN, "2026-03-29", "03:00", ["03:00 +0200"]),
    (BERLIN, "2026-03-30", "02:30", ["02:30 +0200"]),
    (BERLIN, "2026-10-25", "01:59", ["01:59 +0200"]),
    (BERLIN, "2026-10-25", "02:00", ["02:00 +0200"]),  # exists twice: the first
    (BERLIN, "2026-10-25", "02:30", ["02:30 +0200"]),
    (BERLIN, "2026-10-25", "03:00", ["03:00 +0100"]),
    (NEW_YORK, "2026-03-08", "02:30", ["03:00 -0400"]),
    (NEW_YORK, "2026-11-01", "01:30", ["01:30 -0400"]),
    (NEW_YORK, "2026-11-01", "02:00", ["02:00 -0500"]),
    (LORD_HOWE, "2026-10-04", "02:15", ["02:30 +1100"]),  # clocks move by half an hour
    (LORD_HOWE, "2026-10-04", "02:30", ["02:30 +1100"]),
    (LORD_HOWE, "2026-04-05", "01:45", ["01:45 +1100"]),
    (LORD_HOWE, "2026-04-05", "02:00", ["02:00 +1030"]),
    ("America/Sao_Paulo", "2018-11-04", "00:00", ["01:00 -0200"]),  # midnight itself does not exist
    ("Pacific/Apia", "2011-12-29", "12:00", ["12:00 -1000"]),
    ("Pacific/Apia", "2011-12-31", "12:00", ["00:00 +1400", "12:00 +1400"]),  # the 30th does not exist at all
    ("Pacific/Apia", "2011-12-31", "00:00", ["00:00 +1400"]),  # both days at one instant: once
]


@pytest.mark.parametrize(("zone", "day", "at", "due"), DAILY)
def test_daily(zone, day, at, due):
    assert due_on(zone, day, Kind.DAILY, at) == due


def test_weekly_is_due_on_its_days_only():
    days = [f"2026-03-{number}" for number in range(23, 30)]  # Monday to Sunday; clocks move on Sunday
    found = {day: due_on(BERLIN, day, Kind.WEEKLY, "02:30", (0, 6)) for day in days}
    assert {day: due for day, due in found.items() if due} == {
        "2026-03-23": ["02:30 +0100"],
        "2026-03-29": ["03:00 +0200"],
    }


def test_the_weekday_is_that_of_the_zone():
    monday_evening = Schedule(Kind.WEEKLY, time(20), (0,), NEW_YORK)
    assert next_after(monday_evening, utc("2026-07-06T00:00")) == utc("2026-07-07T00:00")


HOURLY = [
    # zone, day, minute, how many, those around the transition
    ("UTC", "2026-03-29", "00:15", 24, []),
    (BERLIN, "2026-03-29", "00:15", 23, ["01:15 +0100", "03:15 +0200"]),
    (BERLIN, "2026-10-25", "00:15", 25, ["02:15 +0200", "02:15 +0100"]),
    (NEW_YORK, "2026-11-01", "23:00", 25, ["01:00 -0400", "01:00 -0500"]),
    (LORD_HOWE, "2026-10-04", "00:15", 23, ["01:15 +1030", "03:15 +1100"]),
    (LORD_HOWE, "2026-10-04", "00:45", 24, ["01:45 +1030", "02:45 +1100"]),
    (LORD_HOWE, "2026-04-05", "00:15", 24, ["01:15 +1100", "02:15 +1030"]),
    (LORD_HOWE, "2026-04-05", "00:45", 25, ["01:45 +1100", "01:45 +1030"]),
]


@pytest.mark.parametrize(("zone", "day", "minute", "number", "around"), HOURLY)
def test_hourly(zone, day, minute, number, around):
    due = due_on(zone, day, Kind.HOURLY, minute)
    assert len(due) == number
    assert due == sorted(due, key=due.index)
    if around:
        place = due.index(around[0])
        assert due[place : place + 2] == around


def test_hourly_counts_the_minute_only():
    after = utc("2026-05-05T10:20:30")
    assert next_after(Schedule(Kind.HOURLY, time(17, 20)), after) == utc("2026-05-05T11:20")
    assert next_after(Schedule(Kind.HOURLY, time(3, 21)), after) == utc("2026-05-05T10:21")


@pytest.mark.parametrize("schedule", [Schedule(Kind.MANUAL), Schedule(Kind.WEEKLY, time(1), ())])
def test_never(schedule):
    assert next_after(schedule, utc("2026-01-01T00:00")) is None
    assert due_between(schedule, utc("2026-01-01T00:00"), utc("2030-01-01T00:00")) == []


@pytest.mark.parametrize("kind", [Kind.HOURLY, Kind.DAILY, Kind.WEEKLY])
def test_the_bounds_are_after_and_until_inclusive(kind):
    schedule = Schedule(kind, time(2, 30), tuple(range(7)))
    at = utc("2026-06-01T02:30")
    just = timedelta(microseconds=1)
    assert due_between(schedule, at - just, at) == [at]
    assert due_between(schedule, at, at + just) == []
    assert due_between(schedule, at, at - HOUR) == []
    assert next_after(schedule, at - just) == at
    assert next_after(schedule, at) == at + (HOUR if kind == Kind.HOURLY else DAY)


ZONES = (
    "UTC",
    BERLIN,
    NEW_YORK,
    LORD_HOWE,
    "Africa/Casablanca",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Antarctica/Troll",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Asia/Kolkata",
    "Europe/Dublin",
    "Pacific/Apia",
    "Pacific/Chatham",
)
ANY_INSTANT = st.datetimes(datetime(2000, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC))


@cache
def days_of_change(zone: str) -> list[datetime]:
    """Return the days (UTC) in which the zone's clock moves, from 2000 to 2037."""
    tz, start = ZoneInfo(zone), utc("2000-01-01")
    days = (start + number * DAY for number in range(37 * 365))
    return [day for day in days if day.astimezone(tz).utcoffset() != (day + DAY).astimezone(tz).utcoffset()]


@st.composite
def zones_and_instants(draw: st.DrawFn) -> tuple[str, datetime]:
    """Draw a zone and an instant: mostly within the two days before the zone's clock moves."""
    zone = draw(st.sampled_from(ZONES))
    if not days_of_change(zone) or draw(st.integers(0, 4)) == 0:
        return zone, draw(ANY_INSTANT)
    before = timedelta(seconds=draw(st.integers(-3600, 2 * 24 * 3600)))
    return zone, draw(st.sampled_from(days_of_change(zone))) - before


TIMES = st.times().map(lambda t: t.replace(second=0, microsecond=0))


@st.composite
def schedules_and_instants(draw: st.DrawFn) -> tuple[Schedule, datetime]:
    zone, instant = draw(zones_and_instants())
    kind = draw(st.sampled_from([Kind.HOURLY, Kind.DAILY, Kind.WEEKLY]))
    weekdays = tuple(draw(st.sets(st.integers(0, 6), min_size=1)))
    return Schedule(kind, draw(TIMES), weekdays, zone), instant


@STEADY
@given(schedules_and_instants(), st.lists(st.integers(0, 3 * 24 * 3600), max_size=6))
def test_however_time_is_cut_none_is_lost_and_none_is_double(drawn, steps_seconds):
    schedule, start = drawn
    cuts = [start]
    for seconds in steps_seconds:
        cuts.append(cuts[-1] + timedelta(seconds=seconds))
    pieces = [due for a, b in pairwise(cuts) for due in due_between(schedule, a, b)]
    assert pieces == due_between(schedule, start, cuts[-1])
    assert len(set(pieces)) == len(pieces)
    assert pieces == sorted(pieces)


@STEADY
@given(schedules_and_instants())
def test_the_next_one_is_the_first_of_those_between(drawn):
    schedule, after = drawn
    due = next_after(schedule, after)
    assert due is not None
    assert due > after
    assert due_between(schedule, after, due) == [due]


@STEADY
@given(zones_and_instants(), TIMES)
def test_every_day_of_the_calendar_has_one_daily_run(drawn, at):
    """Checked against the zone's own clock, minute by minute, instead of against arithmetic."""
    zone, start = drawn
    schedule, tz = Schedule(Kind.DAILY, at, (), zone), ZoneInfo(zone)
    begin = start.replace(hour=0, minute=0, second=0, microsecond=0)
    due = due_between(schedule, begin, begin + 3 * DAY)
    expected, previous = [], begin.astimezone(tz).replace(tzinfo=None)
    for minute in range(1, 3 * 24 * 60 + 1):
        instant = begin + timedelta(minutes=minute)
        shown = instant.astimezone(tz).replace(tzinfo=None)
        wanted = _first_wanted(previous, shown, at)
        if wanted and instant.astimezone(tz).fold == 0:
            expected.append(instant)
        previous = shown
    assert due == expected


def _first_wanted(previous: datetime, shown: datetime, at: time) -> bool:
    """Tell whether the clock came to `at`, or jumped over it, between two minutes."""
    if shown <= previous:
        return shown.time() == at  # it was set back, and exactly to the wanted time: the second, unless fold is 0
    days = ((previous + timedelta(days=n)).date() for n in range((shown.date() - previous.date()).days + 1))
    return any(previous < datetime.combine(day, at) <= shown for day in days)


@STEADY
@given(zones_and_instants(), TIMES)
def test_hourly_shows_its_minute_and_is_an_hour_apart_unless_the_clock_moved(drawn, at):
    zone, start = drawn
    due = due_between(Schedule(Kind.HOURLY, at, (), zone), start, start + 3 * DAY)
    tz = ZoneInfo(zone)
    assert {d.astimezone(tz).minute for d in due} == {at.minute}
    for earlier, later in pairwise(due):
        moved = later.astimezone(tz).utcoffset() - earlier.astimezone(tz).utcoffset()
        assert later - earlier == HOUR or (moved % HOUR and later - earlier in (HOUR / 2, HOUR * 1.5))
