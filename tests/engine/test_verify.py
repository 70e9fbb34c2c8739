"""Damage is found, and the files that it touches are named; what is not touched stays readable."""

import os
import random
from pathlib import Path

import pytest

from repositories.engine.errors import Cancelled, CorruptFile
from repositories.engine.layout import ItemKind
from repositories.engine.verify import verify
from tests.engine.lab import Chain, Recorder, content_of, inside, write_tree

MIB = 1024 * 1024


@pytest.fixture
def source(tmp_path: Path) -> Path:
    dice = random.Random(5)
    write_tree(tmp_path / "source", {f"{i}": dice.randbytes(400_000) for i in range(30)})
    return tmp_path / "source"


@pytest.fixture(params=["encrypted", "plain"])
def chain(request: pytest.FixtureRequest, tmp_path: Path, source: Path) -> Chain:
    return Chain(tmp_path / "repository", source, ("correct horse",) if request.param == "encrypted" else ())


def damage(chain: Chain, number: int, kind: ItemKind) -> int:
    """Flip a byte in the last item of a kind; returns its number."""
    with chain.open(number) as point:
        index = point.container.index
        item = int(index.own.of_kind(kind)[-1])
        place = index.place(item)
    assert place is not None
    with open(chain.points[number].path, "r+b", buffering=0) as file:
        at = place.offset + 16 + place.length // 2
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1]), at)
    return item


def test_a_sound_point(chain: Chain) -> None:
    chain.write()
    with chain.open() as point:
        quick, full = verify(point, "quick", Recorder()), verify(point, "full", Recorder())
    assert quick.sound and full.sound and not full.damaged_files
    assert quick.blocks_checked == 0 < full.blocks_checked
    assert full.bytes_checked == point.summary.source_bytes


def test_a_damaged_block_names_its_files_in_every_point_that_needs_it(chain: Chain, source: Path) -> None:
    chain.write()
    (source / "new").write_bytes(b"new")
    chain.write()
    item = damage(chain, 0, ItemKind.BLOCK)
    for number in (0, 1):
        with chain.open(number) as point:
            assert verify(point, "quick", Recorder()).sound
            report = verify(point, "full", Recorder())
            assert [(one.part, one.path) for one in report.damages] == [(f"block {item}", str(chain.points[0].path))]
            touched = set(report.damaged_files)
            assert 0 < report.damaged_files_count == len(touched) < 30
            for entry in point.walk():
                if entry.is_file and entry.path in touched:
                    with pytest.raises(CorruptFile):
                        content_of(point, entry.path)
                elif entry.is_file:
                    assert content_of(point, entry.path) == Path(os.fsdecode(b"/" + entry.path)).read_bytes()


def test_reading_many_goes_on_behind_damage(chain: Chain) -> None:
    chain.write()
    damage(chain, 0, ItemKind.BLOCK)
    lost, sizes = 0, []
    with chain.open() as point:
        for entry, pieces in point.read_many(point.walk()):
            try:
                sizes.append(sum(len(piece) for piece in pieces if isinstance(piece, memoryview)) == entry.size)
            except CorruptFile:
                lost += 1
    assert 0 < lost < 30 and sizes.count(True) >= 30 - lost


def test_a_damaged_segment_and_damaged_identities(chain: Chain) -> None:
    chain.write()
    item = damage(chain, 0, ItemKind.SEGMENT)
    with chain.open() as point:
        report = verify(point, "quick", Recorder())
        assert [one.part for one in report.damages] == [f"segment {item}"]
        assert report.damaged_files_count > 0
        with pytest.raises(CorruptFile):
            list(point.walk())
    other = damage(chain, 0, ItemKind.IDENTITIES)
    with chain.open() as point:
        assert {one.part for one in verify(point, "quick", Recorder()).damages} == {
            f"segment {item}",
            f"identities {other}",
        }


def test_a_missing_file_names_what_it_takes_along(chain: Chain, source: Path) -> None:
    first = chain.write()
    (source / "own").write_bytes(os.urandom(600_000))
    for number in range(10):
        os.utime(source / f"{number}")
    chain.write(sources=(os.fsencode(source),))
    first.path.unlink()
    with chain.open() as point:
        report = verify(point, "quick", Recorder())
        assert {one.part for one in report.damages} == {"missing-file"}
        assert inside(source, "0") in report.damaged_files and inside(source, "own") not in report.damaged_files
        assert content_of(point, inside(source, "own")) == (source / "own").read_bytes()


def test_a_replaced_parent_is_found(chain: Chain, tmp_path: Path, source: Path) -> None:
    """The file key of the parent is known, so a copy with another seal authenticates; its seal hash does not."""
    first = chain.write()
    raw = first.path.read_bytes()
    chain.write()
    with chain.open() as point:
        assert verify(point, "quick", Recorder()).notes == ("The point is unsigned.",)
    first.path.unlink()
    with chain.open() as point:
        report = verify(point, "quick", Recorder())
        assert any("no longer beside it" in note for note in report.notes)
    first.path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with chain.open() as point:
        assert not verify(point, "quick", Recorder()).sound


def test_verification_can_be_stopped(chain: Chain) -> None:
    chain.write()

    class Stop(Recorder):
        def cancelled(self) -> bool:
            return True

    with chain.open() as point, pytest.raises(Cancelled):
        verify(point, "full", Stop())
