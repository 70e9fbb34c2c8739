"""The figures as a table for people: one block a step, the ratios seen from the engine (3.0x: three times as fast,
a third of the size).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MIB = 2**20
HEAD = (
    "step", "tool", "seconds", "CPU s", "MiB/s", "peak MiB", "repository MiB", "added MiB",
    "its time", "its CPU", "its repository",
)  # fmt: skip


def render(rows: Sequence[dict[str, Any]], steps: Sequence[str]) -> str:
    lines: list[tuple[str, ...]] = [HEAD]
    for step in steps:
        of_step = [row for row in rows if row["step"] == step]
        lines += [line(row, of_step[0]) for row in of_step]
    widths = [max(len(cells[column]) for cells in lines) for column in range(len(HEAD))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(align(cell, width, column) for column, (cell, width) in enumerate(zip(cells, widths, strict=True)))
        for cells in lines
    )


def align(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < 2 else cell.rjust(width)


def line(row: dict[str, Any], ours: dict[str, Any]) -> tuple[str, ...]:
    is_peer = row is not ours
    return (
        row["step"],
        f"{row['tool']} {row['version']}",
        f"{row['seconds']:.2f}",
        f"{row['cpu_seconds']:.2f}",
        f"{row['mib_per_second']:.0f}",
        f"{row['peak_bytes'] / MIB:.0f}",
        f"{row['repository_bytes'] / MIB:.0f}",
        f"{row['added_bytes'] / MIB:.2f}",
        f"{row['seconds'] / ours['seconds']:.1f}x" if is_peer else "",
        f"{row['cpu_seconds'] / ours['cpu_seconds']:.1f}x" if is_peer else "",
        f"{row['repository_bytes'] / ours['repository_bytes']:.2f}x" if is_peer else "",
    )
