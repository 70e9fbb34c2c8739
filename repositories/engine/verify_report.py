"""What a verification of a chain says: of each point whether it is sound, of each damage which points need what it hit.

How it is found out is decided in verify_chain.py; how it is shown, by the command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from repositories.engine.errors import EngineError

Depth = Literal["quick", "sample", "full"]
CLOSED = ("cannot-unwrap", "plain-refused")  # a point that did not open for want of a key is not damaged


@dataclass(frozen=True, slots=True)
class ChainDamage:
    part: str  # head, padding, epoch, segment 3, block 17, ...
    path: str  # of the backup file
    sentence: str
    points: tuple[int, ...]  # the numbers of those that need it
    files: tuple[bytes, ...]  # paths in these points that cannot be restored, at most MAX_FILES_NAMED
    files_count: int  # in the point where they are most


@dataclass(frozen=True, slots=True)
class PointVerified:
    number: int
    problem: EngineError | None = None  # it did not open, and why
    damages: int = 0  # how many touch it
    damaged_files: tuple[bytes, ...] = ()  # some are left out where there are many
    damaged_files_count: int = 0
    notes: tuple[str, ...] = ()  # not damage: unsigned, the parent is not beside it

    @property
    def closed(self) -> bool:
        return self.problem is not None and self.problem.code in CLOSED

    @property
    def sound(self) -> bool:
        return self.problem is None and not self.damages


@dataclass(frozen=True, slots=True)
class ChainReport:
    depth: Depth
    points: tuple[PointVerified, ...]
    damages: tuple[ChainDamage, ...] = ()
    damages_count: int = 0
    items_checked: int = 0
    bytes_checked: int = 0
    blocks_checked: int = 0
    blocks_passed_over: int = 0  # by a sample

    @property
    def sound(self) -> bool:
        return not self.damages_count and all(point.sound for point in self.points)
