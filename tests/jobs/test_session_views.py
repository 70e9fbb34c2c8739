"""The pages of sessions: the list that narrows and pages, one session live, stopping it and trying again."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from backupsite.models import AuditEvent
from jobs.models import DueState, LogLine, Session, SessionKind, SessionProgress, State
from jobs.session_views import live
from tests.factories import make_chain, make_due_time, make_job, make_point, make_session
from tests.jobs.people import HTMX, alice, bob, charlie, rita, sven, text_of, vera

pytestmark = pytest.mark.django_db


def url(session: Session, name: str = "session_detail") -> str:
    return reverse(name, args=[session.uuid])


def running(**fields) -> Session:
    session = make_session(state=State.RUNNING, started_at=timezone.now() - timedelta(seconds=2000), **fields)
    SessionProgress.objects.create(
        session=session,
        stage="walk+write",
        files_done=1200,
        bytes_processed=600,
        bytes_total=1000,
        bytes_read=400,
        bytes_written=100,
        current_path="srv/secret plan.txt",
        busy_seconds={"source": 1200, "proxy": 300, "repository": 100},
        samples=[[1, 10, 5], [2, 40, 8], [3, 20, 9]],
    )
    return session


class TestList:
    def test_shows_what_each_wrote_and_why(self):
        make_session(
            make_job(name="Ledger files"),
            state=State.SUCCEEDED,
            plan_kind="full",
            plan_reason="encryption-enabled",
            started_at=timezone.now(),
            ended_at=timezone.now(),
            written_bytes=3 * 2**20,
        )
        page = text_of(vera().get(reverse("session_list")))
        for expected in ("Ledger files", "succeeded", "Encryption was enabled.", "3 MiB"):
            assert expected in page

    def test_refuses_who_may_see_nothing_and_the_wrong_method(self):
        assert charlie().get(reverse("session_list")).status_code == 403
        assert vera().post(reverse("session_list")).status_code == 405

    def test_gives_page_and_fragment(self):
        client = vera()
        assert b"<html" in client.get(reverse("session_list")).content
        fragment = client.get(reverse("session_list"), headers=HTMX).content
        assert b"<html" not in fragment and b'id="session-rows"' in fragment

    def test_narrows_by_what_stands_in_the_url(self):
        job = make_job()
        make_session(job, state=State.FAILED)
        make_session(make_job(), state=State.SUCCEEDED)
        old = make_session(make_job(), state=State.SUCCEEDED)
        Session.objects.filter(pk=old.pk).update(created_at=timezone.now() - timedelta(days=3))
        make_session(kind=SessionKind.RESTORE, state=State.RUNNING)
        client = vera()

        def found(query: str) -> int:
            return len(client.get(reverse("session_list") + query).context["sessions"])

        assert found("") == found("?state=nonsense&kind=x&job=y&since=z&after=w") == 4
        assert found("?state=failed") == found("?state=active") == found("?kind=restore") == 1
        assert found(f"?job={job.uuid}") == 1
        assert found("?since=24h") == 3

    def test_pages_by_time_and_id_also_when_times_are_equal(self, monkeypatch):
        monkeypatch.setattr("jobs.session_views.PAGE", 2)
        now = timezone.now()
        for _ in range(5):
            make_session()
        Session.objects.update(created_at=now)
        client, seen, query = vera(), [], ""
        for _ in range(3):
            context = client.get(reverse("session_list") + query).context
            seen += [session.pk for session in context["sessions"]]
            query = context["older_url"]
        assert not query
        assert seen == sorted(seen, reverse=True) and len(set(seen)) == 5

    def test_asks_the_database_equally_often_for_any_number_of_sessions(self, django_assert_max_num_queries):
        client = vera()
        make_session(), make_session()
        with django_assert_max_num_queries(20) as few:
            client.get(reverse("session_list"))
        for _ in range(8):
            make_session()
        with django_assert_max_num_queries(len(few)):
            client.get(reverse("session_list"))

    def test_shows_missed_due_times(self):
        make_due_time(
            make_job(name="Mail"), state=DueState.MISSED, reason="nobody-there", count=3, last_due_at=timezone.now()
        )
        make_due_time(make_job(name="Not missed"), state=DueState.STARTED)
        client = vera()
        page = text_of(client.get(reverse("missed_list")))
        assert "Mail" in page and "Not missed" not in page
        assert "Nobody was there" in page and "3 due times" in page
        assert b"<html" not in client.get(reverse("missed_list"), headers=HTMX).content
        assert charlie().get(reverse("missed_list")).status_code == 403


class TestLive:
    def test_a_running_session_shows_its_figures_and_asks_again(self):
        page = text_of(rita().get(url(running())))
        for expected in (
            "60 %",
            "1,200",
            "every 1s",
            "srv/secret plan.txt",
            "Bottleneck",
            "source 60 %",
            "<polyline",
            "4.0 to 1",
        ):
            assert expected in page, expected

    def test_file_names_are_for_those_who_may_browse(self):
        session = running()
        LogLine.objects.create(
            session=session, level="warning", code="unreadable", message="srv/secret plan.txt cannot be read"
        )
        LogLine.objects.create(session=session, level="info", code="plan", message="Writes full 1")
        for who in (vera, bob, sven):
            page = text_of(who().get(url(session)))
            assert "secret plan" not in page
            assert "Writes full 1" in page
            assert "1 line about files is shown to those who may restore" in page
        for who in (rita, alice):
            assert "secret plan.txt cannot be read" in text_of(who().get(url(session)))

    def test_what_a_failed_restore_says_of_a_file_is_for_those_who_may_browse(self):
        session = make_session(
            kind=SessionKind.RESTORE,
            state=State.FAILED,
            result_code="nothing-to-restore",
            result_params={"path": "srv/secret plan.txt"},
            result_message="srv/secret plan.txt is not there",
            ended_at=timezone.now(),
        )
        assert "secret plan" not in text_of(vera().get(url(session)))
        assert "secret plan" in text_of(rita().get(url(session)))

    def test_the_finished_fragment_no_longer_asks_and_changes_the_buttons(self):
        session = running()
        client = bob()
        fragment = client.get(url(session), headers=HTMX).content.decode()
        assert 'hx-trigger="every 1s"' in fragment and "<html" not in fragment and "hx-swap-oob" not in fragment
        Session.objects.filter(pk=session.pk).update(
            state=State.FAILED, ended_at=timezone.now(), result_code="cancelled"
        )
        fragment = client.get(url(session), headers=HTMX).content.decode()
        assert "hx-trigger" not in fragment
        assert 'hx-swap-oob="true"' in fragment and "Try again" in fragment

    def test_a_waiting_session_says_why(self):
        session = make_session(wait_reason="proxy-busy", wait_params={"proxy": "fra-2", "running": 2, "workers": 2})
        assert "All 2 workers of fra-2 are busy" in text_of(vera().get(url(session)))

    def test_the_result_is_a_sentence_and_leads_to_the_point(self):
        point = make_point(make_chain(make_job()))
        session = make_session(
            state=State.WARNING,
            ended_at=timezone.now(),
            result_code="backed-up",
            result_params={"kind": "full", "sequence": 1, "new_chain": True, "warnings": 2},
            written_point=point,
        )
        page = text_of(vera().get(url(session)))
        assert "Full 1 was written and starts a new chain, with 2 warnings" in page
        assert reverse("point_detail", args=[point.uuid]) in page

    def test_a_session_whose_job_is_gone_is_still_shown(self):
        session = make_session(
            kind=SessionKind.BACKUP, state=State.SUCCEEDED, job_name="old one", ended_at=timezone.now()
        )
        Session.objects.filter(pk=session.pk).update(job=None)
        assert "old one" in text_of(vera().get(url(session)))

    def test_the_log_narrows_to_a_level(self):
        session = running()
        LogLine.objects.create(session=session, level="info", code="plan", message="an ordinary line")
        LogLine.objects.create(session=session, level="error", code="failed", message="a grave line")
        page = text_of(rita().get(url(session) + "?level=error"))
        assert "a grave line" in page and "an ordinary line" not in page

    def test_hostile_text_is_escaped(self):
        session = running()
        SessionProgress.objects.update(current_path="<script>alert(1)</script>")
        LogLine.objects.create(session=session, level="warning", code="x", message="<img src=x onerror=alert(1)>")
        page = rita().get(url(session)).content.decode()
        assert "<script>alert" not in page and "<img src=x" not in page

    def test_refuses_who_may_see_nothing_and_the_wrong_method(self):
        session = make_session()
        assert charlie().get(url(session)).status_code == 403
        assert vera().post(url(session)).status_code == 405


class TestStop:
    def test_a_waiting_session_is_cancelled_at_once(self):
        session = make_session()
        assert bob().post(url(session, "session_stop"))["Location"] == url(session)
        session.refresh_from_db()
        assert session.state == State.CANCELLED
        assert AuditEvent.objects.filter(action="stop session").count() == 1

    def test_a_running_one_is_told(self):
        session = running()
        bob().post(url(session, "session_stop"))
        session.refresh_from_db()
        assert session.state == State.RUNNING and session.cancel_requested_at is not None

    def test_is_refused_to_others_and_to_get(self):
        session = make_session()
        assert vera().post(url(session, "session_stop")).status_code == 403
        assert rita().post(url(session, "session_stop")).status_code == 403
        assert bob().get(url(session, "session_stop")).status_code == 405

    def test_who_may_restore_stops_restores_only(self):
        restore, backup = make_session(kind=SessionKind.RESTORE), make_session()
        client = rita()
        assert client.post(url(restore, "restore_stop")).status_code == 302
        assert client.post(url(backup, "restore_stop")).status_code == 404
        assert bob().post(url(restore, "restore_stop")).status_code == 403


class TestRetry:
    def test_starts_the_backup_again(self):
        session = make_session(state=State.FAILED)
        response = bob().post(url(session, "session_retry"))
        again = Session.objects.exclude(pk=session.pk).get()
        assert response["Location"] == url(again)
        assert again.job == session.job

    def test_leads_to_the_session_that_is_there_already(self):
        session = make_session(state=State.FAILED)
        active = make_session(session.job)
        assert bob().post(url(session, "session_retry"))["Location"] == url(active)

    def test_says_why_it_cannot(self):
        session = make_session(state=State.FAILED)
        Session.objects.filter(pk=session.pk).update(job=None)
        client = bob()
        client.post(url(session, "session_retry"))
        assert "is gone" in text_of(client.get(url(session)))

    def test_restores_are_not_started_by_who_may_not_restore(self):
        session = make_session(kind=SessionKind.RESTORE, state=State.FAILED)
        assert bob().post(url(session, "session_retry")).status_code == 404

    def test_is_refused_to_others_and_to_get(self):
        session = make_session(state=State.FAILED)
        assert vera().post(url(session, "session_retry")).status_code == 403
        assert bob().get(url(session, "session_retry")).status_code == 405


def test_a_short_session_has_the_average_of_its_result_not_of_its_last_report():
    now = timezone.now()
    session = make_session(
        state=State.SUCCEEDED, started_at=now - timedelta(seconds=2), ended_at=now, read_bytes=4 * 1024**2
    )
    SessionProgress.objects.create(session=session)
    assert live(session, now)["figures"].speed_average == 2 * 1024**2
