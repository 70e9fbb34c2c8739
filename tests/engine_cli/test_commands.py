"""What the commands of the engine do, with their exit codes, as processes of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine_cli.conftest import Engine, Facts, files_of, refused, restored_at

FactsOf = Callable[[Path], Facts]


class TestBackupAndRecover:
    def test_a_plain_tree_comes_back_as_it_was(
        self, engine: Engine, tree: Path, tmp_path: Path, facts_of: FactsOf
    ) -> None:
        written = engine("backup", tree, "--to", tmp_path / "repository")
        assert written.code == 0, written.stderr
        assert (written.result["number"], written.result["kind"]) == (1, "full")
        assert written.result["encrypted"] is False
        recovered = engine("recover", tmp_path / "repository", "--into", tmp_path / "into")
        assert recovered.code == 0, recovered.stderr
        assert facts_of(restored_at(tmp_path / "into", tree)) == facts_of(tree)
        assert recovered.result["links"] == 1

    def test_an_encrypted_chain_point_by_point(
        self, engine: Engine, tree: Path, tmp_path: Path, facts_of: FactsOf
    ) -> None:
        repository, password = tmp_path / "repository", engine.password_file("secret\n")
        states = []
        for number in (1, 2, 3):
            (tree / "docs" / f"new {number}").write_text(f"new {number}")
            (tree / "docs" / "a.txt").write_text("changed " * number)
            states.append(facts_of(tree))
            written = engine("backup", tree, "--to", repository, "--password-file", password)
            assert written.code == 0, written.stderr
            assert written.result["kind"] == ("full" if number == 1 else "incremental")
            assert written.result["number"] == number
            assert written.result["encrypted"] is True
        for number, state in enumerate(states, start=1):
            into = tmp_path / f"into {number}"
            arguments = ("recover", repository, "--into", into, "--point", str(number), "--password-file", password)
            assert engine(*arguments).code == 0
            assert facts_of(restored_at(into, tree)) == state
        newest = tmp_path / "newest"
        assert engine("recover", repository, "--into", newest, "--password-file", password).result["number"] == 3
        assert facts_of(restored_at(newest, tree)) == states[2]
        content = b"".join(path.read_bytes() for path in files_of(repository))
        assert b"a.txt" not in content
        assert b"changed" not in content

    def test_a_selection(self, engine: Engine, tree: Path, tmp_path: Path, facts_of: FactsOf) -> None:
        repository, into = tmp_path / "repository", tmp_path / "into"
        engine("backup", tree, "--to", repository)
        recovered = engine("recover", repository, tree / "docs" / "deep", str(tree / "link")[1:], "--into", into)
        assert recovered.code == 0, recovered.stderr
        found = facts_of(restored_at(into, tree))
        whole = facts_of(tree)
        assert set(found) == {b".", b"docs", b"docs/deep", b"docs/deep/b.bin", b"link"}
        assert all(found[path] == whole[path] for path in found)

    def test_a_hard_link_whose_first_name_is_not_selected(self, engine: Engine, tree: Path, tmp_path: Path) -> None:
        repository, into = tmp_path / "repository", tmp_path / "into"
        engine("backup", tree, "--to", repository)
        assert engine("recover", repository, tree / "docs" / "same as a", "--into", into).code == 0
        assert (restored_at(into, tree) / "docs" / "same as a").read_bytes() == b"first\n"

    def test_a_file_of_the_chain_alone(self, engine: Engine, tree: Path, tmp_path: Path, facts_of: FactsOf) -> None:
        repository, password = tmp_path / "repository", engine.password_file("secret")
        engine("backup", tree, "--to", repository, "--password-file", password)
        recovered = engine("recover", files_of(repository)[0], "--into", tmp_path / "i", "--password-file", password)
        assert recovered.code == 0, recovered.stderr
        assert facts_of(restored_at(tmp_path / "i", tree)) == facts_of(tree)

    def test_several_sources_and_a_single_file(self, engine: Engine, tree: Path, tmp_path: Path) -> None:
        single = tmp_path / "single.txt"
        single.write_text("single")
        assert engine("backup", tree / "docs", single, "--to", tmp_path / "repository").code == 0
        assert engine("recover", tmp_path / "repository", "--into", tmp_path / "into").code == 0
        assert restored_at(tmp_path / "into", single).read_text() == "single"
        assert (restored_at(tmp_path / "into", tree) / "docs" / "script").exists()
        assert not (restored_at(tmp_path / "into", tree) / "nothing").exists()

    def test_a_sparse_file_stays_sparse(self, engine: Engine, tree: Path, tmp_path: Path) -> None:
        engine("backup", tree, "--to", tmp_path / "repository")
        engine("recover", tmp_path / "repository", "--into", tmp_path / "into")
        facts = (restored_at(tmp_path / "into", tree) / "sparse").stat()
        assert facts.st_size == (5 << 20) + 3
        assert facts.st_blocks * 512 < 1 << 20

    @pytest.mark.parametrize("level", ["none", "fast", "balanced", "strong"])
    def test_every_level(self, engine: Engine, tree: Path, tmp_path: Path, facts_of: FactsOf, level: str) -> None:
        assert engine("backup", tree, "--to", tmp_path / "repository", "--level", level).code == 0
        assert engine("recover", tmp_path / "repository", "--into", tmp_path / "into").code == 0
        assert facts_of(restored_at(tmp_path / "into", tree)) == facts_of(tree)

    def test_a_full_on_request_stays_in_the_chain(self, engine: Engine, tree: Path, tmp_path: Path) -> None:
        first = engine("backup", tree, "--to", tmp_path / "repository")
        second = engine("backup", tree, "--to", tmp_path / "repository", "--full")
        assert (second.result["kind"], second.result["reason"]) == ("full", "active-full")
        assert (second.result["chain_id"], second.result["sequence"]) == (first.result["chain_id"], 2)

    def test_a_repository_inside_the_source_is_left_out(self, engine: Engine, tree: Path, tmp_path: Path) -> None:
        repository = tree / "backups"
        assert engine("backup", tree, "--to", repository).code == 0
        again = engine("backup", tree, "--to", repository)
        assert again.code == 0
        assert again.result["source_bytes"] < 6 << 20
        engine("recover", repository, "--into", tmp_path / "into")
        assert not list((restored_at(tmp_path / "into", tree) / "backups").glob("*/*"))


class TestExisting:
    @pytest.mark.parametrize(
        ("existing", "content", "also"),
        [("skip", "mine", None), ("overwrite", "first\n", None), ("rename", "mine", "first\n")],
    )
    def test_each_policy(
        self, engine: Engine, tree: Path, tmp_path: Path, existing: str, content: str, also: str | None
    ) -> None:
        engine("backup", tree / "docs", "--to", tmp_path / "repository")
        docs = restored_at(tmp_path / "into", tree) / "docs"
        docs.mkdir(parents=True)
        (docs / "a.txt").write_text("mine")
        recovered = engine("recover", tmp_path / "repository", "--into", tmp_path / "into", "--existing", existing)
        assert recovered.code == 0, recovered.stderr
        assert (docs / "a.txt").read_text() == content
        assert (docs / "a (restored).txt").exists() is (also is not None)
        if also:
            assert (docs / "a (restored).txt").read_text() == also
        assert recovered.result["skipped"] == (1 if existing == "skip" else 0)
        assert (docs / "script").exists()

    @pytest.mark.parametrize("existing", ["skip", "overwrite", "rename"])
    def test_a_link_planted_in_the_target(self, engine: Engine, tree: Path, tmp_path: Path, existing: str) -> None:
        engine("backup", tree, "--to", tmp_path / "repository")
        outside = tmp_path / "outside"
        outside.mkdir()
        place = restored_at(tmp_path / "into", tree)
        place.mkdir(parents=True)
        (place / "docs").symlink_to(outside)
        recovered = engine("recover", tmp_path / "repository", "--into", tmp_path / "into", "--existing", existing)
        assert os.listdir(outside) == []
        assert recovered.code == (1 if existing == "skip" else 0)
        assert bool(recovered.result["failed_count"]) is (existing == "skip")


class TestReaders:
    def test_list_for_people(self, engine: Engine, tree: Path, tmp_path: Path) -> None:
        engine("backup", tree, "--to", tmp_path / "repository")
        engine("backup", tree, "--to", tmp_path / "repository")
        listed = engine("list", tmp_path / "repository", as_json=False)
        lines = listed.stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["1", "2"]
        assert "full" in lines[0]
        assert "incremental" in lines[1]

    def test_inspect_needs_no_key_and_tells_no_names(self, engine: Engine, tree: Path, tmp_path: Path) -> None:
        password = engine.password_file("secret")
        written = engine("backup", tree, "--to", tmp_path / "repository", "--password-file", password)
        ended = engine("inspect", files_of(tmp_path / "repository")[0])
        assert ended.code == 0
        assert ended.result["encrypted"] is True
        assert ended.result["chain_id"] == written.result["chain_id"]
        assert [slot["kind"] for slot in ended.result["slots"]] == ["password"]
        assert ended.result["slots"][0]["kdf"]["memory_kib"] >= 65536
        assert "a.txt" not in ended.stdout

    def test_verify_sound(self, engine: Engine, tree: Path, tmp_path: Path) -> None:
        password = engine.password_file("secret")
        for _ in range(2):
            engine("backup", tree, "--to", tmp_path / "repository", "--password-file", password)
        whole = engine("verify", tmp_path / "repository", "--password-file", password)
        assert whole.code == 0, whole.stdout + whole.stderr
        assert [point["exit_code"] for point in whole.result["points"]] == [0, 0]
        one = engine("verify", files_of(tmp_path / "repository")[0], "--password-file", password)
        assert (one.code, one.result["sound"]) == (0, True)

    @pytest.mark.parametrize("encrypted", [True, False])
    def test_damage_is_named_and_the_rest_is_recovered(
        self, engine: Engine, tree: Path, tmp_path: Path, encrypted: bool
    ) -> None:
        """Two incompressible files in blocks of their own; one byte of the first block is turned."""
        for name in ("first", "second"):
            (tree / name).write_bytes(os.urandom(9 << 20))
        password = ["--password-file", str(engine.password_file("secret"))] if encrypted else []
        engine("backup", tree, "--to", tmp_path / "repository", "--level", "none", *password)
        file = files_of(tmp_path / "repository")[0]
        needle = (tree / "first").read_bytes()[5 << 20 : (5 << 20) + 64]
        content = bytearray(file.read_bytes())
        position = len(content) // 4 if encrypted else content.index(needle)
        content[position] ^= 1
        file.write_bytes(content)

        verified = engine("verify", tmp_path / "repository", *password)
        assert verified.code == 2
        assert verified.result["sound"] is False
        damaged = verified.result["points"][0]["damaged_files"]
        assert damaged
        recovered = engine("recover", tmp_path / "repository", "--into", tmp_path / "into", *password)
        assert recovered.code == 2
        assert {"/" + failure["path"].lstrip("/") for failure in recovered.result["failed"]} == {
            "/" + path.lstrip("/") for path in damaged
        }
        place = restored_at(tmp_path / "into", tree)
        whole = [name for name in ("first", "second") if (place / name).exists()]
        assert len(whole) == 1
        assert (place / whole[0]).read_bytes() == (tree / whole[0]).read_bytes()
        assert (place / "link").is_symlink()
        assert not list(place.rglob(".backupsite*"))

    def test_a_truncated_and_a_foreign_file(self, engine: Engine, tree: Path, tmp_path: Path) -> None:
        password = engine.password_file("secret")
        engine("backup", tree, "--to", tmp_path / "repository", "--password-file", password)
        file = files_of(tmp_path / "repository")[0]
        file.write_bytes(file.read_bytes()[:-100])
        assert engine("verify", file, "--password-file", password).code == 2
        refused(engine("recover", file, "--into", tmp_path / "into", "--password-file", password), "corrupt-file")
        file.write_bytes(b"not a backup file at all")
        assert engine("inspect", file).code == 2
        assert engine("recover", file, "--into", tmp_path / "into", "--password-file", password).code == 2
        assert not list((tmp_path / "into").rglob("*"))


def test_ctrl_c_stops_cleanly(engine: Engine, tmp_path: Path) -> None:
    """The source is a folder with far more than is read before the signal comes; nothing may stay of the point."""
    source = tmp_path / "large"
    source.mkdir()
    (source / "data").write_bytes(os.urandom(128 << 20))
    repository = tmp_path / "repository"
    command = engine.command("backup", source, "--to", repository, "--level", "strong", "--json")
    process = subprocess.Popen(command, env=engine.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not [path for path in repository.rglob("*") if path.is_file()] and process.poll() is None:
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    shutil.rmtree(source)
    assert process.returncode == 2, stderr
    assert b'"cancelled"' in stdout
    assert b"Traceback" not in stderr
    assert not any(path.is_file() for path in repository.rglob("*"))


def test_what_a_killed_backup_left_is_removed_by_the_next(engine: Engine, tree: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    (tree / "large").write_bytes(os.urandom(64 << 20))
    process = subprocess.Popen(engine.command("backup", tree, "--to", repository), env=engine.environment())
    deadline = time.monotonic() + 30
    while not [path for path in repository.rglob("*") if path.is_file()] and process.poll() is None:
        assert time.monotonic() < deadline
    process.kill()
    process.wait()
    (tree / "large").unlink()
    assert engine("backup", tree, "--to", repository).code == 0
    assert all(path.name.isdigit() for path in repository.rglob("*") if path.is_file())


def test_what_is_left_out_by_option(engine: Engine, tree: Path, tmp_path: Path) -> None:
    repository, into = tmp_path / "repository", tmp_path / "into"
    (tree / "docs" / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
    written = engine("backup", tree, "--to", repository, "--skip-caches", "--one-file-system", "--disk-image", "*.ibd")
    assert written.code == 0, written.stderr
    listed = engine("list", repository)
    assert listed.result["points"][0]["options"] == ["one-file-system", "skip-caches"]
    assert "(one-file-system, skip-caches)" in engine("list", repository, as_json=False).stdout
    assert engine("recover", repository, "--into", into).code == 0
    assert os.listdir(restored_at(into, tree) / "docs") == ["CACHEDIR.TAG"]
