"""Ordinary files that stand together: what most of a restore is made of, taken from a segment without an object each.

A group is consecutive files of one folder whose content, at most one chunk each, lies in one block. What is not so
ordinary (folders, links, files of several chunks, with holes or with several names) comes as an entry of its own. How
a group is written is left to `repositories.engine.restore_groups`.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from repositories.engine.columns import Array
from repositories.engine.entries import BlockAddress, Chunk, Entry
from repositories.engine.segments import HARD_LINKED, HOLE, Segment

GROUP_FILES_MAX = 256  # between two looks whether to stop
_NO_BLOCK = -1
_IFMT, _IFREG = np.uint32(0o170000), np.uint32(stat.S_IFREG)


# Row in the segment, name, mode, user, group, mtime (ns), and where its content is: offset and length in the block.
# A plain tuple, since a million of them are made.
GroupFile = tuple[int, bytes, int, int, int, int, int, int]
ROW: Final = 0
NAME: Final = 1
LENGTH: Final = 7


@dataclass(slots=True)
class FileGroup:
    """`folder` is their path, without a slash at its end; `chunks` is empty where all of them are."""

    segment: Segment
    folder: bytes
    files: list[GroupFile]
    chunks: tuple[Chunk, ...]

    def path_of(self, file: GroupFile) -> bytes:
        return self.folder + b"/" + file[NAME] if self.folder else file[NAME]

    def entry(self, file: GroupFile) -> Entry:
        return next(self.segment.entries(file[ROW], file[ROW] + 1))


def grouped(segment: Segment) -> Iterator[Entry | FileGroup]:
    """Everything in a segment in its order, ordinary files in groups."""
    if not len(segment):
        return
    ordinary, blocks, offsets = _ordinary(segment)
    starts = _starts(segment, ordinary, blocks)
    others = segment.entries_at(np.flatnonzero(~ordinary).tolist())
    files = _files(segment, offsets)
    columns = zip(
        starts.tolist(),
        [*starts[1:].tolist(), len(segment)],
        ordinary[starts].tolist(),
        segment.folder[starts].tolist(),
        blocks[starts].tolist(),
        np.maximum.reduceat(offsets + segment.size.astype(np.int64), starts).tolist(),
        strict=True,
    )
    for start, end, is_group, folder, (origin, number), reach in columns:
        if not is_group:
            yield next(others)
            continue
        # The block from its beginning to the end of the last content; none where all files are empty.
        chunks = (Chunk(BlockAddress(segment.origins[origin], number), 0, reach),) if reach > 0 else ()
        yield FileGroup(segment, segment.folders[folder][:-1], files[start:end], chunks)


def _ordinary(segment: Segment) -> tuple[Array, Array, Array]:
    """Which rows are files with at most one chunk and nothing that would need care; for each row the block (origin and
    number) of its only chunk, and the chunk's offset.

    Empty files are said to lie in the block of the file before, so that they do not end its group.
    """
    is_file = segment.mode & _IFMT == _IFREG
    has_one_name = segment.flags & np.uint32(HARD_LINKED) == 0
    ordinary = is_file & has_one_name & (segment.chunk_count <= 1)
    with_chunk = ordinary & (segment.chunk_count == 1)
    places = np.full((len(segment), 3), _NO_BLOCK, np.int64)
    places[with_chunk] = segment.chunks[segment.chunk_starts()[:-1][with_chunk], :3]
    ordinary &= places[:, 0] != HOLE
    known = np.maximum.accumulate(np.where(with_chunk, np.arange(len(segment)), 0))
    return ordinary, places[known, :2], places[:, 2]


def _starts(segment: Segment, ordinary: Array, blocks: Array) -> Array:
    """The rows at which something new begins: a group, or an entry of its own."""
    new = np.ones(len(segment), bool)
    new[1:] = (
        ~(ordinary[1:] & ordinary[:-1])
        | (segment.folder[1:] != segment.folder[:-1])
        | np.any(blocks[1:] != blocks[:-1], axis=1)
    )
    rows = np.arange(len(segment))
    new |= (rows - np.maximum.accumulate(np.where(new, rows, 0))) % GROUP_FILES_MAX == 0
    starts: Array = np.flatnonzero(new)
    return starts


def _files(segment: Segment, offsets: Array) -> list[GroupFile]:
    return list(
        zip(
            range(len(segment)),
            segment.names,
            (segment.mode & ~_IFMT).tolist(),
            segment.uid.tolist(),
            segment.gid.tolist(),
            segment.mtime.tolist(),
            offsets.tolist(),
            segment.size.tolist(),
            strict=True,
        )
    )
