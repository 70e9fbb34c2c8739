"""The pages of jobs: the list, one job, and what can be done with it."""

from __future__ import annotations

import pytest
from django.urls import reverse
from django.utils import timezone

from backupsite.models import AuditEvent
from jobs.models import DueState, Job, JobChainState, ScheduleKind, Session, State
from tests.factories import (
    change_password,
    make_chain,
    make_due_time,
    make_job,
    make_point,
    make_session,
)
from tests.jobs.people import HTMX, alice, bob, charlie, rita, sven, text_of, vera

pytestmark = pytest.mark.django_db

HOSTILE = '<script>alert("x")</script>'


@pytest.fixture
def job() -> Job:
    return make_job(name="Ledger files", sources=["/srv/ledger"])


def url(name: str, job: Job) -> str:
    return reverse(name, args=[job.uuid])


class TestList:
    def test_shows_state_next_run_size_and_key(self, job):
        make_point(make_chain(job), size_bytes=5 * 2**20)
        make_session(job, state=State.FAILED, ended_at=timezone.now())
        Job.objects.filter(pk=job.pk).update(schedule_kind=ScheduleKind.DAILY, schedule_time="02:00")
        page = text_of(vera().get(reverse("job_list")))
        for expected in ("Ledger files", "failed", "5 MiB", job.password.name):
            assert expected in page
        assert "when started" not in page

    def test_is_empty_with_what_to_do_next_for_those_who_may(self):
        assert "New job" in text_of(alice().get(reverse("job_list")))
        assert "New job" not in text_of(vera().get(reverse("job_list")))

    def test_refuses_who_may_see_nothing_and_the_wrong_method(self, job):
        assert charlie().get(reverse("job_list")).status_code == 403
        assert vera().post(reverse("job_list")).status_code == 405

    def test_gives_page_and_fragment(self, job):
        client = vera()
        assert b"<html" in client.get(reverse("job_list")).content
        fragment = client.get(reverse("job_list"), headers=HTMX)
        assert b"<html" not in fragment.content
        assert b'id="job-rows"' in fragment.content
        assert "HX-Request" in fragment["Vary"]

    def test_filters_by_name_encryption_and_last_result(self, job):
        plain = make_job(name="Plain one", encryption="off")
        make_session(plain, state=State.FAILED, ended_at=timezone.now())
        client = vera()

        def found(query: str) -> list[str]:
            page = client.get(reverse("job_list") + query).content.decode()
            return [name for name in ("Ledger files", "Plain one") if name in page]

        assert found("") == ["Ledger files", "Plain one"]
        assert found("?q=ledger") == ["Ledger files"]
        assert found("?encryption=off") == ["Plain one"]
        assert found("?state=failed") == ["Plain one"]
        assert found("?state=succeeded") == []
        assert found("?state=nonsense&encryption=nonsense") == ["Ledger files", "Plain one"]

    def test_pages_by_name(self, job, monkeypatch):
        monkeypatch.setattr("jobs.job_views.PAGE", 1)
        make_job(name="Mail")
        client = vera()
        first = client.get(reverse("job_list"))
        assert b"Ledger files" in first.content and b"Mail" not in first.content
        second = client.get(reverse("job_list") + first.context["older_url"])
        assert b"Mail" in second.content and b"Ledger files" not in second.content

    def test_asks_the_database_equally_often_for_any_number_of_jobs(self, django_assert_max_num_queries):
        def fill(count: int) -> None:
            for _ in range(count):
                one = make_job()
                make_point(make_chain(one))
                make_session(one, state=State.RUNNING)
                make_session(one, state=State.SUCCEEDED, ended_at=timezone.now())

        client = vera()
        fill(2)
        with django_assert_max_num_queries(30) as few:
            client.get(reverse("job_list"))
        fill(6)
        with django_assert_max_num_queries(len(few)):
            client.get(reverse("job_list"))

    def test_escapes_a_hostile_name(self):
        make_job(name=HOSTILE)
        page = vera().get(reverse("job_list")).content.decode()
        assert HOSTILE not in page
        assert "&lt;script&gt;" in page


class TestDetail:
    def test_draws_the_chain_with_each_key_and_the_gaps(self, job):
        chain = make_chain(job)
        first = make_point(chain)
        changed = change_password(job.password)
        second = make_point(chain, opens_with=changed)
        make_session(job, state=State.FAILED, started_at=second.started_at, created_at=second.started_at)
        make_due_time(job, due_at=second.started_at, state=DueState.MISSED, reason="nobody-there")
        response = vera().get(url("job_detail", job))
        page = text_of(response)
        assert page.count('class="bar full k1"') == page.count('class="bar incremental k2"') == 1
        assert "Nobody was there" in page
        assert f"{job.password.name}, version 2" in page
        assert str(first.uuid) in page
        assert {bar.kind for bar in response.context["story"].picture.bars} >= {
            "full",
            "incremental",
            "failed",
            "missed",
        }
        assert {key.letter for key in response.context["story"].picture.keys} == {"A", "B"}

    def test_says_what_to_expect_before_the_first_point(self, job):
        assert "No restore point yet" in text_of(vera().get(url("job_detail", job)))

    def test_names_the_unencrypted_chain(self, job):
        make_point(make_chain(job, encrypted=False, state=JobChainState.PREVIOUS))
        make_point(make_chain(job))
        page = text_of(alice().get(url("job_detail", job)))
        assert "not encrypted" in page
        assert page.count("Detach …") == 2

    def test_polls_only_while_a_session_is_active(self, job):
        client = vera()
        session = make_session(job, state=State.RUNNING, started_at=timezone.now())
        card = client.get(url("job_detail", job), headers=HTMX).content
        assert b'hx-trigger="every 2s"' in card and b"Backup chain" not in card
        Session.objects.filter(pk=session.pk).update(state=State.SUCCEEDED)
        fragment = client.get(url("job_detail", job), headers=HTMX)
        assert b"hx-trigger" not in fragment.content and b"Backup chain" in fragment.content
        assert b"<html" not in fragment.content
        assert fragment["HX-Retarget"] == "#job-live"

    def test_shows_buttons_by_right(self, job):
        make_point(make_chain(job))
        pages = {who: text_of(who().get(url("job_detail", job))) for who in (alice, bob, rita, vera)}
        assert ["Run now" in pages[who] for who in (alice, bob, rita, vera)] == [True, True, False, False]
        assert [">Edit<" in pages[who] for who in (alice, bob, rita, vera)] == [True, False, False, False]
        assert [">Restore<" in pages[who].replace("</a>", "<") for who in (alice, rita)] == [True, True]
        assert "Delete this job" in pages[alice] and "Delete this job" not in pages[bob]

    def test_offers_the_rewrap_to_who_keeps_keys_also_without_the_right_to_run(self, job):
        make_point(make_chain(job))
        pages = {who: text_of(who().get(url("job_detail", job))) for who in (sven, bob, vera)}
        assert ["Rewrap the chain" in pages[who] for who in (sven, bob, vera)] == [True, False, False]
        assert "Run an active full" not in pages[sven]

    def test_refuses_who_may_see_nothing_and_what_is_not_there(self, job):
        assert charlie().get(url("job_detail", job)).status_code == 403
        assert vera().post(url("job_detail", job)).status_code == 405
        assert vera().get("/jobs/6a3f1b4e-0000-4000-8000-000000000000/").status_code == 404

    def test_asks_the_database_equally_often_for_any_number_of_points(self, job, django_assert_max_num_queries):
        chain = make_chain(job)
        make_point(chain), make_point(chain)
        client = vera()
        with django_assert_max_num_queries(40) as few:
            client.get(url("job_detail", job))
        for _ in range(8):
            make_point(chain)
        with django_assert_max_num_queries(len(few)):
            client.get(url("job_detail", job))


class TestRun:
    @pytest.mark.parametrize(("name", "full"), [("job_run", False), ("job_full", True)])
    def test_starts_a_session_and_says_so_in_the_audit(self, job, name, full):
        response = bob().post(url(name, job))
        session = Session.objects.get(job=job)
        assert response["Location"] == reverse("session_detail", args=[session.uuid])
        job.refresh_from_db()
        assert job.full_requested is full
        assert AuditEvent.objects.filter(object_id=str(job.uuid), user_name__startswith="operator").exists()

    @pytest.mark.parametrize("name", ["job_run", "job_full"])
    def test_leads_to_the_session_that_is_there_already(self, job, name):
        active = make_session(job)
        assert bob().post(url(name, job))["Location"] == reverse("session_detail", args=[active.uuid])
        assert Session.objects.count() == 1

    @pytest.mark.parametrize("name", ["job_run", "job_full"])
    def test_is_refused_to_others_and_to_get(self, job, name):
        assert vera().post(url(name, job)).status_code == 403
        assert rita().post(url(name, job)).status_code == 403
        assert bob().get(url(name, job)).status_code == 405
        assert not Session.objects.exists()


class TestPause:
    def test_pauses_and_resumes_without_catching_up(self, job):
        client = alice()
        Job.objects.filter(pk=job.pk).update(schedule_since=timezone.now())
        client.post(url("job_pause", job))
        job.refresh_from_db()
        assert job.paused
        client.post(url("job_resume", job))
        job.refresh_from_db()
        assert not job.paused
        assert set(AuditEvent.objects.values_list("action", flat=True)) >= {"pause job", "resume job"}

    def test_twice_is_once(self, job):
        client = alice()
        client.post(url("job_pause", job))
        client.post(url("job_pause", job))
        assert AuditEvent.objects.filter(action="pause job").count() == 1

    @pytest.mark.parametrize("name", ["job_pause", "job_resume"])
    def test_is_refused_to_others_and_to_get(self, job, name):
        assert bob().post(url(name, job)).status_code == 403
        assert alice().get(url(name, job)).status_code == 405


class TestNewChain:
    def test_has_a_page_of_its_own_and_asks_for_a_new_chain(self, job):
        make_point(make_chain(job))
        client = alice()
        assert "Start a new chain?" in text_of(client.get(url("job_new_chain", job)))
        job.refresh_from_db()
        assert not job.new_chain_requested
        client.post(url("job_new_chain", job))
        job.refresh_from_db()
        assert job.new_chain_requested

    def test_is_refused_to_others(self, job):
        assert bob().get(url("job_new_chain", job)).status_code == 403
        assert bob().post(url("job_new_chain", job)).status_code == 403


class TestDelete:
    def test_asks_for_the_name_and_keeps_the_points(self, job):
        point = make_point(make_chain(job))
        client = alice()
        assert "stay" in text_of(client.get(url("job_delete", job)))
        assert "exactly as it is" in text_of(client.post(url("job_delete", job), {"name": "something"}))
        assert Job.objects.filter(pk=job.pk).exists()
        assert client.post(url("job_delete", job), {"name": job.name})["Location"] == reverse("job_list")
        assert not Job.objects.filter(pk=job.pk).exists()
        point.refresh_from_db()
        assert AuditEvent.objects.get(action="delete job").severity == "high"

    def test_refuses_while_a_session_runs(self, job):
        make_session(job, state=State.RUNNING)
        response = alice().post(url("job_delete", job), {"name": job.name})
        assert response.status_code == 200
        assert "stop it first" in text_of(response)
        assert Job.objects.filter(pk=job.pk).exists()
        assert not AuditEvent.objects.filter(action="delete job").exists()

    def test_is_refused_to_others(self, job):
        for who in (bob, rita, vera):
            assert who().post(url("job_delete", job), {"name": job.name}).status_code == 403


class TestAnOldChainThatIsToGo:
    def test_says_what_it_waits_for(self, job):
        make_point(make_chain(job, encrypted=False, state=JobChainState.PREVIOUS, delete_after_full=True))
        full = make_point(make_chain(job))
        session = make_session(job, state=State.WARNING, warnings=3, written_point=full)
        shown = alice().get(url("job_detail", job))
        assert "had 3 warnings. See what it could not read" in text_of(shown)
        assert reverse("session_detail", args=[session.uuid]) in shown.content.decode()
