"""The records of an unfinished file one after the other, as far as they are whole; no key is needed for that.

What is in them is left to unfinished.py; in a sealed file the index tells where everything lies.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from repositories.engine.layout import (
    BODY_OFFSET,
    EPOCH_RANDOM_BYTES,
    RECORD_HEADER_BYTES,
    ItemKind,
    Malformed,
    parse_record_header,
    pread,
)


class Record(NamedTuple):
    """`offset` is that of the header, `length` counts what follows it; nothing is authenticated yet."""

    kind: ItemKind
    epoch: int
    number: int
    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + RECORD_HEADER_BYTES + self.length


def whole_records(fd: int) -> Iterator[Record]:
    """Up to the first one that is cut off or impossible."""
    position, length = BODY_OFFSET, os.fstat(fd).st_size
    while position < length:
        try:
            record = Record(*_header(fd, position))
        except Malformed:
            return
        if record.end > length or (record.kind is ItemKind.EPOCH and record.length != EPOCH_RANDOM_BYTES):
            return
        yield record
        position = record.end


def has_checkpoint(fd: int) -> bool:
    return any(record.kind is ItemKind.CHECKPOINT for record in whole_records(fd))


def _header(fd: int, position: int) -> tuple[ItemKind, int, int, int, int]:
    kind, epoch, number, length = parse_record_header(pread(fd, RECORD_HEADER_BYTES, position))
    return kind, epoch, number, position, length
