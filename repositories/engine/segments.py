"""A segment: some thousand consecutive entries of a manifest, in columns.

Raw content of a SEGMENT item:

    u32 entries, u32 chunks, u32 length of the names, u32 length of the extras
    columns (columns.py) over the entries:
        folder u32 (delta; index into the folders of the extras), mode u32, flags u32, uid u32, gid u32,
        device u32 (index into the devices of the extras), inode u64 (delta), size u64, mtime u64 (delta, ns, two's
        complement), ctime u64 (delta), chunk count u32
    columns over the chunks, in the order of their entries:
        origin u32 (index into the origins of the extras; 0xFFFFFFFF a hole of zeros), block number u32 (delta),
        offset u32 (minus the end of the chunk before, if that lies in the same block; wrapping), length u32
    names, joined with NUL
    extras, MessagePack: [folders, devices, origins (16 bytes each), targets {row: bytes}, rdevs {row: int},
                          xattrs {row: [[name, value], ...]}]

Flags: 1 racy (read again next time), 2 torn (changed while read), 4 ancestor of a source, 8 hard linked.
A folder is a path with a trailing slash, or empty. Where segments end is decided in manifest.py.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

import msgspec
import numpy as np

from repositories.engine import columns
from repositories.engine.columns import U32, U64, Array
from repositories.engine.entries import BlockAddress, Chunk, Entry
from repositories.engine.layout import Malformed
from repositories.engine.walk import Stat

RACY, TORN, ANCESTOR, HARD_LINKED = 1, 2, 4, 8
HOLE = 0xFFFFFFFF
MAX_ENTRIES = 8_192

_COUNTS = struct.Struct("<IIII")
_T = TypeVar("_T", bytes, int, UUID)
Xattrs = tuple[tuple[bytes, bytes], ...]


class _Extras(msgspec.Struct, array_like=True, frozen=True):
    folders: list[bytes]
    devices: list[int]
    origins: list[bytes]
    targets: dict[int, bytes]
    rdevs: dict[int, int]
    xattrs: dict[int, Xattrs]


@dataclass(slots=True)
class Rows:
    """New or changed entries, collected one by one. Chunks are flat: four integers each, origins by `origins`."""

    folders: list[bytes] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)
    stats: list[Stat] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    chunk_counts: list[int] = field(default_factory=list)
    chunks: array[int] = field(default_factory=lambda: array("I"))
    targets: dict[int, bytes] = field(default_factory=dict)
    xattrs: dict[int, Xattrs] = field(default_factory=dict)


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
        part = slice(start, stop)
        starts = self.chunk_starts().tolist()
        folders, devices = self.folders, self.devices
        rows = zip(
            range(start, stop),
            self.folder[part].tolist(),
            self.names[part],
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


def from_rows(rows: Rows, origins: list[UUID]) -> Segment:
    """`origins` is the session's table; it is narrowed to what is used when the segment is packed."""
    folders: dict[bytes, int] = {}
    devices: dict[int, int] = {}
    stats = rows.stats
    return Segment(
        folder=np.array([folders.setdefault(f, len(folders)) for f in rows.folders], np.uint32),
        folders=list(folders),
        device=np.array([devices.setdefault(s.st_dev, len(devices)) for s in stats], np.uint32),
        devices=list(devices),
        origins=origins,
        names=rows.names,
        mode=np.array([s.st_mode for s in stats], np.uint32),
        flags=np.array(rows.flags, np.uint32),
        uid=np.array([s.st_uid for s in stats], np.uint32),
        gid=np.array([s.st_gid for s in stats], np.uint32),
        inode=np.array([s.st_ino for s in stats], np.uint64),
        size=np.array(rows.sizes, np.uint64),
        mtime=np.array([s.st_mtime_ns for s in stats], np.int64),
        ctime=np.array([s.st_ctime_ns for s in stats], np.int64),
        chunk_count=np.array(rows.chunk_counts, np.uint32),
        chunks=np.array(rows.chunks, np.uint32).reshape(-1, 4),
        targets=rows.targets,
        rdevs={row: s.st_rdev for row, s in enumerate(stats) if s.st_rdev},
        xattrs=rows.xattrs,
    )


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


def pack(segment: Segment) -> bytes:
    names = b"\0".join(segment.names)
    extras = msgspec.msgpack.encode(
        _Extras(
            segment.folders,
            segment.devices,
            [origin.bytes for origin in segment.origins],
            segment.targets,
            segment.rdevs,
            segment.xattrs,
        )
    )
    chunks = segment.chunks.astype(np.uint32)
    return b"".join(
        (
            _COUNTS.pack(len(segment), len(chunks), len(names), len(extras)),
            columns.pack(segment.folder, U32, delta=True),
            columns.pack(segment.mode, U32),
            columns.pack(segment.flags, U32),
            columns.pack(segment.uid, U32),
            columns.pack(segment.gid, U32),
            columns.pack(segment.device, U32),
            columns.pack(segment.inode, U64, delta=True),
            columns.pack(segment.size, U64),
            columns.pack(segment.mtime.view(np.uint64), U64, delta=True),
            columns.pack(segment.ctime.view(np.uint64), U64, delta=True),
            columns.pack(segment.chunk_count, U32),
            columns.pack(chunks[:, 0], U32),
            columns.pack(chunks[:, 1], U32, delta=True),
            columns.pack(chunks[:, 2] - _expected_offsets(chunks), U32),
            columns.pack(chunks[:, 3], U32),
            names,
            extras,
        )
    )


def parse(raw: bytes) -> Segment:
    """Raises Malformed; afterwards every index inside the segment is in range and every path is a proper one."""
    reader = columns.ColumnReader(raw)
    count, chunk_total, names_length, extras_length = _COUNTS.unpack(reader.take_bytes(_COUNTS.size))
    if count > MAX_ENTRIES:
        raise Malformed("a segment has too many entries")
    entry_columns = [reader.take(count, dtype, delta=delta) for dtype, delta in _PACKED_COLUMNS]
    folder, mode, flags, uid, gid, device, inode, size, mtime, ctime, chunk_count = entry_columns
    chunks = _take_chunks(reader, chunk_total)
    names = _split_names(reader.take_bytes(names_length), count)
    extras = _parse_extras(reader.take_bytes(extras_length))
    reader.end()
    segment = Segment(
        folders=extras.folders,
        devices=extras.devices,
        origins=[UUID(bytes=origin) for origin in extras.origins],
        names=names,
        folder=folder,
        mode=mode,
        flags=flags,
        uid=uid,
        gid=gid,
        device=device,
        inode=inode,
        size=size,
        mtime=mtime.view(np.int64),
        ctime=ctime.view(np.int64),
        chunk_count=chunk_count,
        chunks=chunks,
        targets=extras.targets,
        rdevs=extras.rdevs,
        xattrs=extras.xattrs,
    )
    _check(segment)
    return segment


_PACKED_COLUMNS = (
    (U32, True), (U32, False), (U32, False), (U32, False), (U32, False), (U32, False),
    (U64, True), (U64, False), (U64, True), (U64, True), (U32, False),
)  # fmt: skip


def _expected_offsets(chunks: Array) -> Array:
    """Where each chunk would begin if it followed the one before; 0 where that lies in another block."""
    expected = np.zeros(len(chunks), np.uint32)
    if len(chunks) > 1:
        same = np.all(chunks[1:, :2] == chunks[:-1, :2], axis=1)
        expected[1:] = np.where(same, chunks[:-1, 2] + chunks[:-1, 3], np.uint32(0))
    return expected


def _take_chunks(reader: columns.ColumnReader, count: int) -> Array:
    chunks = np.zeros((count, 4), np.uint32)
    chunks[:, 0] = reader.take(count, U32)
    chunks[:, 1] = reader.take(count, U32, delta=True)
    stored = reader.take(count, U32)
    chunks[:, 3] = reader.take(count, U32)
    if not count:
        return chunks
    follows = np.zeros(count, bool)
    follows[1:] = np.all(chunks[1:, :2] == chunks[:-1, :2], axis=1)
    steps = stored.copy()
    steps[1:] += np.where(follows[1:], chunks[:-1, 3], np.uint32(0))
    sums = np.cumsum(steps, dtype=np.uint32)
    first = np.maximum.accumulate(np.where(follows, 0, np.arange(count)))
    chunks[:, 2] = sums - (sums[first] - steps[first])
    return chunks


def _split_names(raw: bytes, count: int) -> list[bytes]:
    names = raw.split(b"\0") if count else []
    if len(names) != count or (not count and raw):
        raise Malformed("a segment has not as many names as entries")
    return names


def _parse_extras(raw: bytes) -> _Extras:
    try:
        return msgspec.msgpack.decode(raw, type=_Extras)
    except msgspec.DecodeError as error:
        raise Malformed(f"a segment's extras cannot be read: {error}") from None


def _check(segment: Segment) -> None:
    count, chunks = len(segment), segment.chunks
    origins = chunks[chunks[:, 0] != HOLE, 0]
    if (
        (count and int(segment.folder.max()) >= len(segment.folders))
        or (count and int(segment.device.max()) >= len(segment.devices))
        or (len(origins) and int(origins.max()) >= len(segment.origins))
        or int(segment.chunk_count.sum(dtype=np.uint64)) != len(chunks)
    ):
        raise Malformed("a segment points outside itself")
    if (
        not all(map(_is_folder, segment.folders))
        or _BAD_NAMES.intersection(segment.names)
        or b"/" in b"".join(segment.names)
    ):
        raise Malformed("a segment has an impossible path")
    _check_content(segment)


def _check_content(segment: Segment) -> None:
    """The chunks of each entry make up exactly its size."""
    starts = segment.chunk_starts()
    ends = np.concatenate((np.zeros(1, np.uint64), np.cumsum(segment.chunks[:, 3], dtype=np.uint64)))
    if not np.array_equal(ends[starts[1:]] - ends[starts[:-1]], segment.size):
        raise Malformed("a segment has an entry whose chunks are not its size")


_BAD_NAMES = frozenset((b"", b".", b".."))


def _is_folder(folder: bytes) -> bool:
    if not folder:
        return True
    return folder.endswith(b"/") and b"\0" not in folder and not _BAD_NAMES.intersection(folder[:-1].split(b"/"))
