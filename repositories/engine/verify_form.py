"""The outer form of one backup file: both copies of its head, the padding, and records without a gap between them.

What open_point() proves already is not looked at again; what is in the items is left to verify_chain.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from repositories.engine.container import Container
from repositories.engine.errors import EngineError, damaged, text
from repositories.engine.head import padding_is_zero, read_heads
from repositories.engine.layout import (
    BODY_OFFSET,
    EPOCH_RANDOM_BYTES,
    RECORD_HEADER_BYTES,
    TRAILER_BYTES,
    ItemKind,
    Malformed,
    pack_record_header,
    pread,
)


def form_damages(container: Container) -> Iterator[EngineError]:
    """What is wrong with the form of an open file; it opens nevertheless."""
    try:
        if container.head.copies_differ or len(read_heads(container.fd, container.path)) != 1:
            yield damaged(container.path, "head", "its two copies differ; it still opens")
        if not padding_is_zero(container.fd):
            yield damaged(container.path, "padding", "there are bytes behind the head; it still opens")
        _check_tiling(container)
    except EngineError as error:
        yield error
    except Malformed as error:
        yield damaged(container.path, "file", str(error))


def _check_tiling(container: Container) -> None:
    """Records follow each other without a gap from the body's begin to the trailer; epoch records are intact."""
    index, said, trailer = container.index, container.seal.statement, container.trailer
    records = [
        *index.records(),
        (said.index_offset, said.index_length),
        (trailer.seal_offset, trailer.seal_length),
    ]
    records.sort()
    epochs = {
        pack_record_header(ItemKind.EPOCH, epoch.number, epoch.first_item, EPOCH_RANDOM_BYTES) + epoch.random
        for epoch in index.origin.epochs
    }
    position = BODY_OFFSET
    for offset, length in [*records, (container.length - TRAILER_BYTES, 0)]:
        while position < offset:
            record = pread(container.fd, RECORD_HEADER_BYTES + EPOCH_RANDOM_BYTES, position)
            if record not in epochs:
                raise damaged(container.path, "epoch", f"there are unknown bytes at {position}")
            epochs.discard(record)
            position += len(record)
        if position != offset:
            raise damaged(container.path, "index", f"records overlap at {offset}")
        position = offset + RECORD_HEADER_BYTES + length
    if epochs:
        raise damaged(container.path, "epoch", f"an epoch record is missing in {text(container.path)}")
