"""The password is asked for again before somebody looks into the points of a job that wants that: through every way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path

import pytest
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from backupsite.models import AuditEvent
from jobs import asking
from jobs.byte_paths import quoted
from jobs.models import Job, JobChain, JobChainState, LogLine, Session, SessionKind
from keys.models import VerifyAttempt
from keys.sealing import vouch_for
from repositories.models import RestorePoint
from tests.factories import change_password, make_job, make_password, make_repository, make_session
from tests.jobs.people import HTMX, alice, bob, rita, text_of
from tests.jobs.proxy_answers import answer_at_once
from tests.jobs.real_points import write_point
from tests.test_every_url import TABLE

pytestmark = pytest.mark.django_db
OLD, NEW = "the old password", "the new password"


@pytest.fixture(autouse=True)
def proxy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return answer_at_once(monkeypatch)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "secret-plan.txt").write_bytes(b"what nobody may see\n")
    return tmp_path / "data"


@pytest.fixture
def job(tmp_path: Path, source: Path) -> Job:
    return make_job(
        name="Ledger",
        sources=[str(source)],
        repository=make_repository(tmp_path / "repository"),
        password=make_password(OLD, name="autumn", hint="like the tree"),
        ask_password=True,
    )


@pytest.fixture
def point(job: Job) -> RestorePoint:
    return write_point(job)


def at(name: str, point: RestorePoint) -> str:
    return reverse(name, args=[point.uuid])


def folder(source: Path) -> str:
    return f"?path={quoted(os.fsencode(source)[1:])}"


def file(source: Path) -> str:
    return f"?path={quoted(os.fsencode(source)[1:] + b'/secret-plan.txt')}"


def answer(client: Client, point: RestorePoint, typed: str, **more: str) -> HttpResponse:
    return client.post(at("point_password", point), {"password": typed, **more})


def sees(client: Client, point: RestorePoint) -> bool:
    response = client.get(at("point_browse", point))
    assert response.status_code in (200, 302)
    return response.status_code == 200


class TestNoWayAround:
    def test_no_address_shows_or_starts_anything_before_the_answer(self, point, source) -> None:
        """Every address about the point, its chain, its job, its repository or a restore from it, and every list."""
        job = point.chain.job_chain.job
        restore = make_session(job, kind=SessionKind.RESTORE, source_point=point)
        about = {"": None, "point": point, "chain": point.chain, "detached chain": point.chain, "job": job}
        about |= {"session": restore, "repository": point.chain.repository}
        client, asked = alice(), set()
        for name, row in TABLE.items():
            if row.about in about and not name.startswith("account"):
                subject = about[row.about]
                address = reverse(name, args=[subject.uuid] if subject else [])
                for response in self.ways(client, address, source, methods=row.methods if row.about == "point" else ""):
                    content = b"".join(response.streaming_content) if response.streaming else response.content
                    assert b"secret-plan" not in content and b"nobody may see" not in content, address
                    sent = response.headers.get("Location", response.headers.get("HX-Redirect", ""))
                    asked |= {name} if sent.startswith(at("point_password", point)) else set()
        assert asked == {"point_browse", "point_download", "point_restore"}
        assert not Session.objects.filter(kind=SessionKind.RESTORE).exclude(pk=restore.pk).exists()
        assert not AuditEvent.objects.filter(action__in=("browse", "download", "restore requested")).exists()

    def ways(self, client: Client, address: str, source: Path, *, methods: str) -> Iterator[HttpResponse]:
        yield client.get(address)
        for headers, query in product(({}, HTMX) if methods else (), (folder(source), file(source))):
            yield client.get(address + query, headers=headers)
            if "POST" in methods:
                yield client.post(address + query, {"into": "/tmp/x", "existing": "skip"}, headers=headers)

    def test_after_a_right_answer_all_of_them_work(self, point, source, tmp_path) -> None:
        client = rita()
        assert answer(client, point, OLD).status_code == 302
        assert "secret-plan.txt" in text_of(client.get(at("point_browse", point) + folder(source)))
        download = client.get(at("point_download", point) + file(source))
        assert b"".join(download.streaming_content) == b"what nobody may see\n"
        assert "All 1 file" in text_of(client.get(at("point_restore", point)))

    def test_the_log_of_a_restore_from_it_names_nothing_before_the_answer(self, job, point) -> None:
        restore = make_session(job, kind=SessionKind.RESTORE, source_point=point)
        LogLine.objects.create(session=restore, level="warning", code="unreadable", message="/secret-plan.txt is torn")
        address, client = reverse("session_detail", args=[restore.uuid]), rita()
        assert "secret-plan" not in text_of(client.get(address))
        answer(client, point, OLD)
        assert "secret-plan" in text_of(client.get(address))


class TestAnswer:
    def test_holds_for_who_gave_it_for_this_chain_and_for_a_quarter_of_an_hour(self, job, point) -> None:
        client, other = rita(), rita()
        answer(client, point, OLD)
        assert sees(client, point) and not sees(other, point)
        JobChain.objects.update(state=JobChainState.PREVIOUS)
        assert not sees(client, write_point(job))
        session = client.session
        ((chain, (given, newest)),) = session[asking.ANSWERED].items()
        assert (chain, newest) == (str(point.chain.uuid), 1)
        assert timezone.now() - datetime.fromisoformat(given) < timedelta(minutes=1)
        for minutes, still in ((14, True), (15, False), (-1, False)):
            session[asking.ANSWERED] = {chain: [(timezone.now() - timedelta(minutes=minutes)).isoformat(), newest]}
            session.save()
            assert sees(client, point) == still

    def test_wrong_is_said_counted_and_audited(self, job, point) -> None:
        client = rita()
        page = text_of(answer(client, point, OLD + " "))
        assert "this password does not open the point" in page and "like the tree" in page
        assert not sees(client, point)
        assert VerifyAttempt.objects.filter(subject=job.password.uuid).count() == 1
        event = AuditEvent.objects.get(action="password asked")
        assert (event.severity, event.after) == ("notice", {"result": "wrong"})
        answer(client, point, OLD)
        assert VerifyAttempt.objects.count() == 1

    def test_fifteen_wrong_ones_block_the_right_one(self, job, point) -> None:
        client = rita()
        VerifyAttempt.objects.bulk_create(VerifyAttempt(subject=job.password.uuid) for _ in range(15))
        assert answer(client, point, OLD).status_code == 429
        assert not sees(client, point)
        assert AuditEvent.objects.get(action="password asked").severity == "high"

    def test_the_newest_password_opens_the_chain_and_an_old_one_no_newer_point(self, job, point) -> None:
        change_password(job.password, NEW)
        newer = write_point(job)
        knows_new, knows_old = rita(), rita()
        answer(knows_new, point, NEW)
        assert sees(knows_new, point) and sees(knows_new, newer)
        assert answer(knows_old, newer, OLD).status_code == 200
        answer(knows_old, point, OLD)
        assert sees(knows_old, point) and not sees(knows_old, newer)

    def test_goes_on_where_the_person_was_and_nowhere_else(self, point, source) -> None:
        client = rita()
        there = at("point_download", point) + file(source)
        sent = client.get(there)["Location"]
        page = client.get(sent)
        assert page.headers["Cache-Control"] == "no-store, private"
        assert answer(client, point, OLD, next=page.context["back"])["Location"] == there
        for elsewhere in ("https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)"):
            assert client.get(at("point_password", point), {"next": elsewhere})["Location"] == at("point_browse", point)

    def test_a_point_that_no_password_here_opens_stays_closed(self, point) -> None:
        point.slots.update(password=None)
        client = rita()
        assert "Nobody can answer" in text_of(answer(client, point, OLD))
        assert not sees(client, point)

    def test_is_for_who_may_restore(self, point) -> None:
        assert answer(bob(), point, OLD).status_code == 403


class TestWhoIsAsked:
    def test_the_present_setting_of_the_job_counts_also_for_detached_chains(self, job, point) -> None:
        JobChain.objects.update(state=JobChainState.DETACHED)
        client = rita()
        assert not sees(client, point)
        job.ask_password = False
        job.protection_proof = vouch_for(job, "protection_proof")
        job.save()
        assert sees(client, point)

    def test_switched_off_in_the_database_alone_it_is_asked_all_the_same(self, job, point) -> None:
        Job.objects.update(ask_password=False)
        client = rita()
        assert not sees(client, point)
        assert answer(client, point, OLD).status_code == 302 and sees(client, point)

    def test_a_chain_without_a_job_is_not_asked_for(self, job, point) -> None:
        job.delete()
        assert sees(rita(), point)

    def test_a_plain_chain_is_not(self, tmp_path, source) -> None:
        job = make_job(
            sources=[str(source)], repository=make_repository(tmp_path / "plain"), encryption="off", ask_password=True
        )
        assert sees(rita(), write_point(job))
