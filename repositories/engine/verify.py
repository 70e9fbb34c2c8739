"""Proving that a restore point can be restored, and naming what cannot.

What open_point() proves already (one head copy, trailer, seal, index, keyring, root, chain MAC, signature) is raised
there; here follow the rest of the outer form, the parent's seal, every segment and, in a full verification, every
block. How it is done, and for all points of a chain together, is decided in verify_chain.py; what is to be done about
damage is left to the callers.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

from repositories.engine.observer import Observer
from repositories.engine.reader import Point
from repositories.engine.verify_chain import PointToVerify, verify_chain
from repositories.engine.verify_report import ChainReport, Depth
from repositories.engine.verify_sample import Sample

MAX_NAMED = 1_000

__all__ = ["Damage", "Depth", "Sample", "VerifyReport", "verify"]


@dataclass(frozen=True, slots=True)
class Damage:
    part: str  # head, padding, epoch, segment 3, block 17, ...
    path: str  # of the backup file
    sentence: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    depth: Depth
    damages: tuple[Damage, ...] = ()
    damaged_files: tuple[bytes, ...] = ()  # paths in the point that cannot be restored, at most MAX_NAMED
    damaged_files_count: int = 0
    items_checked: int = 0
    bytes_checked: int = 0
    blocks_checked: int = 0
    notes: tuple[str, ...] = ()  # not damage: unsigned, the parent is not beside it

    @property
    def sound(self) -> bool:
        return not self.damages


def verify(point: Point, depth: Depth, observer: Observer, *, sample: Sample | None = None) -> VerifyReport:
    """*quick*: head, slots, seal, index, manifest. *full*: every block that the point needs as well; *sample*: a seeded
    share of them.

    Raises Cancelled. Damage is reported, not raised.
    """
    ready = PointToVerify(point.head.sequence, lambda: nullcontext(point))
    return _of_one_point(verify_chain([ready], depth, observer, sample=sample))


def _of_one_point(report: ChainReport) -> VerifyReport:
    point = report.points[0]
    return VerifyReport(
        depth=report.depth,
        damages=tuple(Damage(one.part, one.path, one.sentence) for one in report.damages),
        damaged_files=point.damaged_files[:MAX_NAMED],
        damaged_files_count=point.damaged_files_count,
        items_checked=report.items_checked,
        bytes_checked=report.bytes_checked,
        blocks_checked=report.blocks_checked,
        notes=point.notes,
    )
