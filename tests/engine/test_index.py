"""The index of a merged file: what was packed comes back, and what no writer makes is refused."""

from uuid import UUID, uuid4

import numpy as np
import pytest

from repositories.engine.index import ItemIndex, ItemTable, Origin, pack_index, parse_index
from repositories.engine.layout import BODY_OFFSET, Epoch, ItemKind, Malformed

END = BODY_OFFSET + 10_000
OWN, FIRST, SECOND = uuid4(), uuid4(), uuid4()


def table(*rows: tuple[int, ItemKind, int, int]) -> ItemTable:
    columns = list(zip(*rows, strict=True)) if rows else [[], [], [], []]
    return ItemTable(
        np.array(columns[0], np.uint32),
        np.array(columns[1], np.uint32),
        np.array(columns[2], np.uint64),
        np.array(columns[3], np.uint32),
    )


def origin(file_id: UUID, **fields: object) -> Origin:
    values = {"file_key": bytes([file_id.int % 255 + 1]) * 32, "seal_hash": bytes([7]) * 32}
    return Origin(
        **{"file_id": file_id, "epochs": (Epoch(0, 0, bytes(32)), Epoch(1, 5, bytes(32))), **values, **fields}
    )


def index(**fields: object) -> ItemIndex:
    values = {
        "origin": Origin(OWN, (Epoch(0, 0, bytes(32)),)),
        "own": table((0, ItemKind.KEYRING, BODY_OFFSET + 5_000, 100), (1, ItemKind.ROOT, BODY_OFFSET + 5_116, 90)),
        "copied": (
            (origin(FIRST), table((3, ItemKind.BLOCK, BODY_OFFSET + 48, 900), (9, ItemKind.SEGMENT, BODY_OFFSET, 30))),
            (origin(SECOND), table()),
        ),
    }
    return ItemIndex(**{**values, **fields})


def test_several_origins_come_back() -> None:
    parsed = parse_index(pack_index(index()), OWN, END)
    assert parsed.copied[0][0] == origin(FIRST) and parsed.copied[1][0] == origin(SECOND)
    assert [(one.file_id, len(items)) for one, items in parsed.parts()] == [(OWN, 2), (FIRST, 2), (SECOND, 0)]
    part = parsed.part(FIRST)
    assert part is not None
    place = part[1].place(3)
    assert place is not None and (place.kind, place.offset, place.length) == (ItemKind.BLOCK, BODY_OFFSET + 48, 900)
    assert part[1].place(0) is None and parsed.part(uuid4()) is None
    assert part[0].epoch_of(9).number == 1 and part[1].of_kind(ItemKind.SEGMENT).tolist() == [9]
    assert parsed.place(1) is not None and parsed.place(3) is None


def test_no_key_shows() -> None:
    keyed = origin(FIRST, file_key=b"k" * 32)
    assert "kkk" not in repr(index(copied=((keyed, table()),)))


@pytest.mark.parametrize(
    "hostile",
    [
        index(origin=Origin(FIRST, (Epoch(0, 0, bytes(32)),))),
        index(origin=origin(OWN, seal_hash=b"")),
        index(origin=Origin(OWN, ())),
        index(copied=((origin(OWN), table()),)),
        index(copied=((origin(FIRST), table()), (origin(FIRST), table()))),
        index(copied=((origin(FIRST, seal_hash=b""), table()),)),
        index(copied=((origin(FIRST, epochs=(Epoch(1, 0, bytes(32)),)), table()),)),
        index(copied=((origin(FIRST), table((3, ItemKind.BLOCK, END, 1))),)),
        index(copied=((origin(FIRST), table((3, ItemKind.BLOCK, BODY_OFFSET, 1 << 24))),)),
        index(copied=((origin(FIRST), table((3, ItemKind.BLOCK, 2**64 - 20, 30))),)),
        index(
            copied=((origin(FIRST), table((3, ItemKind.BLOCK, BODY_OFFSET, 9), (3, ItemKind.ROOT, BODY_OFFSET, 9))),)
        ),
    ],
)
def test_what_no_writer_makes_is_refused(hostile: ItemIndex) -> None:
    with pytest.raises(Malformed):
        parse_index(pack_index(hostile), OWN, END)


def test_counts_that_lie_are_refused() -> None:
    raw = pack_index(index())
    for lie in (b"\0\0\0\0", b"\x02\0\0\0", b"\x04\0\0\0", b"\xff\xff\xff\xff"):
        with pytest.raises(Malformed):
            parse_index(lie + raw[4:], OWN, END)
    for length in range(len(raw)):
        with pytest.raises(Malformed):
            parse_index(raw[:length], OWN, END)
