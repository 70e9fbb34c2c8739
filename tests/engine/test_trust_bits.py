"""Every bit of a small file flipped, one after the other, and the file cut at every length: found with a named error,
and no wrong byte is ever restored. The key is ready, so no password is derived.

What each region of the file needs in order to be found is opened, and no more. The padding of heads is 99 % of such a
file: here every 32nd byte of it, and a record of what a restore reads, which is none of it; every bit in the soak.
"""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from repositories.engine.errors import CorruptFile, EngineError
from repositories.engine.head import padding_is_zero, read_heads
from repositories.engine.layout import (
    BODY_OFFSET,
    HEAD_B_OFFSET,
    HEAD_COPY_BYTES,
    RECORD_HEADER_BYTES,
    TRAILER_BYTES,
    ItemKind,
)
from repositories.engine.reader import FileKey, Point, open_point
from repositories.engine.verify import verify
from tests.engine.lab import Chain, Recorder, end_segments_often, facts_in_point, facts_on_disk, write_tree

PADDING_STEP = 32


@dataclass
class SmallFile:
    """One sealed file with two files in it, where its regions lie, and what it must give."""

    path: Path
    key: FileKey | None
    truth: dict[bytes, tuple]
    fd: int
    used: int  # bytes of a head's copy
    regions: dict[str, range]

    def flip(self, position: int, mask: int) -> None:
        byte = os.pread(self.fd, 1, position)[0]
        os.pwrite(self.fd, bytes([byte ^ mask]), position)

    def open(self) -> Point:
        return open_point(self.path, self.key)

    def flips(self, region: str, *, step: int = 1) -> Iterator[tuple[int, int]]:
        """Every bit of a region (with a step: of every so many bytes one bit) flipped; (position, bit), bit 0 first."""
        dice = random.Random(region)
        for position in self.regions[region][::step]:
            for bit in range(8) if step == 1 else (dice.randrange(8),):
                self.flip(position, 1 << bit)
                yield position, bit
                self.flip(position, 1 << bit)


@pytest.fixture(params=["encrypted", "plain"])
def chain(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    end_segments_often(monkeypatch, 1 << 32)  # never: there is to be one
    write_tree(tmp_path / "source", {"a": b"content of a" * 20, "folder/b": b"content of b" * 20})
    passwords = ("correct horse",) if request.param == "encrypted" else ()
    return Chain(tmp_path / "repository", tmp_path / "source", passwords)


@pytest.fixture
def small(chain: Chain) -> Iterator[SmallFile]:
    written = chain.write()
    fd = os.open(written.path, os.O_RDWR)
    used = len(read_heads(fd, written.path)[0].raw)
    regions = {
        "head a": range(used),
        "head b": range(HEAD_B_OFFSET, HEAD_B_OFFSET + used),
        "padding": range(0),
        "epoch": range(BODY_OFFSET, BODY_OFFSET + RECORD_HEADER_BYTES + 32),
        "trailer": range(written.length - TRAILER_BYTES, written.length),
    }
    key = FileKey(written.file_key) if written.file_key is not None else None
    with open_point(written.path, key) as point:
        said, trailer = point.container.seal.statement, point.container.trailer
        own = point.container.index.own
        places = zip(own.kinds.tolist(), own.offsets.tolist(), own.lengths.tolist(), strict=True)
        records = [
            *places,
            (ItemKind.INDEX, said.index_offset, said.index_length),
            (ItemKind.SEAL, trailer.seal_offset, trailer.seal_length),
        ]
    for kind, offset, length in records:
        name = ItemKind(kind).name.lower()
        assert name not in regions, "one item of each kind, so that every byte has its region"
        regions[name] = range(offset, offset + RECORD_HEADER_BYTES + length)
    assert sorted(position for region in regions.values() for position in region if position >= BODY_OFFSET) == list(
        range(BODY_OFFSET, written.length)
    )
    yield SmallFile(written.path, key, facts_on_disk(chain.source), fd, used, regions)
    os.close(fd)


def is_sound(small: SmallFile) -> bool:
    with small.open() as point:
        return verify(point, "full", Recorder()).sound and facts_in_point(point) == small.truth


@pytest.mark.parametrize("region", ["keyring", "root", "index", "seal", "trailer"])
def test_every_bit_without_which_a_point_does_not_open(small: SmallFile, region: str) -> None:
    if small.key is None and region == "keyring":
        assert region not in small.regions
        return
    for position, bit in small.flips(region):
        with pytest.raises(CorruptFile) as caught:
            small.open().close()
        assert str(small.path) in str(caught.value), f"bit {bit} at {position} is found, and the file not named"
        assert "Restore it from a copy" in str(caught.value)
    assert is_sound(small)


def read_segments(point: Point) -> None:
    for _ in point.walk():
        pass


def read_contents(point: Point) -> None:
    facts_in_point(point)


def read_identities(point: Point) -> None:
    for run in point.root.runs:
        point.identity_run(run, {})


@pytest.mark.parametrize(
    ("region", "read"),
    [("segment", read_segments), ("block", read_contents), ("identities", read_identities)],
    ids=["segment", "block", "identities"],
)
def test_every_bit_of_what_is_read_later(small: SmallFile, region: str, read: Callable[[Point], None]) -> None:
    """The point opens, what was flipped does not; verify reports it, and what is restored is right or refused."""
    for position, bit in small.flips(region):
        with small.open() as point, pytest.raises(CorruptFile) as caught:
            read(point)
        assert str(caught.value.fields["part"]).startswith(region), f"bit {bit} at {position}"
        if bit == 0:
            assert not verified(small).sound
            assert restored_right_or_refused(small) is (region == "identities")
    assert is_sound(small)


def verified(small: SmallFile):
    with small.open() as point:
        return verify(point, "full", Recorder())


def restored_right_or_refused(small: SmallFile) -> bool:
    """Whether all of it was restored; asserts that nothing wrong was."""
    with small.open() as point:
        try:
            facts = facts_in_point(point)
        except EngineError:
            return False
    assert facts == small.truth
    return True


def test_every_bit_of_an_epoch_record_is_reported_and_restores(small: SmallFile) -> None:
    """The index has its own copy of what stands there."""
    for position, bit in small.flips("epoch"):
        with small.open() as point:
            assert "epoch" in [one.part for one in verify(point, "quick", Recorder()).damages], f"{bit} at {position}"
            if bit == 0:
                assert facts_in_point(point) == small.truth


@pytest.mark.parametrize("copy", ["head a", "head b"])
def test_every_bit_of_one_head_is_reported_and_restores(small: SmallFile, copy: str) -> None:
    whole = os.pread(small.fd, small.used, 0)
    for position, bit in small.flips(copy):
        with small.open() as point:
            assert point.head.copies_differ, f"bit {bit} at {position}"
            assert point.head.raw == whole, "what authenticates is the other copy"
            if bit == 0 and position % 4 == 0:
                report = verify(point, "quick", Recorder())
                assert [one.part for one in report.damages] == ["head"]
                assert facts_in_point(point) == small.truth
    assert is_sound(small)


def test_a_byte_of_both_heads_is_refused(small: SmallFile) -> None:
    for position in range(small.used):
        for offset in (0, HEAD_B_OFFSET):
            small.flip(offset + position, 1 << position % 8)
        with pytest.raises(EngineError) as caught:
            small.open().close()
        assert caught.value.code in ("corrupt-file", "unknown-version") and str(small.path) in str(caught.value)
        for offset in (0, HEAD_B_OFFSET):
            small.flip(offset + position, 1 << position % 8)
    assert is_sound(small)


def padding(small: SmallFile) -> list[int]:
    copies = ((small.used, HEAD_COPY_BYTES), (HEAD_B_OFFSET + small.used, HEAD_B_OFFSET + HEAD_COPY_BYTES))
    return [position for copy in copies for position in range(*copy)]


def check_padding(small: SmallFile, positions: list[int], bits: Callable[[int], range | tuple[int, ...]]) -> None:
    for position in positions:
        for bit in bits(position):
            small.flip(position, 1 << bit)
            assert not padding_is_zero(small.fd), f"bit {bit} at {position}"
            small.flip(position, 1 << bit)
    assert padding_is_zero(small.fd)


def test_padding_is_looked_at(small: SmallFile) -> None:
    ends = [small.used, HEAD_B_OFFSET - 1, HEAD_B_OFFSET + small.used, BODY_OFFSET - 1]
    check_padding(small, [*padding(small)[::PADDING_STEP], *ends], lambda position: (position % 8,))
    for position in ends:
        small.flip(position, 1)
        with small.open() as point:
            assert [one.part for one in verify(point, "quick", Recorder()).damages] == ["padding"]
            assert facts_in_point(point) == small.truth
        small.flip(position, 1)


@pytest.mark.soak
def test_every_bit_of_the_padding(small: SmallFile) -> None:
    check_padding(small, padding(small), lambda _: range(8))


def test_a_restore_reads_nothing_of_the_padding(small: SmallFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """So none of its bits can change what is restored."""
    whole, reads = os.pread, set()

    def pread(fd: int, length: int, offset: int) -> bytes:
        reads.update(range(offset, offset + length))
        return whole(fd, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    with small.open() as point:
        assert facts_in_point(point) == small.truth
    monkeypatch.undo()
    assert reads >= set(small.regions["head a"]) | set(small.regions["block"])
    assert not reads.intersection(padding(small))


def refuse_lengths(small: SmallFile, lengths: list[int]) -> None:
    """Cut to each length, the longest first."""
    for length in sorted(lengths, reverse=True):
        os.ftruncate(small.fd, length)
        with pytest.raises(CorruptFile) as caught:
            small.open().close()
        assert caught.value.fields["part"] in ("trailer", "head")
    assert len(lengths) > 100


def test_every_length_of_heads_and_body(small: SmallFile) -> None:
    end = small.regions["trailer"].stop
    heads = [*range(small.used + 1), *range(HEAD_B_OFFSET - 1, HEAD_B_OFFSET + small.used + 1)]
    refuse_lengths(small, [*heads, *padding(small)[::256], *range(BODY_OFFSET, end)])


@pytest.mark.soak
def test_every_length(small: SmallFile) -> None:
    refuse_lengths(small, list(range(small.regions["trailer"].stop)))


def test_a_longer_file_and_a_shorter_one_with_its_trailer(small: SmallFile) -> None:
    whole = small.path.read_bytes()
    for count in (1, 95, 96, 97, 4_096):
        small.path.write_bytes(whole + bytes(count))
        with pytest.raises(CorruptFile, match="trailer"):
            small.open()
        small.path.write_bytes(whole + whole[-TRAILER_BYTES:] * count)
        with pytest.raises(CorruptFile, match="trailer"):
            small.open()
        small.path.write_bytes(whole[: -TRAILER_BYTES - count] + whole[-TRAILER_BYTES:])
        with pytest.raises(CorruptFile, match="trailer"):
            small.open()


def test_a_byte_of_a_parent_never_reaches_its_child(chain: Chain, small: SmallFile) -> None:
    """Seen from the next point, which shares its segment's neighbours and its block."""
    (chain.source / "new").write_bytes(b"new")
    chain.write()
    truth = facts_on_disk(chain.source)
    refused = right = 0
    for region in ("head a", "block", "segment", "index", "seal", "trailer"):
        for _ in small.flips(region, step=3):
            with chain.open() as point:
                try:
                    facts = facts_in_point(point)
                except CorruptFile as error:
                    assert error.fields["path"] == str(small.path)
                    refused += 1
                else:
                    assert facts == truth
                    right += 1
    assert refused > 150 and right > 50
