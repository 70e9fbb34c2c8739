"""The schedule in the job form: what each kind needs, what is kept of it, and how it is said."""

from __future__ import annotations

from datetime import time
from typing import Any

import pytest
from django.urls import reverse

from jobs.due import schedule_of
from jobs.models import Job, Misfire
from jobs.schedule import Kind, Schedule
from jobs.templatetags.job_words import day_words, schedule_words
from tests.factories import make_job
from tests.jobs.people import alice
from tests.jobs.proxy_answers import answer_at_once
from tests.jobs.test_job_form import save, typed_of

pytestmark = pytest.mark.django_db
BERLIN = "Europe/Berlin"


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return answer_at_once(monkeypatch)


@pytest.fixture
def job(tmp_path: Any) -> Job:
    (tmp_path / "data").mkdir()
    return make_job(sources=[str(tmp_path / "data")])


def saved(job: Job, **fields: Any) -> Job:
    response = save(alice(), reverse("job_edit", args=[job.uuid]), typed_of(job, **fields))
    assert response.status_code == 302, response.context["form"].errors
    return Job.objects.get()


KINDS = [
    (
        {"schedule_kind": "minutes", "schedule_minutes": "45"},
        Schedule(Kind.MINUTES, minutes=45, time_zone=BERLIN),
        "every 45 minutes",
    ),
    (
        {"schedule_kind": "monthly", "schedule_days": "15, 1 last", "schedule_time": "03:15"},
        Schedule(Kind.MONTHLY, time(3, 15), days=(1, 15, 0), time_zone=BERLIN),
        "each month on the 1st, the 15th and its last day at 03:15 Europe/Berlin",
    ),
    (
        {"schedule_kind": "cron", "schedule_cron": " 30  2 * * 1-5 "},
        Schedule(Kind.CRON, cron="30 2 * * 1-5", time_zone=BERLIN),
        "by cron, 30 2 * * 1-5, Europe/Berlin",
    ),
    (
        {"schedule_kind": "weekly", "schedule_weekdays": ["0", "4"], "schedule_time": "02:00"},
        Schedule(Kind.WEEKLY, time(2), (0, 4), BERLIN),
        "every Monday and Friday at 02:00 Europe/Berlin",
    ),
]


@pytest.mark.parametrize(("fields", "schedule", "words"), KINDS)
def test_each_kind_is_saved_shown_and_said(job, fields, schedule, words):
    found = saved(job, **fields)
    assert schedule_of(found) == schedule
    assert schedule_words(found) == words
    form = alice().get(reverse("job_edit", args=[job.uuid])).context["form"]
    assert form["schedule_kind"].value() == fields["schedule_kind"]
    again = typed_of(found, **{**fields, "version": str(found.version)})
    assert save(alice(), reverse("job_edit", args=[job.uuid]), again).status_code == 302
    assert schedule_of(Job.objects.get()) == schedule


def test_what_belongs_to_another_kind_is_cleared(job):
    everything = {
        "schedule_minutes": "5",
        "schedule_days": "1",
        "schedule_cron": "0 1 * * *",
        "schedule_weekdays": ["1"],
        "misfire_hours": "3",
    }
    found = saved(job, schedule_kind="daily", schedule_time="01:00", **everything)
    assert (found.schedule_minutes, found.schedule_days, found.schedule_cron) == (None, [], "")
    assert (found.schedule_weekdays, found.misfire_hours) == ([], None)


NEEDED = [
    ({"schedule_kind": "minutes"}, "schedule_minutes"),
    ({"schedule_kind": "minutes", "schedule_minutes": "0"}, "schedule_minutes"),
    ({"schedule_kind": "monthly", "schedule_time": "01:00"}, "schedule_days"),
    ({"schedule_kind": "monthly", "schedule_time": "01:00", "schedule_days": "32"}, "schedule_days"),
    ({"schedule_kind": "monthly", "schedule_time": "01:00", "schedule_days": "²"}, "schedule_days"),
    ({"schedule_kind": "monthly", "schedule_time": "", "schedule_days": "1"}, "schedule_time"),
    ({"schedule_kind": "cron"}, "schedule_cron"),
    ({"schedule_kind": "cron", "schedule_cron": "61 * * * *"}, "schedule_cron"),
    ({"schedule_kind": "daily", "schedule_time": "01:00", "misfire": "within"}, "misfire_hours"),
]


@pytest.mark.parametrize(("fields", "field"), NEEDED)
def test_what_is_missing_or_wrong_is_named_at_its_field(job, fields, field):
    response = alice().post(reverse("job_edit", args=[job.uuid]), typed_of(job, **fields))
    assert response.status_code == 200
    assert list(response.context["form"].errors) == [field]


def test_a_misfire_policy_is_saved(job):
    found = saved(job, schedule_kind="daily", schedule_time="01:00", misfire="within", misfire_hours="6")
    assert (found.misfire, found.misfire_hours) == (Misfire.WITHIN, 6)
    assert saved(found, schedule_kind="daily", schedule_time="01:00").misfire == Misfire.ONCE


@pytest.mark.parametrize(
    ("day", "words"),
    [(1, "the 1st"), (2, "the 2nd"), (3, "the 3rd"), (4, "the 4th"), (11, "the 11th"), (12, "the 12th"),
     (13, "the 13th"), (22, "the 22nd"), (30, "the 30th"), (31, "the 31st"), (0, "its last day")],
)  # fmt: skip
def test_the_days_of_a_month_are_said_in_english(day: int, words: str) -> None:
    assert day_words(day) == words


def test_time_zones_that_are_no_places_are_not_offered_anew(job: Job) -> None:
    def offered() -> set[str]:
        form = alice().get(reverse("job_edit", args=[job.uuid])).context["form"]
        return {value for value, _ in form.fields["time_zone"].choices}

    assert {"UTC", BERLIN} <= offered() and not {"Factory", "localtime"} & offered()
    Job.objects.update(time_zone="localtime")  # saved before
    assert "localtime" in offered() and "Factory" not in offered()
