"""A segment as bytes.

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

Everything read here is authenticated already, and still checked: no index leads outside, no path is an impossible one.
"""

from __future__ import annotations

import operator
import stat
import struct
from itertools import islice
from typing import Annotated
from uuid import UUID

import msgspec
import numpy as np
from msgspec import Meta

from repositories.engine import columns, messages
from repositories.engine.columns import U32, U64, Array
from repositories.engine.entries import order_key
from repositories.engine.layout import Malformed
from repositories.engine.messages import Id
from repositories.engine.segments import HOLE, Segment
from repositories.engine.small_files import Xattrs

MAX_ENTRIES = 8_192
MAX_ORIGINS, MAX_XATTRS = 1 << 17, 1 << 16  # more than chunks in a segment, and than names in a list of 64 KiB
_OF_ENTRIES = Meta(max_length=MAX_ENTRIES)
_MAX_DEVICE = (1 << 64) - 1
_S_IFMT = 0o170000
_COUNTS = struct.Struct("<IIII")


_KINDS = frozenset((stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK))


class _Extras(msgspec.Struct, array_like=True, frozen=True):
    folders: Annotated[list[bytes], _OF_ENTRIES]
    devices: Annotated[list[int], _OF_ENTRIES]
    origins: Annotated[list[Id], Meta(max_length=MAX_ORIGINS)]
    targets: Annotated[dict[int, bytes], _OF_ENTRIES]
    rdevs: Annotated[dict[int, int], _OF_ENTRIES]
    xattrs: Annotated[dict[int, Annotated[Xattrs, Meta(max_length=MAX_XATTRS)]], _OF_ENTRIES]


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
    """Nothing is allocated before the bytes are known to be there."""
    origin, number = reader.take(count, U32), reader.take(count, U32, delta=True)
    stored, length = reader.take(count, U32), reader.take(count, U32)
    chunks = np.column_stack((origin, number, stored, length))
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
    return messages.decode(raw, _Extras, "the extras of a segment")


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
    _check_order(segment)
    _check_content(segment)
    _check_rest(segment)


def _check_order(segment: Segment) -> None:
    """No path twice, and each behind the one before: whoever looks for a path relies on it."""
    names, folder = segment.names, segment.folder
    if len(names) < 2:
        return
    ascends = np.fromiter(map(operator.lt, names, islice(names, 1, None)), bool, len(names) - 1)
    is_same_folder = folder[1:] == folder[:-1]
    turns = np.flatnonzero(~is_same_folder).tolist()
    if not np.all(ascends[is_same_folder]) or any(
        order_key(segment.path(row)) >= order_key(segment.path(row + 1)) for row in turns
    ):
        raise Malformed("the entries of a segment are not in order")


def _check_content(segment: Segment) -> None:
    """The chunks of each entry make up exactly its size."""
    starts = segment.chunk_starts()
    ends = np.concatenate((np.zeros(1, np.uint64), np.cumsum(segment.chunks[:, 3], dtype=np.uint64)))
    if not np.array_equal(ends[starts[1:]] - ends[starts[:-1]], segment.size):
        raise Malformed("a segment has an entry whose chunks are not its size")
    if bool(np.any(segment.size[segment.mode & _S_IFMT != stat.S_IFREG])):
        raise Malformed("a segment has content for what is no file")


def _check_rest(segment: Segment) -> None:
    """Types, targets, devices and attributes are such as a file system can have."""
    count = len(segment)
    if not {stat.S_IFMT(mode) for mode in np.unique(segment.mode).tolist()} <= _KINDS:
        raise Malformed("a segment has an entry of an unknown type")
    if not all(0 <= row < count for table in (segment.targets, segment.rdevs, segment.xattrs) for row in table):
        raise Malformed("a segment describes an entry that it does not have")
    if (
        any(not target or b"\0" in target for target in segment.targets.values())
        or not all(0 <= number <= _MAX_DEVICE for number in (*segment.rdevs.values(), *segment.devices))
        or any(not name or b"\0" in name for pairs in segment.xattrs.values() for name, _ in pairs)
    ):
        raise Malformed("a segment has an entry that no file system can have")


_BAD_NAMES = frozenset((b"", b".", b".."))


def _is_folder(folder: bytes) -> bool:
    if not folder:
        return True
    return folder.endswith(b"/") and b"\0" not in folder and not _BAD_NAMES.intersection(folder[:-1].split(b"/"))
