"""Every N minutes, days of a month and cron expressions: known answers, also where clocks move."""

from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from jobs.schedule import Kind, Schedule, check_cron, due_between, next_after

BERLIN = "Europe/Berlin"
HOUR = timedelta(hours=1)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def local(schedule: Schedule, after: str, until: str) -> list[str]:
    zone = ZoneInfo(schedule.time_zone)
    return [f"{due.astimezone(zone):%d %H:%M %z}" for due in due_between(schedule, utc(after), utc(until))]


@pytest.mark.parametrize(
    ("minutes", "due"),
    [
        (20, ["00:20", "00:40", "01:00"]),
        (45, ["00:45"]),  # 45 minutes divide a day: at 00:00, 00:45, 01:30 ...
        (7, ["00:07", "00:14", "00:21", "00:28", "00:35", "00:42", "00:49", "00:56"]),
    ],
)
def test_every_few_minutes_follows_elapsed_time(minutes, due):
    schedule = Schedule(Kind.MINUTES, minutes=minutes, time_zone=BERLIN)
    found = due_between(schedule, utc("2026-03-29T00:00"), utc("2026-03-29T01:00"))
    if minutes == 7:  # it does not divide a day, so it goes on from the day before
        assert {b - a for a, b in pairwise(found)} == {timedelta(minutes=7)}
        assert all((moment.timestamp() // 60) % 7 == 0 for moment in found)
    else:
        assert [f"{moment:%H:%M}" for moment in found] == due


def test_every_few_minutes_is_not_moved_by_a_change_of_the_clock():
    schedule = Schedule(Kind.MINUTES, minutes=30, time_zone=BERLIN)
    found = due_between(schedule, utc("2026-10-24T00:00"), utc("2026-10-26T00:00"))
    assert len(found) == 96


def test_zero_minutes_are_never():
    assert next_after(Schedule(Kind.MINUTES, minutes=0), utc("2026-01-01T00:00")) is None


MONTHS = [
    ((1,), ["01", "01", "01", "01"]),
    ((15, 1), ["01", "15", "01", "15", "01", "15", "01", "15"]),
    ((31,), ["31", "28", "31", "30"]),
    ((0,), ["31", "28", "31", "30"]),
    ((30, 0), ["30", "31", "28", "30", "31", "30"]),
    ((29, 31, 0), ["29", "31", "28", "29", "31", "29", "30"]),
]


@pytest.mark.parametrize(("days", "found"), MONTHS)
def test_a_month_without_the_day_has_it_on_its_last(days, found):
    schedule = Schedule(Kind.MONTHLY, time(2, 30), days=days)
    due = due_between(schedule, utc("2026-01-01T00:00"), utc("2026-05-01T00:00"))
    assert [f"{moment:%d}" for moment in due] == found
    assert {f"{moment:%H:%M}" for moment in due} == {"02:30"}


def test_a_leap_day():
    schedule = Schedule(Kind.MONTHLY, time(0), days=(29,))
    assert next_after(schedule, utc("2028-02-01T00:00")) == utc("2028-02-29T00:00")
    assert next_after(schedule, utc("2027-02-01T00:00")) == utc("2027-02-28T00:00")


def test_a_monthly_time_that_does_not_exist_is_due_when_the_clock_jumps():
    schedule = Schedule(Kind.MONTHLY, time(2, 30), days=(29,), time_zone=BERLIN)
    assert local(schedule, "2026-03-28T00:00", "2026-03-30T00:00") == ["29 03:00 +0200"]


CRON = [
    # expression, after, until (UTC), due in Berlin
    ("30 2 * * *", "2026-03-28T00:00", "2026-03-30T12:00", ["28 02:30 +0100", "29 03:00 +0200", "30 02:30 +0200"]),
    ("30 2 * * *", "2026-10-24T00:00", "2026-10-26T12:00", ["24 02:30 +0200", "25 02:30 +0200", "26 02:30 +0100"]),
    (
        "*/30 * * * *",
        "2026-10-25T00:15",
        "2026-10-25T02:00",
        ["25 02:30 +0200", "25 02:00 +0100", "25 02:30 +0100", "25 03:00 +0100"],
    ),
    ("0 22 * * 1-5", "2026-06-05T12:00", "2026-06-09T00:00", ["05 22:00 +0200", "08 22:00 +0200"]),
]


@pytest.mark.parametrize(("expression", "after", "until", "due"), CRON)
def test_cron(expression, after, until, due):
    assert local(Schedule(Kind.CRON, cron=expression, time_zone=BERLIN), after, until) == due


def test_cron_is_due_later_than_after_also_within_a_minute():
    schedule = Schedule(Kind.CRON, cron="* * * * *")
    at = utc("2026-01-01T10:00")
    just = timedelta(microseconds=1)
    assert next_after(schedule, at - just) == at
    assert next_after(schedule, at) == at + timedelta(minutes=1)
    assert next_after(schedule, at + just) == at + timedelta(minutes=1)


@pytest.mark.parametrize(
    "expression", ["", "30 2 * *", "61 * * * *", "0 0 * * * *", "0 0 31 2 *", "@daily", "x * * * *"]
)
def test_an_expression_that_cannot_be_used_is_refused(expression):
    with pytest.raises(ValueError, match=r"cron expression"):
        check_cron(expression)


def test_usual_expressions_are_taken():
    for expression in ("0 0 * * *", "*/5 8-18 * * MON-FRI", "0 3 L * *", "15 2 1 JAN *"):
        check_cron(expression)
