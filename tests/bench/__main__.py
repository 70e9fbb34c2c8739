"""`python -m tests.bench`: full, unchanged incremental and whole restore of a real tree, the engine beside its
peers, as a table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from tests.bench import trees
from tests.bench.table import render
from tests.bench.tools import Measured, Tool, installed

STEPS = ("full", "unchanged", "restore")


@dataclass(frozen=True)
class Row:
    """The medians of one tool's runs of one step. `repository_bytes` is the size after the step; `added_bytes` what
    the step added.
    """

    step: str
    tool: str
    version: str
    seconds: float
    all_seconds: list[float]
    cpu_seconds: float
    mib_per_second: float
    peak_bytes: int
    repository_bytes: int
    added_bytes: int


def main() -> int:
    order = arguments()
    limits = (
        (trees.QUICK_SIZE_BYTES_MAX, trees.QUICK_FILES_MAX) if order.quick else (trees.SIZE_BYTES_MAX, trees.FILES_MAX)
    )
    sources = [order.tree.resolve()] if order.tree else trees.choose(*limits)
    work = trees.work_folder(sum(trees.measure(path).size_bytes for path in sources))
    try:
        return compare(order, sources, work)
    finally:
        shutil.rmtree(work)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--tree", type=Path, help="measure this folder instead of chosen system folders")
    parser.add_argument(
        "--quick", action="store_true", help="a small tree, one run: shows that everything works, measures little"
    )
    parser.add_argument("--runs", type=int, help="runs of each tool; the median counts (default 3, with --quick 1)")
    parser.add_argument(
        "--level", choices=("none", "fast", "balanced", "strong"), help="the engine's level (default: its own)"
    )
    parser.add_argument("--only", help="measure only this tool")
    parser.add_argument("--json", type=Path, metavar="FILE", help="store the figures")
    return parser.parse_args()


def compare(order: argparse.Namespace, sources: list[Path], work: Path) -> int:
    tree = work / "tree"
    trees.copy(sources, tree)
    size = trees.measure(tree)
    where = "memory" if work.is_relative_to(trees.MEMORY_FOLDER) else "disk"
    runs = order.runs or (1 if order.quick else 3)
    say(f"{size.files:,} files, {size.size_bytes / 2**20:,.0f} MiB, in {where}; median of {runs}; {facts()}")
    tools = [tool for tool in installed(order.level) if order.only in (None, tool.name)]
    rows = measure_all(tools, tree, size, work, runs)
    if order.json:
        stored = {"machine": facts(), "where": where, "runs": runs, "sources": [str(path) for path in sources]}
        figures = {**stored, "size": asdict(size), "rows": [asdict(row) for row in rows]}
        order.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    say(render([asdict(row) for row in rows], STEPS))
    return 0


def facts() -> str:
    load = os.getloadavg()[0]
    return f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}, load {load:.1f}"


def measure_all(tools: list[Tool], tree: Path, size: trees.Size, work: Path, runs: int) -> list[Row]:
    """Measure the tools in turn, so that a busy minute of the machine hits all of them."""
    figures: dict[tuple[str, str], list[tuple[Measured, int, int]]] = {}
    for number in range(1, runs + 1):
        for tool in tools:
            say(f"run {number}: {tool.name}", progress=True)
            for step, figure in measure_tool(tool, tree, size, work / f"{tool.name}-{number}"):
                figures.setdefault((step, tool.name), []).append(figure)
    return [summary(step, tool, size, figures[step, tool.name]) for step in STEPS for tool in tools]


def measure_tool(tool: Tool, tree: Path, size: trees.Size, folder: Path) -> list[tuple[str, tuple[Measured, int, int]]]:
    folder.mkdir()
    try:
        tool.prepare(folder)
        empty = stored_bytes(folder)
        full = tool.backup(folder, tree, 1)
        after_full = stored_bytes(folder)
        unchanged = tool.backup(folder, tree, 2)
        after_unchanged = stored_bytes(folder)
        restored = tool.restore(folder, folder / "restored")
        check_restored(tool, size, folder / "restored")
    finally:
        shutil.rmtree(folder)
    return [
        ("full", (full, after_full, after_full - empty)),
        ("unchanged", (unchanged, after_unchanged, after_unchanged - after_full)),
        ("restore", (restored, after_unchanged, 0)),
    ]


def stored_bytes(folder: Path) -> int:
    repository = folder / "repository"
    return trees.measure(repository).size_bytes if repository.exists() else 0


def check_restored(tool: Tool, size: trees.Size, restored: Path) -> None:
    """A fast restore of half the files is no result."""
    found = trees.measure(restored)
    if found != size:
        raise SystemExit(f"{tool.name} restored {found}, but the tree has {size}.")


def summary(step: str, tool: Tool, size: trees.Size, runs: list[tuple[Measured, int, int]]) -> Row:
    seconds = median(measured.seconds for measured, _, _ in runs)
    return Row(
        step=step,
        tool=tool.name,
        version=tool.version(),
        seconds=round(seconds, 3),
        all_seconds=[round(measured.seconds, 3) for measured, _, _ in runs],
        cpu_seconds=round(median(measured.cpu_seconds for measured, _, _ in runs), 3),
        mib_per_second=round(size.size_bytes / 2**20 / seconds, 1),
        peak_bytes=int(median(measured.peak_bytes for measured, _, _ in runs)),
        repository_bytes=int(median(total for _, total, _ in runs)),
        added_bytes=int(median(added for _, _, added in runs)),
    )


def say(text: str, progress: bool = False) -> None:
    sys.stderr.write(text + "\n") if progress else sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
