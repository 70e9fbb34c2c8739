"""The streaming comparison of the walk with the parent's manifest.

Unchanged means equal mode, size, mtime, ctime and inode, and not marked as racy in the parent. The result is a stream
of what to do, in manifest order: keep a range of a parent's segment, or store what was found. Memory holds one segment.
How content is stored is left to content.py; how ranges become segments, to manifest.py.
"""

from __future__ import annotations

import itertools
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from repositories.engine.entries import order_key
from repositories.engine.manifest import SegmentRow
from repositories.engine.segments import NEW, RACY, Segment
from repositories.engine.walk import Found

_BEAT_ENTRIES = 256


class Keep(NamedTuple):
    """Entries start..end of a parent's segment; `row` is the segment's own if it is kept whole, to be shared."""

    segment: Segment
    start: int
    end: int
    row: SegmentRow | None


Store = tuple[Found, bool]  # what was found is to be stored; whether the parent has nothing at its path
Event = Keep | Store


class _Cursor:
    """The parent's manifest, one decoded segment at a time, and the range of it that is being kept."""

    def __init__(self, parent: Iterator[tuple[SegmentRow | None, Segment]]) -> None:
        self._parent = parent
        self._start = 0
        self._shared: SegmentRow | None = None
        self._segment: Segment | None = None
        self.row = self.count = 0
        self.paths: list[bytes] = []
        self.facts: list[tuple[int, int, int, int, int] | None] = []

    def next_segment(self) -> bool:
        """Load the next segment; the current one must be finished. False at the end."""
        following = next(self._parent, None)
        if following is None:
            self.paths, self.facts, self.row, self.count, self._segment = [], [], 0, 0, None
            return False
        self._shared, self._segment = following
        self.paths = self._segment.paths()
        self.facts = _facts(self._segment)
        self.row, self._start, self.count = 0, 0, len(self.paths)
        return True

    def break_range(self) -> Iterator[Keep]:
        """End the kept range before the current row."""
        if self._segment is not None and self.row > self._start:
            yield Keep(self._segment, self._start, self.row, None)
        self._start = self.row

    def skip(self) -> None:
        """Leave out the current row; the range was broken before."""
        self.row += 1
        self._start = self.row

    def is_new(self) -> bool:
        """Whether the current row, of an unfinished file, is itself new since the parent."""
        news = self._segment.news if self._segment is not None else None
        return news is not None and int(news[self.row]) == NEW

    def finish_segment(self) -> Iterator[Keep]:
        if self._segment is not None and self.row > self._start:
            whole = self._shared if self._start == 0 and self.row == self.count else None
            yield Keep(self._segment, self._start, self.row, whole)
        self._start = self.row


def compare(
    walk: Iterable[Found], parent: Iterator[tuple[SegmentRow | None, Segment]], beat: Callable[[], None]
) -> Iterator[Event]:
    """`parent` gives the parent's segments in order, each with the row under which it may be shared, if it may.

    The first entries of a segment may repeat what stood before it: they are passed over, since the walk is behind them.
    """
    cursor = _Cursor(parent)
    if not cursor.next_segment():
        return zip(walk, itertools.repeat(True))
    return _compared(walk, cursor, beat)


def _compared(walk: Iterable[Found], cursor: _Cursor, beat: Callable[[], None]) -> Iterator[Event]:
    more, until_beat = True, _BEAT_ENTRIES
    for found in walk:
        until_beat -= 1
        if not until_beat:
            beat()
            until_beat = _BEAT_ENTRIES
        path = found[0] + found[1]
        row = cursor.row
        if more and row < cursor.count and cursor.paths[row] == path:
            if cursor.facts[row] == _fact(found):
                cursor.row = row + 1
                continue
        elif more:
            yield from _advance(cursor, path)
            more = cursor.row < cursor.count
            row = cursor.row
            if more and cursor.paths[row] == path and cursor.facts[row] == _fact(found):
                cursor.row = row + 1
                continue
        yield from cursor.break_range()
        is_new = not (more and cursor.paths[row] == path)
        if not is_new:
            is_new = cursor.is_new()
            cursor.skip()
        yield (found, is_new)
    yield from _drop_rest(cursor)


def _fact(found: Found) -> tuple[int, int, int, int, int]:
    s = found[2]
    mode = s.st_mode
    return (mode, s.st_size if stat.S_ISREG(mode) else 0, s.st_mtime_ns, s.st_ctime_ns, s.st_ino)


def _facts(segment: Segment) -> list[tuple[int, int, int, int, int] | None]:
    facts: list[tuple[int, int, int, int, int] | None] = list(
        zip(
            segment.mode.tolist(),
            segment.size.tolist(),
            segment.mtime.tolist(),
            segment.ctime.tolist(),
            segment.inode.tolist(),
            strict=True,
        )
    )
    for row in np.flatnonzero(segment.flags & RACY).tolist():
        facts[row] = None
    return facts


def _advance(cursor: _Cursor, path: bytes) -> Iterator[Keep]:
    """Go to the first parent row that is not before `path`; rows passed over were deleted."""
    key = order_key(path)
    while True:
        if cursor.row == cursor.count:
            yield from cursor.finish_segment()
            if not cursor.next_segment():
                return
        elif order_key(cursor.paths[cursor.row]) < key:
            yield from cursor.break_range()
            cursor.skip()
        else:
            return


def _drop_rest(cursor: _Cursor) -> Iterator[Keep]:
    """What is left of the parent was deleted."""
    if cursor.row == cursor.count:
        yield from cursor.finish_segment()
    else:
        yield from cursor.break_range()
