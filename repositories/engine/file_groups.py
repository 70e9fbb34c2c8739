"""Ordinary files that stand together: what most of a restore is made of, taken from a segment without an object each.

A group is consecutive files of one folder whose content, at most one chunk each, lies in one block. What is not so
ordinary (folders, links, files of several chunks, with holes or with several names) comes as an entry of its own. How
a group is written is left to `repositories.engine.restore_groups`.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from repositories.engine.columns import Array
from repositories.engine.entries import BlockAddress, Chunk, Entry
from repositories.engine.segments import HARD_LINKED, HOLE, Segment

GROUP_FILES_MAX = 256  # between two looks whether to stop
_NO_BLOCK = -1
_IFMT, _IFREG = np.uint32(0o170000), np.uint32(stat.S_IFREG)


class GroupFile(NamedTuple):
    """One file of a group. Its content is `length` bytes at `offset` of the block; `row` is its row in the segment."""

    row: int
    name: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    offset: int
    length: int


@dataclass(slots=True)
class FileGroup:
    """`folder` is their path, without a slash at its end; `chunks` is empty where all of them are."""

    segment: Segment
    folder: bytes
    files: list[GroupFile]
    chunks: tuple[Chunk, ...]

    def path_of(self, file: GroupFile) -> bytes:
        return self.folder + b"/" + file.name if self.folder else file.name

    def entry(self, file: GroupFile) -> Entry:
        return next(self.segment.entries(file.row, file.row + 1))


def grouped(segment: Segment) -> Iterator[Entry | FileGroup]:
    """Everything in a segment in its order, ordinary files in groups."""
    if not len(segment):
        return
    ordinary = _ordinary(segment)
    blocks, offsets = _places(segment, ordinary)
    starts = _starts(segment, ordinary, blocks)
    others = segment.entries_at(np.flatnonzero(~ordinary).tolist())
    files = _files(segment, offsets)
    reaches = np.maximum.reduceat(np.array(offsets) + segment.size.astype(np.int64), starts).tolist()
    ends = [*starts[1:], len(segment)]
    for start, end, reach, is_group in zip(starts, ends, reaches, ordinary[starts].tolist(), strict=True):
        if is_group:
            yield _group(segment, files[start:end], blocks[start], reach)
        else:
            yield next(others)


def _ordinary(segment: Segment) -> Array:
    """Which rows are files with at most one chunk, and nothing else that would need care."""
    is_file = segment.mode & _IFMT == _IFREG
    has_one_name = segment.flags & np.uint32(HARD_LINKED) == 0
    ordinary: Array = is_file & has_one_name & (segment.chunk_count <= 1)
    return ordinary


def _places(segment: Segment, ordinary: Array) -> tuple[list[tuple[int, int]], list[int]]:
    """For each row the block (origin and number) of its only chunk, and the chunk's offset.

    Empty files are said to lie in the block of the file before, so that they do not end its group.
    """
    with_chunk = ordinary & (segment.chunk_count == 1)
    first = segment.chunks[segment.chunk_starts()[:-1][with_chunk]]
    places = np.full((len(segment), 3), _NO_BLOCK, np.int64)
    places[with_chunk] = first[:, :3]
    ordinary[places[:, 0] == HOLE] = False
    known = np.maximum.accumulate(np.where(with_chunk, np.arange(len(segment)), 0))
    return list(map(tuple, places[known, :2].tolist())), places[:, 2].tolist()


def _starts(segment: Segment, ordinary: Array, blocks: list[tuple[int, int]]) -> list[int]:
    """The rows at which something new begins: a group, or an entry of its own."""
    block = np.array(blocks, np.int64)
    new = np.ones(len(segment), bool)
    new[1:] = (
        ~(ordinary[1:] & ordinary[:-1])
        | (segment.folder[1:] != segment.folder[:-1])
        | np.any(block[1:] != block[:-1], axis=1)
    )
    rows = np.arange(len(segment))
    new |= (rows - np.maximum.accumulate(np.where(new, rows, 0))) % GROUP_FILES_MAX == 0
    starts: list[int] = np.flatnonzero(new).tolist()
    return starts


def _files(segment: Segment, offsets: list[int]) -> list[GroupFile]:
    columns = zip(
        range(len(segment)),
        segment.names,
        (segment.mode & ~_IFMT).tolist(),
        segment.uid.tolist(),
        segment.gid.tolist(),
        segment.mtime.tolist(),
        offsets,
        segment.size.tolist(),
        strict=True,
    )
    return list(map(GroupFile._make, columns))


def _group(segment: Segment, files: list[GroupFile], block: tuple[int, int], reach: int) -> FileGroup:
    """`reach` is where the last of their content ends in the block."""
    folder = segment.folders[int(segment.folder[files[0].row])][:-1]
    if reach <= 0:
        return FileGroup(segment, folder, files, ())
    return FileGroup(segment, folder, files, (Chunk(BlockAddress(segment.origins[block[0]], block[1]), 0, reach),))
