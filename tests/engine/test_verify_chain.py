"""A chain is verified as a whole: what its points share is read once, and damage names the points that it touches."""

import os
import random
from collections import Counter
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from repositories.engine.container import Container
from repositories.engine.errors import Cancelled, CannotUnwrap, MissingFile
from repositories.engine.layout import ItemKind
from repositories.engine.order import Kind
from repositories.engine.reader import Kek, open_point
from repositories.engine.verify import verify
from repositories.engine.verify_chain import PointToVerify, verify_chain
from repositories.engine.verify_report import ChainReport, Depth
from repositories.engine.verify_sample import Sample
from tests.engine.lab import Chain, Recorder, content_of, inside, recipient, write_tree

POINTS = 6


@pytest.fixture(params=["encrypted", "plain"])
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Chain:
    """Six points; file `own N` came with point N, and point 4 began a new run."""
    dice = random.Random(5)
    source = tmp_path / "source"
    write_tree(source, {f"{number}": dice.randbytes(400_000) for number in range(25)})
    chain = Chain(tmp_path / "repository", source, ("correct horse",) if request.param == "encrypted" else ())
    for number in range(1, POINTS + 1):
        write_tree(source, {f"own {number}": dice.randbytes(700_000)})
        chain.write(kind=Kind.FULL if number in (1, 4) else Kind.INCREMENTAL)
    return chain


def points_of(chain: Chain) -> list[PointToVerify]:
    def opener(number: int):
        return lambda: chain.open(number)

    return [PointToVerify(written.sequence, opener(at)) for at, written in enumerate(chain.points)]


def checked(chain: Chain, depth: Depth = "full", sample: Sample | None = None) -> ChainReport:
    return verify_chain(points_of(chain), depth, Recorder(), sample=sample)


def flip(path: Path, at: int) -> None:
    with open(path, "r+b", buffering=0) as file:
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1]), at)


def damage(chain: Chain, number: int, kind: ItemKind, which: int = -1) -> str:
    """Flip a byte in an item of point `number`; returns its name."""
    with chain.open(number - 1) as point:
        item = int(point.container.index.own.of_kind(kind)[which])
        place = point.container.index.place(item)
    assert place is not None
    flip(chain.points[number - 1].path, place.offset + 16 + place.length // 2)
    return f"{kind.name.lower()} {item}"


class Reads:
    """Which items were read how often."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: Counter[tuple[ItemKind, UUID, int]] = Counter()
        whole = Container.read

        def read(container: Container, number: int, kind: ItemKind, origin: UUID | None = None) -> bytes:
            self.counts[kind, origin or container.file_id, number] += 1
            return whole(container, number, kind, origin)

        monkeypatch.setattr(Container, "read", read)

    def of(self, kind: ItemKind) -> list[int]:
        return [count for (of_kind, _, _), count in self.counts.items() if of_kind is kind]


def test_a_sound_chain_is_read_once(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = 0
    for number in range(POINTS):
        with chain.open(number) as point:
            blocks += len(point.container.index.own.of_kind(ItemKind.BLOCK))
    reads = Reads(monkeypatch)
    report = checked(chain)
    assert report.sound and not report.damages
    assert [point.number for point in report.points] == [1, 2, 3, 4, 5, 6]
    assert set(reads.of(ItemKind.BLOCK)) == set(reads.of(ItemKind.SEGMENT)) == {1}
    assert set(reads.of(ItemKind.IDENTITIES)) == {1}
    assert report.blocks_checked == len(reads.of(ItemKind.BLOCK)) == blocks
    assert checked(chain, "quick").blocks_checked == 0


def test_a_damaged_block_names_the_points_and_files_that_need_it(chain: Chain) -> None:
    name = damage(chain, 2, ItemKind.BLOCK)
    assert checked(chain, "quick").sound
    report = checked(chain)
    (found,) = report.damages
    assert (found.part, found.path, found.points) == (name, str(chain.points[1].path), (2, 3))
    assert found.files == (inside(chain.source, "own 2"),) and found.files_count == 1
    by_number = {point.number: point for point in report.points}
    assert [number for number, point in by_number.items() if not point.sound] == [2, 3]
    for number in (2, 3):
        assert by_number[number].damaged_files == (inside(chain.source, "own 2"),)
    with chain.open(2) as point:
        assert content_of(point, inside(chain.source, "own 3")) == (chain.source / "own 3").read_bytes()


def test_damages_in_many_files_are_told_apart(chain: Chain) -> None:
    with chain.open(5) as point:  # the sixth
        one_segment = len(point.root.segments) == 1
    first, fourth = damage(chain, 1, ItemKind.BLOCK, 0), damage(chain, 5, ItemKind.BLOCK)
    segment = damage(chain, 6, ItemKind.SEGMENT)
    found = {(one.part, Path(one.path).name): one.points for one in checked(chain).damages}
    own = found.pop((fourth, "5"))
    # Point 6 uses it too, which only the segment that lists the file says: a hash may have put it into another one.
    assert own == (5,) if one_segment else own in ((5,), (5, 6))
    assert found == {(first, "1"): (1, 2, 3), (segment, "6"): (6,)}


def test_what_a_point_says_agrees_with_verifying_it_alone(chain: Chain) -> None:
    damage(chain, 1, ItemKind.BLOCK, 0)
    damage(chain, 4, ItemKind.BLOCK, 1)
    together = checked(chain)
    for number, state in enumerate(together.points):
        with chain.open(number) as point:
            alone = verify(point, "full", Recorder())
        assert (alone.damaged_files_count, sorted(alone.damaged_files)) == (
            state.damaged_files_count,
            sorted(state.damaged_files),
        )
        assert len(alone.damages) == state.damages


def test_a_missing_file_is_one_damage_of_all_that_need_it(chain: Chain) -> None:
    chain.points[1].path.unlink()
    del chain.points[1]
    report = checked(chain, "quick")
    (found,) = report.damages
    assert (found.part, found.points) == ("missing-file", (3,))
    assert inside(chain.source, "own 2") in found.files
    assert {point.number: point.sound for point in report.points} == {1: True, 3: False, 4: True, 5: True, 6: True}


def test_a_file_that_does_not_open_is_one_damage_of_itself_and_of_all_that_need_it(chain: Chain) -> None:
    path = chain.points[0].path
    flip(path, path.stat().st_size - 50)
    report = checked(chain)
    (found,) = report.damages
    assert (found.part, found.points) == ("trailer", (1, 2, 3))
    broken = report.points[0]
    assert broken.problem is not None and not broken.closed and not broken.sound
    assert [point.sound for point in report.points] == [False, False, False, True, True, True]


def test_a_newest_file_that_does_not_open_takes_no_other_point_along(chain: Chain) -> None:
    path = chain.points[-1].path
    flip(path, path.stat().st_size - 50)
    report = checked(chain)
    assert [point.sound for point in report.points] == [True] * 5 + [False]
    assert report.damages[0].points == (6,)


def test_blocks_that_only_a_dropped_point_needs_touch_no_other(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_tree(source, {"stays": b"a" * 1000, "goes": os.urandom(9_000_000)})
    chain = Chain(tmp_path / "repository", source)
    chain.write()
    (source / "goes").unlink()
    chain.write()
    name = damage(chain, 1, ItemKind.BLOCK, 0)
    report = verify_chain(points_of(chain)[1:], "full", Recorder())
    assert report.sound, "the file of point 1 is not among what is verified"
    report = checked(chain)
    assert [(one.part, one.points) for one in report.damages] == [(name, (1,))]


def test_a_point_for_which_there_is_no_key_is_closed_and_not_damaged(chain: Chain) -> None:
    if not chain.passwords:
        pytest.skip("nothing is closed in a plain chain")
    points = points_of(chain)
    wrong = Kek(recipient("another").kek)
    points[2] = PointToVerify(3, lambda: open_point(chain.points[2].path, wrong))
    report = verify_chain(points, "full", Recorder())
    assert report.points[2].closed and isinstance(report.points[2].problem, CannotUnwrap)
    assert not report.damages
    assert all(point.sound for point in report.points if point.number != 3)


def test_a_file_that_goes_away_meanwhile_is_named(chain: Chain) -> None:
    """It opened when its list was read, and is gone when its blocks are wanted."""
    points = points_of(chain)
    opened: list[int] = []

    def once():
        if opened:
            raise MissingFile("It went away.")
        opened.append(1)
        return chain.open(5)

    points[5] = PointToVerify(6, once)
    report = verify_chain(points, "full", Recorder())
    assert not report.points[5].sound and all(point.sound for point in report.points[:5])
    assert report.damages[0].points == (6,)


def test_it_can_be_stopped_at_any_question(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repositories.engine.observer.PROGRESS_INTERVAL_SECONDS", 0.0)
    damage(chain, 1, ItemKind.BLOCK, 0)

    class Stop(Recorder):
        def __init__(self, at: int) -> None:
            super().__init__()
            self.left = at

        def cancelled(self) -> bool:
            self.left -= 1
            return self.left < 0

    patient = Stop(10**6)
    verify_chain(points_of(chain), "full", patient)
    asked = 10**6 - patient.left
    assert asked > 20
    for at in range(0, asked, 5):
        with pytest.raises(Cancelled):
            verify_chain(points_of(chain), "full", Stop(at))


class TestSample:
    def test_the_same_seed_takes_the_same_blocks(self) -> None:
        origin = uuid4()
        taken = [[n for n in range(2000) if Sample(0.05, seed).takes(origin, n)] for seed in (7, 7, 8)]
        assert taken[0] == taken[1] != taken[2]
        assert 40 < len(taken[0]) < 180

    @pytest.mark.parametrize("share", [0.05, 0.3, 1 / 3, 1.0])
    def test_consecutive_seeds_take_every_block(self, share: float) -> None:
        origin, seeds = uuid4(), -(-1 // share)
        for first in (0, 12345, 2**63):
            samples = [Sample(share, first + seed) for seed in range(int(seeds))]
            assert all(any(sample.takes(origin, n) for sample in samples) for n in range(2000))

    def test_blocks_of_different_files_are_chosen_apart(self) -> None:
        sample = Sample(0.5, 3)
        assert [sample.takes(UUID(int=1), n) for n in range(64)] != [sample.takes(UUID(int=2), n) for n in range(64)]

    @pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
    def test_what_is_no_share_is_refused(self, share: float) -> None:
        with pytest.raises(ValueError):
            Sample(share, 1)

    def test_a_chain_is_sampled(self, chain: Chain) -> None:
        whole = checked(chain).blocks_checked
        damage(chain, 1, ItemKind.BLOCK, 0)
        reports = [checked(chain, "sample", Sample(0.25, seed)) for seed in range(4)]
        for report in reports:
            assert report.blocks_checked + report.blocks_passed_over == whole
        assert sum(report.blocks_checked for report in reports) >= whole
        assert any(not report.sound for report in reports), "one of them has the damaged block"
        assert any(report.sound for report in reports)
