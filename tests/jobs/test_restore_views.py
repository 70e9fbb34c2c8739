"""Restoring in the browser: browse real backup files, download them, and start a restore where it is allowed."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.urls import reverse
from django.utils import timezone

from backupsite.models import AuditEvent
from jobs.byte_paths import quoted
from jobs.models import Job, Session, SessionKind
from jobs.sessions import selection_of
from repositories.engine.errors import EngineError
from repositories.models import PointState, RestorePoint
from repositories.reading import open_point
from tests.factories import make_chain, make_job, make_pin, make_point, make_repository
from tests.jobs.people import HTMX, alice, bob, charlie, rita, sven, text_of, vera
from tests.jobs.proxy_answers import answer_at_once, be_silent
from tests.jobs.real_points import write_point

pytestmark = pytest.mark.django_db

HOSTILE = b'<img src=x onerror=alert(1)>\n"; filename=x \xff\xe9'
BIG = 9 * 2**20


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return answer_at_once(monkeypatch)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "inner").mkdir(parents=True)
    (folder / "report.txt").write_bytes(b"all is well\n")
    (folder / "empty").write_bytes(b"")
    (folder / "big.bin").write_bytes(os.urandom(BIG))
    (folder / "link").symlink_to("report.txt")
    (folder / "inner" / "deep.txt").write_bytes(b"deep")
    Path(os.fsdecode(os.fsencode(folder) + b"/" + HOSTILE)).write_bytes(b"hostile")
    return folder


@pytest.fixture
def job(source: Path, tmp_path: Path) -> Job:
    return make_job(name="Ledger files", sources=[str(source)], repository=make_repository(tmp_path / "repository"))


@pytest.fixture
def point(job: Job) -> RestorePoint:
    return write_point(job)


def url(name: str, point: RestorePoint, path: bytes | None = None) -> str:
    return reverse(name, args=[point.uuid]) + (f"?path={quoted(path)}" if path is not None else "")


def inside(source: Path, name: bytes = b"") -> bytes:
    return (os.fsencode(source)[1:] + b"/" + name).rstrip(b"/")


def damage_last_block(point: RestorePoint, path: bytes) -> None:
    """Flip a bit in the block that holds the end of a file, and in no other block of it."""
    with open_point(point) as opened:
        blocks = [chunk.block for chunk in opened.entry(path).chunks]
        assert len(set(blocks)) > 1
        place = opened.container_of(blocks[-1].origin).index.place(blocks[-1].number)
    content = bytearray(point.path.read_bytes())
    content[place.offset + place.length // 2] ^= 1
    point.path.chmod(0o600)
    point.path.write_bytes(content)


class TestChoose:
    def test_lists_points_from_the_newest_and_of_one_job(self, job):
        make_point(make_chain(job))
        other = make_point(make_chain(make_job(name="Mail")))
        client = rita()
        assert len(client.get(reverse("restore_start")).context["points"]) == 2
        page = client.get(reverse("restore_start") + f"?job={job.uuid}")
        assert [point.chain.job_name for point, _ in page.context["points"]] == ["Ledger files"]
        assert str(other.uuid) not in page.content.decode()

    def test_does_not_offer_what_is_being_deleted(self, job):
        make_point(make_chain(job), state=PointState.DELETING)
        assert not rita().get(reverse("restore_start")).context["points"]

    def test_pages_by_time(self, job, monkeypatch):
        monkeypatch.setattr("jobs.restore_views.PAGE", 2)
        chain = make_chain(job)
        points = [make_point(chain) for _ in range(3)]
        client = rita()
        first = client.get(reverse("restore_start")).context
        second = client.get(reverse("restore_start") + first["older_url"]).context
        assert [p.pk for p, _ in [*first["points"], *second["points"]]] == [p.pk for p in reversed(points)]

    def test_asks_the_database_equally_often_for_any_number_of_points(self, job, django_assert_max_num_queries):
        chain = make_chain(job)
        make_point(chain), make_point(chain)
        client = rita()
        with django_assert_max_num_queries(20) as few:
            client.get(reverse("restore_start"))
        for _ in range(8):
            make_point(chain)
        with django_assert_max_num_queries(len(few)):
            client.get(reverse("restore_start"))

    def test_is_refused_to_those_who_may_not_restore(self):
        for who in (bob, sven, vera, charlie):
            assert who().get(reverse("restore_start")).status_code == 403
        assert rita().post(reverse("restore_start")).status_code == 405
        assert b"<html" not in rita().get(reverse("restore_start"), headers=HTMX).content


class TestPoint:
    def test_says_what_it_holds_and_what_opens_it(self, job):
        chain = make_chain(job)
        first, second = make_point(chain), make_point(chain)
        make_pin(first)
        page = text_of(vera().get(url("point_detail", first)))
        assert job.password.name in page
        assert "up to <a" in page and str(second.uuid) in page
        assert "Needed by" in page and "Held by" in page
        assert charlie().get(url("point_detail", first)).status_code == 403

    def test_an_unencrypted_point_says_so(self):
        point = make_point(make_chain(make_job(encryption="off")))
        assert "Nothing is needed: whoever can read the repository can read it." in text_of(
            vera().get(url("point_detail", point))
        )

    def test_a_point_that_is_being_deleted_is_not_shown(self, job):
        point = make_point(make_chain(job), state=PointState.DELETING)
        assert vera().get(url("point_detail", point)).status_code == 404

    @pytest.mark.parametrize(("typed", "depth"), [("full", "full"), ("quick", "quick"), ("nonsense", "quick")])
    def test_verify_starts_a_session(self, job, typed, depth):
        point = make_point(make_chain(job))
        bob().post(url("point_verify", point), {"depth": typed})
        session = Session.objects.get(kind=SessionKind.VERIFY)
        assert (session.source_point, session.claimed_settings["depth"]) == (point, depth)
        assert AuditEvent.objects.filter(action="verify point").exists()
        assert rita().post(url("point_verify", point)).status_code == 403
        assert bob().get(url("point_verify", point)).status_code == 405


class TestBrowse:
    def test_goes_from_the_top_to_the_files(self, point, source):
        client = rita()
        top = client.get(url("point_browse", point))
        assert [row["name"] for row in top.context["rows"]] == [os.fsencode(source).split(b"/")[1].decode()]
        page = client.get(url("point_browse", point, inside(source)))
        names = [row["name"] for row in page.context["rows"]]
        assert names[0] == "inner" and {"report.txt", "empty", "big.bin", "link"} <= set(names)
        assert "symlink to report.txt" in text_of(page)
        assert page.context["crumbs"][-1].name == source.name

    def test_hostile_names_are_shown_safely_and_lead_on(self, point, source):
        client = rita()
        page = client.get(url("point_browse", point, inside(source))).content.decode()
        assert "<img src=x" not in page
        assert "\\xff\\xe9" in page and "\\n" in page
        assert quoted(inside(source, HOSTILE)) in page

    def test_the_top_leads_straight_to_what_was_backed_up(self, point, source):
        page = rita().get(url("point_browse", point))
        assert [s["value"] for s in page.context["sources"]] == [quoted(inside(source))]
        assert page.context["rows"][0]["changed_at"] is None  # a folder above: its time was not backed up
        assert not rita().get(url("point_browse", point, inside(source))).context["sources"]

    def test_a_folder_that_is_not_there_or_no_folder(self, point, source):
        client = rita()
        assert client.get(url("point_browse", point, b"nowhere")).status_code in (404, 409)
        assert client.get(url("point_browse", point, inside(source, b"report.txt"))).status_code == 404
        assert client.get(url("point_browse", point) + "?path=../../etc").status_code == 404

    def test_a_plain_point_is_browsed_without_a_key(self, source, tmp_path):
        job = make_job(encryption="off", sources=[str(source)], repository=make_repository(tmp_path / "plain"))
        assert rita().get(url("point_browse", write_point(job), inside(source))).status_code == 200

    def test_gives_page_and_fragment_that_nobody_keeps(self, point):
        client = rita()
        page = client.get(url("point_browse", point))
        assert b"<html" in page.content and "no-store" in page["Cache-Control"]
        assert b"<html" not in client.get(url("point_browse", point), headers=HTMX).content

    def test_a_large_folder_is_paged(self, point, source, monkeypatch):
        monkeypatch.setattr("jobs.restore_views.SHOWN_IN_A_FOLDER", 4)
        client = rita()
        first = client.get(url("point_browse", point, inside(source)))
        second = client.get(url("point_browse", point, inside(source)) + "&start=4")
        assert "1 to 4 of 6 entries" in text_of(first) and "&amp;start=4" in first.content.decode()
        names = [row["name"] for page in (first, second) for row in page.context["rows"]]
        assert len(names) == len(set(names)) == 6
        for nonsense in ("-1", "x", "٣", "9" * 50):
            assert client.get(url("point_browse", point, inside(source)) + f"&start={nonsense}").context["start"] == 0

    def test_looking_into_a_point_is_one_event_an_hour(self, point, source):
        client = rita()
        client.get(url("point_browse", point))
        client.get(url("point_browse", point, inside(source)))
        assert AuditEvent.objects.filter(action="browse", object_id=str(point.uuid)).count() == 1
        AuditEvent.objects.filter(action="browse").update(at=timezone.now() - timedelta(hours=2))
        client.get(url("point_browse", point))
        assert AuditEvent.objects.filter(action="browse").count() == 2

    def test_what_cannot_be_read_is_a_page_also_out_of_a_fragment(self, point):
        point.path.unlink()
        response = rita().get(url("point_browse", point), headers=HTMX)
        assert response["HX-Redirect"] == url("point_browse", point)

    def test_a_missing_or_damaged_file_is_a_page_that_says_so(self, point):
        content = bytearray(point.path.read_bytes())
        point.path.chmod(0o600)
        point.path.write_bytes(content[: len(content) // 2])
        response = rita().get(url("point_browse", point))
        assert response.status_code == 409 and "This cannot be read" in text_of(response)
        point.path.unlink()
        assert rita().get(url("point_browse", point)).status_code == 409

    def test_is_refused_to_those_who_may_not_restore(self, point):
        for who in (bob, sven, vera, charlie):
            assert who().get(url("point_browse", point)).status_code == 403
            assert who().get(url("point_download", point, b"x")).status_code == 403
            assert who().post(url("point_restore", point)).status_code == 403


class TestDownload:
    @pytest.mark.parametrize(
        ("name", "content"), [(b"report.txt", b"all is well\n"), (b"empty", b""), (HOSTILE, b"hostile")]
    )
    def test_streams_exactly_the_file(self, point, source, name, content):
        response = rita().get(url("point_download", point, inside(source, name)))
        assert b"".join(response.streaming_content) == content
        assert response["Content-Length"] == str(len(content))
        assert "no-store" in response["Cache-Control"]

    def test_no_name_leaves_its_header(self, point, source):
        response = rita().get(url("point_download", point, inside(source, HOSTILE)))
        assert response["Content-Disposition"].count('"') == 2
        assert "\n" not in response["Content-Disposition"]
        assert response["Content-Type"] == "application/octet-stream"
        assert list(response.streaming_content) == [b"hostile"]

    def test_is_an_event_without_the_name_of_an_encrypted_file(self, point, source):
        response = rita().get(url("point_download", point, inside(source, b"report.txt")))
        list(response.streaming_content)
        event = AuditEvent.objects.get(action="download")
        assert event.object_id == str(point.uuid) and event.after == {"bytes": 12}
        assert not AuditEvent.objects.filter(action="download incomplete").exists()

    def test_of_a_plain_point_the_event_has_the_name(self, source, tmp_path):
        job = make_job(encryption="off", sources=[str(source)], repository=make_repository(tmp_path / "plain"))
        response = rita().get(url("point_download", write_point(job), inside(source, b"report.txt")))
        list(response.streaming_content)
        assert AuditEvent.objects.get(action="download").after["path"].endswith("report.txt")

    def test_damage_in_the_middle_breaks_the_stream_and_is_an_event(self, point, source):
        damage_last_block(point, inside(source, b"big.bin"))
        response = rita().get(url("point_download", point, inside(source, b"big.bin")))
        assert response.status_code == 200
        received = 0
        with pytest.raises(EngineError):
            for part in response.streaming_content:
                received += len(part)
        assert 0 < received < BIG
        event = AuditEvent.objects.get(action="download incomplete")
        assert (event.after["sent_bytes"], event.after["why"]) == (received, "corrupt-file")

    def test_a_receiver_that_leaves_is_an_event(self, point, source):
        response = rita().get(url("point_download", point, inside(source, b"big.bin")))
        next(iter(response.streaming_content))
        for (
            close
        ) in response._resource_closers:  # what the server calls; response.close() would also end the test's connection
            close()
        assert AuditEvent.objects.get(action="download incomplete").after["why"] == "closed by the receiver"

    @pytest.mark.parametrize("name", [b"inner", b"link", b"nowhere"])
    def test_only_files_are_downloaded(self, point, source, name):
        assert rita().get(url("point_download", point, inside(source, name))).status_code == 404
        assert not AuditEvent.objects.filter(action="download").exists()


class TestRestore:
    def root(self) -> Path:
        return settings.BACKUPSITE.restore_roots[0]

    def test_a_selection_is_restored_below_a_restore_root(self, point, source):
        chosen = inside(source, b"report.txt")
        client = rita()
        page = client.post(url("point_restore", point), {"path": [quoted(chosen)]})
        assert "report.txt" in text_of(page) and str(self.root()) in text_of(page)
        into = str(self.root() / "here")
        response = client.post(
            url("point_restore", point), {"path": [quoted(chosen)], "into": into, "existing": "rename"}
        )
        session = Session.objects.get(kind=SessionKind.RESTORE)
        assert response["Location"] == reverse("session_detail", args=[session.uuid])
        selection = selection_of(session)
        assert (selection.paths, selection.into, selection.existing) == ((chosen,), into, "rename")
        assert AuditEvent.objects.filter(action="restore requested").exists()

    def test_everything_is_restored_without_a_selection(self, point):
        client = rita()
        assert "Restore everything" in text_of(client.get(url("point_restore", point)))
        client.post(url("point_restore", point), {"into": str(self.root() / "all"), "existing": "skip"})
        assert selection_of(Session.objects.get(kind=SessionKind.RESTORE)).paths == ()

    def test_a_chosen_folder_stands_for_what_is_in_it(self, point, source):
        data = {
            "path": [quoted(inside(source)), quoted(inside(source, b"report.txt")), quoted(inside(source, b"inner"))]
        }
        page = rita().post(url("point_restore", point), data)
        assert [row["value"] for row in page.context["paths"]] == [quoted(inside(source))]

    def test_names_of_any_bytes_are_restored(self, point, source):
        data = {"path": [quoted(inside(source, HOSTILE))], "into": str(self.root() / "x"), "existing": "skip"}
        rita().post(url("point_restore", point), data)
        assert selection_of(Session.objects.get(kind=SessionKind.RESTORE)).paths == (inside(source, HOSTILE),)

    @pytest.mark.parametrize("into", ["/etc", "relative", "", "/tmp/../etc", "/"])
    def test_other_places_are_refused(self, point, into):
        response = rita().post(url("point_restore", point), {"into": into, "existing": "skip"})
        assert response.status_code == 200
        assert "into" in response.context["form"].errors
        assert not Session.objects.filter(kind=SessionKind.RESTORE).exists()

    def test_an_administrator_restores_elsewhere_but_not_into_a_repository(self, point, tmp_path):
        client = alice()
        inside_repository = {"into": str(tmp_path / "repository" / "x"), "existing": "skip"}
        assert "into" in client.post(url("point_restore", point), inside_repository).context["form"].errors
        elsewhere = {"into": str(tmp_path / "elsewhere"), "existing": "skip"}
        assert client.post(url("point_restore", point), elsewhere).status_code == 302

    def test_a_silent_proxy_is_said(self, point, monkeypatch):
        be_silent(monkeypatch)
        response = rita().post(url("point_restore", point), {"into": str(self.root() / "x"), "existing": "skip"})
        assert response.status_code == 200 and "did not answer" in text_of(response)

    @pytest.mark.parametrize("path", ["../etc", "a/../../b", "a%00b"])
    def test_a_selection_that_is_no_path_is_refused(self, point, path):
        response = rita().post(url("point_restore", point), {"path": [path], "into": "/x", "existing": "skip"})
        assert response.status_code == 400
        assert not Session.objects.filter(kind=SessionKind.RESTORE).exists()

    def test_an_unknown_choice_for_existing_files_is_refused(self, point):
        response = rita().post(url("point_restore", point), {"into": str(self.root() / "x"), "existing": "destroy"})
        assert "existing" in response.context["form"].errors
