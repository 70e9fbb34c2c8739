"""Which restore points stay and which go, and why: pure, over the points of a job in order of time.

Only whole leading runs go, each when the newer points alone are as many as are to be kept. That holds through all
chains under the job's retention, so that a previous chain goes once its successor is long enough. Points of a damaged
chain are not counted on: they go like others, but nothing goes because of them. Detached chains are outside: their
points stay.

What is held by a reader, and the removal itself, are decided in `jobs.pruning`.

Reasons and their parameters:

    among-newest       keep              one of the newest points to keep
    run-needed         keep              an older one, in a run of which newer points still need or use it
    detached           (none)
    newer-suffice      newer, keep       the points newer than its run are enough
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from typing import Any


class Reason(StrEnum):
    AMONG_NEWEST = "among-newest"
    RUN_NEEDED = "run-needed"
    DETACHED = "detached"
    NEWER_SUFFICE = "newer-suffice"


@dataclass(frozen=True)
class Point:
    """One sealed point; `chain` and `run` only tell points apart that do not go together."""

    id: int
    chain: int
    run: int
    detached: bool = False
    damaged: bool = False


@dataclass(frozen=True)
class Verdict:
    point: int
    stays: bool
    reason: Reason
    params: dict[str, Any] = field(default_factory=dict)


def decide(points: Sequence[Point], keep: int) -> list[Verdict]:
    """Return a verdict for each point, in the order given: oldest first, the points of a chain together."""
    if keep < 1:
        raise ValueError(f"A job keeps at least one point, not {keep}.")
    verdicts = {point.id: Verdict(point.id, True, Reason.DETACHED) for point in points if point.detached}
    newer = 0
    for run in reversed(_runs(point for point in points if not point.detached)):
        verdicts |= {verdict.point: verdict for verdict in _of_run(run, newer, keep)}
        newer += sum(not point.damaged for point in run)
    return [verdicts[point.id] for point in points]


def _runs(points: Iterable[Point]) -> list[list[Point]]:
    return [list(run) for _, run in groupby(points, key=lambda point: (point.chain, point.run))]


def _of_run(run: list[Point], newer: int, keep: int) -> Iterable[Verdict]:
    """Judge one run, given how many points that can be counted on are newer than it."""
    if newer >= keep:
        params = {"newer": newer, "keep": keep}
        return [Verdict(point.id, False, Reason.NEWER_SUFFICE, params) for point in run]
    newest = {point.id for point in run[-(keep - newer) :]}
    return [
        Verdict(point.id, True, Reason.AMONG_NEWEST if point.id in newest else Reason.RUN_NEEDED, {"keep": keep})
        for point in run
    ]
