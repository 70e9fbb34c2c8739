"""The pages of repositories and chains, and adding one after the proxy was asked.

The proxy's part really runs: the question that a view asks is answered by the code that the proxy's cluster runs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection
from django.http import HttpResponse
from django.test import Client

from backupsite.models import AuditEvent
from jobs import answering, repository_views
from jobs.models import Encryption, Question, QuestionState
from keys.sealing import ensure_ring
from repositories.engine.encrypted_only import is_marked, mark
from repositories.forms import clean_path
from repositories.models import PointState, Repository
from tests import cast
from tests.factories import make_chain, make_job, make_point, make_proxy, make_repository

pytestmark = pytest.mark.django_db


@pytest.fixture
def proxy(transactional_db: None) -> Iterator[None]:
    """Answer questions as the proxy does, in a thread of its own, until the test ends."""
    stop = threading.Event()

    def answer_all() -> None:
        try:
            while not stop.wait(0.01):
                for pk in Question.objects.filter(state=QuestionState.ASKED).values_list("pk", flat=True):
                    answering.answer(pk)
        finally:
            connection.close()

    thread = threading.Thread(target=answer_all)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.fixture
def alice() -> Client:
    ensure_ring()
    make_proxy()
    return cast.alice()


def fields(path: Path | str, **changed: str) -> dict[str, str]:
    return {"name": "nas-1", "path": str(path), **changed}


def test_an_empty_list_says_what_to_do(alice: Client) -> None:
    assert 'href="/repositories/new/"' in alice.get("/repositories/").content.decode()
    page = cast.bob().get("/repositories/").content.decode()
    assert "An administrator adds the first one." in page and "/repositories/new/" not in page


def test_the_list_counts_chains_points_and_bytes(alice: Client, django_assert_num_queries) -> None:
    repository = make_repository("/srv/nas", name="nas-1", requires_encryption=True)
    for _ in range(2):
        chain = make_chain(make_job(repository=repository))
        make_point(chain, size_bytes=3 * 1024**2)
        make_point(chain, size_bytes=1024**2)
        make_point(chain, size_bytes=1024**2, state=PointState.DELETING)
    make_repository("/srv/empty", name="empty")
    with django_assert_num_queries(4):
        page = alice.get("/repositories/").content.decode()
    assert "8 MiB" in page and '<td class="num">2</td><td class="num">4</td>' in page
    assert "encrypted only" in page and "/srv/empty" in page and "never" in page


def test_a_repository_shows_its_chains(alice: Client) -> None:
    repository = make_repository(name="nas-1")
    whole = make_chain(make_job(name="Ledger", repository=repository))
    make_point(whole, size_bytes=2 * 1024**3)
    make_chain(
        make_job(name="Mail", repository=repository, encryption=Encryption.OFF),
        damage="the file of point 3 is missing",
    )
    page = alice.get(f"/repositories/{repository.uuid}/").content.decode()
    assert "Ledger" in page and "2 GiB" in page and "encrypted" in page
    assert "Mail" in page and "not encrypted" in page and "the file of point 3 is missing" in page


def test_a_chain_shows_its_points_newest_first_and_pages_by_sequence(alice: Client) -> None:
    chain = make_chain()
    first = make_point(chain)
    for _ in range(100):
        make_point(chain)
    response = alice.get(f"/chains/{chain.uuid}/")
    assert [point.sequence for point in response.context["points"]] == list(range(101, 1, -1))
    assert "password-" in response.content.decode() and ", version 1" in response.content.decode()
    older = alice.get(response.context["older_url"])
    assert [point.pk for point in older.context["points"]] == [first.pk]
    assert older.context["older_url"] == ""
    fragment = alice.get(f"/chains/{chain.uuid}/", headers={"HX-Request": "true"}).content.decode()
    assert fragment.startswith('<section class="card scroll" id="points"')


def test_a_chain_costs_the_same_for_many_points(alice: Client, django_assert_num_queries) -> None:
    chain = make_chain()
    for _ in range(30):
        make_point(chain)
    with django_assert_num_queries(8):
        alice.get(f"/chains/{chain.uuid}/")


def test_a_repository_is_added_after_the_proxy_looked(alice: Client, proxy: None, tmp_path: Path) -> None:
    response = alice.post(
        "/repositories/new/", fields(tmp_path / "backups" / ".." / "backups/", requires_encryption="on")
    )
    repository = Repository.objects.get()
    assert response["Location"] == f"/repositories/{repository.uuid}/"
    assert (repository.path, repository.requires_encryption) == (str(tmp_path / "backups"), True)
    event = AuditEvent.objects.get(action="repository created")
    assert event.after == {"name": "nas-1", "path": repository.path, "requires_encryption": True}
    assert not Question.objects.exists()


def test_a_place_that_cannot_be_used_is_refused(alice: Client, proxy: None, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    response = alice.post("/repositories/new/", fields(tmp_path / "file" / "below"))
    assert response.status_code == 200 and "is a file: choose a folder" in response.content.decode()
    assert not Repository.objects.exists()


def test_checking_saves_nothing(alice: Client, proxy: None, tmp_path: Path) -> None:
    response = alice.post("/repositories/new/", fields(tmp_path, check="1"))
    page = response.content.decode()
    assert response.status_code == 200 and "It can be used" in page and "are free there" in page
    assert 'value="nas-1"' in page
    fragment = alice.post("/repositories/check/", {"path": str(tmp_path)}, headers={"HX-Request": "true"})
    assert fragment.content.decode().startswith('<div id="check"')
    whole = alice.post("/repositories/check/", {"path": "relative"}).content.decode()
    assert "Write an absolute path" in whole and "<html" in whole
    assert not Repository.objects.exists()


def test_a_silent_proxy_is_said_and_nothing_saved(alice: Client, tmp_path: Path, monkeypatch) -> None:
    ask = repository_views.questions.ask
    monkeypatch.setattr(
        repository_views.questions, "ask", lambda proxy, kind, params, by, *_: ask(proxy, kind, params, by, 0.05)
    )
    response = alice.post("/repositories/new/", fields(tmp_path))
    assert response.status_code == 200 and "did not answer" in response.content.decode()
    assert not Repository.objects.exists()
    repository = make_repository(tmp_path)
    assert "did not answer" in alice.get(f"/repositories/{repository.uuid}/room/").content.decode()


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("relative/path", "Write an absolute path"),
        ("/srv/with\nbreak", "control character"),
        ("/", "root of the file system"),
        ("/srv/nas/inside", "overlaps with the repository taken"),
        ("/srv", "overlaps with the repository taken"),
        ("/srv/nas", "overlaps with the repository taken"),
        ("", "This field is required."),
    ],
)
def test_paths_that_are_refused_without_asking(alice: Client, path: str, sentence: str) -> None:
    make_repository("/srv/nas", name="taken")
    response = alice.post("/repositories/new/", fields(path))
    assert response.status_code == 200 and sentence in response.content.decode()
    assert Repository.objects.count() == 1


@pytest.mark.parametrize(
    ("typed", "path"),
    [("/srv/x/", "/srv/x"), ("//srv//x", "/srv/x"), ("/srv/./a/../x", "/srv/x"), ("/srv/ x ", "/srv/ x ")],
)
def test_paths_are_kept_in_their_shortest_form(typed: str, path: str) -> None:
    assert clean_path(typed) == path


def test_a_taken_name_is_refused(alice: Client) -> None:
    make_repository("/srv/nas", name="NAS-1")
    assert "Another repository has this name." in alice.post("/repositories/new/", fields("/srv/b")).content.decode()


def test_the_name_changes_and_the_path_stays_once_a_chain_is_there(alice: Client) -> None:
    repository = make_repository("/srv/nas")
    make_chain(make_job(repository=repository))
    alice.post(f"/repositories/{repository.uuid}/edit/", fields("/somewhere/else", name="new"))
    repository.refresh_from_db()
    assert (repository.name, repository.path) == ("new", "/srv/nas")


def test_the_path_of_an_empty_repository_may_change(alice: Client, proxy: None, tmp_path: Path) -> None:
    repository = make_repository("/srv/nas")
    assert alice.post(f"/repositories/{repository.uuid}/edit/", fields(tmp_path)).status_code == 302
    repository.refresh_from_db()
    assert repository.path == str(tmp_path)
    assert AuditEvent.objects.get(action="repository changed").before["path"] == "/srv/nas"


def edit(alice: Client, repository: Repository, **changed: str) -> HttpResponse:
    return alice.post(f"/repositories/{repository.uuid}/edit/", fields(repository.path, **changed))


def test_encryption_is_not_required_while_a_plain_job_writes_there(alice: Client, proxy: None, tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    job = make_job(name="Mail", repository=repository, encryption=Encryption.OFF)
    make_chain(job)
    page = alice.get(f"/repositories/{repository.uuid}/edit/").content.decode()
    assert "Jobs that write plain files here" in page and f"/jobs/{job.uuid}/" in page
    assert "Not encrypted jobs write here: Mail." in edit(alice, repository, requires_encryption="on").content.decode()
    repository.refresh_from_db()
    assert not repository.requires_encryption and not is_marked(tmp_path)
    job.delete()
    assert edit(alice, repository, requires_encryption="on").status_code == 302
    assert AuditEvent.objects.get(action="repository changed").severity == "high"
    assert is_marked(tmp_path)


def test_plain_chains_are_shown_before_encryption_is_required(alice: Client, proxy: None, tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    job = make_job(name="Mail", repository=repository)
    chain = make_chain(job, encrypted=False)
    make_point(chain, size_bytes=3 * 1024**2)
    shown = edit(alice, repository, requires_encryption="on").content.decode()
    assert "Plain chains stand here" in shown
    assert f"/chains/{chain.uuid}/" in shown and "1 restore point, 3 MiB" in shown
    repository.refresh_from_db()
    assert not repository.requires_encryption and not is_marked(tmp_path)
    assert edit(alice, repository, requires_encryption="on", plain_seen="1").status_code == 302
    repository.refresh_from_db()
    assert repository.requires_encryption and is_marked(tmp_path)


def test_unsetting_it_takes_the_marker_away_and_is_an_event_of_high_severity(
    alice: Client, proxy: None, tmp_path: Path
) -> None:
    repository = make_repository(tmp_path, requires_encryption=True)
    make_chain(make_job(repository=repository))
    mark(tmp_path)
    assert edit(alice, repository).status_code == 302
    repository.refresh_from_db()
    assert not repository.requires_encryption and not is_marked(tmp_path)
    event = AuditEvent.objects.get(action="repository changed")
    assert (event.severity, event.before["requires_encryption"], event.after["requires_encryption"]) == (
        "high",
        True,
        False,
    )


@pytest.mark.parametrize("required", [True, False])
def test_nothing_is_saved_where_the_marker_cannot_be_changed(
    alice: Client, proxy: None, tmp_path: Path, required: bool
) -> None:
    repository = make_repository(tmp_path / "away", requires_encryption=not required)
    make_chain(make_job(repository=repository))
    shown = edit(alice, repository, **({"requires_encryption": "on"} if required else {})).content.decode()
    assert "is not there: mount its disk" in shown
    repository.refresh_from_db()
    assert repository.requires_encryption != required


def test_a_new_repository_that_requires_encryption_says_so_itself(alice: Client, proxy: None, tmp_path: Path) -> None:
    alice.post("/repositories/new/", fields(tmp_path / "vault", requires_encryption="on"))
    assert is_marked(tmp_path / "vault")
    alice.post("/repositories/new/", fields(tmp_path / "other", name="other"))
    assert Repository.objects.filter(name="other").exists() and not is_marked(tmp_path / "other")


def test_the_marker_moves_with_the_path_of_an_empty_repository(alice: Client, proxy: None, tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "old", requires_encryption=True)
    (tmp_path / "old").mkdir()
    mark(tmp_path / "old")
    alice.post(f"/repositories/{repository.uuid}/edit/", fields(tmp_path / "new place", requires_encryption="on"))
    assert is_marked(tmp_path / "new place") and not is_marked(tmp_path / "old")


def test_how_full_it_is_comes_from_the_proxy(alice: Client, proxy: None, tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    address = f"/repositories/{repository.uuid}/room/"
    fragment = alice.get(address, headers={"HX-Request": "true"}).content.decode()
    assert "<meter" in fragment and "free" in fragment and "hx-get" not in fragment
    assert "<html" in alice.get(address).content.decode()


def test_an_unused_repository_is_forgotten_and_its_files_stay(alice: Client, tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    repository = make_repository(tmp_path)
    address = f"/repositories/{repository.uuid}/delete/"
    assert alice.get(address).status_code == 200 and Repository.objects.exists()
    assert alice.post(address)["Location"] == "/repositories/"
    assert not Repository.objects.exists() and (tmp_path / "kept").exists()
    assert AuditEvent.objects.get(action="repository deleted").before == {"path": str(tmp_path)}


def test_a_repository_in_use_stays_and_the_page_names_what_needs_it(alice: Client) -> None:
    repository = make_repository()
    make_chain(make_job(name="Ledger", repository=repository))
    page = alice.post(f"/repositories/{repository.uuid}/delete/").content.decode()
    assert "Not deleted: it is in use" in page and "job Ledger" in page and "chain" in page
    assert Repository.objects.exists()
    assert not AuditEvent.objects.filter(action="repository deleted").exists()


def test_only_administrators_change_repositories(alice: Client) -> None:
    repository = make_repository("/srv/nas", name="nas-1")
    for client in (cast.bob(), cast.charlie(), cast.with_role("security")):
        for address in ("new/", "check/", f"{repository.uuid}/edit/", f"{repository.uuid}/delete/"):
            assert client.post(f"/repositories/{address}", fields("/srv/x")).status_code == 403
    repository.refresh_from_db()
    assert repository.path == "/srv/nas" and Repository.objects.count() == 1


def test_the_proxy_page_says_whether_it_is_there_and_answers(alice: Client, proxy: None) -> None:
    local = make_proxy()
    page = alice.get("/proxies/").content.decode()
    assert "away" in page and "local.quick" in page
    answer = alice.get(f"/proxies/{local.uuid}/answer/", headers={"HX-Request": "true"}).content.decode()
    assert "in 0." in answer and "hx-get" not in answer
