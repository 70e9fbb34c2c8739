"""All 25 transitions between none, two passwords and the keys of two KMS servers, through the real runner.

One job walks through every ordered pair of settings (a de Bruijn sequence); each of its sessions has a process of its
own, and the servers are real. Kind, reason, slots and what each secret opens are compared at every step.
"""

from __future__ import annotations

import os
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from django.utils import timezone

from jobs.models import Encryption, Job, Proxy, Session, State
from jobs.sessions import start_backup
from jobs.tasks import run_session
from keys.crypto_recovery import RecoveryPrivate, new_private
from keys.crypto_slots import Slot as SlotOnDisk
from keys.crypto_slots import SlotKind, secret_of
from keys.kms import connecting
from keys.kms_servers import address_of
from keys.models import KmsKey, KmsKeyVersion, PasswordRecord
from keys.passwords import kek_of
from keys.sealing import vouch_for
from repositories.engine.errors import CannotUnwrap, PlainRefused
from repositories.engine.reader import Kek, Secret, SlotSecrets, inspect, open_point
from repositories.models import RestorePoint
from tests.factories import (
    make_job,
    make_kms_key,
    make_kms_server,
    make_password,
    make_proxy,
    make_recovery_key,
    make_repository,
)
from tests.kms.server import KmipServer

pytestmark = pytest.mark.django_db(transaction=True)

NONE = "none"
SETTINGS = (NONE, "A", "B", "X", "Y")


def every_pair_once(letters: tuple[str, ...]) -> list[str]:
    """A sequence in which each ordered pair, the equal ones included, stands beside each other just once."""
    open_pairs = {(a, b) for a in letters for b in letters}
    stack, done = [letters[0]], list[str]()
    while stack:  # Hierholzer: the graph of all pairs has a circuit over all its edges
        here = stack[-1]
        following = next((b for b in letters if (here, b) in open_pairs), None)
        if following is None:
            done.append(stack.pop())
        else:
            open_pairs.remove((here, following))
            stack.append(following)
    walk = done[::-1]
    assert len(set(pairwise(walk))) == len(letters) ** 2 == len(walk) - 1
    return walk


class Cast:
    """Two passwords, a key on each of two servers, and a recovery key whose private half is here."""

    def __init__(self, kmip: KmipServer, job: Job) -> None:
        self.passwords = {"A": make_password("the first"), "B": make_password("the second")}
        self.kms = {name: make_kms_key(self._server(kmip, name), kmip, owner=job.uuid) for name in ("X", "Y")}
        self.recovery: RecoveryPrivate = new_private()
        make_recovery_key(self.recovery, name="safe")

    @staticmethod
    def _server(kmip: KmipServer, name: str) -> object:
        return make_kms_server(kmip, name=f"server {name}", answered_at=timezone.now())

    def settings(self, name: str) -> dict[str, object]:
        if name == NONE:
            return {"encryption": Encryption.OFF, "password": None, "kms_key": None}
        if name in self.passwords:
            return {"encryption": Encryption.PASSWORD, "password": self.passwords[name], "kms_key": None}
        return {"encryption": Encryption.KMS, "password": None, "kms_key": self.kms[name]}

    def secret(self, name: str) -> Secret:
        if name == "R":
            return SlotSecrets(self._by_recovery)
        if name in self.passwords:
            return Kek(kek_of(self.passwords[name].newest()))
        return SlotSecrets(lambda slot, chain, file: _by_server(self.kms[name].newest(), slot))

    def _by_recovery(self, slot: SlotOnDisk, chain_id: object, file_id: object) -> bytes | None:
        if slot.kind is not SlotKind.RECOVERY:
            return None
        return secret_of(slot, self.recovery, chain_id=chain_id, file_id=file_id)  # type: ignore[arg-type]


def _by_server(version: KmsKeyVersion, slot: SlotOnDisk) -> bytes | None:
    """What somebody has who may use this one pair of this server, and nothing else."""
    if slot.kind is not SlotKind.KMS or slot.key_id != version.private_id or slot.oaep is None:
        return None
    with connecting.connect(address_of(version.key.server)) as kms:
        return kms.unwrap(version.private_id, slot.encapsulated, slot.oaep)


@pytest.fixture
def job(tmp_path: Path, transactional_db: None) -> Job:
    proxy = make_proxy()
    Proxy.objects.filter(pk=proxy.pk).update(seen_at=timezone.now() + timedelta(hours=1))
    source = tmp_path / "source"
    source.mkdir()
    (source / "stays").write_bytes(os.urandom(5000))
    repository = make_repository(tmp_path / "repository")
    return make_job(sources=[str(source)], repository=repository, keep_points=100)


def save(job: Job, settings: dict[str, object]) -> None:
    for name, value in settings.items():
        setattr(job, name, value)
    job.protection_proof = vouch_for(job, "protection_proof")
    job.save()


def back_up(job: Job) -> Session:
    session = start_backup(Job.objects.get(pk=job.pk), by=None)
    run_session(session.pk)
    session.refresh_from_db()
    assert session.state == State.SUCCEEDED, (session.result_code, session.result_message)
    return session


def expected(before: str | None, setting: str) -> tuple[str, str]:
    if before is None:
        return "full", "first-session"
    if before == setting:
        return "incremental", "changes-since-parent"
    if before == NONE:
        return "full", "encryption-enabled"
    if setting == NONE:
        return "full", "encryption-disabled"
    return "incremental", "key-changed"


def check_slots(point: RestorePoint, setting: str, cast: Cast) -> None:
    """The file and the catalogue name the same slots: for whom the job was set to, and for the recovery key."""
    on_disk = {(slot.kind.name.lower(), slot.record, slot.version) for slot in inspect(point.path).slots}
    assert on_disk == set(point.slots.values_list("kind", "record_uuid", "version"))
    kinds = {NONE: [], "A": ["password", "recovery"], "X": ["kms", "recovery"]}
    kinds |= {"B": kinds["A"], "Y": kinds["X"]}
    assert sorted(kind for kind, _, _ in on_disk) == kinds[setting]
    chosen: PasswordRecord | KmsKey | None = {**cast.passwords, **cast.kms}.get(setting)
    if chosen is not None:
        assert chosen.uuid in {record for _, record, _ in on_disk}


def check_secrets(point: RestorePoint, setting: str, cast: Cast) -> None:
    earlier = set(point.chain.points.filter(sequence__lt=point.sequence).values_list("uuid", flat=True))
    for name in ("A", "B", "X", "Y", "R"):
        if setting != NONE and name in (setting, "R"):
            with open_point(point.path, cast.secret(name)) as opened:
                assert set(opened.earlier_file_keys) == earlier
        else:
            with pytest.raises(PlainRefused if setting == NONE else CannotUnwrap):
                open_point(point.path, cast.secret(name))


def test_all_25_transitions(job: Job, tmp_path: Path, kmip_server: KmipServer) -> None:
    cast = Cast(kmip_server, job)
    before: str | None = None
    for number, setting in enumerate(every_pair_once(SETTINGS)):
        (tmp_path / "source" / "changes").write_text(f"{number} {setting}")
        save(job, cast.settings(setting))
        chain_before = job.current_chain()
        session = back_up(job)
        kind, reason = expected(before, setting)
        assert (session.plan_kind, session.plan_reason) == (kind, reason), (before, setting)
        point = session.written_point
        assert point is not None
        assert (point.kind, point.chain.encrypted) == (kind, setting != NONE)
        assert (point.chain == chain_before) is (kind == "incremental")
        check_slots(point, setting, cast)
        check_secrets(point, setting, cast)
        before = setting
