"""Due times as rows: what starts, what is missed or skipped, and that no slot is lost or started twice."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, time, timedelta
from threading import Barrier

import pytest
from django.db import connection

from jobs.due import Reason, record_due_times, schedule_of, start_due_sessions
from jobs.models import DueState, DueTime, Job, Misfire, ScheduleKind, Session, State
from jobs.schedule import Kind, Schedule
from tests.factories import make_due_time, make_job, make_session

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def make_hourly(since: datetime = NOON, **fields) -> Job:
    return make_job(schedule_kind=ScheduleKind.HOURLY, schedule_time=time(0, 30), schedule_since=since, **fields)


def rows_of(job: Job) -> list[tuple]:
    rows = job.due_times.order_by("due_at")
    return [(row.state, row.due_at, row.last_due_at, row.count, row.reason) for row in rows]


def at(hour: int, minute: int) -> datetime:
    return NOON.replace(hour=hour, minute=minute)


def test_the_schedule_of_a_job():
    job = make_job(
        schedule_kind=ScheduleKind.WEEKLY,
        schedule_time=time(2, 30),
        schedule_weekdays=[0, 6],
        time_zone="Europe/Berlin",
    )
    assert schedule_of(job) == Schedule(Kind.WEEKLY, time(2, 30), (0, 6), "Europe/Berlin")
    assert schedule_of(make_job()).kind == Kind.MANUAL


def test_nothing_is_due_before_its_time():
    job = make_hourly()
    assert start_due_sessions(NOON + 30 * MINUTE - timedelta(seconds=1)) == []
    assert rows_of(job) == []
    assert not Session.objects.exists()


def test_a_due_time_starts_one_session_and_is_settled():
    job = make_hourly()
    for _ in range(3):
        assert start_due_sessions(at(12, 30)) == []
    assert rows_of(job) == [(DueState.STARTED, at(12, 30), at(12, 30), 1, "")]
    session = Session.objects.get()
    assert (session.job, session.due_time.due_at, session.requested_by) == (job, at(12, 30), None)
    job.refresh_from_db()
    assert job.schedule_since == at(12, 30)


def test_the_next_due_time_starts_the_next_session():
    job = make_hourly()
    start_due_sessions(at(12, 31))
    Session.objects.update(state=State.SUCCEEDED)
    start_due_sessions(at(13, 30))
    assert [row[:2] for row in rows_of(job)] == [(DueState.STARTED, at(12, 30)), (DueState.STARTED, at(13, 30))]
    assert Session.objects.count() == 2


def test_after_a_gap_one_missed_row_stands_for_all_but_the_last():
    job = make_hourly()
    start_due_sessions(at(17, 10))
    assert rows_of(job) == [
        (DueState.MISSED, at(12, 30), at(15, 30), 4, Reason.NOBODY_THERE),
        (DueState.STARTED, at(16, 30), at(16, 30), 1, ""),
    ]
    assert Session.objects.get().due_time.due_at == at(16, 30)


def test_a_gap_of_two_misses_one():
    job = make_hourly()
    start_due_sessions(at(13, 30))
    assert [row[0] for row in rows_of(job)] == [DueState.MISSED, DueState.STARTED]


@pytest.mark.parametrize("state", [State.WAITING, State.QUEUED, State.RUNNING])
def test_a_busy_job_skips_and_says_for_which_session(state):
    job = make_hourly()
    session = make_session(job, state=state)
    start_due_sessions(at(12, 30))
    assert rows_of(job) == [(DueState.SKIPPED, at(12, 30), at(12, 30), 1, Reason.PREVIOUS_ACTIVE)]
    assert job.due_times.get().params == {"session": str(session.uuid), "state": state}
    assert Session.objects.count() == 1


def test_a_paused_job_has_one_row_that_grows():
    job = make_hourly(paused=True)
    for minutes in range(0, 200, 10):
        start_due_sessions(NOON + minutes * MINUTE)
    assert rows_of(job) == [(DueState.SKIPPED, at(12, 30), at(14, 30), 3, Reason.PAUSED)]
    assert not Session.objects.exists()


def test_a_second_pause_has_a_row_of_its_own():
    job = make_hourly(paused=True)
    start_due_sessions(at(12, 30))
    Job.objects.update(paused=False)
    start_due_sessions(at(13, 30))
    Job.objects.update(paused=True)
    start_due_sessions(at(15, 0))
    assert [row[0] for row in rows_of(job)] == [DueState.SKIPPED, DueState.STARTED, DueState.SKIPPED]


def test_resuming_does_not_catch_up():
    job = make_hourly(paused=True)
    start_due_sessions(at(14, 40))
    Job.objects.update(paused=False)
    start_due_sessions(at(14, 50))
    assert [row[0] for row in rows_of(job)] == [DueState.SKIPPED]
    assert not Session.objects.exists()


def test_a_manual_job_is_never_due():
    make_job(schedule_since=NOON)
    start_due_sessions(NOON + 365 * DAY)
    assert not DueTime.objects.exists()


def test_a_job_that_was_never_settled_begins_now():
    job = make_hourly(since=None)
    start_due_sessions(at(16, 0))
    job.refresh_from_db()
    assert job.schedule_since == at(16, 0)
    assert rows_of(job) == []


def test_an_open_row_that_a_crash_left_is_started():
    job = make_hourly(since=at(12, 30))
    make_due_time(job, due_at=at(12, 30))
    start_due_sessions(at(12, 40))
    assert [row[0] for row in rows_of(job)] == [DueState.STARTED]
    assert Session.objects.count() == 1


def test_of_two_open_rows_the_later_one_runs():
    job = make_hourly(since=at(12, 30))
    make_due_time(job, due_at=at(12, 30))
    start_due_sessions(at(13, 30))
    assert [row[0] for row in rows_of(job)] == [DueState.MISSED, DueState.STARTED]
    assert Session.objects.get().due_time.due_at == at(13, 30)


def test_an_open_row_of_a_job_paused_since_is_skipped():
    job = make_hourly(since=at(12, 30), paused=True)
    make_due_time(job, due_at=at(12, 30))
    start_due_sessions(at(12, 40))
    assert [(row[0], row[4]) for row in rows_of(job)] == [(DueState.SKIPPED, Reason.PAUSED)]


def test_a_slot_that_comes_again_when_the_clock_went_back_is_settled_already():
    job = make_hourly()
    start_due_sessions(at(12, 30))
    Session.objects.update(state=State.SUCCEEDED)
    Job.objects.update(schedule_since=NOON)
    start_due_sessions(at(12, 31))
    assert Session.objects.count() == 1
    assert len(rows_of(job)) == 1


def test_a_fault_of_one_job_does_not_stop_the_others():
    broken = make_hourly()
    good = make_hourly()
    Job.objects.filter(pk=broken.pk).update(time_zone="Not/AZone")
    errors = start_due_sessions(at(12, 30))
    assert [type(error).__name__ for error in errors] == ["ZoneInfoNotFoundError"]
    assert Session.objects.get().job == good


def test_settling_one_job_makes_rows_but_no_session():
    job = make_hourly()
    record_due_times(job, at(13, 45))
    assert [row[0] for row in rows_of(job)] == [DueState.MISSED, DueState.DUE]
    assert job.schedule_since == at(13, 30)
    assert not Session.objects.exists()


def test_asking_often_costs_one_query_for_all_jobs(django_assert_num_queries):
    for _ in range(5):
        make_hourly()
    start_due_sessions(at(12, 10))
    with django_assert_num_queries(2):
        start_due_sessions(at(12, 11))


@pytest.mark.django_db(transaction=True)
def test_many_schedulers_start_each_slot_once():
    jobs = [make_hourly() for _ in range(3)]
    schedulers = 4
    together = Barrier(schedulers)

    def scheduler(_: int) -> list[Exception]:
        try:
            together.wait(timeout=30)
            return start_due_sessions(at(14, 40))
        finally:
            connection.close()

    with ThreadPoolExecutor(schedulers) as pool:
        assert [error for errors in pool.map(scheduler, range(schedulers)) for error in errors] == []
    for job in jobs:
        assert [row[0] for row in rows_of(job)] == [DueState.MISSED, DueState.STARTED]
        assert Session.objects.get(job=job).due_time.due_at == at(14, 30)


# What the misfire policy says of a gap


def gap(hours: int, **fields) -> tuple[Job, list[tuple]]:
    job = make_hourly(**fields)
    start_due_sessions(NOON + hours * HOUR + 45 * MINUTE)  # the last due time is 15 minutes ago
    return job, rows_of(job)


def test_by_default_one_session_starts_however_late():
    job = make_job(
        schedule_kind=ScheduleKind.DAILY, schedule_time=time(2), schedule_since=NOON - 9 * DAY, misfire=Misfire.ONCE
    )
    start_due_sessions(NOON)
    assert [row[0] for row in rows_of(job)] == [DueState.MISSED, DueState.STARTED]


def test_skip_starts_nothing_and_shows_all_as_one_missed_row():
    job, rows = gap(3, misfire=Misfire.SKIP)
    assert rows == [(DueState.MISSED, at(12, 30), at(15, 30), 4, Reason.TOO_LATE)]
    assert not Session.objects.exists()
    assert job.due_times.get().params == {"policy": "skip", "hours": None}
    start_due_sessions(at(16, 30))
    assert rows_of(job)[1][0] == DueState.STARTED


def test_skip_forgives_a_scheduler_that_is_a_little_late():
    for late, state in ((5 * MINUTE, DueState.STARTED), (5 * MINUTE + timedelta(seconds=1), DueState.MISSED)):
        job = make_hourly(misfire=Misfire.SKIP)
        start_due_sessions(at(12, 30) + late)
        assert [row[0] for row in rows_of(job)] == [state]


@pytest.mark.parametrize(("hours", "states"), [(10, [DueState.MISSED, DueState.STARTED]), (9, [DueState.MISSED])])
def test_within_so_many_hours(hours, states):
    fields = {"misfire": Misfire.WITHIN, "misfire_hours": hours}
    job = make_job(schedule_kind=ScheduleKind.DAILY, schedule_time=time(2), schedule_since=NOON - 9 * DAY, **fields)
    start_due_sessions(NOON)  # ten hours after the last due time
    assert [row[0] for row in rows_of(job)] == states


def test_the_policy_says_nothing_of_a_job_that_is_paused():
    _, rows = gap(2, misfire=Misfire.SKIP, paused=True)
    assert [row[4] for row in rows] == [Reason.PAUSED]
