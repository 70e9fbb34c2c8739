"""What the command line refuses, with which code, and what it leaves alone then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from repositories.engine.encrypted_only import MARKER, mark, unmark
from tests.engine_cli.conftest import Engine, files_of, refused


class TestRefusals:
    def test_a_missing_source(self, engine: Engine, tmp_path: Path) -> None:
        refused(engine("backup", tmp_path / "none", "--to", tmp_path / "r"), "source-missing")
        assert not files_of(tmp_path / "r")

    def test_a_source_inside_the_repository(self, engine: Engine, tree: Path, tmp_path: Path) -> None:
        engine("backup", tree, "--to", tmp_path / "r")
        (tmp_path / "r" / "mine").mkdir()
        refused(engine("backup", tmp_path / "r" / "mine", "--to", tmp_path / "r"), "source-refused")

    @pytest.mark.parametrize("command", ["list", "verify"])
    def test_a_folder_without_points(self, engine: Engine, tmp_path: Path, command: str) -> None:
        refused(engine(command, tmp_path / "none"), "no-points")
        (tmp_path / "empty").mkdir()
        refused(engine(command, tmp_path / "empty"), "no-points")

    def test_a_number_that_is_not_there(self, engine: Engine, tree: Path, tmp_path: Path) -> None:
        engine("backup", tree, "--to", tmp_path / "r")
        for number in ("0", "2", "-1"):
            refused(engine("recover", tmp_path / "r", "--into", tmp_path / "i", "--point", number), "no-such-point")

    def test_a_path_that_is_not_in_the_point(self, engine: Engine, tree: Path, tmp_path: Path) -> None:
        engine("backup", tree, "--to", tmp_path / "r")
        ended = engine("recover", tmp_path / "r", tree / "never was", "--into", tmp_path / "i")
        refused(ended, "nothing-to-restore")
        assert "never was" in ended.stderr

    def test_a_target_that_is_a_file(self, engine: Engine, tree: Path, tmp_path: Path) -> None:
        engine("backup", tree, "--to", tmp_path / "r")
        refused(engine("recover", tmp_path / "r", "--into", tree / "nothing"), "bad-target")

    def test_a_repository_that_is_a_file(self, engine: Engine, tree: Path) -> None:
        assert engine("backup", tree, "--to", tree / "nothing").code == 2
        assert (tree / "nothing").read_bytes() == b""

    @pytest.mark.parametrize("arguments", [[], ["nonsense"], ["backup"], ["backup", "x"], ["recover", "x"]])
    def test_what_makes_no_sense(self, engine: Engine, arguments: list[str]) -> None:
        ended = engine(*arguments, as_json=False)
        assert ended.code == 2
        assert "usage:" in ended.stderr

    def test_a_missing_file_of_the_chain(self, engine: Engine, tree: Path, tmp_path: Path) -> None:
        """Nothing can be built on such a chain: the next point is a full of a new one, and says why."""
        for number in range(3):
            (tree / "docs" / f"more {number}").write_bytes(os.urandom(100_000))
            engine("backup", tree, "--to", tmp_path / "r")
        files_of(tmp_path / "r")[1].unlink()
        ended = engine("backup", tree, "--to", tmp_path / "r")
        assert (ended.result["kind"], ended.result["reason"]) == ("full", "chain-damaged")
        assert ended.result["number"] == 3
        assert engine("recover", tmp_path / "r", "--into", tmp_path / "into").code == 0


class TestEncryptedOnly:
    def test_a_marked_repository_takes_nothing_plain_and_the_marker_is_named(
        self, engine: Engine, tree: Path, tmp_path: Path
    ) -> None:
        repository = tmp_path / "r"
        repository.mkdir()
        mark(repository)
        ended = engine("backup", tree, "--to", repository, "--plain")
        refused(ended, "plaintext-refused")
        assert str(repository / MARKER) in ended.stderr
        assert [path.name for path in repository.iterdir()] == [MARKER]
        unmark(repository)
        assert engine("backup", tree, "--to", repository, "--plain").code == 0
