"""No secret stands anywhere but where it belongs: real sessions, failures, pages and debug logs, then a search.

The world is made once: passwords typed into forms (also wrong ones and refused ones), sessions of all kinds with the
real runner, a KMS with a real server, a recovery key made on its page, every page fetched, everything logged. The
searcher is tried with planted secrets, so that finding nothing means something.
"""

from __future__ import annotations

import base64
import gzip
import json
import logging
import os
import zlib
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from django.conf import settings as site_settings
from django.core import signing as django_signing
from django.db import connection
from django.test import Client
from django.urls import get_resolver, reverse
from django.utils import timezone
from django_q.models import OrmQ

from backupsite.models import AuditEvent
from jobs.models import Encryption, Job, Proxy, Session, SessionKind, State
from jobs.rewrap_orders import Order, Wanted, start_rewrap
from jobs.sessions import start_backup, start_restore, start_verify
from jobs.tasks import run_session
from keys import kms_servers, recovery, sealing, signing
from keys.crypto_sealed import KeyRing
from keys.crypto_slots import SlotKind
from keys.kms_servers import secret_of, version_of
from keys.models import KmsServer, PasswordRecord, PasswordVersion
from keys.passwords import kek_of
from keys.ring_file import make_ring_file
from keys.sealing import vouch_for
from repositories.engine.reader import FileKey, inspect, open_point
from repositories.models import Chain as ChainRow
from repositories.models import Repository, RestorePoint
from repositories.reading import file_key_of
from tests.cast import alice
from tests.engine.lab import Chain, recipient
from tests.factories import make_job, make_proxy, make_repository, make_user
from tests.kms.certificates import make_client, the_ca, the_client
from tests.secret_search import Find, Search, spellings, unpacked
from tests.test_every_url import TABLE, patterns

pytestmark = pytest.mark.django_db(transaction=True)

PASSWORDS = {
    "first password": 'correct horse <battery> & "staple"',
    "second password": "grüne Wiese hinter dem Bahnhof",
    "refused password": "password123",  # weak, and not confirmed
    "mistyped password": "one and another that differs",
    "wrong password": "not the right one at all 77",
    "password of a crash": "typed just before it crashed 9",
    "password of a foreign chain": "known to the lost console only 3",
    "wrong password of a foreign chain": "not that of the foreign chain 5",
}


@dataclass
class World:
    home: Path
    repository: Path
    client: Client
    secrets: dict[str, bytes] = field(default_factory=dict)
    pages: list[tuple[str, bytes]] = field(default_factory=list)
    logs: Path = Path()

    def get(self, address: str) -> bytes:
        return self._keep(f"GET {address}", self.client.get(address))

    def post(self, address: str, data: dict[str, str]) -> bytes:
        return self._keep(f"POST {address}", self.client.post(address, data))

    def _keep(self, place: str, response: Any) -> bytes:
        content = b"".join(response.streaming_content) if response.streaming else response.content
        head = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
        cookies = response.cookies.output()
        self.pages.append((place, head.encode() + cookies.encode() + b"\n" + content))
        return bytes(content)


@pytest.fixture
def world(tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch, quick_worker: Any, kmip_server: Any) -> World:
    home = tmp_path / "home"
    for folder in ("logs", "restores", "run"):
        (home / folder).mkdir(parents=True)
    settings.BACKUPSITE = replace(
        site_settings.BACKUPSITE, home=home, restore_roots=(home / "restores",), instance_keys=None
    )
    make_ring_file(settings.BACKUPSITE.instance_keys_path, KeyRing.new())
    proxy = make_proxy()
    Proxy.objects.filter(pk=proxy.pk).update(seen_at=timezone.now() + timedelta(hours=1))
    world = World(home, tmp_path / "repository", alice())
    with debug_log(home / "logs" / "debug.log"):
        live(world, tmp_path / "source", kmip_server, monkeypatch)
    gather(world)
    return world


class debug_log:
    """Write what every logger says, at every level, into a file; statements and their parameters too."""

    def __init__(self, path: Path) -> None:
        self.handler = logging.FileHandler(path)
        self.handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        self.names = ["", *(name for name in logging.root.manager.loggerDict)]

    def __enter__(self) -> None:
        loggers = [logging.getLogger(name) for name in self.names]
        self.before = [(logger, logger.level, logger.disabled) for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.DEBUG)
            logger.disabled = False
            if not logger.propagate or logger is logging.root:
                logger.addHandler(self.handler)
        connection.force_debug_cursor = True

    def __exit__(self, *_: object) -> None:
        connection.force_debug_cursor = False
        for logger, level, disabled in self.before:
            logger.removeHandler(self.handler)
            logger.setLevel(level)
            logger.disabled = disabled
        self.handler.close()


# What happens


def live(world: World, source: Path, kmip_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source.mkdir()
    (source / "ledger.txt").write_text("one\n" * 1000)
    record = type_passwords(world, monkeypatch)
    make_recovery_key_on_its_page(world, monkeypatch)
    job = make_job(
        name="Ledger files", sources=[str(source)], repository=make_repository(world.repository), password=record
    )
    first = back_up(job)
    change_the_password(world, record)
    second = back_up(job)
    use(world, second, source)
    with_a_kms(world, job, kmip_server)
    rewrap(second)
    take_over(world, source)
    fail(world, job, first)
    visit_every_page(world, job, second)


def type_passwords(world: World, monkeypatch: pytest.MonkeyPatch) -> PasswordRecord:
    def form(password: str, again: str = "", **more: str) -> dict[str, str]:
        return {"name": "finance", "hint": "notebook", "password": password, "again": again or password, **more}

    new = reverse("password_new")
    for name in ("refused password", "mistyped password"):
        again = PASSWORDS[name] + ("!" if name == "mistyped password" else "")
        page = world.post(new, form(PASSWORDS[name], again))
        assert b"form-error" in page
    crash(world, new, form(PASSWORDS["password of a crash"]), monkeypatch)
    world.post(new, form(PASSWORDS["first password"]))
    record = PasswordRecord.objects.get()
    verify = reverse("password_verify", args=[record.uuid])
    assert b"No: this is not" in world.post(verify, {"password": PASSWORDS["wrong password"]})
    assert b"Yes: this is" in world.post(verify, {"password": PASSWORDS["first password"]})
    return record


def crash(world: World, address: str, form: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the derivation fail in the middle of a request: the traceback is logged, and the page says little."""

    def broken(*_: object, **__: object) -> bytes:
        raise RuntimeError("The derivation broke.")

    world.client.raise_request_exception = False
    with monkeypatch.context() as patch:
        patch.setattr("keys.passwords.derive_kek", broken)
        world.post(address, form)
    world.client.raise_request_exception = True
    assert not PasswordRecord.objects.exists()


def change_the_password(world: World, record: PasswordRecord) -> None:
    world.get(reverse("password_outlook", args=[record.uuid]))
    second = PASSWORDS["second password"]
    world.post(
        reverse("password_change", args=[record.uuid]), {"password": second, "again": second, "hint": "the other one"}
    )
    assert record.versions.count() == 2


def make_recovery_key_on_its_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is the sheet: the one page that shows it. It is not kept among those that are searched."""
    made = []
    real = recovery.make

    def watched(*args: Any) -> Any:
        made.append(real(*args))
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr(recovery, "make", watched)
        sheet = world.client.post(reverse("recovery_make"), {"name": "safe"})
    key, private = made[0]
    assert sheet["Cache-Control"] == "no-store, private"
    world.secrets["recovery seed"] = private.seed
    world.post(reverse("recovery_challenge", args=[key.uuid]), {})
    world.post(reverse("recovery_custody", args=[key.uuid]), {"answer": "not an answer"})


def run(session: Session) -> Session:
    run_session(session.pk)
    session.refresh_from_db()
    return session


def back_up(job: Job) -> RestorePoint:
    job.refresh_from_db()
    session = run(start_backup(job, by=None))
    assert session.state == State.SUCCEEDED, (session.result_code, session.result_message)
    assert session.written_point
    return session.written_point


def use(world: World, point: RestorePoint, source: Path) -> None:
    user = make_user()
    into = str(world.home / "restores" / "all")
    assert run(start_verify(point, by=user)).state == State.SUCCEEDED
    assert run(start_restore(point, by=user, paths=[], into=into, existing="skip")).state == State.SUCCEEDED
    name = f"{str(source).lstrip('/')}/ledger.txt"
    assert b"one\n" in world.get(reverse("point_download", args=[point.uuid]) + f"?path={name}")
    world.get(reverse("point_browse", args=[point.uuid]))


def with_a_kms(world: World, job: Job, kmip_server: Any) -> None:
    """Add a server on its page (first with a key that does not fit), test and poll it, and back up with its key."""
    other = make_client(the_ca())
    form = {
        "name": "vault",
        "host": kmip_server.host,
        "port": str(kmip_server.port),
        "ca": the_ca().pem,
        "certificate": the_client().pem,
        "key_bits": "3072",
        "outage": "cached",
    }
    world.secrets |= private_key_parts("refused private key", other.key_pem)
    world.secrets |= private_key_parts("private key", the_client().key_pem)
    assert b"form-error" in world.post(reverse("kms_new"), {**form, "private_key": other.key_pem})
    world.post(reverse("kms_new"), {**form, "private_key": the_client().key_pem})
    server = KmsServer.objects.get()
    world.post(reverse("kms_test", args=[server.uuid]), {})
    key = kms_servers.key_for(server, owner=job.uuid, owner_name=job.name, by=None)
    job.encryption, job.password, job.kms_key = Encryption.KMS, None, key
    job.protection_proof = vouch_for(job, "protection_proof")
    job.save()
    point = back_up(job)
    world.post(reverse("kms_poll", args=[server.uuid]), {})
    assert run(Session.objects.get(kind=SessionKind.KMS_POLL)).state == State.SUCCEEDED
    slot = next(slot for slot in inspect(point.path).slots if slot.kind is SlotKind.KMS)
    version = version_of(slot)
    assert version
    world.secrets["secret of a KMS slot"] = secret_of(version, slot)


def rewrap(point: RestorePoint) -> None:
    """Give the points of the chain a slot for the first version again."""
    version = PasswordVersion.objects.get(number=1)
    wanted = Wanted("password", version.record.uuid, version.number)
    session = run(start_rewrap(point.chain, Order(point.chain.uuid, (wanted,)), by=None))
    assert session.state == State.SUCCEEDED, session.result_message


def take_over(world: World, source: Path) -> None:
    """Import a chain that another console wrote, after a wrong password for it."""
    typed = PASSWORDS["password of a foreign chain"]
    foreign = Chain(world.repository, source, passwords=(typed,))
    foreign.write(recipients=(replace(recipient(typed), hint="of the lost console"),))
    place = reverse("chain_import", args=[Repository.objects.get().uuid, foreign.chain_id])
    world.get(place)
    world.post(place, {"password": PASSWORDS["wrong password of a foreign chain"]})
    assert not ChainRow.objects.filter(uuid=foreign.chain_id).exists()
    world.post(place, {"password": typed})
    assert ChainRow.objects.filter(uuid=foreign.chain_id).exists()


def fail(world: World, job: Job, first: RestorePoint) -> None:
    """A damaged file, a source that is gone, a key of another row, and a protection that was changed outside."""
    content = bytearray(first.path.read_bytes())
    content[-200] ^= 1
    first.path.write_bytes(content)
    assert run(start_verify(first, by=None)).state in (State.FAILED, State.WARNING)
    kept = first.file_key_sealed
    RestorePoint.objects.filter(pk=first.pk).update(file_key_sealed=job.current_chain().newest().file_key_sealed)
    first.refresh_from_db()
    assert run(start_verify(first, by=None)).state == State.FAILED
    RestorePoint.objects.filter(pk=first.pk).update(file_key_sealed=kept)
    Job.objects.filter(pk=job.pk).update(sources=["/nowhere/at/all"])
    job.refresh_from_db()
    assert run(start_backup(job, by=None)).state == State.FAILED
    Job.objects.filter(pk=job.pk).update(strict_custody=True)
    job.refresh_from_db()
    assert run(start_backup(job, by=None)).state == State.FAILED


def visit_every_page(world: World, job: Job, point: RestorePoint) -> None:
    """Fetch every address that can be fetched, with the objects of this world."""
    session = Session.objects.order_by("-pk")[0]
    ids = {
        "": {},
        "user": {"pk": make_user().pk},
        "password": {"uuid": PasswordRecord.objects.get().uuid},
        "recovery": {"uuid": recovery.RecoveryKey.objects.get().uuid},
        "repository": {"uuid": job.repository.uuid},
        "chain": {"uuid": point.chain.uuid},
        "point": {"uuid": point.uuid},
        "proxy": {"uuid": job.proxy.uuid},
        "job": {"uuid": job.uuid},
        "session": {"uuid": session.uuid},
        "kms server": {"uuid": KmsServer.objects.get().uuid},
        "kms key": {"uuid": job.kms_key.uuid},
        "kms version": {"uuid": job.kms_key.uuid, "number": 1},
    }
    for pattern in patterns(get_resolver()):
        row = TABLE.get(pattern.name)
        if row and "GET" in row.methods and row.about in ids and pattern.name != "account_logout":
            world.get(reverse(pattern.name, kwargs=ids[row.about]))


# Every secret that was used


def gather(world: World) -> None:
    secrets = world.secrets
    secrets |= {name: text.encode() for name, text in PASSWORDS.items()}
    for version in PasswordVersion.objects.all():
        secrets[f"KEK of {version}"] = kek_of(version)
    for point in RestorePoint.objects.all():
        key = file_key_of(point)
        assert key
        secrets[f"file key of {point.chain}, point {point.sequence}"] = key
    for chain in ChainRow.objects.all():
        newest = chain.newest()
        assert newest
        with open_point(newest.path, FileKey(file_key_of(newest) or b"")) as opened:
            assert opened.keyring
            secrets[f"chain key of {chain}"] = opened.keyring.chain_key
    for key_id, key in sealing.ring().keys.items():
        secrets[f"instance key {key_id.hex()}"] = key
    secrets["signing key"] = signing.private_bytes()
    secrets["cookie of a sign-in"] = world.client.cookies[site_settings.SESSION_COOKIE_NAME].value.encode()


def private_key_parts(name: str, pem: str) -> dict[str, bytes]:
    key: Any = load_pem_private_key(pem.encode(), None)
    numbers = key.private_numbers()
    secret = numbers.d if hasattr(numbers, "d") else numbers.private_value
    return {
        f"{name}, DER": key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        f"{name}, a line": pem.splitlines()[2].encode(),
        f"{name}, the number": secret.to_bytes((secret.bit_length() + 7) // 8, "big"),
    }


def finds(world: World, search: Search) -> list[Find]:
    found = search.tables()
    found += search.folder(world.home, but=[world.home / "instance-keys"])
    found += search.folder(world.repository)
    for place, content in world.pages:
        found += search.look("page", place, content)
    return found


# The tests


def test_no_secret_stands_anywhere_but_in_its_place(world: World) -> None:
    cookie = world.secrets.pop("cookie of a sign-in")
    search = Search(world.secrets)
    assert finds(world, search) == []
    assert search.tables() == Search({"cookie": cookie}).tables() == []
    log = (world.home / "logs" / "debug.log").read_text()
    said = ("The derivation broke.", "INSERT INTO", "django.request: ", "django.template: ", "django-q: ")
    assert [words for words in said if words not in log] == [] and len(log) > 100_000
    assert search.places["page"] > 40 and search.places["table"] > 2 * 25 and search.places["file"] > 8
    assert OrmQ.objects.exists() and AuditEvent.objects.filter(action="key used").exists()
    assert len(world.secrets) >= 26
    # The search sees this very world: the ring is found where it is, and a name that is not secret everywhere.
    ring = Search(world.secrets).folder(world.home)
    assert {find.place for find in ring} == {str(world.home / "instance-keys")}
    places = {find.place.split(" ")[0] for find in finds(world, Search({"name": b"Ledger files"}))}
    assert {"jobs_job", "GET"} <= places


PLANTED = {"text": 'a "planted" secrét & more'.encode(), "key": bytes(range(160, 192))}
SPELLINGS = [(name, spelling) for name, secret in PLANTED.items() for spelling in spellings(secret)]


@pytest.mark.parametrize(("name", "spelling"), SPELLINGS)
def test_a_planted_secret_is_found_in_every_spelling(name: str, spelling: str) -> None:
    content = b"before" + spellings(PLANTED[name])[spelling] + b"after"
    assert name in {find.secret for find in Search(PLANTED).look("text", "here", content)}


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_is_found_whatever_stands_around_it(before: int, encode: Any) -> None:
    for after in range(4):
        content = encode(os.urandom(before) + PLANTED["key"] + os.urandom(after))
        assert PLANTED["key"] not in content
        spelled = [value for spelling, value in spellings(PLANTED["key"]).items() if "base64" in spelling]
        assert any(value in content for value in spelled)


@pytest.mark.parametrize(
    "packed",
    [
        lambda secret: gzip.compress(secret * 3),
        lambda secret: base64.b64encode(zlib.compress(b"x" * 50 + secret)),
        lambda secret: base64.b64encode(base64.b64encode(b"xy" + secret)),
        lambda secret: django_signing.dumps({"a": secret.decode("latin-1"), "b": "x" * 200}, compress=True).encode(),
        lambda secret: gzip.compress(json.dumps({"key": base64.b64encode(secret).decode()}).encode()),
    ],
)
def test_what_is_packed_is_unpacked(packed: Any) -> None:
    assert Search(PLANTED).look("text", "here", packed(PLANTED["key"]))
    assert any(len(part) for part in unpacked(packed(PLANTED["key"])))


def test_a_planted_secret_is_found_in_a_table_and_in_a_file(tmp_path: Path) -> None:
    job = make_job()
    search = Search(PLANTED)
    assert search.tables() == []
    Job.objects.filter(pk=job.pk).update(exclude=[PLANTED["text"].decode()], protection_proof=b"x" + PLANTED["key"])
    OrmQ.objects.create(key="local", payload=django_signing.dumps([PLANTED["text"].decode(), "x" * 99], compress=True))
    assert {(find.secret, find.place) for find in search.tables()} == {
        ("text", "jobs_job"),
        ("key", "jobs_job"),
        ("text", "django_q_ormq"),
    }
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "log").write_bytes(b"key=" + PLANTED["key"].hex().encode())
    assert {find.place for find in search.folder(tmp_path)} == {str(tmp_path / "sub" / "log")}
