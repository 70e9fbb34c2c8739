"""Reading one segment of a manifest where its row says it lies, in a sealed file or in an unfinished one."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol
from uuid import UUID

from repositories.engine import segment_codec
from repositories.engine.errors import damaged
from repositories.engine.layout import ItemKind, Malformed
from repositories.engine.manifest import SegmentRow
from repositories.engine.segments import Segment


class ItemSource(Protocol):
    """A file whose items can be read: a sealed one, or an unfinished one."""

    @property
    def path(self) -> Path: ...
    def read(self, number: int, kind: ItemKind, origin: UUID | None = None) -> bytes: ...
    def tag(self, number: int, kind: ItemKind, origin: UUID | None = None) -> bytes: ...


def read_segment(source: ItemSource, row: SegmentRow, origin: UUID) -> Segment:
    """One segment, checked against the row that tells of it. Raises CorruptFile."""
    name = f"segment {row.number}"
    if source.tag(row.number, ItemKind.SEGMENT, origin) != row.tag:
        raise damaged(source.path, name, "it is not the one that the root knows")
    try:
        segment = segment_codec.parse(source.read(row.number, ItemKind.SEGMENT, origin))
        if len(segment) != row.entries or not row.entries:
            raise Malformed("it does not fit the root")
        if (segment.path(0), segment.path(len(segment) - 1)) != (row.first, row.last):
            raise Malformed("it does not fit the root")
    except Malformed as error:
        raise damaged(source.path, name, str(error)) from None
    return segment
