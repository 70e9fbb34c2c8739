"""The figures as tables, for a terminal and for a page: one a tree, the ratios seen from the engine (3.0x: three times
as fast, a third of the size).
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.figures import Figure, Row, rows
from tests.bench.tools import STEPS

MIB = 2**20
OURS = "backupsite"
HEAD = (
    "step", "tool", "runs", "seconds", "CPU s", "MiB/s", "peak MiB", "repository MiB", "added MiB",
    "time", "CPU", "repository",
)  # fmt: skip
WORDS_COLUMNS = 2
STEP_TITLES = {
    "full": "full",
    "unchanged": "nothing changed",
    "changed": "changed",
    "restore": "whole restore",
    "folder": "one folder",
}
Cells = tuple[str, ...]


def render(figures: Figure) -> str:
    """Everything for a terminal."""
    parts = []
    for tree in figures.get("trees", []):
        parts += [tree_line(tree), columns([HEAD, *tree_cells(figures, tree["key"])])]
    if figures.get("memory"):
        parts += ["peak memory in MiB, and seconds, of one session", columns(memory_cells(figures))]
    if figures.get("numbers"):
        parts += ["further numbers", columns(number_cells(figures))]
    return "\n\n".join(parts) + "\n"


def tree_line(tree: Figure) -> str:
    size = f"{tree['files']:,} files, {tree['size_bytes'] / MIB:,.0f} MiB, in {tree['where']}"
    return f"({tree['key']}) {tree['title']}: {size}; changed: {tree['change']}"


def tree_cells(figures: Figure, tree: str, *, with_versions: bool = True) -> list[Cells]:
    found = rows(figures, tree, STEPS)
    ours = {row.step: row for row in found if row.tool == OURS}
    return [row_cells(row, ours.get(row.step), with_versions) for row in found]


def row_cells(row: Row, ours: Row | None, with_version: bool) -> Cells:
    step = STEP_TITLES[row.step]
    if row.step == "folder":
        step += f" of {row.points} points"
    has_repository = row.step not in ("restore", "folder")
    return (
        step,
        f"{row.tool} {row.version}" if with_version else row.tool,
        str(row.runs),
        f"{row.seconds:.2f}",
        f"{row.cpu_seconds:.2f}",
        f"{row.mib_per_second:,.0f}" if row.step != "folder" else "",
        f"{row.peak_bytes / MIB:.0f}",
        f"{row.repository_bytes / MIB:,.1f}" if has_repository else "",
        f"{row.added_bytes / MIB:,.2f}" if has_repository else "",
        *ratios(row, ours, with_size=has_repository),
    )


def ratios(row: Row, ours: Row | None, *, with_size: bool) -> Cells:
    if ours is None or ours is row:
        return ("", "", "")
    return (
        f"{row.seconds / ours.seconds:.2f}x",
        f"{row.cpu_seconds / ours.cpu_seconds:.2f}x",
        f"{row.repository_bytes / ours.repository_bytes:.2f}x" if with_size else "",
    )


def memory_cells(figures: Figure) -> list[Cells]:
    found = {(figure["session"], figure["files"], figure["points"]): figure for figure in figures["memory"]}
    sessions, files, points = (sorted({key[part] for key in found}) for part in range(3))
    head = ("session", "files", *(f"{number} point{'s' * (number > 1)}" for number in points))
    lines = [head]
    for session in sessions:
        for count in files:
            cells = [found.get((session, count, number)) for number in points]
            shown = (f"{cell['peak_bytes'] / MIB:.0f} ({cell['seconds']:.1f} s)" if cell else "" for cell in cells)
            lines.append((session, f"{count:,}", *shown))
    return lines


def number_cells(figures: Figure) -> list[Cells]:
    lines: list[Cells] = [("what", "", "measured", "wanted")]
    for figure in figures["numbers"]:
        target = "" if figure["target"] is None else f"< {figure['target']:g} {figure['unit']}"
        lines.append((figure["title"], figure["detail"], f"{figure['value']:.3g} {figure['unit']}", target))
    return lines


def columns(lines: Sequence[Cells]) -> str:
    """As a table of text; the first line is the head."""
    widths = [max(len(cells[column]) for cells in lines) for column in range(len(lines[0]))]
    ruled = [lines[0], tuple("-" * width for width in widths), *lines[1:]]
    return "\n".join("  ".join(map(align, cells, widths, range(len(cells)))).rstrip() for cells in ruled)


def align(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < WORDS_COLUMNS else cell.rjust(width)


def markdown(lines: Sequence[Cells]) -> str:
    """As a table of a Markdown page; the first line is the head."""
    rule = tuple("---" if column < WORDS_COLUMNS else "---:" for column in range(len(lines[0])))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (lines[0], rule, *lines[1:]))
