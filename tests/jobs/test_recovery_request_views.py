"""A lost password, through the console: request, the holder's command line, answer, a readable chain."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from backupsite.models import AuditEvent
from jobs.models import JobChain
from keys.crypto_recovery_request import read_request
from keys.crypto_sheet import whole_sheet
from keys.sealing import ensure_ring
from keys.signing import public_bytes
from repositories.models import RecoveryRequest, Repository, RestorePoint
from repositories.reading import open_point
from tests.engine.lab import Chain, recipient
from tests.engine.recovering import recovery_private, recovery_recipient
from tests.factories import make_job, make_kms_key, make_repository
from tests.jobs.people import alice, bob, charlie, rita, sven, text_of, vera
from tests.jobs.proxy_answers import answer_at_once
from tests.secret_search import Search

pytestmark = pytest.mark.django_db
PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    ensure_ring()
    return answer_at_once(monkeypatch)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Chain:
    """Three points whose passwords nobody knows any more, and a recovery key that has slots in all of them."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "report.txt").write_bytes(b"all is well\n")
    chain = Chain(tmp_path / "repository", source)
    for password in ("lost", "lost", "lost too"):
        chain.write(recipients=(recipient(password), recovery_recipient()))
    return chain


@pytest.fixture
def repository(elsewhere: Chain) -> Repository:
    return make_repository(elsewhere.root, name="Vault")


def make_request(client: Client, repository: Repository, chain: Chain) -> RecoveryRequest:
    response = client.post(reverse("recovery_request_new", args=[repository.uuid, chain.chain_id]))
    made = RecoveryRequest.objects.latest("pk")
    assert response["Location"] == reverse("recovery_request", args=[made.uuid])
    return made


def answer_offline(text: str, tmp_path: Path, *more: str) -> str:
    """What the holder does, in a process of its own, far from the console."""
    request, sheet = tmp_path / "request.txt", tmp_path / "sheet.txt"
    request.write_text(text)
    sheet.write_text(whole_sheet(recovery_private(), name="safe", made="today"))
    console = read_request(text).console.hex()
    done = subprocess.run(
        [sys.executable, "-m", "repositories.engine", "answer", str(request), "--recovery-key", str(sheet), "--yes",
         "--console", console, *more],
        cwd=tmp_path, env={"PATH": os.defpath, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def points(chain: Chain) -> list[RestorePoint]:
    return list(RestorePoint.objects.filter(chain__uuid=chain.chain_id).order_by("sequence"))


def test_the_whole_round_opens_the_chain_once(elsewhere, repository, tmp_path):
    sven_ = sven()
    page = text_of(sven_.get(reverse("chain_import", args=[repository.uuid, elsewhere.chain_id])))
    assert "recovery key “safe”" in page and "Make a recovery request" in page
    made = make_request(sven_, repository, elsewhere)
    shown = sven_.get(reverse("recovery_request", args=[made.uuid]))
    assert "no-store" in shown["Cache-Control"] and "up to 3 points" in text_of(shown)
    carried = sven_.get(reverse("recovery_request_file", args=[made.uuid]))
    assert carried.content.decode() == made.text and "attachment" in carried["Content-Disposition"]
    request = read_request(made.text)
    assert request.console == public_bytes() and [file.sequence for file in request.files] == [3, 2, 1]

    answer = answer_offline(made.text, tmp_path)
    response = sven_.post(reverse("recovery_request", args=[made.uuid]), {"answer": answer})
    assert "3 restore points taken over" in text_of(sven_.get(response["Location"]))
    for point in points(elsewhere):
        with open_point(point) as opened:
            assert opened.summary.files == 1
    made.refresh_from_db()
    assert made.answered_at and made.private_sealed is None
    keys = {f"file key {point.sequence}": point.file_key or b"" for point in elsewhere.points}
    secrets = Search({"sheet": recovery_private().seed, **keys})
    assert secrets.tables() == [] and secrets.look("answer", "its text", answer.encode()) == []
    again = sven_.post(reverse("recovery_request", args=[made.uuid]), {"answer": answer})
    assert "its answer was used" in text_of(again)
    events = AuditEvent.objects.filter(action__startswith="recovery").order_by("pk")
    assert [(event.action, event.severity) for event in events] == [
        ("recovery requested", "high"), ("recovery answered", "high"), ("recovery answer refused", "high"),
    ]  # fmt: skip


def test_known_points_whose_kms_is_gone_become_readable_again(elsewhere, repository, tmp_path):
    """Under strict custody the catalogue has the points and none of their keys."""
    alice_ = alice()
    made = make_request(alice_, repository, elsewhere)
    alice_.post(reverse("recovery_request", args=[made.uuid]), {"answer": answer_offline(made.text, tmp_path)})
    chain = points(elsewhere)[0].chain
    job = make_job(encryption="kms", kms_key=make_kms_key(), strict_custody=True, repository=repository)
    JobChain.objects.create(job=job, chain=chain)
    chain.points.update(file_key_sealed=None)
    type(chain).objects.filter(pk=chain.pk).update(imported_at=None, job_name=job.name)
    address = reverse("chain_import", args=[repository.uuid, elsewhere.chain_id])
    assert address in alice_.get(reverse("chain_detail", args=[chain.uuid])).content.decode()
    unreadable = alice_.get(reverse("point_browse", args=[points(elsewhere)[0].uuid]))
    assert address in unreadable.content.decode()
    refused = text_of(alice_.post(address, {"password": "lost too"}))
    assert "strict custody" in refused and not chain.points.exclude(file_key_sealed=None).exists()
    made = make_request(alice_, repository, elsewhere)
    assert read_request(made.text).job_name == job.name
    response = alice_.post(
        reverse("recovery_request", args=[made.uuid]), {"answer": answer_offline(made.text, tmp_path)}
    )
    assert "3 known points are readable again" in text_of(alice_.get(response["Location"]))
    with open_point(points(elsewhere)[0]) as opened:
        assert opened.summary.files == 1
    assert "is open already" in text_of(
        alice_.post(reverse("recovery_request_new", args=[repository.uuid, elsewhere.chain_id]), follow=True)
    )


def test_a_wrong_or_changed_answer_opens_nothing_and_is_not_used_up(elsewhere, repository, tmp_path):
    alice_ = alice()
    made, other = (make_request(alice_, repository, elsewhere) for _ in range(2))
    answer = answer_offline(other.text, tmp_path)
    here = reverse("recovery_request", args=[made.uuid])
    assert "the answer to another request" in text_of(alice_.post(here, {"answer": answer}))
    lines = answer_offline(made.text, tmp_path).splitlines()
    lines[5] = lines[5][::-1]
    assert "changed on the way" in text_of(alice_.post(here, {"answer": "\n".join(lines)}))
    assert not points(elsewhere)
    assert alice_.post(here, {"answer": answer_offline(made.text, tmp_path)}).status_code == 302
    assert len(points(elsewhere)) == 3


def test_a_request_that_was_changed_in_the_database_has_no_key(elsewhere, repository, tmp_path):
    alice_ = alice()
    made = make_request(alice_, repository, elsewhere)
    answer = answer_offline(made.text, tmp_path)
    RecoveryRequest.objects.filter(pk=made.pk).update(text=made.text + "\n")
    page = text_of(alice_.post(reverse("recovery_request", args=[made.uuid]), {"answer": answer}))
    assert "changed or moved" in page and not points(elsewhere)


def test_it_expires_after_a_week_and_its_key_goes(elsewhere, repository, tmp_path):
    alice_ = alice()
    made = make_request(alice_, repository, elsewhere)
    assert made.expires_at - made.made_at > timedelta(days=6, hours=23)
    RecoveryRequest.objects.filter(pk=made.pk).update(expires_at=timezone.now())
    page = alice_.post(reverse("recovery_request", args=[made.uuid]), {"answer": "x"})
    assert "Nobody can answer this request any more" in text_of(page)
    make_request(alice_, repository, elsewhere)
    made.refresh_from_db()
    assert made.private_sealed is None


def test_without_a_recovery_slot_nobody_can_be_asked(elsewhere, repository):
    elsewhere.points.clear()
    for path in elsewhere.folder.iterdir():
        path.unlink()
    elsewhere.write(recipients=(recipient("lost"),))
    response = alice().post(reverse("recovery_request_new", args=[repository.uuid, elsewhere.chain_id]), follow=True)
    assert "nobody can be asked" in text_of(response) and not RecoveryRequest.objects.exists()


def test_secrets_are_nowhere_in_the_row(elsewhere, repository, tmp_path):
    made = make_request(alice(), repository, elsewhere)
    text = made.text
    assert not re.search(r"PRIVATE", text) and made.private_sealed is not None
    assert recovery_private().seed not in bytes(made.private_sealed)


@pytest.mark.parametrize("person", [bob, rita, vera, charlie])
def test_who_may_not(elsewhere, repository, person):
    made = make_request(alice(), repository, elsewhere)
    client = person()
    assert client.post(reverse("recovery_request_new", args=[repository.uuid, elsewhere.chain_id])).status_code == 403
    assert client.get(reverse("recovery_request", args=[made.uuid])).status_code == 403
    assert client.get(reverse("recovery_request_file", args=[made.uuid])).status_code == 403
