"""The page says what the stored figures say, and nothing else."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tests.bench import document, targets
from tests.bench.figures import Figure, Figures, load, rows
from tests.bench.picture import draw
from tests.bench.table import render

MIB = 1 << 20


def measurement(tool: str, step: str = "full", run: int = 1, **fields: object) -> Figure:
    usual = {"tree": "a", "version": "1", "points": 1, "seconds": 1.0, "cpu_seconds": 1.0, "peak_bytes": MIB,
             "source_bytes": MIB, "repository_bytes": MIB, "added_bytes": MIB}  # fmt: skip
    return {**usual, "tool": tool, "step": step, "run": run, **fields}


def test_the_page_is_what_the_stored_figures_give() -> None:
    figures = load(document.FIGURES)
    assert document.PAGE.read_text(encoding="utf-8") == document.page(figures), "run `python -m tests.bench.document`"
    assert document.PICTURE.read_text(encoding="utf-8") == draw(figures["memory"])


def test_the_picture_is_an_svg_with_a_bar_for_every_figure() -> None:
    figures = load(document.FIGURES)["memory"]
    root = ElementTree.fromstring(draw(figures))
    bars = [bar for bar in root.iter("{http://www.w3.org/2000/svg}rect") if float(bar.get("height", "0")) != 12]
    assert len(bars) == len(figures)


def test_figures_without_a_part_give_no_page() -> None:
    figures = {**load(document.FIGURES), "memory": []}
    with pytest.raises(SystemExit, match="have no memory"):
        document.page(figures)


def test_a_row_is_the_median_of_its_runs() -> None:
    runs = [measurement("borg", run=run, seconds=seconds) for run, seconds in ((1, 9.0), (2, 2.0), (3, 4.0))]
    (row,) = rows({"measurements": runs}, "a", ["full", "restore"])
    assert (row.seconds, row.runs, row.mib_per_second) == (4.0, 3, 0.25)


def test_ratios_are_seen_from_the_engine() -> None:
    tree = {"key": "a", "title": "files", "change": "some", "files": 1, "size_bytes": MIB, "where": "memory"}
    figures = {"trees": [tree], "measurements": [
        measurement("backupsite"), measurement("borg", seconds=3.0, repository_bytes=MIB // 2)
    ]}  # fmt: skip
    *_, borg = render(figures).splitlines()
    assert borg.split()[-3:] == ["3.00x", "1.00x", "0.50x"]


@pytest.mark.parametrize(("seconds", "reached"), [(4.0, "yes"), (3.99, "no")])
def test_a_target_is_against_the_faster_peer(seconds: float, reached: str) -> None:
    peers = [measurement("restic", seconds=seconds), measurement("borg", seconds=40.0)]
    title, measured, wanted, verdict = targets.lines({"measurements": [measurement("backupsite"), *peers]})[0]
    assert (title, wanted, verdict) == ("(a) full, against the faster peer (restic)", ">= 4 times", reached)
    assert measured == f"{seconds:.1f} times as fast"


def test_targets_of_a_peer_that_is_missing_are_left_out() -> None:
    assert targets.lines({"measurements": [measurement("backupsite")]}) == []


def test_a_figure_takes_the_place_of_the_one_of_the_same_run() -> None:
    figures = Figures()
    for seconds in (1.0, 2.0):
        figures.put("measurements", measurement("borg", seconds=seconds), ("tool", "run"))
    figures.put("measurements", measurement("borg", run=2), ("tool", "run"))
    assert [(figure["run"], figure["seconds"]) for figure in figures.part("measurements")] == [(1, 2.0), (2, 1.0)]
    assert figures.has("measurements", tool="borg", run=2)
    assert not figures.has("measurements", tool="restic", run=2)
