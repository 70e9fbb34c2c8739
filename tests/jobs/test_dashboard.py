"""The first page: three steps before there is a job, then the last day, what runs, what comes next."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from jobs.models import DueState, ScheduleKind, State
from tests.factories import make_chain, make_due_time, make_job, make_point, make_repository, make_session
from tests.jobs.people import HTMX, alice, charlie, text_of, vera
from tests.jobs.proxy_answers import answer_at_once, be_silent

pytestmark = pytest.mark.django_db


def test_an_empty_installation_shows_three_steps_to_those_who_may_take_them():
    page = text_of(alice().get(reverse("dashboard")))
    assert [step in page for step in ("Add a repository", "Choose a password", "Create a job")] == [True] * 3
    assert reverse("job_new") in page
    assert reverse("job_new") not in text_of(vera().get(reverse("dashboard")))


def test_a_step_that_is_done_says_so():
    make_repository()
    assert [step.done for step in alice().get(reverse("dashboard")).context["steps"]] == [True, False, False]


def test_counts_the_last_day_and_leads_to_the_lists():
    job = make_job(name="Ledger files")
    for state in (State.SUCCEEDED, State.SUCCEEDED, State.WARNING, State.FAILED, State.INTERRUPTED, State.CANCELLED):
        make_session(job, state=state, ended_at=timezone.now())
    make_due_time(job, due_at=timezone.now(), state=DueState.MISSED)
    make_due_time(job, due_at=timezone.now() - timedelta(days=2), state=DueState.MISSED)
    context = vera().get(reverse("dashboard")).context
    day = context["day"]
    assert (day.succeeded, day.warning, day.failed, day.missed, day.ended) == (2, 1, 2, 1, 5)
    page = text_of(vera().get(reverse("dashboard")))
    for address in (reverse("session_list"), reverse("missed_list"), reverse("job_list")):
        assert f'href="{address}' in page


def test_names_what_needs_somebody_and_what_comes_next():
    job = make_job(name="Ledger files", schedule_kind=ScheduleKind.DAILY, schedule_time="02:00")
    make_job(name="Paused one", schedule_kind=ScheduleKind.DAILY, schedule_time="02:00", paused=True)
    make_session(job, state=State.FAILED, result_code="source-missing", result_params={"path": "/srv/gone"})
    page = text_of(vera().get(reverse("dashboard")))
    assert "/srv/gone does not exist on the proxy" in page
    assert "Paused one" not in page


def test_counts_the_jobs_without_encryption():
    make_job(), make_job(encryption="off")
    protected = vera().get(reverse("dashboard")).context["protected"]
    assert (protected.jobs, protected.encrypted, protected.plain) == (2, 1, 1)


def test_shows_what_runs_and_asks_again():
    make_session(make_job(name="Home folders"), state=State.RUNNING, started_at=timezone.now())
    page = text_of(vera().get(reverse("dashboard"), headers=HTMX))
    assert "<html" not in page and "Home folders" in page and "every 5s" in page


def test_is_refused_to_who_may_see_nothing_and_to_post():
    assert charlie().get(reverse("dashboard")).status_code == 403
    assert charlie().get(reverse("repository_fill")).status_code == 403
    assert vera().post(reverse("dashboard")).status_code == 405


def test_asks_the_database_equally_often_for_any_number_of_jobs(django_assert_max_num_queries):
    def fill(count: int) -> None:
        for _ in range(count):
            job = make_job(schedule_kind=ScheduleKind.DAILY, schedule_time="02:00")
            make_point(make_chain(job))
            make_session(job, state=State.RUNNING, started_at=timezone.now())
            make_session(job, state=State.FAILED, ended_at=timezone.now())

    client = vera()
    fill(2)
    with django_assert_max_num_queries(40) as few:
        client.get(reverse("dashboard"))
    fill(6)
    with django_assert_max_num_queries(len(few)):
        client.get(reverse("dashboard"))


def test_shows_how_full_repositories_are(tmp_path, monkeypatch):
    answer_at_once(monkeypatch)
    make_point(make_chain(make_job(repository=make_repository(tmp_path / "nas", name="nas"))), size_bytes=7 * 2**20)
    client = vera()
    page = text_of(client.get(reverse("repository_fill"), headers=HTMX))
    assert "<html" not in page
    assert "nas" in page and "7 MiB in 1 restore point" in page and "free" in page and "<meter" in page


def test_a_silent_proxy_does_not_break_the_page(tmp_path, monkeypatch):
    be_silent(monkeypatch)
    make_repository(tmp_path, name="nas")
    assert "did not answer" in text_of(vera().get(reverse("repository_fill")))
