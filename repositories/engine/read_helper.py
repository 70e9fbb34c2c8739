"""A further process that reads batches of small files for a backup: requests come through stdin, answers go to stdout,
content into memory that it shares with the first one.

Started by read_ahead.py only. It ends when its stdin does, so it never outlives the backup, and imports little, so
that it is there at once. Messages are of Python's marshal, with their length in 8 bytes in front: both ends are of one
program, and nothing of it is stored.
"""

from __future__ import annotations

import marshal
import mmap
import os
import sys
from typing import Any

from repositories.engine.small_files import BatchReader, Keys, Request

STDIN, STDOUT = 0, 1
LENGTH_BYTES = 8


def frame(message: tuple[Any, ...]) -> bytes:
    raw = marshal.dumps(message)
    return len(raw).to_bytes(LENGTH_BYTES, "little") + raw


def _receive() -> object | None:
    """The next message; None at the end."""
    header = _read(LENGTH_BYTES)
    raw = _read(int.from_bytes(header, "little")) if len(header) == LENGTH_BYTES else b""
    return marshal.loads(raw) if raw else None  # noqa: S302 - from the process that started this one


def _read(length: int) -> bytes:
    parts = []
    while length:
        part = os.read(STDIN, length)
        if not part:
            return b""
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def main() -> int:
    descriptor, slot_bytes = int(sys.argv[1]), int(sys.argv[2])
    keys = _receive()
    if not isinstance(keys, tuple):
        return 0
    reader = BatchReader(Keys(*keys))
    shared = memoryview(mmap.mmap(descriptor, 0))
    while isinstance(message := _receive(), tuple):
        slot, request = message
        buffer = shared[slot * slot_bytes : (slot + 1) * slot_bytes]
        answer = frame(tuple(reader.read(Request(*request), buffer)))
        while answer:
            answer = answer[os.write(STDOUT, answer) :]
    return 0


if __name__ == "__main__":
    sys.exit(main())
