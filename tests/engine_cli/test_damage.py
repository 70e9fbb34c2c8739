"""Damage by the command line: what is named, what comes out nevertheless, and what the exit code says of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from keys import crypto_argon2_child
from keys.crypto_errors import KdfFailed
from repositories.engine.cli import main
from repositories.engine.layout import HEAD_A_OFFSET, HEAD_B_OFFSET, ItemKind
from repositories.engine.reader import Password, open_point
from tests.engine.lab import Chain, end_segments_often, write_tree
from tests.engine_cli.conftest import Engine, Facts, files_of, refused, restored_at

FactsOf = Callable[[Path], Facts]
Secret = tuple[str, str]


@pytest.fixture
def secret(engine: Engine) -> Secret:
    return "--password-file", str(engine.password_file("secret"))


@pytest.fixture
def repository(engine: Engine, tree: Path, tmp_path: Path, secret: Secret) -> Path:
    """Two points; the second one has a large file of its own."""
    for number in (1, 2):
        (tree / f"own {number}").write_bytes(os.urandom(5 << 20))
        assert engine("backup", tree, "--to", tmp_path / "repository", "--level", "none", *secret).code == 0
    return tmp_path / "repository"


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_verify_names_the_points_that_a_damage_touches(engine: Engine, repository: Path, secret: Secret) -> None:
    file = files_of(repository)[0]
    flip(file, file.stat().st_size // 2)
    ended = engine("verify", repository, *secret)
    assert (ended.code, ended.result["sound"], ended.result["damages_count"]) == (2, False, 1)
    rows = ended.result["points"]
    assert [row["exit_code"] for row in rows] == [2, 2]
    (damage,) = rows[0]["damages"]
    assert damage == rows[1]["damages"][0]
    assert damage["points"] == [1, 2] and damage["part"].startswith("block ")
    assert any(path.endswith("own 1") for path in damage["files"])
    said = engine("verify", repository, *secret, as_json=False).stdout
    assert "restore points 1, 2" in said and "can be restored" in said


def test_verify_takes_a_sample(engine: Engine, repository: Path, secret: Secret) -> None:
    sampled = [engine("verify", repository, "--sample", "50%", "--seed", seed, *secret) for seed in ("3", "4")]
    assert [ended.code for ended in sampled] == [0, 0]
    for ended, seed in zip(sampled, (3, 4), strict=True):
        assert (ended.result["depth"], ended.result["share"], ended.result["seed"]) == ("sample", 0.5, seed)
    whole = engine("verify", repository, "--limit", "1G", *secret).result["blocks_checked"]
    assert sum(ended.result["blocks_checked"] for ended in sampled) >= whole
    assert "--seed " in engine("verify", repository, "--sample", "0.5", *secret, as_json=False).stdout


@pytest.mark.parametrize("option", [("--sample", "0"), ("--sample", "120%"), ("--limit", "fast"), ("--limit", "0")])
def test_impossible_amounts_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, str]
) -> None:
    assert main(["verify", str(tmp_path), "--seed", "1"]) == 2 and "--sample" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(tmp_path), *option])
    assert ended.value.code == 2 and option[0] in capsys.readouterr().err


def test_a_cut_off_file_is_an_error_that_names_best_effort(
    engine: Engine, repository: Path, tree: Path, tmp_path: Path, secret: Secret, facts_of: FactsOf
) -> None:
    """The trailer is missing: everything comes out, as a warning, since nobody can say whether it was all."""
    file = files_of(repository)[1]
    os.truncate(file, file.stat().st_size - 90)
    ended = engine("recover", repository, "--into", tmp_path / "into", *secret)
    refused(ended, "corrupt-file")
    assert "--best-effort" in ended.result["error"]["message"]
    ended = engine("recover", repository, "--into", tmp_path / "into", "--best-effort", *secret)
    assert (ended.code, ended.result["partial"], ended.result["failed_count"]) == (1, False, 0)
    assert ended.result["findings"] and ended.result["signature"] == "unsigned", "its seal is whole"
    assert facts_of(restored_at(tmp_path / "into", tree)) == facts_of(tree)


def test_without_a_root_a_part_comes_out_and_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Many segments, and a damaged root: an incremental gives what it sealed itself, and exit code 2."""
    end_segments_often(monkeypatch, 6)
    write_tree(tmp_path / "source", {f"{number}": b"%d" % number for number in range(200)})
    chain = Chain(tmp_path / "repository", tmp_path / "source", ())
    chain.write()
    write_tree(tmp_path / "source", {"100": b"changed"})
    chain.write()
    with chain.open() as point:
        place = point.container.index.place(int(point.container.index.own.of_kind(ItemKind.ROOT)[0]))
    assert place is not None
    flip(chain.points[1].path, place.offset + 40)
    command = ["recover", str(chain.root), "--into", str(tmp_path / "into"), "--best-effort"]
    assert main([*command, "--json"]) == 2
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["partial"], result["failed_count"]) == (True, 0)
    found = {path.name: path.read_bytes() for path in restored_at(tmp_path / "into", chain.source).iterdir()}
    assert found.pop("100") == b"changed" and 0 <= len(found) < 199
    assert all(content == name.encode() for name, content in found.items())
    assert main(command) == 2
    assert "PARTIAL" in capsys.readouterr().out
    os.truncate(chain.points[1].path, place.offset)
    shutil.rmtree(tmp_path / "into")
    assert main([*command, "--json"]) == 2
    assert "lost" in json.loads(capsys.readouterr().out.splitlines()[-1])["signature"]


def test_a_slot_that_wants_too_much_memory_closes_its_own_file_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stranger's file in the repository, with 2 TiB of Argon2id in its only slot."""
    source = tmp_path / "source"
    write_tree(source, {"a": b"a"})
    good, hostile = (Chain(tmp_path / "repository", source) for _ in range(2))
    for chain in (good, hostile):
        chain.write()
    path = hostile.points[0].path
    raw = bytearray(path.read_bytes())
    for copy in (HEAD_A_OFFSET, HEAD_B_OFFSET):
        length = int.from_bytes(raw[copy + 12 : copy + 16], "little")
        slot = copy + 96
        raw[slot + 60 : slot + 64] = (1 << 31).to_bytes(4, "little")
        raw[copy + length - 32 : copy + length] = hashlib.sha256(raw[copy : copy + length - 32]).digest()
    path.write_bytes(raw)
    (tmp_path / "password").write_text("correct horse")
    command = ["list", str(tmp_path / "repository"), "--password-file", str(tmp_path / "password"), "--json"]
    assert main(command) == 1
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["points"]
    assert sorted(row.get("problem_code", "") for row in rows) == ["", "cannot-unwrap"]


def test_a_derivation_without_a_result_is_no_wrong_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(tmp_path / "source", {"a": b"a"})
    chain = Chain(tmp_path / "repository", tmp_path / "source")
    chain.write()
    (tmp_path / "child.py").write_text("import os; os.kill(os.getpid(), 9)")
    monkeypatch.setattr(crypto_argon2_child, "__file__", str(tmp_path / "child.py"))
    with pytest.raises(KdfFailed):
        open_point(chain.points[0].path, Password(b"correct horse"))
    (tmp_path / "password").write_text("correct horse")
    assert main(["list", str(chain.root), "--password-file", str(tmp_path / "password"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["error"]["code"] == "kdf-failed"
