"""`synthesize`, `merge` and `rewrap`: a chain is kept to so many points, its password changed, without a console."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repositories.engine import cli_chain
from repositories.engine.cli import main
from repositories.engine.errors import Cancelled
from tests.engine.lab import Chain, write_tree
from tests.engine_cli.conftest import Facts, files_of, read_facts, restored_at

Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process; its exit code and its result."""

    def command(*arguments: str | Path) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = main([*(os.fspath(argument) for argument in arguments), "--json"])
        return code, json.loads(capsys.readouterr().out.splitlines()[-1])

    return command


class Job:
    """A folder that is backed up, and what it was at every point."""

    def __init__(self, run: Run, folder: Path, *secret: str | Path) -> None:
        self.run, self.secret = run, secret
        self.source, self.repository, self.into = folder / "source", folder / "repository", folder / "into"
        self.states: list[Facts] = []

    def backup(self, count: int = 1, *options: str) -> None:
        for _ in range(count):
            number = len(self.states)
            write_tree(self.source, {"changing": b"%d" % number, f"new {number}": os.urandom(20_000)})
            if number > 1:
                (self.source / f"new {number - 2}").unlink()
            assert self.run("backup", self.source, "--to", self.repository, *options, *self.secret)[0] == 0
            self.states.append(read_facts(self.source))

    def check(self, *states: int) -> None:
        """The points are exactly these states of the source, and sound."""
        code, listed = self.run("list", self.repository, *self.secret)
        assert (code, len(listed["points"])) == (0, len(states))
        code, verified = self.run("verify", self.repository, *self.secret)
        assert code == 0, verified
        for number, state in enumerate(states, start=1):
            code, _ = self.run(
                "recover", self.repository, "--point", str(number), "--into", self.into, *self.secret
            )  # fmt: skip
            assert code == 0
            assert read_facts(restored_at(self.into, self.source)) == self.states[state]
            shutil.rmtree(self.into)


@pytest.fixture
def job(run: Run, tmp_path: Path) -> Job:
    return Job(run, tmp_path, "--plain")


def password(tmp_path: Path, content: str) -> Path:
    path = tmp_path / f"password of {content}"
    path.write_text(content)
    return path


class TestMerge:
    def test_the_oldest_points_go_into_the_oldest_that_stays(self, job: Job, run: Run) -> None:
        job.backup(5)
        code, result = run("merge", job.repository, "--keep", "2", "--plain")
        assert (code, result["points"], result["dropped"]) == (0, 2, 3)
        assert [path.name for path in files_of(job.repository)] == ["4", "5"]
        job.check(3, 4)
        job.backup()
        job.check(3, 4, 5)
        assert run("merge", job.repository, "--keep", "1", "--plain")[1]["points"] == 1
        job.check(5)

    def test_nothing_is_done_where_nothing_is_to_go(self, job: Job, run: Run) -> None:
        job.backup(2)
        before = [path.read_bytes() for path in files_of(job.repository)]
        for keep in ("2", "30"):
            assert run("merge", job.repository, "--keep", keep, "--plain")[1]["dropped"] == 0
        assert [path.read_bytes() for path in files_of(job.repository)] == before

    def test_runs_before_the_oldest_that_stays_go_as_a_whole(self, job: Job, run: Run) -> None:
        job.backup(2)
        job.backup(1, "--full")
        job.backup(2)
        assert run("merge", job.repository, "--keep", "2", "--plain")[1]["points"] == 2
        job.check(3, 4)

    def test_more_points_than_one_merge_takes(self, job: Job, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cli_chain, "MAX_REPLACED", 3)
        job.backup(7)
        assert run("merge", job.repository, "--keep", "1", "--plain")[1]["points"] == 1
        job.check(6)

    def test_a_merge_that_was_interrupted_is_finished(
        self, job: Job, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job.backup(4)

        def stopped(*_: object) -> Path:
            raise Cancelled("Stopped between publishing and settling.")

        with monkeypatch.context() as patch:
            patch.setattr(cli_chain, "settle", stopped)
            assert run("merge", job.repository, "--keep", "2", "--plain")[0] == 2
        assert any("." in path.name for path in job.repository.rglob("*") if path.is_file())
        assert run("merge", job.repository, "--keep", "2", "--plain")[0] == 0
        assert [path.name for path in files_of(job.repository)] == ["3", "4"]
        job.check(2, 3)

    def test_what_cannot_be_is_refused(self, job: Job, run: Run, tmp_path: Path) -> None:
        assert run("merge", tmp_path / "nowhere", "--keep", "2", "--plain")[1]["error"]["code"] == "no-points"
        job.backup(3)
        assert run("merge", job.repository, "--keep", "0", "--plain")[1]["error"]["code"] == "bad-order"
        files_of(job.repository)[1].unlink()
        code, result = run("merge", job.repository, "--keep", "1", "--plain")
        assert (code, result["error"]["code"]) == (2, "bad-order") and "missing" in result["error"]["message"]

    def test_a_chain_of_a_console_is_left_to_it(self, run: Run, tmp_path: Path) -> None:
        write_tree(tmp_path / "source", {"a": b"a"})
        chain = Chain(tmp_path / "repository", tmp_path / "source", ())
        chain.write()
        chain.write()
        for command in (("merge", "--keep", "1"), ("synthesize",)):
            code, result = run(command[0], chain.root, *command[1:], "--plain")
            assert (code, result["error"]["code"]) == (2, "console-chain")


class TestSynthesize:
    def test_a_new_full_is_made_without_the_sources(self, job: Job, run: Run) -> None:
        job.backup(3)
        moved = job.source.rename(job.source.with_name("away"))
        code, result = run("synthesize", job.repository, "--plain", "--limit", "1G")
        assert (code, result["kind"], result["read_bytes"], result["number"]) == (0, "full", 0, 4)
        moved.rename(job.source)
        job.check(0, 1, 2, 2)
        assert run("merge", job.repository, "--keep", "1", "--plain")[1]["points"] == 1
        job.check(2)
        job.states = job.states[2:]
        job.backup()
        job.check(0, 1)


class TestEncrypted:
    def test_a_chain_is_merged_and_gets_another_password(self, run: Run, tmp_path: Path) -> None:
        old, new = (password(tmp_path, name) for name in ("old", "new"))
        job = Job(run, tmp_path, "--password-file", old)
        job.backup(3)
        assert run("synthesize", job.repository, *job.secret)[0] == 0
        assert run("merge", job.repository, "--keep", "3", *job.secret)[0] == 0

        rewrap = ("rewrap", job.repository, "--password-file", old, "--new-password-file", new)
        code, result = run(*rewrap)
        assert (code, [row["slots"] for row in result["points"]]) == (0, [2, 2, 2])
        code, result = run(*rewrap)
        assert (code, [row["slots"] for row in result["points"]]) == (0, [2, 2, 2]), "the same slots"
        code, result = run(*rewrap, "--remove-old")
        assert (code, [row["slots"] for row in result["points"]]) == (0, [1, 1, 1])
        assert run("list", job.repository, *job.secret)[0] == 2
        job.secret = ("--password-file", new)
        job.check(1, 2, 2)
        job.backup()
        code, listed = run("list", job.repository, *job.secret)
        assert (code, [row["kind"] for row in listed["points"]]) == (0, ["full", "incremental", "full", "incremental"])

    def test_what_does_not_open_is_named_and_plain_points_have_no_password(self, run: Run, tmp_path: Path) -> None:
        old, new = (password(tmp_path, name) for name in ("old", "new"))
        plain = Job(run, tmp_path / "plain", "--plain")
        plain.backup()
        code, result = run("rewrap", plain.repository, "--plain", "--new-password-file", new)
        assert (code, result["error"]["code"]) == (2, "bad-order")
        job = Job(run, tmp_path, "--password-file", old)
        job.backup()
        before = files_of(job.repository)[0].read_bytes()
        code, result = run("rewrap", job.repository, "--password-file", new, "--new-password-file", old)
        assert code == 2 and result["points"][0]["problem_code"] == "cannot-unwrap"
        assert files_of(job.repository)[0].read_bytes() == before
