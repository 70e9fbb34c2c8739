"""Quick questions: through the queue and back, sealed on the way, and what a proxy says about folders."""

from __future__ import annotations

import base64
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone
from django_q.models import OrmQ

from backupsite.models import User
from jobs import answering
from jobs.models import Proxy, Question, QuestionState
from jobs.questions import NoAnswer, Refused, ask, question_of, remove_old, store_answer
from keys.sealing import ensure_ring
from repositories.engine.encrypted_only import MARKER
from tests.factories import make_proxy, make_repository, make_user
from tests.jobs.conftest import Worker

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def ring() -> None:
    ensure_ring()


@pytest.fixture
def alice() -> User:
    return make_user()


def b64(path: Path | bytes) -> str:
    return base64.b64encode(os.fsencode(path)).decode()


def problems(answer: dict[str, Any]) -> list[tuple[str, str]]:
    return [(problem["code"], problem["severity"]) for problem in answer["problems"]]


# Through the queue


def test_ask_and_answer(quick_worker: Worker, tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    answer = ask(make_proxy(), "list_folder", {"path_b64": b64(tmp_path)}, make_user())
    assert answer["folders"] == [{"name_b64": b64(b"a"), "name": "a"}, {"name_b64": b64(b"b"), "name": "b"}]
    assert not Question.objects.exists()
    assert quick_worker.errors == []


def test_a_refusal_comes_back_as_one(quick_worker: Worker, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="does not exist") as refused:
        ask(make_proxy(), "list_folder", {"path_b64": b64(tmp_path / "nowhere")}, make_user())
    assert refused.value.code == "missing"
    assert not Question.objects.exists()


def test_a_fault_of_the_proxy_is_an_answer(quick_worker: Worker) -> None:
    with pytest.raises(Refused) as refused:
        ask(make_proxy(), "list_folder", {"wrong": 1}, make_user())
    assert refused.value.code == "internal-error"
    assert [type(error) for error in quick_worker.errors] == [TypeError]


@pytest.mark.django_db(transaction=True)
def test_no_answer_says_what_to_do(tmp_path: Path) -> None:
    proxy: Proxy = make_proxy()
    with pytest.raises(NoAnswer, match=r"local\.quick"):
        ask(proxy, "list_folder", {"path_b64": b64(tmp_path)}, make_user(), timeout_seconds=0.1)
    assert not Question.objects.exists()
    answering.answer(OrmQ.objects.get().task["args"][0])  # the question was taken back: nothing happens


def test_an_unknown_question_is_not_asked() -> None:
    with pytest.raises(ValueError, match="no question"):
        ask(make_proxy(), "delete_everything", {}, None)


def test_names_are_sealed_in_the_database(alice: User) -> None:
    from jobs.questions import _put

    question = _put(make_proxy(), "list_folder", {"path_b64": b64(b"/srv/secret-name")}, alice)
    store_answer(question, QuestionState.ANSWERED, {"folders": [{"name": "secret-folder"}]})
    row = Question.objects.get()
    everything = bytes(row.question_sealed) + bytes(row.answer_sealed or b"")
    for name in (b"secret", b"list_folder", b64(b"/srv/secret-name").encode()):
        assert name not in everything
    assert question_of(row) == ("list_folder", {"path_b64": b64(b"/srv/secret-name")})
    assert OrmQ.objects.get().task["args"] == (question.pk,)


def test_an_answer_comes_once(alice: User) -> None:
    from jobs.questions import _put, _read

    question = _put(make_proxy(), "check_sources", {"paths": []}, alice)
    store_answer(question, QuestionState.ANSWERED, {"problems": []})
    store_answer(question, QuestionState.FAILED, {"code": "late"})
    question.refresh_from_db()
    assert _read(question) == {"problems": []}


def test_old_questions_are_removed(alice: User) -> None:
    from jobs.questions import _put

    old, young = (_put(make_proxy(), "check_sources", {"paths": []}, alice) for _ in range(2))
    Question.objects.filter(pk=old.pk).update(asked_at=timezone.now() - timedelta(minutes=6))
    remove_old()
    assert list(Question.objects.values_list("pk", flat=True)) == [young.pk]


# What is answered


def test_names_that_are_not_utf8_come_through(tmp_path: Path) -> None:
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9\nnew")
    folder = answering.list_folder(b64(tmp_path))["folders"][0]
    assert base64.b64decode(folder["name_b64"]) == b"caf\xe9\nnew"
    assert folder["name"] == r"caf\xe9\nnew"


def test_links_are_not_folders(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert [folder["name"] for folder in answering.list_folder(b64(tmp_path))["folders"]] == ["real"]


def test_a_folder_with_too_many_folders_says_how_many_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "LISTED_MOST", 2)
    for number in range(5):
        (tmp_path / str(number)).mkdir()
    answer = answering.list_folder(b64(tmp_path))
    assert (len(answer["folders"]), answer["left_out"]) == (2, 3)


@pytest.mark.parametrize(("path", "code"), [(b"relative", "not-absolute"), (b"/nowhere/at/all", "missing")])
def test_folders_that_cannot_be_listed(path: bytes, code: str) -> None:
    with pytest.raises(Refused) as refused:
        answering.list_folder(b64(path))
    assert refused.value.code == code


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused) as refused:
        answering.list_folder(b64(tmp_path / "file"))
    assert refused.value.code == "not-a-folder"


def test_sources(tmp_path: Path) -> None:
    repository, data = tmp_path / "repository", tmp_path / "data"
    for folder in (repository / "x", data / "repository"):
        folder.mkdir(parents=True)
    inside = str(data / "repository")
    home = settings.BACKUPSITE.home
    for paths, repository_paths, expected in (
        ([str(data)], [str(repository)], []),
        (["data"], None, [("not-absolute", "error")]),
        ([str(tmp_path / "gone")], None, [("missing", "error")]),
        ([str(repository / "x")], [str(repository)], [("in-repository", "error")]),
        ([str(repository)], [str(tmp_path / "other"), str(repository)], [("in-repository", "error")]),
        ([str(data)], [inside], [("repository-inside", "note")]),
        ([str(home)], None, [("in-state-folder", "error")]),
        ([str(home.parent)], None, [("state-folder-inside", "note")]),
        (["/proc/self"], None, [("virtual", "note")]),
        (["/proc"], None, [("virtual", "note")]),
    ):
        assert problems(answering.check_sources(paths, repository_paths)) == expected, paths


def test_the_root_as_a_source_says_what_is_left_out() -> None:
    assert problems(answering.check_sources(["/"])) == [("state-folder-inside", "note"), ("virtual-inside", "note")]


def test_a_link_into_the_repository_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "repository")
    found = answering.check_sources([str(tmp_path / "link")], [str(tmp_path / "repository")])
    assert problems(found) == [("in-repository", "error")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_source_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o000)
    assert problems(answering.check_sources([str(tmp_path / "closed")])) == [("unreadable", "error")]


def test_repositories(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "empty").mkdir()
    for path, expected in (
        (str(tmp_path / "empty"), []),
        (str(tmp_path / "full"), [("not-empty", "note")]),
        (str(tmp_path / "new" / "deep"), [("will-be-created", "note")]),
        (str(tmp_path / "file"), [("not-a-folder", "error")]),
        (str(tmp_path / "file" / "below"), [("not-a-folder", "error")]),
        ("relative", [("not-absolute", "error")]),
        (str(settings.BACKUPSITE.home / "logs"), [("in-state-folder", "error")]),
    ):
        assert problems(answering.check_repository(path)) == expected, path
    answer = answering.check_repository(str(tmp_path))
    assert 0 < answer["free_bytes"] <= answer["total_bytes"]


def test_too_little_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "RESERVE_BYTES", 2**62)
    assert problems(answering.check_repository(str(tmp_path / "new"))) == [
        ("will-be-created", "note"),
        ("no-room", "error"),
    ]


def test_restore_targets(tmp_path: Path) -> None:
    make_repository(tmp_path / "repository")
    root = settings.BACKUPSITE.home / "restores"
    (tmp_path / "file").touch()
    for path, by_admin, expected in (
        (str(root / "here"), False, []),
        (str(tmp_path / "here"), True, []),
        (str(tmp_path / "here"), False, [("outside-roots", "error")]),
        (str(root / ".." / "logs"), True, [("in-state-folder", "error")]),
        (str(settings.BACKUPSITE.home), True, [("in-state-folder", "error")]),
        (str(tmp_path / "repository" / "x"), True, [("in-repository", "error")]),
        ("here", True, [("not-absolute", "error")]),
        (str(tmp_path / "file" / "x"), True, [("not-a-folder", "error")]),
    ):
        assert problems(answering.check_restore_target(path, by_admin)) == expected, path


def test_a_link_out_of_the_restore_root_is_seen_through(tmp_path: Path) -> None:
    root = settings.BACKUPSITE.home / "restores"
    root.mkdir(parents=True, exist_ok=True)
    link = root / f"link-{os.getpid()}"
    link.symlink_to(tmp_path)
    try:
        found = answering.check_restore_target(str(link / "x"), False)
    finally:
        link.unlink()
    assert problems(found) == [("outside-roots", "error")]


# A repository that takes encrypted files only


def test_the_marker_is_set_and_taken_away(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "vault"
    assert answering.require_encryption(str(folder), True, True) == {"marked": True}
    assert (folder / MARKER).is_file()
    assert answering.require_encryption(str(folder), False, False) == {"marked": False}
    assert list(folder.iterdir()) == []
    assert answering.require_encryption(str(tmp_path / "never made"), False, True) == {"marked": False}


@pytest.mark.parametrize("required", [True, False])
def test_a_repository_with_chains_that_is_not_there_is_not_made(tmp_path: Path, required: bool) -> None:
    with pytest.raises(Refused, match="mount its disk"):
        answering.require_encryption(str(tmp_path / "away"), required, False)
    assert not (tmp_path / "away").exists()


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused) as refused:
        answering.require_encryption(str(tmp_path / "file"), True, True)
    assert refused.value.code == "repository-unwritable"
