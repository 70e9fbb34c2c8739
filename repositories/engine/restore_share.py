"""What a restore wants of a manifest, segment by segment, and the common list from which its processes take segments.

A segment is the unit of sharing: one that another process takes is not even opened here. What is done with entries is
left to `repositories.engine.restore`.
"""

from __future__ import annotations

import os
import stat
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator

import numpy as np

from repositories.engine.entries import Entry, is_below, order_key
from repositories.engine.errors import DAMAGES
from repositories.engine.file_groups import FileGroup, grouped
from repositories.engine.reader import Point
from repositories.engine.segments import HARD_LINKED

EVERYTHING = (b"",)
_IFMT, _IFDIR = np.uint32(0o170000), np.uint32(stat.S_IFDIR)
_NUMBER = "I"


class Selection:
    """The entries of a point that are wanted: those at or below `paths`, none of which is below another."""

    def __init__(self, point: Point, paths: tuple[bytes, ...]) -> None:
        self.point = point
        self.paths = paths
        self._chosen = None if paths == EVERYTHING else frozenset(paths)

    def segment_numbers(self) -> list[int]:
        """The segments that hold wanted entries, in order."""
        rows = self.point.root.segments
        if self._chosen is None:
            return list(range(len(rows)))
        firsts = [order_key(row.first) for row in rows]
        numbers: set[int] = set()
        for path in self.paths:
            key = order_key(path)
            for number in range(max(bisect_right(firsts, key) - 1, 0), len(rows)):
                if firsts[number] > key and not is_below(rows[number].first, path):
                    break
                numbers.add(number)
        return sorted(numbers)

    def items_of(self, number: int) -> Iterator[Entry | FileGroup]:
        """The same, ordinary files in groups where the segment is wanted as a whole."""
        row = self.point.root.segments[number]
        if any(is_below(row.first, path) and is_below(row.last, path) for path in self.paths):
            return grouped(self.point.segment(number))
        return self.entries_of(number)

    def shared_by_all(self, number: int) -> Iterator[Entry]:
        """Of the wanted entries of one segment the folders, and the files with several names."""
        segment = self.point.segment(number)
        rows = np.flatnonzero((segment.mode & _IFMT == _IFDIR) | (segment.flags & np.uint32(HARD_LINKED) != 0))
        entries = segment.entries_at(rows.tolist())
        return entries if self._chosen is None else filter(self._is_wanted, entries)

    def entries_of(self, number: int) -> Iterator[Entry]:
        """The wanted entries of one segment. Raises CorruptFile, MissingFile, CannotUnwrap."""
        entries = self.point.segment(number).entries()
        return entries if self._chosen is None else filter(self._is_wanted, entries)

    def entries(self, beat: Callable[[], None]) -> Iterator[Entry]:
        """All of them, as far as their segments are sound: the restore itself reports those that are not."""
        for number in self.segment_numbers():
            beat()
            try:
                yield from self.entries_of(number)
            except DAMAGES:
                continue

    def _is_wanted(self, entry: Entry) -> bool:
        path = entry.path
        while path:
            if self._chosen is None or path in self._chosen:
                return True
            path = path.rpartition(b"/")[0]
        return False


class CommonList:
    """Numbers that several processes take from, each number once: a file in memory whose read position they share."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def of(cls, numbers: list[int]) -> CommonList:
        descriptor = os.memfd_create("backupsite-restore", os.MFD_CLOEXEC)
        remaining = memoryview(array(_NUMBER, numbers).tobytes())
        while remaining:
            remaining = remaining[os.write(descriptor, remaining) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        return cls(descriptor)

    def __iter__(self) -> Iterator[int]:
        """The numbers that this process gets, until none is left for anybody."""
        width = array(_NUMBER).itemsize
        while raw := os.read(self.descriptor, width):
            yield array(_NUMBER, raw)[0]

    def close(self) -> None:
        os.close(self.descriptor)
