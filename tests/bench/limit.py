"""The machine's own limit: the same bytes through zstd, AES-GCM and write with nothing around them, on two threads.

    python -m tests.bench.limit pack TREE PACKED             all content of a tree, without its holes, in one file
    python -m tests.bench.limit write PACKED OUT LEVEL       what is measured

No file is opened, compared, cut, deduplicated or listed in what is measured: it takes batches of 4 MiB from the one
file, in memory, and writes the same compressed and encrypted. No backup can be faster with these libraries and this
level but by not touching the bytes.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from repositories.engine.sealing import ZSTD_LEVELS, Level, pack_payload

BATCH_BYTES = 4 << 20
THREADS = 2


def pack(tree: Path, packed: Path) -> None:
    with packed.open("wb") as out:
        for folder, folders, names in os.walk(tree):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    append(path, out)


def append(path: str, out: BinaryIO) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for start, length in extents(descriptor):
            os.lseek(descriptor, start, os.SEEK_SET)
            while length:
                part = os.read(descriptor, min(length, BATCH_BYTES))
                if not part:
                    break
                out.write(part)
                length -= len(part)
    finally:
        os.close(descriptor)


def extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """Where a file has content: start and length."""
    size, at = os.fstat(descriptor).st_size, 0
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:
            return  # nothing but a hole up to the end
        at = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, at - start


class Writing:
    """Batches taken by whichever thread is free, each written behind the ones before."""

    def __init__(self, packed: int, out: int, level: Level) -> None:
        self._packed, self._out, self._level = packed, out, level
        self._size = os.fstat(packed).st_size
        self._cipher = AESGCM(os.urandom(32))
        self._lock = threading.Lock()
        self._next = self._end = 0

    def work(self) -> None:
        while (number := self._take()) is not None:
            raw = os.pread(self._packed, BATCH_BYTES, number * BATCH_BYTES)
            sealed = self._cipher.encrypt(number.to_bytes(12, "big"), pack_payload(raw, self._level), b"")
            with self._lock:
                offset, self._end = self._end, self._end + len(sealed)
            os.pwrite(self._out, sealed, offset)

    def _take(self) -> int | None:
        with self._lock:
            number, self._next = self._next, self._next + 1
        return number if number * BATCH_BYTES < self._size else None


def write(packed: Path, out: Path, level: str) -> None:
    with packed.open("rb") as source, out.open("wb") as target:
        writing = Writing(source.fileno(), target.fileno(), ZSTD_LEVELS[level or usual_level()])
        with ThreadPoolExecutor(THREADS) as pool:
            for done in [pool.submit(writing.work) for _ in range(THREADS)]:
                done.result()
        os.fsync(target.fileno())


def usual_level() -> str:
    """What the engine's command line takes where nothing is said."""
    from repositories.engine.cli import parser

    return str(parser().parse_args(["backup", "source", "--to", "repository"]).level)


if __name__ == "__main__":
    if sys.argv[1] == "pack":
        pack(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        write(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
