"""The holder of a recovery key, off the network: makes a pair, answers a challenge, opens points with the sheet."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys import crypto_custody, crypto_recovery
from keys.crypto_custody import new_challenge, read_answer
from keys.crypto_recovery import public_text, read_public
from keys.crypto_sheet import read_sheet, sheet_text, whole_sheet
from repositories.engine import cli, cli_keys
from tests.engine.lab import Chain, write_tree
from tests.engine.recovering import kms_recipient, recovery_private, recovery_recipient
from tests.engine_cli.conftest import Engine

Run = Callable[..., Any]
CONSOLE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process."""

    def call(*arguments: str | Path, as_json: bool = True) -> SimpleNamespace:
        code = cli.main([str(argument) for argument in arguments] + (["--json"] if as_json else []))
        said = capsys.readouterr()
        result = json.loads(said.out.splitlines()[-1]) if as_json else {}
        return SimpleNamespace(code=code, result=result, out=said.out, err=said.err)

    return call


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    path = tmp_path / "sheet"
    path.write_text(whole_sheet(recovery_private(), name="safe", made="today"))
    return path


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    """Two points that a KMS key and a recovery key open, and no password: the console that wrote them is lost."""
    source = tmp_path / "source"
    write_tree(source, {"a": b"content of a" * 30, "b": b"content of b"})
    chain = Chain(tmp_path / "repository", source)
    chain.write(recipients=(kms_recipient(), recovery_recipient()))
    write_tree(source, {"c": b"later"})
    chain.write(recipients=(kms_recipient(), recovery_recipient()))
    return chain


def restored(into: Path, chain: Chain) -> dict[str, bytes]:
    folder = into / chain.source.relative_to("/")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_recover_with_the_sheet_in_a_process_of_its_own(
    engine: Engine, chain: Chain, sheet: Path, tmp_path: Path
) -> None:
    ended = engine("recover", chain.root, "--into", tmp_path / "into", "--recovery-key", sheet)
    assert ended.code == 0, ended.stderr
    assert restored(tmp_path / "into", chain) == {"a": b"content of a" * 30, "b": b"content of b", "c": b"later"}
    letters = sheet_text(recovery_private()).split()
    assert not [group for group in letters if group in ended.stdout + ended.stderr]


def test_list_and_verify_with_letters_alone(run: Run, chain: Chain, tmp_path: Path) -> None:
    letters = tmp_path / "letters"
    letters.write_text(sheet_text(recovery_private()).lower().replace("\n", "-"))
    listed = run("list", chain.root, "--recovery-key", letters)
    assert listed.code == 0 and [point["kind"] for point in listed.result["points"]] == ["full", "incremental"]
    verified = run("verify", chain.folder / "1", "--recovery-key", letters)
    assert verified.code == 0 and verified.result["sound"]


def test_another_sheet_opens_nothing_and_a_misread_one_says_so(run: Run, chain: Chain, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text(sheet_text(recovery_private("another")))
    assert run("list", chain.root, "--recovery-key", other).result["error"]["code"] == "cannot-unwrap"
    letters = sheet_text(recovery_private())
    other.write_text(letters[:-1] + ("A" if letters[-1] != "A" else "B"))
    assert run("list", chain.root, "--recovery-key", other).result["error"]["code"] == "bad-sheet"
    refused = run("list", chain.root, "--recovery-key", tmp_path / "nowhere")
    assert refused.result["error"]["code"] == "key-file-unreadable" and "nowhere" in refused.err


def test_nobody_is_asked_for_a_password_that_does_not_exist(run: Run, chain: Chain) -> None:
    refused = run("list", chain.root)
    assert refused.result["error"]["code"] == "password-needed"
    assert "a key on the KMS server vault in Bonn, the recovery key safe. Give --recovery-key" in refused.err


def test_the_sheet_is_typed_at_the_terminal(run: Run, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = run("list", chain.root, "--recovery-key", "-")
    assert refused.result["error"]["fields"]["reason"] == "no terminal"
    typed = iter(sheet_text(recovery_private()).splitlines())
    asked: list[str] = []
    monkeypatch.setattr(cli_keys, "may_ask", lambda: True)
    monkeypatch.setattr(cli_keys.getpass, "getpass", lambda prompt, stream: asked.append(prompt) or next(typed))
    assert run("list", chain.root, "--recovery-key", "-").code == 0
    assert [prompt.split(",")[1].strip()[:11] for prompt in asked] == ["line 1 of 3", "line 2 of 3", "line 3 of 3"]


def test_rewrap_gives_a_password_to_points_of_a_lost_console(
    run: Run, chain: Chain, sheet: Path, tmp_path: Path
) -> None:
    new = tmp_path / "new"
    new.write_text("a password\n")
    arguments = ("rewrap", chain.root, "--recovery-key", sheet, "--new-password-file", new, "--remove-old")
    refused = run(*arguments)
    assert refused.code == 2 and refused.result["points"][0]["problem_code"] == "console-chain"
    done = run(*arguments, "--console-is-gone")
    assert done.code == 0 and [row["slots"] for row in done.result["points"]] == [3, 3], "slots of other kinds stay"
    assert run("list", chain.folder / "1", "--password-file", new).code == 0
    assert run("list", chain.folder / "1", "--recovery-key", sheet).code == 0


def test_a_chain_of_the_command_line_gets_a_recovery_key(run: Run, sheet: Path, tmp_path: Path) -> None:
    source, repository, password, public = (tmp_path / name for name in ("s", "r", "password", "public"))
    write_tree(source, {"a": b"a"})
    password.write_text("first")
    public.write_text(public_text(recovery_private().public()))
    assert run("backup", source, "--to", repository, "--password-file", password).code == 0
    arguments = ("rewrap", repository, "--password-file", password, "--new-recovery-key", public)
    assert run(*arguments).code == 0 and run(*arguments).result["points"][0]["slots"] == 2, "done again it adds nothing"
    assert run("list", repository, "--recovery-key", sheet).code == 0
    for wrong in (["--new-recovery-key", public, "--remove-old"], []):
        assert run("rewrap", repository, "--password-file", password, *wrong).result["error"]["code"] == "contradiction"


def test_inspect_says_what_each_slot_needs(run: Run, chain: Chain) -> None:
    path = chain.folder / "1"
    kms, recovery = run("inspect", path).result["slots"]
    assert (kms["kind"], kms["key_id"], kms["hint"]) == ("kms", "private-1", "vault in Bonn")
    assert kms["padding"] == "OAEP SHA-256, MGF1 SHA-256" and len(kms["encapsulated"]) == 512
    assert (recovery["kind"], recovery["hint"]) == ("recovery", "safe")
    assert recovery["fingerprint"] == crypto_recovery.fingerprint(recovery_private().public()).hex()
    said = run("inspect", path, as_json=False).out
    assert f"  encapsulated{kms['encapsulated']}" in said and "server: vault in Bonn" in said


class TestNew:
    def test_a_pair_is_made(self, run: Run, tmp_path: Path) -> None:
        sheet, public = tmp_path / "sheet", tmp_path / "public"
        made = run("recovery-key", "new", "--name", "a\nb", "--sheet", sheet, "--public", public)
        private = read_sheet(sheet.read_text())
        assert read_public(public.read_text()) == private.public() == read_public(made.result["public"])
        assert stat.S_IMODE(sheet.stat().st_mode) == 0o600 and "Name:        a b\n" in sheet.read_text()
        assert sheet_text(private)[:14] not in made.out + made.err
        checked = run("recovery-key", "check", "--recovery-key", sheet)
        assert checked.code == 0 and checked.result["fingerprint"] == made.result["fingerprint"]

    def test_without_a_file_the_sheet_is_shown(self, run: Run) -> None:
        said = run("recovery-key", "new", as_json=False).out
        sheet, _, rest = said.partition("The public half, to paste")
        public = "-----BEGIN" + rest.partition("-----BEGIN")[2]
        assert read_sheet(sheet).public() == read_public(public)

    def test_nothing_is_overwritten_and_no_sheet_is_lost(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "there").write_text("kept")
        assert run("recovery-key", "new", "--sheet", tmp_path / "there").code == 2
        assert (tmp_path / "there").read_text() == "kept"
        assert run("recovery-key", "new").result["error"]["code"] == "contradiction"
        assert run("recovery-key", "check").result["error"]["code"] == "contradiction"
        wrong = ("recovery-key", "new", "--recovery-key", tmp_path / "there")
        assert run(*wrong).result["error"]["code"] == "contradiction"


class TestProve:
    def test_a_challenge_is_answered(self, run: Run, sheet: Path, tmp_path: Path) -> None:
        text, expected = new_challenge(recovery_private().public(), CONSOLE, 1_790_000_000)
        (tmp_path / "challenge").write_text(f"please answer:\n{text}\nregards")
        proven = run("prove", tmp_path / "challenge", "--recovery-key", sheet)
        assert read_answer(proven.result["answer"]) == expected
        assert proven.result["console"] == CONSOLE.public_key().public_bytes_raw().hex()
        assert proven.result["asked_at"] == "2026-09-21T14:13:20Z"

    def test_by_standard_input_and_who_asks_is_said_first(
        self, run: Run, sheet: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text, expected = new_challenge(recovery_private().public(), CONSOLE, 1_790_000_000)
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        proven = run("prove", "--recovery-key", sheet, as_json=False)
        assert f"The console {CONSOLE.public_key().public_bytes_raw().hex()} asks, on 2026-09-21" in proven.err
        assert proven.out.startswith(f"Answer: {crypto_custody.answer_text(expected)}\n")

    def test_anything_else_is_refused(self, run: Run, sheet: Path, tmp_path: Path) -> None:
        text, _ = new_challenge(recovery_private("another").public(), CONSOLE, 1_790_000_000)
        for content, code in ((text, "not-for-this-key"), ("nothing", "bad-text"), ("\ud7ff", "bad-text")):
            (tmp_path / "challenge").write_text(content)
            refused = run("prove", tmp_path / "challenge", "--recovery-key", sheet)
            assert (refused.code, refused.result["error"]["code"]) == (2, code)
