"""`python -m tests.bench`: the engine beside restic, borg and the machine's own limit on four trees; memory against
files and points; further numbers. What is there is stored after every measurement, and shown at the end.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from tests.bench import trees
from tests.bench.figures import Figures, load, machine
from tests.bench.measuring import CommandFailed
from tests.bench.memory import measure_memory
from tests.bench.rows import Order, Runs, measure_tree, say
from tests.bench.table import render
from tests.bench.tools import PREPARED, STEPS, TOOLS, engine_environment, installed, missing_peers

PARTS = ("rows", "memory", "numbers")
NUMBERS_OF = ("1000000", "1000")  # files of the large point, points of the long chain
QUICK_NUMBERS_OF = ("500", "20")
NUMBERS_ROOM = (9 << 30, 1_200_000)  # bytes, files
QUICK_NUMBERS_ROOM = (1 << 28, 10_000)


def main() -> int:
    signal.signal(signal.SIGTERM, stop)
    options = arguments()
    figures = begin(options)
    failures: list[CommandFailed] = []
    if "rows" in options.parts:
        order = order_of(options)
        for key in options.trees:
            failures += measure_tree(trees.TREES[key], order, figures)
    if "memory" in options.parts:
        measure_memory(figures, quick=options.quick, work=options.work)
    if "numbers" in options.parts:
        measure_numbers(figures, quick=options.quick, work=options.work)
    sys.stdout.write(render(figures.content))
    for failure in failures:
        say(str(failure).partition("\n")[0])
    return 1 if failures else 0


def stop(_number: int, _frame: FrameType | None) -> None:
    """Taken away by somebody: leave nothing in memory."""
    raise SystemExit("Stopped. What was measured is stored; go on with --continue.")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--parts", type=words_of(PARTS), default=PARTS, help="of rows,memory,numbers (default: all)")
    parser.add_argument("--trees", type=words_of(tuple(trees.TREES)), default=tuple(trees.TREES), help=tree_help())
    parser.add_argument("--steps", type=words_of(STEPS), default=STEPS, help=f"of {','.join(STEPS)} (default: all)")
    parser.add_argument(
        "--runs",
        type=Runs.parse,
        help="runs of each tool on each tree, medians count: 3, or 3,b.borg=1 (default 3, with --quick 1)",
    )
    parser.add_argument("--only", type=words_of(TOOLS), default=TOOLS, help=f"of {','.join(TOOLS)} (default: all)")
    parser.add_argument("--source", type=Path, action="append", help="for tree a: this folder, not a system's")
    parser.add_argument("--level", choices=("none", "fast", "balanced", "strong"), help="the engine's level")
    parser.add_argument("--quick", action="store_true", help="everything small: shows that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures (default: build/bench/figures.json)")
    parser.add_argument("--continue", dest="go_on", action="store_true", help="keep the figures that are there")
    parser.add_argument("--work", type=Path, help="a folder for trees and repositories (default: memory, else disk)")
    return parser.parse_args()


def tree_help() -> str:
    return "of " + ", ".join(f"{tree.key} ({tree.title.replace('%', '%%')})" for tree in trees.TREES.values())


def words_of(allowed: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """A parser of some of the allowed words, with commas; they are taken in their usual order."""

    def parse(typed: str) -> tuple[str, ...]:
        wanted = typed.split(",")
        if unknown := sorted({*wanted} - {*allowed}):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(allowed)}")
        return tuple(word for word in allowed if word in wanted)

    return parse


def begin(options: argparse.Namespace) -> Figures:
    path = options.json or PREPARED / ("quick.json" if options.quick else "figures.json")
    if path.exists() and not options.go_on:
        path.replace(path.with_name(f"{path.stem}.before{path.suffix}"))  # it may have taken an hour
    figures = Figures(path, load(path) if path.exists() else {})
    if figures.content and figures.content["machine"]["quick"] != options.quick:
        raise SystemExit(f"{path} is of {'the quick form' if not options.quick else 'a whole benchmark'}; use another.")
    missing = missing_peers()
    for peer in missing:
        say(f"{peer} is not installed here, so it has no rows. `make bench` installs it where it may.")
    figures.content["machine"] = {**machine(quick=options.quick), "missing": missing}
    say(f"figures go to {path}")
    return figures


def order_of(options: argparse.Namespace) -> Order:
    tools = [tool for tool in installed(options.level) if tool.name in options.only]
    for tool in tools:
        say(f"{tool.name}: {tool.version()}")
    sources = [path.resolve() for path in options.source or []]
    if not sources and "a" in options.trees:
        sources = trees.real_folders(quick=options.quick)
    runs = options.runs or Runs(1 if options.quick else 3)
    return Order(options.quick, runs, options.steps, tools, sources, options.work)


def measure_numbers(figures: Figures, *, quick: bool, work: Path | None) -> None:
    """In a process of its own, line by line."""
    if figures.part("numbers"):
        return
    say("further numbers")
    folder = trees.work_folder(*(QUICK_NUMBERS_ROOM if quick else NUMBERS_ROOM), work)
    command = [sys.executable, "-m", "tests.bench.numbers", str(folder), *(QUICK_NUMBERS_OF if quick else NUMBERS_OF)]
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=engine_environment()) as process:
            for line in process.stdout or ():
                figures.put("numbers", json.loads(line), ("name",))
                say(f"  {line.strip()}")
        if process.returncode:
            raise SystemExit(f"The further numbers ended with {process.returncode}.")
    finally:
        trees.remove(folder)


if __name__ == "__main__":
    sys.exit(main())
