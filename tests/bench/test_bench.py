"""The benchmark itself: it measures what it says, on a tree small enough for a test. Its figures are nobody's
business.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import trees
from tests.bench.tools import PROJECT, CommandFailed, plain_environment, run


def test_a_quick_run_of_the_engine_alone(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(20):
        (tree / str(number)).write_bytes(b"%d" % number * 10_000)
    figures = tmp_path / "figures.json"
    command = [
        sys.executable,
        "-m",
        "tests.bench",
        "--quick",
        "--only",
        "backupsite",
        "--tree",
        tree,
        "--json",
        figures,
    ]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    stored = json.loads(figures.read_text())
    assert [row["step"] for row in stored["rows"]] == ["full", "unchanged", "restore"]
    assert stored["size"]["files"] == 20
    assert all(row["seconds"] > 0 and row["peak_bytes"] > 1 << 20 for row in stored["rows"])
    assert stored["rows"][0]["added_bytes"] == stored["rows"][0]["repository_bytes"] > 0
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    assert lines[1].split()[:4] == ["step", "tool", "seconds", "CPU"]


def test_a_command_that_fails_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="ended with 3"):
        run([sys.executable, "-c", "raise SystemExit(3)"], plain_environment(), tmp_path)


def test_chosen_folders_stay_below_both_limits() -> None:
    for size_bytes_max, files_max in ((trees.QUICK_SIZE_BYTES_MAX, trees.QUICK_FILES_MAX), (1, 1)):
        sizes = [trees.measure(path) for path in trees.choose(size_bytes_max, files_max)]
        assert sum(size.files for size in sizes) <= files_max
        assert sum(size.size_bytes for size in sizes) <= size_bytes_max
