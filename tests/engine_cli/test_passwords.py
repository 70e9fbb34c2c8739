"""Which password opens what: changed, missing, mistyped; and encryption that begins or ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine_cli.conftest import Engine, Facts, files_of, refused, restored_at

FactsOf = Callable[[Path], Facts]


class TestPasswords:
    def test_a_changed_password(self, engine: Engine, tree: Path, tmp_path: Path, facts_of: FactsOf) -> None:
        """The newest password opens everything; an older file alone needs its own."""
        repository = tmp_path / "repository"
        old, new = engine.password_file("old"), engine.password_file("new")
        assert engine("backup", tree, "--to", repository, "--password-file", old).code == 0
        refused(engine("backup", tree, "--to", repository, "--password-file", new), "password-change-unproven")
        assert len(files_of(repository)) == 1
        wrong = engine.password_file("neither")
        ended = engine("backup", tree, "--to", repository, "--password-file", new, "--previous-password-file", wrong)
        refused(ended, "password-change-unproven")
        ended = engine("backup", tree, "--to", repository, "--password-file", new, "--previous-password-file", old)
        assert ended.code == 0, ended.stderr
        assert (ended.result["kind"], ended.result["reason"]) == ("incremental", "key-changed")
        (tree / "later").write_text("later")
        third = engine("backup", tree, "--to", repository, "--password-file", new)
        assert (third.result["kind"], third.result["reason"]) == ("incremental", "changes-since-parent")

        listed = engine("list", repository, "--password-file", new)
        assert listed.code == 0
        assert [point["kind"] for point in listed.result["points"]] == ["full", "incremental", "incremental"]
        first_file = files_of(repository)[0]
        for number in ("1", "2", "3"):
            arguments = ("recover", repository, "--into", tmp_path / number, "--point", number, "--password-file", new)
            assert engine(*arguments).code == 0
        assert facts_of(restored_at(tmp_path / "3", tree)) == facts_of(tree)
        refused(engine("recover", first_file, "--into", tmp_path / "x", "--password-file", new), "cannot-unwrap")
        assert engine("recover", first_file, "--into", tmp_path / "y", "--password-file", old).code == 0
        refused(engine("recover", repository, "--into", tmp_path / "z", "--password-file", old), "cannot-unwrap")
        partly = engine("list", repository, "--password-file", old)
        assert partly.code == 1
        assert ["problem" in point for point in partly.result["points"]] == [False, True, True]

    def test_without_a_password_an_encrypted_folder_is_refused(
        self, engine: Engine, tree: Path, tmp_path: Path
    ) -> None:
        repository, password = tmp_path / "repository", engine.password_file("secret")
        engine("backup", tree, "--to", repository, "--password-file", password)
        refused(engine("backup", tree, "--to", repository), "password-needed")
        refused(engine("list", repository), "password-needed")
        refused(engine("verify", repository), "password-needed")
        refused(engine("recover", repository, "--into", tmp_path / "into"), "password-needed")
        refused(engine("recover", files_of(repository)[0], "--into", tmp_path / "into"), "password-needed")
        assert len(files_of(repository)) == 1
        assert not (tmp_path / "into").exists()

    def test_encryption_enabled_and_disabled(self, engine: Engine, tree: Path, tmp_path: Path) -> None:
        repository, password = tmp_path / "repository", engine.password_file("secret")
        with_password = ("--password-file", password)
        first = engine("backup", tree, "--to", repository)
        second = engine("backup", tree, "--to", repository, *with_password)
        assert (second.result["kind"], second.result["reason"]) == ("full", "encryption-enabled")
        assert second.result["chain_id"] != first.result["chain_id"]
        third = engine("backup", tree, "--to", repository, "--plain")
        assert (third.result["kind"], third.result["reason"]) == ("full", "encryption-disabled")
        assert [first.result["number"], second.result["number"], third.result["number"]] == [1, 2, 3]
        listed = engine("list", repository, *with_password)
        assert [point["encrypted"] for point in listed.result["points"]] == [False, True, False]

    def test_a_plain_point_is_no_answer_to_a_password(self, engine: Engine, tree: Path, tmp_path: Path) -> None:
        repository, password = tmp_path / "repository", engine.password_file("secret")
        engine("backup", tree, "--to", repository)
        arguments = ("recover", repository, "--into", tmp_path / "into", "--password-file", password)
        refused(engine(*arguments), "plain-refused")
        assert not (tmp_path / "into").exists()
        assert engine(*arguments, "--plain").code == 0

    def test_plain_points_of_an_encrypted_folder(self, engine: Engine, tree: Path, tmp_path: Path) -> None:
        repository, password = tmp_path / "repository", engine.password_file("secret")
        engine("backup", tree, "--to", repository)
        engine("backup", tree, "--to", repository, "--password-file", password)
        refused(engine("recover", repository, "--into", tmp_path / "a", "--point", "1"), "password-needed")
        assert engine("recover", repository, "--into", tmp_path / "a", "--point", "1", "--plain").code == 0
        refused(engine("recover", repository, "--into", tmp_path / "b", "--plain"), "cannot-unwrap")

    @pytest.mark.parametrize(
        ("written_with", "read_with", "opens"),
        [
            ("secret\n", "secret", True),
            ("secret\r\n", "secret", True),
            ("secret\n\n", "secret", False),
            ("secret \n", "secret", False),
            ("e\u0301te\u0301", "\u00e9t\u00e9", True),
        ],
    )
    def test_the_bytes_of_a_password_file(
        self, engine: Engine, tree: Path, tmp_path: Path, written_with: str, read_with: str, opens: bool
    ) -> None:
        repository = tmp_path / "repository"
        engine("backup", tree, "--to", repository, "--password-file", engine.password_file(written_with))
        listed = engine("list", repository, "--password-file", engine.password_file(read_with))
        assert listed.code == (0 if opens else 2)
        assert listed.result.get("error", {}).get("code") == (None if opens else "cannot-unwrap")

    @pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
    def test_an_unusable_password_file(self, engine: Engine, tree: Path, tmp_path: Path, content: bytes) -> None:
        password = engine.password_file(content)
        refused(engine("backup", tree, "--to", tmp_path / "r", "--password-file", password), "bad-password")
        assert not (tmp_path / "r").exists()

    def test_a_missing_password_file(self, engine: Engine, tree: Path, tmp_path: Path) -> None:
        ended = engine("backup", tree, "--to", tmp_path / "r", "--password-file", tmp_path / "none")
        refused(ended, "password-file-unreadable")
        assert str(tmp_path / "none") in ended.stderr

    def test_plain_and_a_password_contradict_each_other(self, engine: Engine, tree: Path, tmp_path: Path) -> None:
        password = engine.password_file("secret")
        ended = engine("backup", tree, "--to", tmp_path / "r", "--password-file", password, "--plain")
        refused(ended, "contradiction")
