"""Entries collected one by one, as a test thinks of them, and the segment that they make."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np

from repositories.engine.segments import Columns, Segment, from_columns
from repositories.engine.small_files import Xattrs
from repositories.engine.walk import Stat


@dataclass
class Rows:
    """Chunks are flat: four integers each."""

    folders: list[bytes] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)
    stats: list[Stat] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    chunk_counts: list[int] = field(default_factory=list)
    chunks: array[int] = field(default_factory=lambda: array("I"))
    targets: dict[int, bytes] = field(default_factory=dict)
    xattrs: dict[int, Xattrs] = field(default_factory=dict)


def from_rows(rows: Rows, origins: list[UUID]) -> Segment:
    def column(values: list[int], dtype: type = np.uint64) -> np.ndarray:
        return np.array(values, dtype)

    stats = rows.stats
    columns = Columns(
        rows.folders,
        rows.names,
        mode=column([s.st_mode for s in stats], np.uint32),
        links=column([1 for _ in stats]),
        uid=column([s.st_uid for s in stats], np.uint32),
        gid=column([s.st_gid for s in stats], np.uint32),
        device=np.array([s.st_dev for s in stats], object),  # a forger's may be negative
        rdev=np.array([s.st_rdev for s in stats], object),
        inode=column([s.st_ino for s in stats]),
        size=column(rows.sizes),
        mtime=column([s.st_mtime_ns for s in stats], np.int64),
        ctime=column([s.st_ctime_ns for s in stats], np.int64),
    )
    chunks = np.array(rows.chunks, np.uint32).reshape(-1, 4)
    flags, counts = column(rows.flags, np.uint32), column(rows.chunk_counts, np.uint32)
    return from_columns(columns, flags, counts, chunks, origins, rows.targets, rows.xattrs)
