"""`backup` killed by a real kill -9 in the middle of its work, and typed again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.engine_cli.conftest import Engine, files_of, read_facts, restored_at

MIB = 1024 * 1024
BOUND_SECONDS = 60.0
# The command line itself, with checkpoints that are near enough for a small tree. Once its file has the size that it is
# to be killed at it writes nothing more, so that the kill finds it in the middle of its work on a fast machine, too.
# A file that is read within two seconds of its last change is marked, and read again by the next session, which counts
# it as changed: how many these are depends on the speed of the machine, so none is marked here.
WITH_NEAR_CHECKPOINTS = """
import os, sys, threading
from repositories.engine import cli, cli_backup, content, storing, writer
from repositories.engine.order import CheckpointInterval
cli_backup.CHECKPOINTS = CheckpointInterval(bytes=512 * 1024, seconds=3600.0)
storing._BATCH_ENTRIES = 10
content.RACY_NS = storing.RACY_NS = 0  # the tree was made just now, and nothing is written into it meanwhile
whole = writer.FileWriter._write_at
def write_at(self, offset, parts):
    if offset >= int(os.environ.get("KILLED_AT", sys.maxsize)):
        threading.Event().wait()
    whole(self, offset, parts)
writer.FileWriter._write_at = write_at
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture
def big_tree(tmp_path: Path) -> Path:
    dice, root = random.Random(4), tmp_path / "source"
    for number in range(600):
        folder = root / f"{number % 20:02}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}").write_bytes(dice.randbytes(60_000))
    (root / "20 image").write_bytes(dice.randbytes(4 * MIB))
    return root


class Unmarked(Engine):
    """The same command line, to its end."""

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-c", WITH_NEAR_CHECKPOINTS, *(os.fspath(argument) for argument in arguments)]


def kill_at(engine: Engine, size_bytes: int, *arguments: str | Path) -> Path:
    """Run the command until its unfinished file has a size, then kill -9; returns the file."""
    command = Unmarked(engine.folder).command(*arguments)
    environment = {**engine.environment(), "KILLED_AT": str(size_bytes)}
    repository = Path(arguments[arguments.index("--to") + 1])
    with subprocess.Popen(
        command, cwd=engine.folder, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + BOUND_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            for part in repository.rglob("*.part"):
                if part.stat().st_size >= size_bytes:
                    process.send_signal(signal.SIGKILL)
                    process.wait(timeout=BOUND_SECONDS)
                    return part
        process.kill()
        raise AssertionError(f"it ended by itself: {process.stderr and process.stderr.read().decode()}")


@pytest.mark.parametrize("encrypted", [True, False], ids=["encrypted", "plain"])
def test_a_full_killed_at_nine_tenths_reads_less_than_a_seventh_again(
    engine: Engine, big_tree: Path, tmp_path: Path, encrypted: bool
) -> None:
    repository = tmp_path / "repository"
    secret = ("--password-file", engine.password_file("correct horse\n")) if encrypted else ("--plain",)
    backup = ("backup", big_tree, "--to", repository, "--level", "none", *secret)
    total = sum(path.stat().st_size for path in big_tree.rglob("*") if path.is_file())
    part = kill_at(engine, int(0.9 * total), *backup)
    (big_tree / "00/0").write_bytes(b"changed since")
    ended = engine(*backup)
    assert ended.code == 0, ended.stderr
    assert ended.result["resumed"] and "goes on with the unfinished file" in ended.stderr
    assert ended.result["file_id"] in part.name and ended.result["chain_id"] == part.parent.name
    assert ended.result["read_bytes"] < 0.15 * total
    assert ended.result["kind"] == "full" and ended.result["new_files"] == 601
    assert [path.name for path in files_of(repository)] == ["1"]
    assert engine("verify", repository, *secret).code == 0
    assert engine("recover", repository, "--into", tmp_path / "back", *secret).code == 0
    assert read_facts(restored_at(tmp_path / "back", big_tree)) == read_facts(big_tree)


def test_kills_one_after_the_other_come_to_an_end(engine: Engine, big_tree: Path, tmp_path: Path) -> None:
    """Each run is killed a little later than the one before; the last one reads only the rest."""
    repository = tmp_path / "repository"
    secret = ("--password-file", engine.password_file("correct horse"))
    backup = ("backup", big_tree, "--to", repository, "--level", "none", *secret)
    parts = {kill_at(engine, size * MIB, *backup) for size in (8, 16, 30)}
    assert len(parts) == 1
    unmarked = Unmarked(engine.folder)
    ended = unmarked(*backup)
    assert ended.code == 0 and ended.result["resumed"]
    assert ended.result["read_bytes"] < 12 * MIB
    assert engine("verify", repository, *secret).code == 0
    (big_tree / "new").write_bytes(random.Random(9).randbytes(20 * MIB))
    kill_at(engine, 13 * MIB, *backup)
    ended = unmarked(*backup)
    assert ended.code == 0 and ended.result["resumed"] and ended.result["kind"] == "incremental"
    assert (ended.result["new_files"], ended.result["unchanged_files"]) == (1, 601)
    assert engine("verify", repository, *secret).code == 0


def test_another_password_goes_on_with_nothing(engine: Engine, big_tree: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    backup = ("backup", big_tree, "--to", repository, "--level", "none")
    part = kill_at(engine, 8 * MIB, *backup, "--password-file", engine.password_file("correct horse"))
    ended = engine(*backup, "--password-file", engine.password_file("another one"))
    assert ended.code == 0 and not ended.result["resumed"]
    assert part.exists(), "it may still be gone on with, by whoever has its password"
    assert ended.result["chain_id"] != part.parent.name
