"""Importing chains through the pages: chains that the engine wrote elsewhere become readable ones, and nothing else."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from backupsite.models import AuditEvent
from jobs import answering, answering_chains
from jobs.byte_paths import quoted
from jobs.models import Proxy, Question, Session, State
from jobs.questions import _put, _read
from jobs.sessions import start_restore, start_verify
from jobs.tasks import run_session
from keys.crypto_password import KdfParameters, derive_kek
from keys.crypto_recipients import PasswordRecipient
from keys.models import KmsKey, PasswordRecord, VerifyAttempt
from keys.passwords import kek_of
from keys.public_recipients import kms_recipient
from keys.sealing import ensure_ring
from repositories.catalogue import check_chain
from repositories.engine.backup import Kind, ParentPoint
from repositories.engine.reader import inspect
from repositories.foreign import OpenedChain
from repositories.models import Chain as ChainRow
from repositories.models import Repository, RestorePoint, Slot
from repositories.reading import open_point
from tests.engine.lab import Chain, inside, recipient
from tests.factories import (
    make_chain,
    make_job,
    make_kms_key,
    make_kms_server,
    make_password,
    make_pin,
    make_proxy,
    make_repository,
    make_session,
    make_user,
)
from tests.jobs.conftest import Worker
from tests.jobs.people import alice, bob, charlie, rita, sven, text_of, vera
from tests.jobs.proxy_answers import answer_at_once, be_silent
from tests.secret_search import Search

pytestmark = pytest.mark.django_db
OLD, NEW, UNHINTED = "correct horse", "another horse", "nobody's horse"


@pytest.fixture(autouse=True)
def _ring() -> None:
    ensure_ring()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return answer_at_once(monkeypatch)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Chain:
    """A chain that another program wrote: encrypted, with a password that nobody typed here."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "report.txt").write_bytes(b"all is well\n")
    return Chain(tmp_path / "repository", source, passwords=(OLD,))


@pytest.fixture
def repository(elsewhere: Chain) -> Repository:
    return make_repository(elsewhere.root, name="From the old site")


def address(repository: Repository, chain: Chain) -> str:
    return reverse("chain_import", args=[repository.uuid, chain.chain_id])


def post(client: Client, repository: Repository, chain: Chain, password: str = "", **fields: str) -> HttpResponse:
    return client.post(address(repository, chain), {"password": password, **fields})


def points(chain: Chain) -> list[RestorePoint]:
    return list(RestorePoint.objects.filter(chain__uuid=chain.chain_id).order_by("sequence"))


def content(point: RestorePoint, chain: Chain) -> bytes:
    with open_point(point) as opened:
        return b"".join(opened.read(opened.entry(inside(chain.source, "report.txt"))))


def test_the_list_says_what_can_be_said_without_a_key(elsewhere, repository, asked):
    elsewhere.write()
    elsewhere.write(passwords=(NEW,))
    make_chain(make_job(repository=repository))
    page = text_of(sven().get(reverse("foreign_chains", args=[repository.uuid])))
    assert str(elsewhere.chain_id) in page and "encrypted" in page
    assert "hint of another horse" in page and "hint of correct horse" in page and asked == ["unknown_chains"]
    assert "a job" not in page.replace("a job's", "")  # the name is sealed


def test_a_password_opens_the_whole_chain(elsewhere, repository, asked):
    elsewhere.write()
    (elsewhere.source / "report.txt").write_bytes(b"all is better\n")
    elsewhere.write(passwords=(NEW,))
    sven_ = sven()
    assert "not opened yet" in text_of(sven_.get(address(repository, elsewhere)))
    response = post(sven_, repository, elsewhere, NEW)
    assert response.status_code == 302
    page = text_of(sven_.get(response["Location"]))
    assert "2 restore points taken over" in page and "unsigned" in page and "Every file that belongs" in page
    chain = ChainRow.objects.get(uuid=elsewhere.chain_id)
    assert (chain.job_name, chain.encrypted, chain.damage) == ("a job", True, "") and chain.imported_at
    first, second = points(elsewhere)
    assert [(p.kind, p.parent, p.size_bytes, bytes(p.seal_hash)) for p in (first, second)] == [
        ("full", None, elsewhere.points[0].length, elsewhere.points[0].seal_hash),
        ("incremental", first, elsewhere.points[1].length, elsewhere.points[1].seal_hash),
    ]
    assert (content(first, elsewhere), content(second, elsewhere)) == (b"all is well\n", b"all is better\n")
    assert list(first.slots.values_list("hint", "password")) == [("hint of correct horse", None)]
    assert check_chain(chain) == ""
    event = AuditEvent.objects.get(action="chain imported")
    assert (event.severity, event.after["points"], event.object_id) == ("high", 2, str(elsewhere.chain_id))
    assert not VerifyAttempt.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_through_the_queue_and_then_browsed_downloaded_restored_and_verified(
    elsewhere: Chain, repository: Repository, quick_worker: Worker, tmp_path: Path
) -> None:
    Proxy.objects.filter(pk=make_proxy().pk).update(seen_at=timezone.now() + timedelta(hours=1))
    elsewhere.write(recipients=(replace(recipient(UNHINTED), hint="the stable"),))
    assert post(alice(), repository, elsewhere, "a wrong password").status_code == 200
    assert post(alice(), repository, elsewhere, UNHINTED).status_code == 302
    assert quick_worker.errors == [] and not Question.objects.exists()
    assert secrets_of(elsewhere).tables() == []
    (point,) = points(elsewhere)
    folder = f"?path={quoted(inside(elsewhere.source))}"
    file = f"?path={quoted(inside(elsewhere.source, 'report.txt'))}"
    assert "report.txt" in text_of(rita().get(reverse("point_browse", args=[point.uuid]) + folder))
    download = rita().get(reverse("point_download", args=[point.uuid]) + file)
    assert b"".join(download.streaming_content) == b"all is well\n"
    assert sven().get(reverse("point_browse", args=[point.uuid])).status_code == 403  # who imports may not look
    restore = start_restore(point, by=make_user(), paths=[], into=str(tmp_path / "into"), existing="skip")
    assert run(restore).state == State.SUCCEEDED
    assert run(start_verify(point, by=make_user(), depth="full")).state == State.SUCCEEDED
    restored = tmp_path / "into" / str(elsewhere.source).lstrip("/") / "report.txt"
    assert restored.read_bytes() == b"all is well\n"


def secrets_of(chain: Chain) -> Search:
    """Look for what must stand nowhere in the open."""
    keys = {f"file key {point.sequence}": point.file_key or b"" for point in chain.points}
    return Search({"right": UNHINTED.encode(), "wrong": b"a wrong password", "kek": recipient(UNHINTED).kek, **keys})


@pytest.mark.django_db(transaction=True)
def test_on_the_way_to_the_proxy_and_back_keys_are_sealed(elsewhere: Chain, repository: Repository) -> None:
    elsewhere.write(recipients=(replace(recipient(UNHINTED), hint="the stable"),))
    about = {"repository": str(repository.uuid), "chain": str(elsewhere.chain_id), "password": UNHINTED}
    question = _put(make_proxy(), "open_chain", about, make_user())
    assert secrets_of(elsewhere).tables() == []
    answering.answer(question.pk)
    assert secrets_of(elsewhere).tables() == []
    question.refresh_from_db()
    found = answering_chains.read(_read(question), OpenedChain)
    sealed = found.chain.files[0].sealed
    assert sealed and sealed.file_key == elsewhere.points[0].file_key
    assert secrets_of(elsewhere).look("repr", "an answer", repr(found).encode()) == []


def run(session: Session) -> Session:
    run_session(session.pk)
    session.refresh_from_db()
    return session


def test_a_plain_chain_is_imported_as_one(elsewhere, repository, asked):
    elsewhere.passwords = ()
    elsewhere.write()
    elsewhere.write()
    alice_ = alice()
    assert "Nothing is needed" in text_of(alice_.get(address(repository, elsewhere)))
    post(alice_, repository, elsewhere)
    assert [content(point, elsewhere) for point in points(elsewhere)] == [b"all is well\n"] * 2
    assert not ChainRow.objects.get(uuid=elsewhere.chain_id).encrypted and not Slot.objects.exists()


def test_a_plain_chain_stays_foreign_where_only_encrypted_ones_are_taken(elsewhere, repository, asked):
    elsewhere.passwords = ()
    elsewhere.write()
    Repository.objects.update(requires_encryption=True)
    assert "takes encrypted backups only" in text_of(post(alice(), repository, elsewhere))
    assert not ChainRow.objects.exists()


def test_a_closed_point_is_opened_later_with_another_password(elsewhere, repository, asked):
    """The newest file is lost in this case: what is older opens one by one, with what each was written with."""
    elsewhere.write(passwords=(OLD,))
    elsewhere.write(passwords=(NEW,))
    alice_ = alice()
    post(alice_, repository, elsewhere, OLD)
    assert [point.sequence for point in points(elsewhere)] == [1]
    page = text_of(alice_.get(address(repository, elsewhere)))
    assert "closed" in page and "hint of another horse" in page and "Open the closed files" in page
    chosen = recipient(NEW)
    post(alice_, repository, elsewhere, NEW, slot=f"{chosen.record}:{chosen.version}")
    assert [content(point, elsewhere) for point in points(elsewhere)] == [b"all is well\n"] * 2


def test_wrong_passwords_are_refused_and_throttled_for_this_chain(elsewhere, repository, asked):
    elsewhere.write()
    alice_ = alice()
    response = post(alice_, repository, elsewhere, "wrong")
    assert "opens none of the closed files" in text_of(response) and 'value="wrong"' not in response.content.decode()
    assert not RestorePoint.objects.exists() and not ChainRow.objects.exists()
    VerifyAttempt.objects.bulk_create(VerifyAttempt(subject=elsewhere.chain_id) for _ in range(14))
    asked.clear()
    blocked = post(alice_, repository, elsewhere, OLD)
    assert blocked.status_code == 429 and "Too many wrong passwords" in text_of(blocked)
    assert asked == ["look_at_chain"] and not RestorePoint.objects.exists()
    events = AuditEvent.objects.filter(action="chain import refused").order_by("pk")
    assert [(event.after["result"], event.severity) for event in events] == [("wrong", "notice"), ("blocked", "high")]
    other = replace(elsewhere, chain_id=UUID(int=7), points=[])
    other.write()
    assert post(alice_, repository, other, OLD).status_code == 302


def test_a_record_is_not_guessed_through_many_chains(elsewhere, repository, asked):
    elsewhere.write()
    record = inspect(elsewhere.points[0].path).slots[0].record
    VerifyAttempt.objects.bulk_create(VerifyAttempt(subject=record) for _ in range(15))
    assert post(alice(), repository, elsewhere, OLD).status_code == 429
    assert not RestorePoint.objects.exists()


def test_a_fork_and_a_foreign_file_are_shown_and_not_joined(elsewhere, repository, asked):
    elsewhere.write()
    first = elsewhere.points[0]
    for sequence in (3, 4):
        elsewhere.write(sequence=sequence, parent=ParentPoint(first.path, first.file_key))
    stranger = replace(elsewhere, root=elsewhere.root.with_name("stranger"), passwords=(), points=[])
    stranger.write(sequence=2)
    shutil.copy(stranger.points[0].path, elsewhere.folder)
    alice_ = alice()
    post(alice_, repository, elsewhere, OLD)
    page = text_of(alice_.get(address(repository, elsewhere)))
    assert "2 files of this folder do not belong to the chain" in page
    assert "unlike its chain" in page and "fork" in page and "another file was written behind before" in page
    assert [point.sequence for point in points(elsewhere)] == [1, 3]
    chain = ChainRow.objects.get()
    assert chain.damage.startswith("File 2: It is not encrypted")
    shown = text_of(vera().get(reverse("chain_detail", args=[chain.uuid])))
    assert "Not everything in its folder belongs to this chain" in shown


def test_what_the_console_has_opens_a_chain_without_typing(elsewhere, repository, asked):
    """The catalogue was lost, the password records were not: their ids and versions stand in the files."""
    version = make_password("known here").newest()
    costs = KdfParameters(version.memory_kib, version.iterations, version.lanes)
    known = PasswordRecipient(version.record.uuid, version.number, bytes(version.salt), costs, kek_of(version), "h")
    elsewhere.write(recipients=(known,))
    alice_ = alice()
    page = text_of(alice_.get(address(repository, elsewhere)))
    assert "this console has it" in page and "nothing needs to be typed" in page
    post(alice_, repository, elsewhere, own="1")
    (point,) = points(elsewhere)
    assert content(point, elsewhere) == b"all is well\n"
    assert point.slots.get().password == version  # the key map knows it
    assert AuditEvent.objects.get(action="chain imported").after["with"] == "what the console has"


def test_a_kms_server_opens_a_chain_of_a_console_that_is_lost(elsewhere, repository, asked, kmip_server):
    """The server knows the key's id; that another console asked for the key does not matter."""
    key = make_kms_key(make_kms_server(kmip_server), kmip_server)
    elsewhere.write(recipients=(kms_recipient(key.newest()),))
    KmsKey.objects.all().delete()
    alice_ = alice()
    assert "the servers of this console can be asked" in text_of(alice_.get(address(repository, elsewhere)))
    post(alice_, repository, elsewhere, own="1")
    (point,) = points(elsewhere)
    assert content(point, elsewhere) == b"all is well\n"
    assert (point.slots.get().kind, point.slots.get().kms) == ("kms", None)


def test_a_kms_server_that_is_away_is_said_and_a_password_still_opens(elsewhere, repository, asked):
    key = make_kms_key()
    elsewhere.write(recipients=(kms_recipient(key.newest()), recipient(OLD)))
    alice_ = alice()
    refused = text_of(post(alice_, repository, elsewhere, own="1"))
    assert "No file of this chain opened" in refused and key.server.name in refused and not points(elsewhere)
    assert post(alice_, repository, elsewhere, OLD).status_code == 302
    assert points(elsewhere)[0].slots.get(kind="kms").kms == key.newest()


def test_the_typed_password_can_be_kept_as_a_record(elsewhere, repository, asked):
    salt, costs = b"s" * 16, KdfParameters()
    kek = derive_kek(OLD.encode(), salt=salt, parameters=costs)
    elsewhere.write(recipients=(PasswordRecipient(UUID(int=5), 3, salt, costs, kek, "the old one"),))
    elsewhere.write(recipients=(PasswordRecipient(UUID(int=5), 3, salt, costs, kek, "the old one"),))
    post(alice(), repository, elsewhere, OLD, name="Old site")
    record = PasswordRecord.objects.get(uuid=UUID(int=5))
    assert (record.name, record.hint, record.newest().number) == ("Old site", "the old one", 3)
    assert kek_of(record.newest()) == kek
    assert {slot.password for slot in Slot.objects.all()} == {record.newest()}


def test_no_record_is_made_of_a_cheap_derivation(elsewhere, repository, asked):
    elsewhere.write()
    alice_ = alice()
    page = text_of(alice_.get(post(alice_, repository, elsewhere, OLD, name="Old site")["Location"]))
    assert "No password record was made: its derivation" in page and not PasswordRecord.objects.exists()
    assert len(points(elsewhere)) == 1


def test_a_copy_of_a_chain_that_is_known_elsewhere_is_not_taken_twice(elsewhere, repository, asked):
    elsewhere.write()
    post(alice(), repository, elsewhere, OLD)
    other = make_repository(elsewhere.root.with_name("copy"), name="Copy")
    shutil.copytree(elsewhere.root, other.path)
    assert "a copy of a chain in From the old site" in text_of(
        alice().get(reverse("foreign_chains", args=[other.uuid]))
    )
    page = text_of(post(alice(), other, elsewhere, OLD))
    assert "this is a copy of it" in page and len(points(elsewhere)) == 1


def test_a_chain_that_a_session_writes_is_left_to_it(elsewhere, repository, asked):
    elsewhere.write()
    job = make_job(name="Ledger files", repository=repository)
    make_session(job, state=State.RUNNING, claimed_settings={"chain": str(elsewhere.chain_id)})
    page = text_of(post(alice(), repository, elsewhere, OLD))
    assert "A session of Ledger files is writing this chain now" in page and asked == ["look_at_chain"]
    assert not ChainRow.objects.exists()


def test_names_and_numbers_of_a_stranger_break_nothing(elsewhere, repository, asked):
    hostile = replace(recipient(OLD), hint="<b>\0\n" + "ä" * 80)
    elsewhere.write(recipients=(hostile,), job_name="a\0job\n" + "x" * 300)
    alice_ = alice()
    assert "&lt;b&gt;" in alice_.get(address(repository, elsewhere)).content.decode()
    post(alice_, repository, elsewhere, OLD)
    (point,) = points(elsewhere)
    assert "\n" not in point.chain.job_name + point.slots.get().hint and len(point.chain.job_name) == 100
    far = replace(elsewhere, chain_id=UUID(int=9), points=[])
    far.write(sequence=3_000_000_000)
    assert "that the catalogue cannot hold" in text_of(post(alice_, repository, far, OLD))
    assert ChainRow.objects.count() == 1


def test_an_imported_chain_is_forgotten_and_imported_anew(elsewhere, repository, asked):
    elsewhere.write()
    elsewhere.write()
    alice_ = alice()
    post(alice_, repository, elsewhere, OLD)
    chain = ChainRow.objects.get()
    forget = reverse("chain_forget", args=[chain.uuid])
    assert forget in alice_.get(reverse("chain_detail", args=[chain.uuid])).content.decode()
    assert "are not touched" in text_of(alice_.get(forget)) and len(points(elsewhere)) == 2
    pin = make_pin(points(elsewhere)[0])
    assert "Not forgotten" in text_of(alice_.post(forget)) and len(points(elsewhere)) == 2
    pin.delete()
    assert alice_.post(forget)["Location"] == reverse("foreign_chains", args=[repository.uuid])
    assert not ChainRow.objects.exists() and not Slot.objects.exists() and len(elsewhere.names()) == 2
    assert AuditEvent.objects.get(action="imported chain forgotten").severity == "high"
    post(alice_, repository, elsewhere, OLD)
    assert len(points(elsewhere)) == 2
    own = make_chain(make_job(repository=repository))
    assert alice_.post(reverse("chain_forget", args=[own.uuid])).status_code == 404


def test_a_run_whose_beginning_is_gone_is_left_and_the_next_is_taken(elsewhere, repository, asked):
    for kind in (Kind.FULL, Kind.INCREMENTAL, Kind.FULL, Kind.INCREMENTAL):
        elsewhere.write(kind)
    elsewhere.points[0].path.unlink()
    post(alice(), repository, elsewhere, OLD)
    assert [point.sequence for point in points(elsewhere)] == [3, 4]
    assert "Its parent is not there" in ChainRow.objects.get().damage


def test_a_silent_proxy_is_said_and_costs_no_attempt(elsewhere, repository, monkeypatch):
    elsewhere.write()
    be_silent(monkeypatch)
    assert "Check that its cluster runs" in text_of(post(alice(), repository, elsewhere, OLD))
    assert "Check that its cluster runs" in text_of(alice().get(reverse("foreign_chains", args=[repository.uuid])))
    assert not VerifyAttempt.objects.exists()


def test_an_empty_or_missing_folder_says_what_to_do(elsewhere, repository, asked):
    there = reverse("foreign_chains", args=[repository.uuid])
    assert "mount its disk" in text_of(alice().get(there))
    elsewhere.root.mkdir()
    assert "No unknown chains" in text_of(alice().get(there))
    assert "There is no backup file" in text_of(alice().get(address(repository, elsewhere)))


@pytest.mark.parametrize("person", [bob, rita, vera, charlie])
def test_who_may_not_import(elsewhere, repository, person, asked):
    client = person()
    assert client.get(address(repository, elsewhere)).status_code == 403
    assert post(client, repository, elsewhere, OLD).status_code == 403
    assert client.get(reverse("foreign_chains", args=[repository.uuid])).status_code == 403
    assert asked == []


def test_pages_are_not_stored(elsewhere, repository, asked):
    elsewhere.write()
    assert "no-store" in alice().get(address(repository, elsewhere))["Cache-Control"]


def test_the_repository_page_links_to_it_for_who_may(repository):
    link = reverse("foreign_chains", args=[repository.uuid])
    page = reverse("repository_detail", args=[repository.uuid])
    assert link in alice().get(page).content.decode() and link not in vera().get(page).content.decode()
    assert link in sven().get(page).content.decode()
