"""Files of version 1 as they were when it was frozen: every release reads them, and so does the second reader."""

import hashlib
import json
import os
import shutil
import stat
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import serialization

from keys import crypto_rsa
from keys.crypto_password import password_bytes
from keys.crypto_recovery import RecoveryPrivate, fingerprint
from keys.crypto_slots import Slot, SlotKind
from repositories.engine.chains import scan_chain
from repositories.engine.cli_keys import of_recovery_key
from repositories.engine.errors import CannotUnwrap
from repositories.engine.observer import Silent
from repositories.engine.reader import Password, Point, Secret, SlotSecrets, inspect, open_point
from repositories.engine.verify import verify
from tests import vectors
from tests.engine.lab import Chain, facts_in_point, facts_on_disk, write_tree
from tests.engine.second_reader import SecondReader
from tests.vectors.generate import SIGNER

FOLDER = Path(vectors.__file__).parent / "version_1"
NAMES = sorted(path.name for path in FOLDER.iterdir())
POINTS = [
    (name, number) for name in NAMES for number in json.loads((FOLDER / name / "expected.json").read_text())["points"]
]


def told(name: str) -> dict:
    return json.loads((FOLDER / name / "expected.json").read_text())


def folder_of(name: str) -> Path:
    return FOLDER / name / told(name)["chain"]


def secrets_of(name: str, number: str) -> list[Secret | None]:
    passwords = told(name)["points"][number]["passwords"]
    return [*(Password(password_bytes(password)) for password in passwords), *others_of(name)] or [None]


def others_of(name: str) -> list[Secret | None]:
    """A KMS key and a recovery key, where the vector has them."""
    if "recovery_seed" not in told(name):
        return []
    private = private_halves(name)

    def by_kms(slot: Slot, _chain: UUID, _file: UUID) -> bytes | None:
        return crypto_rsa.decapsulate(slot.encapsulated, private["rsa"], slot.oaep) if slot.oaep else None

    return [SlotSecrets(by_kms), SlotSecrets(of_recovery_key(RecoveryPrivate(private["seed"])))]


def private_halves(name: str) -> dict:
    said = told(name)
    rsa = serialization.load_pem_private_key(said["kms_private_key"].encode(), password=None)
    return {"rsa": rsa, "seed": bytes.fromhex(said["recovery_seed"])}


def entries_of(point: Point) -> dict[str, dict]:
    found = {}
    for entry in point.walk():
        if entry.ancestor:
            continue
        facts: dict = {"mode": entry.mode, "mtime_ns": entry.mtime_ns}
        if entry.is_file:
            content = b"".join(point.read(entry))
            facts |= {"size": entry.size, "sha256": hashlib.sha256(content).hexdigest()}
        if stat.S_ISLNK(entry.mode):
            facts |= {"target": os.fsdecode(entry.target)}
        found[os.fsdecode(entry.path)] = facts
    return found


def test_all_kinds_are_there() -> None:
    assert NAMES == [
        "changed-password",
        "encrypted",
        "every-kind-of-key",
        "merged",
        "plain",
        "resumed",
        "several-slots",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_those_that_were_frozen(name: str) -> None:
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder_of(name).iterdir()}
    assert digests == told(name)["files"]


@pytest.mark.parametrize(("name", "number"), POINTS)
def test_every_secret_opens_everything(name: str, number: str) -> None:
    for secret in secrets_of(name, number):
        with open_point(folder_of(name) / number, secret) as point:
            assert point.head.version == 1
            assert entries_of(point) == told(name)["points"][number]["entries"]
            assert verify(point, "full", Silent()).damages == ()


@pytest.mark.parametrize(("name", "number"), POINTS)
def test_the_second_reader_reads_them(name: str, number: str) -> None:
    expected = told(name)["points"][number]
    secrets = [{"password": password} for password in expected["passwords"]]
    if "recovery_seed" in told(name):
        secrets += [{half: secret} for half, secret in private_halves(name).items()]
    for secret in secrets or [{}]:
        found = SecondReader(folder_of(name) / number, **secret).files()
        for path, facts in expected["entries"].items():
            mode, mtime_ns, content = found[os.fsencode(path)]
            assert (mode, mtime_ns) == (facts["mode"], facts["mtime_ns"])
            if "sha256" in facts:
                assert hashlib.sha256(content).hexdigest() == facts["sha256"]
            if "target" in facts:
                assert content == os.fsencode(facts["target"])


def test_what_the_slots_of_every_kind_say() -> None:
    password, kms, recovery = inspect(folder_of("every-kind-of-key") / "1").slots
    assert (password.kind, password.hint) == (SlotKind.PASSWORD, "hint of correct horse")
    assert (kms.kind, kms.version, kms.key_id, kms.hint) == (SlotKind.KMS, 4, "key 4711", "vault of Köln")
    assert (recovery.kind, recovery.version, recovery.hint) == (SlotKind.RECOVERY, 1, "safe in Köln")
    private = RecoveryPrivate(private_halves("every-kind-of-key")["seed"])
    assert recovery.fingerprint == fingerprint(private.public())


def test_signatures_hold() -> None:
    for name, number in POINTS:
        with open_point(folder_of(name) / number, secrets_of(name, number)[0]) as point:
            assert point.summary.signer == (SIGNER.public_key().public_bytes_raw() if name == "encrypted" else b"")


def test_an_older_password_does_not_open_what_came_later() -> None:
    old = secrets_of("changed-password", "1")[0]
    with pytest.raises(CannotUnwrap):
        open_point(folder_of("changed-password") / "3", old)


@pytest.mark.parametrize("name", NAMES)
def test_a_chain_of_then_goes_on_today(name: str, tmp_path: Path) -> None:
    """An incremental of this release behind the newest point; it shares what the older one has."""
    root = tmp_path / "repository"
    shutil.copytree(FOLDER / name, root, ignore=shutil.ignore_patterns("expected.json"))
    newest = scan_chain(root / told(name)["chain"]).files[-1]
    number = str(newest.sequence)
    with open_point(newest.path, secrets_of(name, number)[0]) as point:
        large = b"".join(point.read(point.entry(b"srv/vector/large")))
        write_tree(tmp_path / "source", {"large again": large, "new": b"new"})
        chain = Chain(root, tmp_path / "source", ("now",) if newest.head.encrypted else (), newest.head.chain_id)
        chain.points.append(SimpleNamespace(path=newest.path, sequence=newest.sequence, file_key=point.file_key))
    written = chain.write()
    assert written.written_bytes < 250_000, "the large file is stored already"
    with chain.open() as point:
        assert facts_in_point(point) == facts_on_disk(tmp_path / "source")
