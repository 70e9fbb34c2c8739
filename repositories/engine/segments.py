"""A segment: some thousand consecutive entries of a manifest, in columns.

Flags: 1 racy (read again next time), 2 torn (changed while read), 4 ancestor of a source, 8 hard linked.
A folder is a path with a trailing slash, or empty. How a segment is packed is left to segment_codec.py; where segments
end, to manifest.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeVar
from uuid import UUID

import numpy as np

from repositories.engine.columns import Array
from repositories.engine.entries import BlockAddress, Chunk, Entry
from repositories.engine.small_files import Xattrs
from repositories.engine.walk import Stat

RACY, TORN, ANCESTOR, HARD_LINKED = 1, 2, 4, 8
UNCHANGED, NEW, CHANGED = 0, 1, 2  # since the parent
HOLE = 0xFFFFFFFF

_T = TypeVar("_T", bytes, int, UUID)


@dataclass(slots=True)
class Columns:
    """What the walk found of consecutive entries, in columns of equal length."""

    folders: list[bytes]
    names: list[bytes]
    mode: Array
    links: Array  # how many names the file has
    uid: Array
    gid: Array
    device: Array  # as it is, not an index
    rdev: Array
    inode: Array
    size: Array
    mtime: Array
    ctime: Array

    @classmethod
    def of(cls, folders: list[bytes], names: list[bytes], stats: Sequence[Stat]) -> Columns:
        def column(name: str, dtype: type) -> Array:
            return np.fromiter(map(attrgetter(name), stats), dtype, len(stats))

        return cls(
            folders,
            names,
            column("st_mode", np.uint32),
            column("st_nlink", np.uint64),
            column("st_uid", np.uint32),
            column("st_gid", np.uint32),
            column("st_dev", np.uint64),
            column("st_rdev", np.uint64),
            column("st_ino", np.uint64),
            column("st_size", np.uint64),
            column("st_mtime_ns", np.int64),
            column("st_ctime_ns", np.int64),
        )


@dataclass(slots=True)
class Segment:
    """Entries in columns; origins, devices and folders by index into the lists here."""

    folders: list[bytes]
    devices: list[int]
    origins: list[UUID]
    names: list[bytes]
    folder: Array
    mode: Array
    flags: Array
    uid: Array
    gid: Array
    device: Array
    inode: Array
    size: Array
    mtime: Array
    ctime: Array
    chunk_count: Array
    chunks: Array  # shape (n, 4): origin, block number, offset, length
    targets: dict[int, bytes]
    rdevs: dict[int, int]
    xattrs: dict[int, Xattrs]
    news: Array | None = None  # UNCHANGED, NEW or CHANGED of each, of an unfinished file; never stored in a segment

    def __len__(self) -> int:
        return len(self.names)

    def paths(self) -> list[bytes]:
        folders = self.folders
        return [folders[i] + name for i, name in zip(self.folder.tolist(), self.names, strict=True)]

    def path(self, row: int) -> bytes:
        return self.folders[int(self.folder[row])] + self.names[row]

    def chunk_starts(self) -> Array:
        """For each entry the index of its first chunk; one more at the end."""
        return np.concatenate((np.zeros(1, np.int64), np.cumsum(self.chunk_count, dtype=np.int64)))

    def entries(self, start: int = 0, end: int | None = None) -> Iterator[Entry]:
        stop = len(self) if end is None else end
        return self._entries(range(start, stop), slice(start, stop), self.names[start:stop])

    def entries_at(self, rows: list[int]) -> Iterator[Entry]:
        """The entries of these rows, in the order given."""
        return self._entries(rows, np.array(rows, np.int64), [self.names[row] for row in rows])

    def _entries(self, numbers: Sequence[int], part: slice | Array, names: list[bytes]) -> Iterator[Entry]:
        starts = self.chunk_starts().tolist()
        folders, devices = self.folders, self.devices
        rows = zip(
            numbers,
            self.folder[part].tolist(),
            names,
            self.mode[part].tolist(),
            self.flags[part].tolist(),
            self.uid[part].tolist(),
            self.gid[part].tolist(),
            self.device[part].tolist(),
            self.inode[part].tolist(),
            self.size[part].tolist(),
            self.mtime[part].tolist(),
            self.ctime[part].tolist(),
            strict=True,
        )
        for row, folder, name, mode, flags, uid, gid, device, inode, size, mtime, ctime in rows:
            first, last = starts[row], starts[row + 1]
            yield Entry(
                folders[folder] + name,
                mode,
                uid,
                gid,
                size,
                mtime,
                ctime,
                inode,
                devices[device],
                self.targets.get(row, b""),
                self.rdevs.get(row, 0),
                self.xattrs.get(row, ()),
                StoredChunks(self, first, last) if last > first else (),
                bool(flags & HARD_LINKED),
                bool(flags & ANCESTOR),
                bool(flags & TORN),
            )


@dataclass(frozen=True, slots=True)
class StoredChunks:
    """The chunks of one entry, made when they are iterated."""

    segment: Segment
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[Chunk]:
        origins = self.segment.origins
        for origin, number, offset, length in self.segment.chunks[self.first : self.last].tolist():
            block = None if origin == HOLE else BlockAddress(origins[origin], number)
            yield Chunk(block, offset, length)


def from_columns(
    columns: Columns,
    flags: Array,
    chunk_count: Array,
    chunks: Array,
    origins: list[UUID],
    targets: dict[int, bytes],
    xattrs: dict[int, Xattrs],
) -> Segment:
    """`origins` is the session's table; it is narrowed to what is used when the segment is packed."""
    folders: dict[bytes, int] = {}
    devices, device = np.unique(columns.device, return_inverse=True)
    return Segment(
        folder=np.array([folders.setdefault(folder, len(folders)) for folder in columns.folders], np.uint32),
        folders=list(folders),
        device=device.astype(np.uint32),
        devices=devices.tolist(),
        origins=origins,
        names=columns.names,
        mode=columns.mode,
        flags=flags,
        uid=columns.uid,
        gid=columns.gid,
        inode=columns.inode,
        size=columns.size,
        mtime=columns.mtime,
        ctime=columns.ctime,
        chunk_count=chunk_count,
        chunks=chunks,
        targets=targets,
        rdevs={row: int(columns.rdev[row]) for row in np.flatnonzero(columns.rdev).tolist()},
        xattrs=xattrs,
    )


def without_rows(segment: Segment, rows: list[int]) -> Segment:
    """The segment but for some rows."""
    borders = [-1, *sorted(rows), len(segment)]
    pieces = [(segment, before + 1, after) for before, after in itertools.pairwise(borders) if before + 1 < after]
    return concat(pieces) if pieces else concat([(segment, 0, 0)])


def concat(pieces: list[tuple[Segment, int, int]]) -> Segment:
    """One segment from ranges of others; folders, devices and origins are numbered anew."""
    folders: dict[bytes, int] = {}
    devices: dict[int, int] = {}
    origins: dict[UUID, int] = {}
    parts: dict[str, list[Array]] = {name: [] for name in _ENTRY_COLUMNS}
    chunks: list[Array] = []
    names: list[bytes] = []
    targets: dict[int, bytes] = {}
    rdevs: dict[int, int] = {}
    xattrs: dict[int, Xattrs] = {}
    for segment, start, end in pieces:
        shift = len(names) - start
        targets |= {row + shift: value for row, value in segment.targets.items() if start <= row < end}
        rdevs |= {row + shift: number for row, number in segment.rdevs.items() if start <= row < end}
        xattrs |= {row + shift: pairs for row, pairs in segment.xattrs.items() if start <= row < end}
        for column in _ENTRY_COLUMNS:
            parts[column].append(getattr(segment, column)[start:end])
        parts["folder"][-1] = _renumber(parts["folder"][-1], segment.folders, folders)
        parts["device"][-1] = _renumber(parts["device"][-1], segment.devices, devices)
        starts = segment.chunk_starts()
        chunks.append(
            _renumber_origins(segment.chunks[int(starts[start]) : int(starts[end])], segment.origins, origins)
        )
        names += segment.names[start:end]
    joined = {column: np.concatenate(arrays) for column, arrays in parts.items()}
    return Segment(
        folders=list(folders),
        devices=list(devices),
        origins=list(origins),
        names=names,
        chunks=np.concatenate(chunks),
        targets=targets,
        rdevs=rdevs,
        xattrs=xattrs,
        **joined,
    )


_ENTRY_COLUMNS = (
    "folder", "mode", "flags", "uid", "gid", "device", "inode", "size", "mtime", "ctime", "chunk_count",
)  # fmt: skip


def _renumber(column: Array, old: Sequence[_T], new: dict[_T, int]) -> Array:
    """`new` numbers what is used of `old` in the order of its first use, and grows."""
    used = np.unique(column)
    table = np.zeros(int(used[-1]) + 1 if len(used) else 0, np.uint32)
    table[used] = [new.setdefault(old[i], len(new)) for i in used.tolist()]
    renumbered: Array = table[column]
    return renumbered


def _renumber_origins(chunks: Array, old: list[UUID], new: dict[UUID, int]) -> Array:
    stored = chunks[:, 0] != HOLE
    renumbered = chunks.copy()
    renumbered[stored, 0] = _renumber(chunks[stored, 0], old, new)
    return renumbered
