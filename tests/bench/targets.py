"""What the design wants of the numbers, and what the figures say to it: one line a target that was measured.

The faster peer of a step is the one to beat; the smaller repository is the one to stay below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.bench.figures import Figure, Row, rows
from tests.bench.tools import PEERS, STEPS

MIB = 2**20
OURS, PLAIN, LIMIT = "backupsite", "backupsite --plain", "limit"
MEMORY_MIB = 256
Line = tuple[str, str, str, str]
TIMES_FASTER = (
    ("a", "full", 4.0),
    ("a", "unchanged", 3.0),
    ("a", "restore", 3.0),
    ("b", "full", 4.0),
    ("b", "unchanged", 3.0),
)
REPOSITORY_SHARE = (("a", 1.0), ("b", 0.5))
ADDED_MIB = (("b", 1.0),)
STEP_TITLES = {"full": "full", "unchanged": "nothing changed", "restore": "whole restore"}


def lines(figures: Figure) -> list[Line]:
    """What, measured, wanted, and whether it was reached."""
    found = {(row.tree, row.step, row.tool): row for tree in "abcd" for row in rows(figures, tree, STEPS)}
    return [*against_peers(found), *encryption(figures, found), *memory(figures), *numbers(figures)]


def against_peers(found: dict[tuple[str, str, str], Row]) -> Iterator[Line]:
    def of(tree: str, step: str) -> tuple[Row | None, list[Row]]:
        peers = [found[tree, step, peer] for peer in PEERS if (tree, step, peer) in found]
        return found.get((tree, step, OURS)), peers

    for tree, step, wanted in TIMES_FASTER:
        ours, peers = of(tree, step)
        if ours and peers:
            faster = min(peers, key=lambda row: row.seconds)
            times = faster.seconds / ours.seconds
            title = f"({tree}) {STEP_TITLES[step]}, against the faster peer ({faster.tool})"
            yield line(title, f"{times:.1f} times as fast", f">= {wanted:g} times", times >= wanted)
    for tree, wanted in REPOSITORY_SHARE:
        ours, peers = of(tree, "full")
        if ours and peers:
            smaller = min(peers, key=lambda row: row.repository_bytes)
            share = ours.repository_bytes / smaller.repository_bytes
            title = f"({tree}) repository, against the smaller one ({smaller.tool})"
            yield line(title, f"{share:.0%} of it", f"<= {wanted:.0%}", share <= wanted)
    for tree, wanted in ADDED_MIB:
        ours, _ = of(tree, "unchanged")
        if ours:
            added = ours.added_bytes / MIB
            yield line(f"({tree}) nothing changed: added", f"{added:.2f} MiB", f"< {wanted:g} MiB", added < wanted)


def encryption(figures: Figure, found: dict[tuple[str, str, str], Row]) -> Iterator[Line]:
    """With the time that the key derivation takes, and without."""
    derivation = next((figure["value"] / 1000 for figure in figures.get("numbers", [])
                       if figure["name"] == "derivation"), None)  # fmt: skip
    for tree in "abcd":
        ours, plain = found.get((tree, "full", OURS)), found.get((tree, "full", PLAIN))
        if ours and plain and derivation is not None:
            whole, apart = ours.seconds / plain.seconds - 1, (ours.seconds - derivation) / plain.seconds - 1
            title = f"({tree}) encrypted against plain, key derivation apart"
            yield line(title, f"{apart:+.1%} time ({whole:+.1%} with it)", "< 3 %", apart < 0.03)


def memory(figures: Figure) -> Iterator[Line]:
    peaks = figures.get("memory", [])
    if peaks:
        largest = max(peaks, key=lambda figure: float(figure["peak_bytes"]))
        mib = largest["peak_bytes"] / MIB
        where = f"{largest['session']}, {largest['files']:,} files, {largest['points']} points"
        yield line(f"peak memory, the most ({where})", f"{mib:.0f} MiB", f"< {MEMORY_MIB} MiB", mib < MEMORY_MIB)


def numbers(figures: Figure) -> Iterator[Line]:
    for figure in figures.get("numbers", []):
        if figure["target"] is not None:
            value, wanted, unit = figure["value"], figure["target"], figure["unit"]
            yield line(figure["title"], f"{value:.3g} {unit}", f"< {wanted:g} {unit}", value < wanted)


def line(title: str, measured: str, wanted: str, reached: bool) -> Line:
    return title, measured, wanted, "yes" if reached else "no"


def against_limit(figures: Figure, of_tree: Callable[[str], list[Row]]) -> list[Line]:
    """The full of every tree against the machine's own limit, and encrypted against plain: tree, and three figures."""
    found: list[Line] = []
    for tree in figures.get("trees", []):
        full = {row.tool: row for row in of_tree(tree["key"]) if row.step == "full"}
        ours, plain, limit = (full.get(tool) for tool in (OURS, PLAIN, LIMIT))
        if ours and plain and limit:
            time, cpu = ours.seconds / plain.seconds - 1, ours.cpu_seconds / plain.cpu_seconds - 1
            title = f"({tree['key']}) {tree['title']}"
            share = f"{limit.seconds / ours.seconds:.0%} of the limit's speed"
            seconds = f"{limit.seconds:.2f} s, {ours.seconds:.2f} s, {plain.seconds:.2f} s"
            found.append((title, share, f"{time:+.1%} time, {cpu:+.1%} CPU", seconds))
    return found
