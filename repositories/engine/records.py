"""The records of a file one after the other, as far as they are whole; no key is needed for that.

What is in them is left to unfinished.py; in a sealed file the index tells where everything lies. Where that is lost,
found_records() also looks behind damage for where the next record may begin: which of them are true is left to whoever
authenticates them (rebuilt.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from repositories.engine.layout import (
    BODY_OFFSET,
    EPOCH_RANDOM_BYTES,
    MIB,
    OVERHEAD_BYTES,
    RECORD_HEADER_BYTES,
    TRAILER_BYTES,
    TRAILER_MAGIC,
    ItemKind,
    Malformed,
    parse_record_header,
    pread,
)

# A kind, the zero behind it, epoch and number, and a length below 4 GiB; overlapping places are all found.
_HEADER = re.compile(rb"(?=([\x01-\x09]\x00.{10}\x00{4}))", re.DOTALL)
_WINDOW_BYTES = 8 * MIB
_SECTOR_BYTES = 4096


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


def found_records(fd: int) -> Iterator[Record]:
    """Every record, and behind damage what looks like one: nothing of it is authenticated."""
    length = os.fstat(fd).st_size
    record = _plausible(fd, BODY_OFFSET, length) or _next(fd, BODY_OFFSET, length)
    while record is not None:
        yield record
        following = _plausible(fd, record.end, length)
        if following is None and not _is_end(fd, record.end, length):
            # Perhaps this one's length is wrong, perhaps the next one's header: look through both.
            following = _next(fd, record.offset + RECORD_HEADER_BYTES, length)
        record = following


def _plausible(fd: int, position: int, length: int) -> Record | None:
    try:
        record = Record(*_header(fd, position))
    except Malformed:
        return None
    least = EPOCH_RANDOM_BYTES if record.kind is ItemKind.EPOCH else OVERHEAD_BYTES
    return record if record.length >= least and record.end <= length else None


def _is_end(fd: int, position: int, length: int) -> bool:
    if position != length - TRAILER_BYTES:
        return position >= length
    try:
        return pread(fd, len(TRAILER_MAGIC), position) == TRAILER_MAGIC
    except Malformed:
        return True


def _next(fd: int, position: int, length: int) -> Record | None:
    """The next place that looks like a record which is followed by another one, or by the end."""
    while position < length:
        window = _window(fd, position)
        for found in _HEADER.finditer(window):
            record = _plausible(fd, position + found.start(), length)
            if record and (_is_end(fd, record.end, length) or _plausible(fd, record.end, length)):
                return record
        position += max(len(window) - RECORD_HEADER_BYTES + 1, 1) if window else _SECTOR_BYTES
    return None


def _window(fd: int, position: int) -> bytes:
    """Empty where the disk cannot be read."""
    for length in (_WINDOW_BYTES, _SECTOR_BYTES):  # a disk need not give what stands before the bad place
        try:
            return pread(fd, length, position)
        except Malformed:
            continue
    return b""


def has_checkpoint(fd: int) -> bool:
    return any(record.kind is ItemKind.CHECKPOINT for record in whole_records(fd))


def _header(fd: int, position: int) -> tuple[ItemKind, int, int, int, int]:
    kind, epoch, number, length = parse_record_header(pread(fd, RECORD_HEADER_BYTES, position))
    return kind, epoch, number, position, length
