"""Proving that a restore point can be restored, and naming what cannot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from repositories.engine.observer import Observer
from repositories.engine.reader import Point

Depth = Literal["quick", "full"]


@dataclass(frozen=True, slots=True)
class Damage:
    part: str  # head, padding, trailer, segment 3, block 17, ...
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
    notes: tuple[str, ...] = field(default=())  # not damage: unsigned, the parent is not beside it, ...

    @property
    def sound(self) -> bool:
        return not self.damages


def verify(point: Point, depth: Depth, observer: Observer) -> VerifyReport:
    """*quick*: head, slots, seal, index, manifest. *full*: every block that the point needs as well."""
    raise NotImplementedError
