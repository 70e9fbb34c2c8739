"""What a running session's numbers say: percent, speeds, time left, bottleneck, ratio, and the graph of its speed.

Pure arithmetic over plain numbers; the numbers are measured in the session's process and stored in its progress row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GRAPH_WIDTH = 600
GRAPH_HEIGHT = 120
PARTS = ("source", "proxy", "repository")


@dataclass(frozen=True)
class Measured:
    """What the progress row holds, and the seconds since the session began."""

    seconds: float
    bytes_processed: int
    bytes_total: int | None
    bytes_read: int
    bytes_written: int
    samples: Sequence[Sequence[float]]  # [seconds, read bytes/s, written bytes/s]
    busy_seconds: Mapping[str, float]


@dataclass(frozen=True)
class Figures:
    percent: int | None
    speed_now: float | None  # bytes a second read from the source
    speed_average: float | None
    seconds_left: int | None
    ratio: float | None  # read bytes for one written byte
    bottleneck: str
    busy_percent: dict[str, int]


@dataclass(frozen=True)
class Graph:
    width: int
    height: int
    read_line: str  # points of an SVG polyline
    written_line: str
    top_bytes_per_second: float
    seconds: float


def figures(measured: Measured) -> Figures:
    speed = measured.bytes_processed / measured.seconds if measured.seconds >= 1 else None
    busy = busy_percent(measured.busy_seconds, measured.seconds)
    return Figures(
        percent=percent(measured.bytes_processed, measured.bytes_total),
        speed_now=measured.samples[-1][1] if measured.samples else None,
        speed_average=measured.bytes_read / measured.seconds if measured.seconds >= 1 else None,
        seconds_left=seconds_left(measured.bytes_processed, measured.bytes_total, speed),
        ratio=ratio(measured.bytes_read, measured.bytes_written),
        bottleneck=max(busy, key=lambda part: busy[part]) if any(busy.values()) else "",
        busy_percent=busy,
    )


def percent(done: int, total: int | None) -> int | None:
    """Return whole percents; 100 only when nothing is left, none while the total is unknown. A source may have grown
    past its total.
    """
    if not total:
        return None
    return 100 if done == total else min(99, done * 100 // total)


def ratio(read: int, written: int) -> float | None:
    """Return how much was read for one written byte; none while a large file is written and not yet counted as read."""
    return read / written if written and read >= written else None


def seconds_left(done: int, total: int | None, speed: float | None) -> int | None:
    if not total or not speed or done > total:
        return None
    return round((total - done) / speed)


def busy_percent(busy: Mapping[str, float], seconds: float) -> dict[str, int]:
    """Return how much of the session each part was busy. Parts work side by side, so that the sum may pass 100."""
    whole = max(seconds, *(float(busy.get(part, 0)) for part in PARTS), 0.001)
    return {part: round(100 * float(busy.get(part, 0)) / whole) for part in PARTS}


def graph(samples: Sequence[Sequence[float]]) -> Graph | None:
    """Return two lines over the time of the session; none while there are fewer than two samples."""
    if len(samples) < 2:
        return None
    top = max(max(sample[1], sample[2]) for sample in samples) or 1.0
    last = max(samples[-1][0], 0.001)
    return Graph(
        width=GRAPH_WIDTH,
        height=GRAPH_HEIGHT,
        read_line=_line(samples, 1, last, top),
        written_line=_line(samples, 2, last, top),
        top_bytes_per_second=top,
        seconds=last,
    )


def _line(samples: Sequence[Sequence[float]], column: int, last: float, top: float) -> str:
    return " ".join(
        f"{sample[0] / last * GRAPH_WIDTH:.1f},{GRAPH_HEIGHT - 2 - sample[column] / top * (GRAPH_HEIGHT - 6):.1f}"
        for sample in samples
    )
