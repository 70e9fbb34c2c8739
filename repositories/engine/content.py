"""The content of files on its way into blocks: reading, cutting, finding what is stored already, packing.

Small files (up to 512 KiB) are one chunk each and come in batches; larger ones are cut by FastCDC (average 1 MiB,
256 KiB to 4 MiB), the holes of sparse files are not read. Chunks are packed into blocks of about 4 MiB. Sealing and
writing blocks is left to writer.py; what is read at all, to compare.py.
"""

from __future__ import annotations

import errno
import os
import stat
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from blake3 import blake3
from pyfastcdc import FastCDC

from keys import crypto
from repositories.engine.identities import IDENTITY_BYTES, Address, Identities
from repositories.engine.layout import BLOCK_TARGET_BYTES, MIB
from repositories.engine.sealing import INFO
from repositories.engine.segments import HOLE
from repositories.engine.walk import Stat

SMALL_FILE_BYTES = 512 * 1024
_READ_BYTES = 8 * MIB
_MIN_CHUNK, _AVERAGE_CHUNK, _MAX_CHUNK = MIB // 4, MIB, 4 * MIB
_MAX_HOLE = 0xFFFFFFFF
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

Buffer = bytes | bytearray | memoryview


class BlockSink(Protocol):
    def reserve_block(self) -> int: ...
    def add_block(self, number: int, parts: list[Buffer]) -> None: ...


@dataclass(slots=True)
class ReadFile:
    """What came of reading one file: `stat` as it was before, `size` what was read."""

    stat: Stat
    size: int
    torn: bool
    data: bytes | None  # of a small file
    chunks: array[int] | None  # of a large one, four integers each


class Packer:
    """Gathers new chunks into blocks. The number of a block is reserved when its first chunk comes."""

    def __init__(self, sink: BlockSink, identities: Identities, key: bytes) -> None:
        self._sink, self._identities, self._key = sink, identities, key
        self._parts: list[Buffer] = []
        self._size = 0
        self._number = -1

    def place_all(self, chunks: list[bytes]) -> list[Address]:
        """The address of each, stored now unless it was stored before."""
        key = self._key
        names = [blake3(chunk, key=key).digest(length=IDENTITY_BYTES) for chunk in chunks]
        found = self._identities.find(names)
        fresh: dict[bytes, Address] = {}
        addresses = []
        for name, chunk, known in zip(names, chunks, found, strict=True):
            address = known or fresh.get(name)
            if address is None:
                fresh[name] = address = self._put(chunk)
                self._identities.add(name, address)
            addresses.append(address)
        return addresses

    def place(self, chunk: memoryview) -> Address:
        name = blake3(chunk, key=self._key).digest(length=IDENTITY_BYTES)
        known = self._identities.find([name])[0]
        if known is None:
            known = self._put(chunk)
            self._identities.add(name, known)
        return known

    def flush(self) -> None:
        """Send the block that is being gathered."""
        if self._parts:
            parts, self._parts, self._size = self._parts, [], 0
            self._sink.add_block(self._number, parts)

    def _put(self, chunk: Buffer) -> Address:
        if not self._parts:
            self._number = self._sink.reserve_block()
        address = (0, self._number, self._size, len(chunk))
        self._parts.append(chunk)
        self._size += len(chunk)
        if self._size >= BLOCK_TARGET_BYTES:
            self.flush()
        return address


def make_cutter(chain_key: bytes) -> FastCDC:
    """Boundaries differ from chain to chain. The seed is no secret key: sizes may still betray known files."""
    seed = int.from_bytes(crypto.hkdf(chain_key, salt=b"", info=INFO + b"chunking", length=7), "little")
    return FastCDC(avg_size=_AVERAGE_CHUNK, min_size=_MIN_CHUNK, max_size=_MAX_CHUNK, seed=seed)


class ContentReader:
    """Reads files. `beat` is called for every 8 MiB; read() raises OSError for what cannot be read."""

    def __init__(self, packer: Packer, cutter: FastCDC, beat: Callable[[], None]) -> None:
        self._packer, self._cutter, self._beat = packer, cutter, beat
        self.bytes_read = 0

    def read(self, path: bytes, expected: Stat) -> ReadFile | None:
        """None if there is no regular file any more. A file that was replaced since the walk is read as it is now."""
        size = expected.st_size
        fd = os.open(path, _FLAGS)
        try:
            before: Stat = expected
            data = os.read(fd, size + 1) if size <= SMALL_FILE_BYTES else b""
            after = os.fstat(fd)
            if size <= SMALL_FILE_BYTES and len(data) == size and _same(expected, after):
                self.bytes_read += size
                return ReadFile(expected, size, False, data, None)
            if not stat.S_ISREG(after.st_mode):
                return None
            if not _same(expected, after):
                before = after
            return self._read_carefully(fd, before)
        finally:
            os.close(fd)

    def _read_carefully(self, fd: int, before: Stat) -> ReadFile:
        """Large files, files that changed since the walk, and short reads."""
        if before.st_size <= SMALL_FILE_BYTES:
            data = b"".join(iter_file(fd, before.st_size))
            torn = not _same(before, os.fstat(fd)) or len(data) != before.st_size
            self.bytes_read += len(data)
            return ReadFile(before, len(data), torn, data, None)
        chunks = array("I")
        size = 0
        for start, end, is_hole in _extents(fd, before):
            if is_hole:
                _add_hole(chunks, end - start)
                size = end
            else:
                got = self._cut(fd, start, end, chunks)
                size = start + got
                if got < end - start:
                    break
        return ReadFile(before, size, not _same(before, os.fstat(fd)) or size != before.st_size, None, chunks)

    def _cut(self, fd: int, start: int, end: int, chunks: array[int]) -> int:
        """Cut and place the bytes from start to end; returns how many there were."""
        position, carry = start, memoryview(b"")
        while True:
            self._beat()
            buffer, filled = _fill(fd, position, end, carry)
            got = filled - len(carry)
            position += got
            self.bytes_read += got
            last = position >= end or not got
            view = memoryview(buffer)[:filled]
            if last and not filled:
                return position - start
            carry = self._place(view, last, chunks)
            if last:
                return position - start

    def _place(self, view: memoryview, last: bool, chunks: array[int]) -> memoryview:
        """Place all chunks but an unfinished one at the end, which is returned."""
        cuts = [(cut.offset, cut.length) for cut in self._cutter.cut_buf(view)]
        done = cuts if last else cuts[:-1]
        for offset, length in done:
            chunks.extend(self._packer.place(view[offset : offset + length]))
        return memoryview(b"") if last else view[cuts[-1][0] :]


def iter_file(fd: int, limit: int) -> Iterator[bytes]:
    """From the start of the file to `limit` or its end."""
    position = 0
    while position < limit:
        data = os.pread(fd, limit - position, position)
        if not data:
            return
        position += len(data)
        yield data


def _fill(fd: int, position: int, end: int, carry: memoryview) -> tuple[bytearray, int]:
    """A new buffer with `carry` and what follows it in the file."""
    wanted = min(_READ_BYTES, end - position)
    buffer = bytearray(len(carry) + wanted)
    buffer[: len(carry)] = carry
    got = os.preadv(fd, [memoryview(buffer)[len(carry) :]], position) if wanted else 0
    return buffer, len(carry) + got


def _same(a: Stat, b: Stat) -> bool:
    return (
        a.st_ino == b.st_ino
        and a.st_size == b.st_size
        and a.st_mtime_ns == b.st_mtime_ns
        and a.st_ctime_ns == b.st_ctime_ns
        and a.st_dev == b.st_dev
    )


def _extents(fd: int, found: Stat) -> Iterable[tuple[int, int, bool]]:
    """Data and holes of a file: (start, end, is hole). A file without holes is one extent."""
    size = found.st_size
    if getattr(found, "st_blocks", 0) * 512 >= size:
        return [(0, size, False)]
    return _sparse_extents(fd, size)


def _sparse_extents(fd: int, size: int) -> Iterator[tuple[int, int, bool]]:
    position = 0
    while position < size:
        try:
            data = min(os.lseek(fd, position, os.SEEK_DATA), size)
            hole = min(os.lseek(fd, data, os.SEEK_HOLE), size) if data < size else size
        except OSError as error:
            if error.errno == errno.ENXIO:
                data = hole = size
            elif error.errno == errno.EINVAL:
                data, hole = position, size
            else:
                raise
        if data > position:
            yield position, data, True
        if hole > data:
            yield data, hole, False
        position = max(hole, data)


def _add_hole(chunks: array[int], length: int) -> None:
    while length:
        part = min(length, _MAX_HOLE)
        chunks.extend((HOLE, 0, 0, part))
        length -= part
