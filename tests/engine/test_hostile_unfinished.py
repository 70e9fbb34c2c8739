"""An unfinished file whose checkpoints say what no honest one says: the next session takes from it what is true, or
removes it, and its own point is whole. In a plain chain anybody can leave such a file.
"""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import pytest

from repositories.engine import segment_codec
from repositories.engine.backup import Level
from repositories.engine.checkpoint import Begun, Checkpoint, Settings
from repositories.engine.head import Head
from repositories.engine.layout import VERSION, ItemKind
from repositories.engine.manifest import SegmentRow
from repositories.engine.verify import verify
from repositories.engine.writer import FileWriter
from tests.engine.lab import NO_RESERVE, Chain, Recorder, facts_in_point, facts_on_disk, later, write_tree
from tests.engine.rows import Rows, from_rows

Change = Callable[[Checkpoint, FileWriter], list[Checkpoint]]
NOTHING = segment_codec.pack(from_rows(Rows(), []))
change = msgspec.structs.replace


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    write_tree(tmp_path / "source", {"a": b"content of a" * 20, "large": os.urandom(3_000_000)})
    return Chain(tmp_path / "repository", tmp_path / "source", ())


def leave_unfinished(chain: Chain, make: Change) -> Path:
    """A file as a killed session leaves it, with these checkpoints."""
    head = Head(VERSION, False, chain.chain_id, uuid4(), 1, 1, ())
    writer = FileWriter(chain.folder, head, None, None, NO_RESERVE, 1)
    settings = Settings("full", Level.NONE.value, [os.fsencode(chain.source)], [], [], bytes(16), bytes(32))
    honest = Checkpoint(settings, b"", later(), [head.file_id.bytes], [], b"", [], [], [])
    for checkpoint in make(honest, writer):
        writer.add_checkpoint(msgspec.msgpack.encode(checkpoint))
    writer.close()
    return writer.path


def row(number: int, **more: object) -> SegmentRow:
    return change(SegmentRow(0, number, bytes(16), 1, b"a", b"b"), **more)


LIES: dict[str, Change] = {
    "a segment that is not there": lambda c, w: [change(c, rows=[row(77)], news=[(1, 1)])],
    "a segment that is another item": lambda c, w: [
        change(c, rows=[row(w.add_metadata(ItemKind.IDENTITIES, b"x"))], news=[(1, 1)])
    ],
    "a segment that cannot be read": lambda c, w: [
        change(c, rows=[row(n := w.add_metadata(ItemKind.SEGMENT, b"x"), tag=w.tag(n))], news=[(1, 1)])
    ],
    "entries without end": lambda c, w: [change(c, rows=[row(0, entries=2**60)], news=[(1, 2**60)])],
    "news without entries": lambda c, w: [change(c, news=[(1, 2**40)])],
    "an unknown origin": lambda c, w: [change(c, rows=[row(0, origin=3)], news=[(1, 1)])],
    "another origin, without a parent": lambda c, w: [
        change(c, origins=[*c.origins, uuid4().bytes], rows=[row(0, origin=1)], news=[(1, 1)])
    ],
    "fewer origins than before": lambda c, w: [
        change(c, origins=[*c.origins, uuid4().bytes], rows=[row(0, origin=1)], news=[(1, 1)]),
        c,
    ],
    "an empty tail": lambda c, w: [change(c, tail=NOTHING)],
    "a tail that is no segment": lambda c, w: [change(c, tail=b"x")],
    "identities that are not there": lambda c, w: [change(c, identities=[5, 2**31])],
    "identities that cannot be read": lambda c, w: [change(c, identities=[w.add_metadata(ItemKind.IDENTITIES, b"x")])],
    "a negative number": lambda c, w: [change(c, identities=[-1])],
    "a begun file of an unknown origin": lambda c, w: [
        change(c, begun=[Begun(b"z", (1, 2, 3, 4, 5), 0, struct.pack("<4I", 9, 0, 0, 5))])
    ],
    "a begun file from nowhere": lambda c, w: [change(c, begun=[Begun(b"z", (1, 2, 3, 4, 5), 7, b"")])],
    "a key in a plain file": lambda c, w: [change(c, chain_key=bytes(5))],
    "other settings": lambda c, w: [change(c, settings=change(c.settings, sources=[b"/"]))],
    "no checkpoint": lambda c, w: [],
    "an honest one": lambda c, w: [c],
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_does_not_reach_the_next_point(chain: Chain, name: str) -> None:
    left = leave_unfinished(chain, LIES[name])
    written = chain.write(level=Level.NONE)
    assert written.resumed or not left.exists()
    assert chain.names() == ["1"]
    with chain.open() as point:
        assert facts_in_point(point) == facts_on_disk(chain.source)
        assert verify(point, "full", Recorder()).sound
    assert written.resumed is (written.file_id == UUID(left.name.split(".")[1]))
    if name == "an honest one":
        assert written.resumed
