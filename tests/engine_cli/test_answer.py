"""`answer`: a recovery key's holder opens for a console what it asks for, having seen what that is."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.crypto_recovery import new_private
from keys.crypto_recovery_request import AskedFile, AskedSlot, Request, read_answer, read_request, request_text
from keys.crypto_sheet import whole_sheet
from keys.crypto_slots import SlotKind
from repositories.engine import cli
from repositories.engine.reader import SlotSecrets, inspect, open_point
from tests.engine.lab import Chain, recipient
from tests.engine.recovering import recovery_private, recovery_recipient
from tests.engine_cli.conftest import Engine

SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
CONSOLE = SIGNER.public_key().public_bytes_raw().hex()
ONE_TIME = new_private()


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    source = tmp_path / "source"
    source.mkdir()
    chain = Chain(tmp_path / "repository", source)
    chain.write(recipients=(recipient("lost"), recovery_recipient()))
    return chain


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    path = tmp_path / "sheet"
    path.write_text(whole_sheet(recovery_private(), name="safe", made="today"))
    return path


def wanted(chain: Chain) -> Request:
    head = inspect(chain.points[0].path)
    slots = [
        AskedSlot(slot.record.bytes, slot.version, slot.fingerprint, slot.hint, slot.encapsulated)
        for slot in head.slots
        if slot.kind is SlotKind.RECOVERY
    ]
    now = int(time.time())
    file = AskedFile(head.file_id.bytes, head.sequence, 1_790_000_000, 2048, slots)
    return Request(
        b"", uuid4(), ONE_TIME.public(), now, now + 600, "alice", "Vault", "Ledger", chain.chain_id, 3, 0, (file,)
    )


@pytest.fixture
def asked(chain: Chain, tmp_path: Path) -> Path:
    path = tmp_path / "request"
    path.write_text(request_text(wanted(chain), SIGNER))
    return path


def test_the_answer_opens_the_point_at_the_console(engine: Engine, asked: Path, sheet: Path, chain: Chain) -> None:
    ended = engine("answer", asked, "--recovery-key", sheet, "--yes", "--console", CONSOLE, as_json=False)
    assert ended.code == 0 and ended.stdout.startswith("-----BEGIN BACKUPSITE RECOVERY ANSWER-----")
    shown = (CONSOLE, "by alice", "Ledger", "Vault", "1, 2026-09", "recovery keys: safe", "up to 3 points open")
    assert all(words in ended.stderr for words in shown)
    (secret,) = read_answer(ended.stdout, read_request(asked.read_text()), ONE_TIME)
    with open_point(chain.points[0].path, SlotSecrets(lambda *_: secret.secret)) as point:
        assert point.file_key == chain.points[0].file_key and point.file_key is not None
        for said in (ended.stdout, ended.stderr):
            assert point.file_key.hex() not in said and secret.secret.hex() not in said


def test_what_is_not_answered(
    asked: Path, sheet: Path, chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yes = ("--yes", "--console", CONSOLE)
    expired = tmp_path / "expired"
    expired.write_text(request_text(replace(wanted(chain), expires_at=int(time.time()) - 1), SIGNER))
    changed = tmp_path / "changed"
    changed.write_text(asked.read_text().replace(asked.read_text()[300:304], "AAAA"))
    other = tmp_path / "other"
    other.write_text(whole_sheet(recovery_private("another"), name="another", made="today"))
    for code, request, key, *more in (
        ("request-expired", expired, sheet, *yes),
        ("bad-text", changed, sheet, *yes),
        ("not-for-this-key", asked, other, *yes),
        ("another-console", asked, sheet, "--yes", "--console", "00" * 32),
        ("contradiction", asked, sheet, "--yes"),
        ("contradiction", asked, sheet),  # nobody is there to be asked
    ):
        assert cli.main(["answer", str(request), "--recovery-key", str(key), *more, "--json"]) == 2
        said = capsys.readouterr()
        assert json.loads(said.out)["error"]["code"] == code and "BEGIN BACKUPSITE" not in said.out + said.err


@pytest.mark.parametrize(("typed", "code"), [("yes", 0), ("no", 2)])
def test_it_asks_at_the_terminal(engine: Engine, asked: Path, sheet: Path, typed: str, code: int) -> None:
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            engine.command("answer", asked, "--recovery-key", sheet),
            cwd=engine.folder, env=engine.environment(), stdin=theirs, stdout=subprocess.PIPE, stderr=theirs,
        )  # fmt: skip
        os.write(ours, typed.encode() + b"\n")
        stdout, _ = process.communicate(timeout=60)
        shown = os.read(ours, 65_536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == code and ("BEGIN" in stdout.decode()) == (code == 0)
    assert "Ledger" in shown and "Type yes" in shown
