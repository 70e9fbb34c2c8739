"""Checkpoints: what an unfinished file says about itself, so that another process can write on, and when it says it.

A checkpoint tells what changed since the one before it of the same epoch: segment rows, identities, the entries behind
the last row, and the chunks of large files that are being read. Behind its record every item with a lower number is on
disk. How an unfinished file is found and read again is left to unfinished.py.

Raw content of the CHECKPOINT item, MessagePack arrays in the order of the fields of Checkpoint, Settings and Begun.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Annotated
from uuid import UUID

import msgspec
import numpy as np
from msgspec import Meta

from keys.crypto import KEY_BYTES
from repositories.engine import messages
from repositories.engine.content import BegunFile, ContentReader, FileFacts, Packer
from repositories.engine.identities import Identities, pack_parts
from repositories.engine.layout import MAX_RAW_BYTES, NO_ITEM, ItemKind, Malformed
from repositories.engine.manifest import (
    MAX_ORIGINS,
    MAX_PATTERNS,
    MAX_SEGMENTS,
    ManifestBuilder,
    SegmentRow,
    check_rows,
)
from repositories.engine.messages import Id
from repositories.engine.order import CheckpointInterval
from repositories.engine.segments import CHANGED, HOLE, NEW, UNCHANGED
from repositories.engine.writer import FileWriter


class Settings(msgspec.Struct, array_like=True, frozen=True):
    """What must be the same in the order that writes on; recipients are compared with the slots of the head."""

    kind: str
    level: str
    sources: Annotated[list[bytes], Meta(max_length=MAX_PATTERNS)]
    include: Annotated[list[str], Meta(max_length=MAX_PATTERNS)]
    exclude: Annotated[list[str], Meta(max_length=MAX_PATTERNS)]
    parent_id: bytes
    parent_seal_hash: bytes
    options: Annotated[list[str], Meta(max_length=MAX_PATTERNS)] = []  # sorted; the values of Omission


class Begun(msgspec.Struct, array_like=True, frozen=True):
    """A large file without a row: its chunks from the `first`-th on, four u32 each; the first ones were told before."""

    path: bytes
    facts: FileFacts
    first: int
    chunks: bytes


class Checkpoint(msgspec.Struct, array_like=True, frozen=True):
    settings: Settings
    chain_key: bytes  # empty in plain files
    at_ns: int
    origins: Annotated[list[Id], Meta(max_length=MAX_ORIGINS)]  # of rows and begun files; the first is this file
    rows: Annotated[list[SegmentRow], Meta(max_length=MAX_SEGMENTS)]
    tail: bytes  # a packed segment, or empty
    news: list[tuple[int, int]]  # of all entries since the checkpoint before: (0 unchanged, 1 new, 2 changed; how many)
    identities: list[int]  # item numbers
    begun: list[Begun]  # all that have no row yet

    def __repr__(self) -> str:
        return f"Checkpoint({self.at_ns})"  # not the key


def parse_checkpoint(raw: bytes) -> Checkpoint:
    """Raises Malformed; afterwards origins are in range, chunks are whole, and every number is possible."""
    found = messages.decode(raw, Checkpoint, "a checkpoint")
    check_rows(found.rows, len(found.origins))
    if any(kind not in (UNCHANGED, NEW, CHANGED) or not 0 <= count < NO_ITEM for kind, count in found.news):
        raise Malformed("a checkpoint counts what cannot be")
    if any(not _can_be(begun, len(found.origins)) for begun in found.begun):
        raise Malformed("a checkpoint has a begun file that cannot be")
    if len(found.chain_key) not in (0, KEY_BYTES) or not all(0 <= number < NO_ITEM for number in found.identities):
        raise Malformed("a checkpoint has a key or a number that cannot be")
    return found


def _can_be(begun: Begun, origin_count: int) -> bool:
    if begun.first < 0 or len(begun.chunks) % 16:
        return False
    origins = np.frombuffer(begun.chunks, "<u4")[::4]
    return bool(np.all((origins < origin_count) | (origins == HOLE)))


class Checkpointer:
    """Writes checkpoints when they are due. `monotonic` is a clock in seconds, `clock` the time of day in ns."""

    def __init__(
        self,
        writer: FileWriter,
        settings: Settings,
        chain_key: bytes,
        interval: CheckpointInterval,
        clock: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        self._writer, self._settings, self._chain_key = writer, settings, chain_key
        self._interval, self._clock, self._monotonic = interval, clock, monotonic
        self._position, self._at_seconds = writer.position, monotonic()
        self._block = writer.epoch.first_item
        self._rows = 0
        self._told: dict[bytes, int] = {}  # how many chunks of a begun file

    def pause(
        self,
        packer: Packer,
        builder: ManifestBuilder,
        content: ContentReader,
        news: list[tuple[int, int]],
        identities: Identities,
        origin_number: dict[UUID, int],
    ) -> None:
        """Write a checkpoint if it is due. What was read so far is in the manifest, or begun, or is read again.

        `news` of the entries since the last checkpoint are taken away.
        """
        if not self._is_due(packer.gathered_bytes):
            return
        packer.flush()
        origins = list(origin_number)
        fresh = identities.fresh_from(self._block)
        parts = pack_parts(fresh, origins) if fresh is not None else ()
        checkpoint = Checkpoint(
            settings=self._settings,
            chain_key=self._chain_key,
            at_ns=self._clock(),
            origins=[origin.bytes for origin in origins],
            rows=builder.rows_from(self._rows, self._writer.tag),
            tail=builder.tail(),
            news=list(news),
            identities=[self._writer.add_metadata(ItemKind.IDENTITIES, raw) for _, raw in parts],
            begun=[self._begun(path, file) for path, file in content.begun.items()],
        )
        raw = msgspec.msgpack.encode(checkpoint)
        if len(raw) <= MAX_RAW_BYTES[ItemKind.CHECKPOINT]:
            self._block = self._writer.add_checkpoint(raw) + 1
            self._rows += len(checkpoint.rows)
            news.clear()
            self._told = {path: len(file.chunks) // 4 for path, file in content.begun.items()}
        self._position, self._at_seconds = self._writer.position, self._monotonic()

    def _is_due(self, gathered_bytes: int) -> bool:
        written = self._writer.position + gathered_bytes - self._position
        return written >= self._interval.bytes or (
            written > 0 and self._monotonic() - self._at_seconds >= self._interval.seconds
        )

    def _begun(self, path: bytes, file: BegunFile) -> Begun:
        first = self._told.get(path, 0)
        return Begun(path, file.facts, first, _packed(file.chunks[4 * first :]))


def _packed(chunks: array[int]) -> bytes:
    return np.array(chunks, "<u4").tobytes()
