"""The content of files on its way into blocks: reading, cutting, finding what is stored already, packing.

Small files (up to 512 KiB) are one chunk each and come in batches (small_files.py); larger ones are cut where
cutting.py says, and the holes of sparse files are not read. Chunks are packed into blocks of about 4 MiB. Sealing and
writing blocks is left to writer.py; what is read at all, to compare.py.
"""

from __future__ import annotations

import errno
import os
import stat
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from repositories.engine.cutting import Cuts, Cutter, Cutting
from repositories.engine.identities import Address, Identities
from repositories.engine.layout import BLOCK_MAX_RAW_BYTES, BLOCK_TARGET_BYTES, MIB
from repositories.engine.segments import HOLE
from repositories.engine.small_files import OPEN_FLAGS, SMALL_FILE_BYTES, identity
from repositories.engine.walk import Stat

RACY_NS = 2_000_000_000
_READ_BYTES = 8 * MIB
_MAX_HOLE = 0xFFFFFFFF


class BlockSink(Protocol):
    def reserve_block(self) -> int: ...
    def add_block(self, number: int, raw: memoryview, done: Callable[[], None]) -> None: ...


@dataclass(slots=True)
class ReadFile:
    """What came of reading one file: `stat` as it was before, `size` what was read."""

    stat: Stat
    size: int
    torn: bool
    content: bytes | array[int]  # of a small file; or the chunks of a large one, four integers each


FileFacts = tuple[int, int, int, int, int]  # device, inode, size, mtime and ctime in ns


@dataclass(slots=True)
class BegunFile:
    """A large file that is being read, or was and has no row yet: what it was, and its chunks so far."""

    facts: FileFacts
    chunks: array[int]


class NotRegular(OSError):
    """There is no regular file any more where the walk saw one."""


class AnotherFile(Exception):
    """There is another file where the walk saw one: it may only be read by a way that follows no link."""


class Packer:
    """Gathers new chunks into blocks. The number of a block is reserved when its first chunk comes.

    Content is copied into the block, so buffers that it came in can be used again. A block's own memory is used again
    when the sink says that it is done with it.
    """

    def __init__(self, sink: BlockSink, identities: Identities, key: bytes) -> None:
        self._sink, self._identities, self._key = sink, identities, key
        self._spare: deque[bytearray] = deque()
        self._block = bytearray()
        self._size = 0
        self._number = -1

    def place_all(self, chunks: list[bytes]) -> list[Address]:
        """The address of each, stored now unless it was stored before."""
        names = [identity(chunk, self._key) for chunk in chunks]
        return self.place_run(names, [len(chunk) for chunk in chunks], memoryview(b"".join(chunks)))

    def place_run(self, names: list[bytes], sizes: list[int], content: memoryview) -> list[Address]:
        """The address of each of the chunks that lie one behind the other in `content`, none larger than a block."""
        found = self._identities.find(names)
        fresh: dict[bytes, Address] = {}
        addresses = []
        start = end = 0  # new content that has an address, but was not copied yet
        block, filled = self._number, self._size
        for name, size, known in zip(names, sizes, found, strict=True):
            address = known or fresh.get(name)
            if address is None:
                if not filled:
                    block = self._begin()
                fresh[name] = address = (0, block, filled, size)
                filled += size
                end += size
                if filled >= BLOCK_TARGET_BYTES:
                    self._add(content[start:end])
                    start, filled = end, 0
            else:
                self._add(content[start:end])
                end += size
                start = end
            addresses.append(address)
        self._add(content[start:end])
        self._identities.add_all(fresh)
        return addresses

    def place(self, chunk: memoryview) -> Address:
        name = identity(chunk, self._key)
        known = self._identities.find([name])[0]
        if known is None:
            if not self._size:
                self._begin()
            known = (0, self._number, self._size, len(chunk))
            self._add(chunk)
            self._identities.add_all({name: known})
        return known

    @property
    def gathered_bytes(self) -> int:
        return self._size

    def flush(self) -> None:
        """Send the block that is being gathered."""
        if self._size:
            block, size, self._size = self._block, self._size, 0
            self._sink.add_block(self._number, memoryview(block)[:size], lambda: self._spare.append(block))

    def _begin(self) -> int:
        self._block = self._spare.pop() if self._spare else bytearray(BLOCK_MAX_RAW_BYTES)
        self._number = self._sink.reserve_block()
        return self._number

    def _add(self, content: memoryview) -> None:
        """More content for the block, which is sent when it is full; no more than one chunk reaches beyond that."""
        end = self._size + len(content)
        self._block[self._size : end] = content
        self._size = end
        if end >= BLOCK_TARGET_BYTES:
            self.flush()


class ContentReader:
    """Reads files. read() raises OSError for what cannot be read.

    `beat` is called for every 8 MiB, and behind it `pause`, when all chunks are placed. `known` are files that an
    earlier process began: one that is still the same is read on from there.
    """

    def __init__(
        self,
        packer: Packer,
        cutting: Cutting,
        clock: Callable[[], int],
        beat: Callable[[], None],
        pause: Callable[[], None],
        known: dict[bytes, BegunFile],
    ) -> None:
        self._packer, self._cutting, self._clock, self._beat = packer, cutting, clock, beat
        self._pause, self._known = pause, known
        self.bytes_read = 0
        self.begun: dict[bytes, BegunFile] = {}  # emptied by the caller when their rows are in the manifest

    def read(self, path: bytes, expected: Stat, way: bytes = b"") -> ReadFile:
        """A file that was changed since the walk is read as it is now. Raises AnotherFile for one that was replaced,
        unless `way` is given, a path to it that follows no link.
        """
        fd = os.open(way or path, OPEN_FLAGS)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise NotRegular(errno.EINVAL, "not a regular file")
            if not way and (found.st_dev, found.st_ino) != (expected.st_dev, expected.st_ino):
                raise AnotherFile
            return self._read(path, fd, found)
        finally:
            os.close(fd)

    def _read(self, path: bytes, fd: int, before: os.stat_result) -> ReadFile:
        if before.st_size <= SMALL_FILE_BYTES:
            data = b"".join(iter_file(fd, 0, before.st_size))
            torn = len(data) != before.st_size or not is_same(before, os.fstat(fd))
            self.bytes_read += len(data)
            return ReadFile(before, len(data), torn, data)
        chunks = self._begin(path, before)
        cutter = self._cutting.cutter_for(path, before.st_size)
        size = sum(chunks[3::4])
        for first, end, is_hole in _extents(fd, before):
            start = max(first, size)
            if end <= start:
                continue
            if is_hole:
                _add_hole(chunks, end - start)
                size = end
            else:
                got = self._cut(fd, start, end, chunks, cutter)
                size = start + got
                if got < end - start:
                    break
        torn = size != before.st_size or not is_same(before, os.fstat(fd))
        return ReadFile(before, size, torn, chunks)

    def _begin(self, path: bytes, found: Stat) -> array[int]:
        """The chunks that are known of the file. One that may change unseen within a tick of the clock is not kept."""
        facts = _facts(found)
        known = self._known.get(path)
        chunks = array("I", known.chunks if known is not None and known.facts == facts else ())
        if max(found.st_mtime_ns, found.st_ctime_ns) <= self._clock() - RACY_NS and found.st_mtime_ns >= -(2**63):
            self.begun[path] = BegunFile(facts, chunks)
        return chunks

    def _cut(self, fd: int, start: int, end: int, chunks: array[int], cutter: Cutter) -> int:
        """Cut and place the bytes from start to end; returns how many there were."""
        position = start
        while position < end:
            self._beat()
            wanted = min(_READ_BYTES, end - position)
            data = b"".join(iter_file(fd, position, position + wanted))
            if not data:
                break
            last = position + wanted == end or len(data) < wanted
            view = memoryview(data)
            placed = self._place(view, cutter.cut(view, position, last=last), chunks)
            position += placed
            self.bytes_read += placed
            self._pause()
        return position - start

    def _place(self, data: memoryview, cuts: Cuts, chunks: array[int]) -> int:
        """Returns how many bytes were placed. The rest is read again with what follows it, which costs less than
        copying it.
        """
        for offset, length in cuts:
            chunks.extend(self._packer.place(data[offset : offset + length]))
        return cuts[-1][0] + cuts[-1][1]


def iter_file(fd: int, position: int, limit: int) -> Iterator[bytes]:
    """From `position` to `limit` or the end of the file."""
    while position < limit:
        data = os.pread(fd, limit - position, position)
        if not data:
            return
        position += len(data)
        yield data


def is_same(a: Stat, b: Stat) -> bool:
    return (
        a.st_ino == b.st_ino
        and a.st_size == b.st_size
        and a.st_mtime_ns == b.st_mtime_ns
        and a.st_ctime_ns == b.st_ctime_ns
        and a.st_dev == b.st_dev
    )


def _facts(found: Stat) -> FileFacts:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _extents(fd: int, found: os.stat_result) -> Iterable[tuple[int, int, bool]]:
    """Data and holes of a file: (start, end, is hole). A file without holes is one extent."""
    size = found.st_size
    if found.st_blocks * 512 >= size:
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
