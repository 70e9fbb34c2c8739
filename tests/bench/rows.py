"""The rows: which tool does which step on which tree, how often, and what is stored of it.

Every run of a tool begins with an empty repository and the same tree: full, unchanged, changed, whole restore of the
newest point. The first run goes on: the chain is made 30 points long, and one folder is restored from the last one, as
often as there are runs. Tools take turns, so that a busy minute of the machine hits all of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from tests.bench import trees
from tests.bench.changes import Changes, of_tree
from tests.bench.figures import Figures
from tests.bench.measuring import CommandFailed, Measured
from tests.bench.tools import Restoring, Tool

POINTS = 30
QUICK_POINTS = 4
PEER_CHAIN_SECONDS = 60.0  # a slow peer gets no more points than it can write in that time: a shorter chain suits it
OURS = "backupsite"
KEY = ("tree", "tool", "run", "step")


@dataclass(frozen=True)
class Runs:
    """How often: `usual`, but for what is named, "b" or "b.borg"."""

    usual: int
    special: dict[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Runs:
        """`3`, or `3,b.borg=1`. Raises ValueError."""
        usual, special = 3, {}
        for part in text.split(","):
            name, is_special, count = part.rpartition("=")
            if is_special:
                special[name] = int(count)
            else:
                usual = int(count)
        if min(usual, *special.values(), usual) < 1:
            raise ValueError("less than one run")
        return cls(usual, special)

    def of(self, tree: str, tool: str) -> int:
        return self.special.get(f"{tree}.{tool}", self.special.get(tree, self.usual))


@dataclass(frozen=True)
class Order:
    quick: bool
    runs: Runs
    steps: tuple[str, ...]
    tools: list[Tool]
    sources: list[Path]  # of the tree of real files
    work: Path | None = None  # where the trees shall stand; None: in memory if there is room

    @property
    def points(self) -> int:
        return QUICK_POINTS if self.quick else POINTS


def measure_tree(tree: trees.Tree, order: Order, figures: Figures) -> list[CommandFailed]:
    """All runs of all tools that are not among the figures yet; returns what failed, which does not stop the others.

    Raises SystemExit if the stored tree is another one, or a restored one is.
    """
    failures: list[CommandFailed] = []
    due = list(due_runs(tree, order, figures))
    if not due:
        say(f"tree {tree.key}: all figures are there")
        return failures
    room = (1 << 30, 100_000) if order.quick else (tree.room_bytes, tree.room_files)
    work = trees.work_folder(*room, order.work)
    try:
        say(f"tree {tree.key}: making {tree.title}")
        bench = Bench.make(tree, order, work, figures)
        for tool, number in due:
            try:
                bench.run(tool, number)
            except CommandFailed as failure:
                say(str(failure))
                failures.append(failure)
    finally:
        trees.remove(work)
    return failures


def due_runs(tree: trees.Tree, order: Order, figures: Figures) -> Iterator[tuple[Tool, int]]:
    for number in range(1, max(order.runs.of(tree.key, tool.name) for tool in order.tools) + 1):
        for tool in order.tools:
            runs = order.runs.of(tree.key, tool.name)
            wanted = [(step, number) for step in tool.steps if step in order.steps and step != "folder"]
            if number == 1 and "folder" in tool.steps and "folder" in order.steps:
                wanted += [("folder", run) for run in range(1, runs + 1)]
            done = [figures.has("measurements", tree=tree.key, tool=tool.name, run=run, step=step)
                    for step, run in wanted]  # fmt: skip
            if number <= runs and not all(done):
                yield tool, number


@dataclass
class Bench:
    """One tree, standing, and everything that is measured on it."""

    tree: trees.Tree
    order: Order
    work: Path
    figures: Figures
    root: Path
    size: trees.Size
    changes: Changes
    folder: Path  # the one that is restored alone

    @classmethod
    def make(cls, tree: trees.Tree, order: Order, work: Path, figures: Figures) -> Bench:
        root = work / "tree"
        trees.make(tree, root, quick=order.quick, sources=order.sources)
        changes, size, folder = of_tree(root), trees.measure(root), trees.one_folder(root)
        described = {
            "key": tree.key,
            "title": tree.title,
            "change": tree.change,
            "changed_places": len(changes.share),
            "files": size.files,
            "size_bytes": size.size_bytes,
            "folder_files": trees.measure(folder).files,
            "where": "memory" if trees.is_in_memory(work) else "disk",
        }
        check_same(described, figures)
        figures.put("trees", described, ("key",))
        say(f"tree {tree.key}: {size.files:,} files, {size.size_bytes / 2**20:,.0f} MiB, in {described['where']}")
        return cls(tree, order, work, figures, root, size, changes, folder)

    def run(self, tool: Tool, number: int) -> None:
        """One run of one tool from an empty repository on; what it measured before is measured again."""
        say(f"tree {self.tree.key}, run {number}: {tool.name}")
        folder = self.work / f"{tool.name.replace(' ', '')}-{number}"
        folder.mkdir()
        try:
            ToolRun(self, tool, number, folder).take_steps()
        finally:
            self.changes.take_back()
            trees.remove(folder)


def check_same(described: dict[str, object], figures: Figures) -> None:
    for stored in figures.part("trees"):
        if stored["key"] == described["key"]:
            same = all(stored[name] == described[name] for name in ("files", "size_bytes"))
            if not same:
                raise SystemExit(
                    f"tree {described['key']} has {described['files']} files now, {described['size_bytes']} bytes; the "
                    "stored figures are of another one. Begin anew, without --continue."
                )


@dataclass
class ToolRun:
    bench: Bench
    tool: Tool
    number: int
    folder: Path
    points: int = 0
    before_bytes: int = 0

    def take_steps(self) -> None:
        bench, tool = self.bench, self.tool
        tool.prepare(self.folder, bench.root)
        if not bench.order.quick:
            trees.settle(bench.changes.changed_at_seconds)
        self.before_bytes = self.stored_bytes()
        self.backup("full")
        if self.wants("unchanged"):
            self.backup("unchanged")
        if self.wants("changed"):
            bench.changes.make_share()
            self.backup("changed")
        if self.wants("restore"):
            self.restore(bench.root, "restore", self.number)
        if self.wants("folder") and self.number == 1:
            self.lengthen()
            for run in range(1, bench.order.runs.of(bench.tree.key, tool.name) + 1):
                self.restore(bench.folder, "folder", run)

    def wants(self, step: str) -> bool:
        return step in self.bench.order.steps and step in self.tool.steps

    def backup(self, step: str) -> Measured:
        self.points += 1
        measured = self.tool.backup(self.folder, self.bench.root, self.points)
        if step:
            self.put(step, self.number, measured, self.bench.size.size_bytes)
        return measured

    def lengthen(self) -> None:
        """Write points with few changes until the chain is as long as it shall be, or a peer takes too long."""
        spent_seconds = 0.0
        while self.points < self.bench.order.points:
            if self.tool.name != OURS and spent_seconds > PEER_CHAIN_SECONDS:
                return
            self.bench.changes.make_little(self.points)
            spent_seconds += self.backup("").seconds
        self.before_bytes = self.stored_bytes()

    def restore(self, path: Path, step: str, run: int) -> None:
        tool = cast(Restoring, self.tool)  # only such ones have these steps
        into = self.folder / "restored"
        whole = path == self.bench.root
        measured = tool.restore(self.folder, into, self.points, None if whole else path)
        wanted, found = self.bench.size if whole else trees.measure(path), trees.measure(into)
        if found != wanted:
            raise SystemExit(f"{tool.name} restored {found}, but the tree has {wanted}.")
        trees.remove(into)
        self.put(step, run, measured, wanted.size_bytes)

    def put(self, step: str, run: int, measured: Measured, source_bytes: int) -> None:
        stored_bytes = self.stored_bytes()
        figure = {
            "tree": self.bench.tree.key,
            "tool": self.tool.name,
            "run": run,
            "step": step,
            "version": self.tool.version(),
            "points": self.points,
            "seconds": round(measured.seconds, 3),
            "cpu_seconds": round(measured.cpu_seconds, 3),
            "peak_bytes": measured.peak_bytes,
            "source_bytes": source_bytes,
            "repository_bytes": stored_bytes,
            "added_bytes": stored_bytes - self.before_bytes,
        }
        self.before_bytes = stored_bytes
        self.bench.figures.put("measurements", figure, KEY)
        say(f"  {step}: {measured.seconds:.2f} s, {measured.peak_bytes / 2**20:.0f} MiB of memory")

    def stored_bytes(self) -> int:
        repository = self.folder / "repository"
        return trees.measure(repository).size_bytes if repository.exists() else 0


def say(text: str) -> None:
    stamp = time.strftime("%H:%M:%S")
    sys.stderr.write(f"{stamp} {text}\n")
    sys.stderr.flush()
