"""The benchmark itself: it measures what it says, on trees small enough for a test. Its figures are nobody's
business.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import memory, numbers, tools, trees
from tests.bench.figures import Figures
from tests.bench.measuring import CommandFailed, Measured, Sampler, run
from tests.bench.rows import Order, Runs, check_same, measure_tree
from tests.bench.tools import PEERS, PROJECT, STEPS, Engine, Limit, installed, plain_environment


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.bench", "--quick", "--parts", "rows", "--trees", "a", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


def test_rows_of_the_engine_and_going_on_after_an_interruption(tmp_path: Path) -> None:
    source, figures = tmp_path / "source", tmp_path / "figures.json"
    for number in range(20):
        path = source / f"folder-{number % 2}" / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number * 10_000)
    usual = ("--only", "backupsite,backupsite --plain,limit", "--source", source, "--json", figures)

    done = bench(*usual)

    assert done.returncode == 0, done.stderr
    stored = json.loads(figures.read_text())
    found = {(figure["tool"], figure["step"]): figure for figure in stored["measurements"]}
    assert [step for tool, step in found if tool == "backupsite"] == list(STEPS)
    assert set(found) - {("backupsite", step) for step in STEPS} == {("backupsite --plain", "full"), ("limit", "full")}
    assert stored["trees"][0]["files"] == 20
    assert all(figure["seconds"] > 0 and figure["peak_bytes"] > 1 << 20 for figure in found.values())
    full = found["backupsite", "full"]
    assert full["added_bytes"] == full["repository_bytes"] > 0
    assert found["limit", "full"]["repository_bytes"] > 24, "more than a header and a tag: it wrote what it measured"
    assert found["backupsite", "folder"]["points"] == 4
    assert "one folder of 4 points" in done.stdout

    stored["measurements"] = [figure for figure in stored["measurements"] if figure["tool"] != "limit"]
    figures.write_text(json.dumps(stored))
    again = bench(*usual, "--continue")
    assert again.returncode == 0, again.stderr
    assert "run 1: limit" in again.stderr
    assert not figures.with_name("figures.before.json").exists()
    assert "run 1: backupsite" not in again.stderr
    figures_now = json.loads(figures.read_text())["measurements"]
    assert figures_now[:-1] == stored["measurements"]
    assert figures_now[-1]["tool"] == "limit"


def test_figures_of_another_tree_are_not_gone_on_with() -> None:
    stored = {"key": "a", "files": 20, "size_bytes": 100}
    check_same({**stored, "where": "disk"}, Figures(content={"trees": [stored]}))
    with pytest.raises(SystemExit, match="are of another one"):
        check_same({**stored, "files": 21}, Figures(content={"trees": [stored]}))


def test_a_prepared_peer_goes_before_the_one_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, prepared = tmp_path / "system" / "borg", tmp_path / "prepared" / "borg" / "bin" / "borg"
    monkeypatch.setattr(tools, "PREPARED", tmp_path / "prepared")
    monkeypatch.setenv("PATH", str(system.parent))
    assert tools.missing_peers() == ["restic", "borg"]
    assert [tool.name for tool in installed(None)] == ["backupsite", "backupsite --plain", "limit"]
    for program in (system, prepared):
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\necho borg 9.9\n")
        program.chmod(0o755)
        assert tools.program_of("borg") == str(program)
    assert tools.missing_peers() == ["restic"]
    assert [tool.version() for tool in installed(None) if tool.name == "borg"] == ["9.9"]


class Broken(Engine):
    """A peer that cannot write."""

    name = "borg"

    def backup(self, folder: Path, source: Path, number: int) -> Measured:
        return run([sys.executable, "-c", "raise SystemExit('no space')"], plain_environment(), folder)


def test_a_tool_that_fails_has_no_rows_and_does_not_stop_the_others(tmp_path: Path) -> None:
    source, work, figures = tmp_path / "source", tmp_path / "work", Figures()
    (source / "folder").mkdir(parents=True)
    (source / "folder" / "file").write_text("content")
    work.mkdir()
    order = Order(True, Runs(1), STEPS, [Broken(), Limit()], [source], work)
    failures = measure_tree(trees.TREES["a"], order, figures)
    assert [str(failure).splitlines()[-1] for failure in failures] == ["no space"]
    assert [figure["tool"] for figure in figures.part("measurements")] == ["limit"]
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_writes_and_gives_back_one_folder(peer: str, tmp_path: Path) -> None:
    found = [tool for tool in installed(None) if tool.name == peer]
    if not found:
        pytest.skip(f"{peer} is not installed here")
    source, work = tmp_path / "source", tmp_path / "work"
    for name in ("one", "two"):
        (source / name).mkdir(parents=True)
        (source / name / "file").write_text(name)
    work.mkdir()
    found[0].prepare(work, source)
    found[0].backup(work, source, 1)
    found[0].restore(work, work / "restored", 1, source / "two")
    restored = work / "restored" / (source / "two" / "file").relative_to("/")
    assert restored.read_text() == "two"
    assert trees.measure(work / "restored").files == 1


def test_memory_of_the_last_point_of_a_chain(tmp_path: Path) -> None:
    found = memory.measure_chain(tmp_path, files=150, points=3, quick=True)
    assert set(found) == set(memory.SESSIONS)
    assert all(measured.peak_bytes > 1 << 20 for measured in found.values())
    chain = next((tmp_path / "repository").iterdir())
    assert sorted(path.name for path in chain.iterdir()) == ["1", "2", "3"]


def test_further_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "CHAIN_POINTS", 3)
    monkeypatch.setattr(numbers, "COMMANDS", 1)
    found = [*numbers.large_point(tmp_path / "large", 200), *numbers.long_chain(tmp_path / "long", 4)]
    assert [figure["name"] for figure in found] == ["folder", "one-file", "scan", "catalogue", "rewrap"]
    assert all(figure["value"] > 0 for figure in found)


def test_a_command_that_fails_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="ended with 3"):
        run([sys.executable, "-c", "raise SystemExit(3)"], plain_environment(), tmp_path)


def test_memory_is_that_of_all_processes_of_the_session(tmp_path: Path) -> None:
    """A process with 40 MiB that starts another one with 40 MiB; a stranger's memory does not count."""
    inner = "x = b'1' * (40 << 20); print('ready', flush=True); input()"
    outer = f"import subprocess, sys; y = b'2' * (40 << 20); subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", outer],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env=plain_environment(),
    ) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == b"ready\n"
        both = Sampler(process.pid).now_bytes()
        nobody = Sampler(1 << 30).now_bytes()
        process.communicate(b"\n")
    assert 80 << 20 < both < 150 << 20
    assert nobody == 0


def test_chosen_folders_stay_below_both_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []
    for count in (3, 9, 2, 1):
        folders.append(tmp_path / str(count))
        folders[-1].mkdir()
        for number in range(count):
            (folders[-1] / str(number)).write_bytes(b"ten bytes.")
    monkeypatch.setattr(trees, "candidates", lambda: iter(folders))
    assert trees.choose(1000, 5) == [folders[0], folders[2]]
    assert trees.choose(49, 100) == [folders[0], folders[3]]
    assert trees.choose(9, 100) == []


def test_runs_are_for_all_or_for_a_tree_or_for_a_tool_on_a_tree() -> None:
    runs = Runs.parse("3,c=2,b.borg=1")
    assert [runs.of(*place) for place in (("a", "borg"), ("c", "borg"), ("b", "borg"), ("b", "restic"))] == [3, 2, 1, 3]
    for wrong in ("0", "b.borg=0", "many"):
        with pytest.raises(ValueError, match=r"less than one run|invalid literal"):
            Runs.parse(wrong)
