"""Best effort: what a damaged or cut off file still holds comes out, is true, and is said to be a part."""

import errno
import os
import random
from pathlib import Path
from uuid import uuid4

import pytest

from repositories.engine import storing, writer
from repositories.engine.backup import CheckpointInterval
from repositories.engine.errors import CannotUnwrap, CorruptFile, EngineError, MissingFile
from repositories.engine.layout import BODY_OFFSET, RECORD_HEADER_BYTES, TRAILER_BYTES, ItemKind
from repositories.engine.merging import MergeOrder, merge
from repositories.engine.order import ParentPoint
from repositories.engine.reader import Kek, Point
from repositories.engine.records import found_records, whole_records
from repositories.engine.restore import Restored, RestoreOrder, restore
from repositories.engine.salvage import SalvagedPoint, open_best_effort
from repositories.engine.settling import settle
from tests.engine.lab import NO_RESERVE, Chain, Recorder, end_segments_often, inside, later, recipient, write_tree

OFTEN = CheckpointInterval(bytes=60_000, seconds=3600.0)
Truth = dict[bytes, bytes]


@pytest.fixture(autouse=True)
def many_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where segments end concerns the writer only: here often, so that a small tree has many."""
    end_segments_often(monkeypatch, 6)
    monkeypatch.setattr(storing, "_BATCH_ENTRIES", 10)


@pytest.fixture(params=["encrypted", "plain"])
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Chain:
    dice = random.Random(3)
    source = tmp_path / "source"
    write_tree(source, {f"{number % 5}/{number}": dice.randbytes(3_000 + number) for number in range(150)})
    write_tree(source, {"2/large": dice.randbytes(1_500_000)})
    return Chain(tmp_path / "repository", source, ("correct horse",) if request.param == "encrypted" else ())


def truth_of(source: Path) -> Truth:
    return {
        inside(source, str(path.relative_to(source))): path.read_bytes() for path in source.rglob("*") if path.is_file()
    }


def open_damaged(chain: Chain, at: int = -1, known: dict | None = None) -> Point:
    return open_best_effort(chain.points[at].path, chain.secret(), known or {})


def came_out(point: Point, *truths: Truth) -> set[bytes]:
    """The paths of all files that can be read; each has a content that the file had once, or is damaged by name."""
    found = set()
    entries = []
    for number in range(len(point.root.segments)):
        try:
            entries += [entry for entry in point.segment(number).entries() if entry.is_file]
        except (CorruptFile, MissingFile, CannotUnwrap):
            continue
    for entry, pieces in point.read_many(entries):
        try:
            content = b"".join(bytes(piece) for piece in pieces)
        except (CorruptFile, MissingFile, CannotUnwrap):
            continue
        assert content in [truth.get(entry.path) for truth in truths], entry.path
        found.add(entry.path)
    return found


def record_of(chain: Chain, kind: ItemKind, at: int = -1, which: int = -1) -> tuple[int, int]:
    """Offset and length of the sealed content of an item."""
    with open(chain.points[at].path, "rb") as file:
        found = [record for record in whole_records(file.fileno()) if record.kind is kind][which]
    return found.offset + RECORD_HEADER_BYTES, found.length


def flip(path: Path, at: int) -> None:
    with open(path, "r+b", buffering=0) as file:
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1]), at)


def damage(chain: Chain, kind: ItemKind, at: int = -1, which: int = -1) -> None:
    offset, length = record_of(chain, kind, at, which)
    flip(chain.points[at].path, offset + length // 2)


def damage_trailer(chain: Chain, at: int = -1) -> None:
    path = chain.points[at].path
    flip(path, path.stat().st_size - TRAILER_BYTES // 2)


def recovered(point: Point, into: Path) -> Restored:
    return restore(RestoreOrder(point=point, into=into, helpers=0), Recorder())


class TestWhatIsLostOfTheForm:
    def test_a_sound_point_is_opened_as_it_is(self, chain: Chain) -> None:
        chain.write()
        with open_damaged(chain) as point:
            assert not isinstance(point, SalvagedPoint)
            assert came_out(point, truth_of(chain.source)) == truth_of(chain.source).keys()

    @pytest.mark.parametrize("kind", ["trailer", "seal", "index", "trailer and seal", "trailer, seal and index", "cut"])
    def test_the_list_of_files_is_found_without_it(self, chain: Chain, tmp_path: Path, kind: str) -> None:
        chain.write()
        chain.write(sources=(os.fsencode(chain.source),))
        if "cut" in kind:
            os.truncate(chain.points[-1].path, record_of(chain, ItemKind.INDEX)[0])
        for item in (ItemKind.SEAL, ItemKind.INDEX):
            if item.name.lower() in kind:
                damage(chain, item)
        if "trailer" in kind:
            damage_trailer(chain)
        with pytest.raises(CorruptFile):
            chain.open()
        truth = truth_of(chain.source)
        with open_damaged(chain) as point:
            assert isinstance(point, SalvagedPoint) and point.complete and point.findings
            assert any("nobody can say who signed it" in one for one in point.findings) == (
                kind in ("seal", "trailer and seal", "trailer, seal and index", "cut")
            )
            assert recovered(point, tmp_path / "into").failed_count == 0
            assert came_out(point, truth) == truth.keys()
        for path, content in truth.items():
            assert (tmp_path / "into" / os.fsdecode(path)).read_bytes() == content

    def test_a_signature_is_told_where_the_seal_is_whole(self, chain: Chain) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        signer = Ed25519PrivateKey.generate()
        chain.write(signer=signer)
        damage_trailer(chain)
        with open_damaged(chain) as point:
            assert point.summary.signer == signer.public_key().public_bytes_raw()

    def test_without_a_keyring_keys_that_are_known_otherwise_open_the_chain(self, chain: Chain) -> None:
        if not chain.passwords:
            pytest.skip("a plain chain has no keyring")
        chain.write()
        first = truth_of(chain.source)
        write_tree(chain.source, {"1/new": b"new" * 100})
        chain.write()
        damage(chain, ItemKind.KEYRING)
        truth = truth_of(chain.source)
        with open_damaged(chain) as point:
            assert isinstance(point, SalvagedPoint) and any("keyring is lost" in one for one in point.findings)
            alone = came_out(point, truth)
        assert inside(chain.source, "1/new") in alone and len(alone) < len(first)
        keys = {chain.points[0].file_id: chain.points[0].file_key}
        with open_damaged(chain, known=keys) as point:
            assert came_out(point, truth) == truth.keys()

    def test_one_damaged_copy_of_the_head_is_enough_and_two_are_an_error(self, chain: Chain) -> None:
        chain.write()
        path = chain.points[0].path
        flip(path, 50)
        with open_damaged(chain) as point:
            assert came_out(point, truth_of(chain.source)) == truth_of(chain.source).keys()
        flip(path, BODY_OFFSET // 2 + 50)
        with pytest.raises(CorruptFile):
            open_damaged(chain)

    def test_a_wrong_secret_opens_nothing(self, chain: Chain) -> None:
        chain.write()
        damage_trailer(chain)
        with pytest.raises(EngineError) as caught:
            open_best_effort(chain.points[0].path, Kek(recipient("another").kek), {})
        assert caught.value.code in ("cannot-unwrap", "plain-refused")

    def test_a_file_in_a_wrong_place_is_no_damage(self, chain: Chain) -> None:
        chain.write()
        exchanged = chain.points[0].path.rename(chain.points[0].path.with_name("2"))
        with pytest.raises(CorruptFile, match="wrong place"):
            open_best_effort(exchanged, chain.secret(), {})


class TestWithoutARoot:
    def test_of_a_full_all_comes_out(self, chain: Chain, tmp_path: Path) -> None:
        chain.write()
        damage(chain, ItemKind.ROOT)
        truth = truth_of(chain.source)
        with open_damaged(chain) as point:
            assert isinstance(point, SalvagedPoint) and not point.complete
            assert any("whole list of its files is lost" in one for one in point.findings)
            assert point.summary.files == len(truth)
            assert came_out(point, truth) == truth.keys()
            assert recovered(point, tmp_path / "into").failed_count == 0

    def test_of_an_incremental_its_own_segments_come_out(self, chain: Chain) -> None:
        chain.write()
        before = truth_of(chain.source)
        write_tree(chain.source, {"1/new": b"new", "3/3": b"changed"})
        (chain.source / "4/4").unlink()
        chain.write()
        truth = truth_of(chain.source)
        damage(chain, ItemKind.ROOT)
        with open_damaged(chain) as point:
            found = came_out(point, truth)
        assert {inside(chain.source, "1/new"), inside(chain.source, "3/3")} <= found
        assert inside(chain.source, "4/4") not in found and len(found) < len(truth)
        assert before.keys() - found, "what was not changed stands in the point before"

    def test_of_a_merged_file_all_comes_out(self, chain: Chain) -> None:
        chain.write()
        for number in (1, 2):
            write_tree(chain.source, {f"{number}/{number}": b"changed", f"3/new {number}": b"new"})
            chain.write()
        newest = ParentPoint(chain.points[-1].path, chain.points[-1].file_key)
        order = MergeOrder(
            root=chain.root, chain_id=chain.chain_id, file_id=uuid4(), sequence=3, newest=newest,
            recipients=tuple(recipient(password) for password in chain.passwords), reserve=NO_RESERVE, clock=later,
        )  # fmt: skip
        path = settle(merge(order, Recorder()).path, ParentPoint(merge_path(chain), newest.file_key))
        assert path == chain.points[-1].path
        damage(chain, ItemKind.ROOT)
        truth = truth_of(chain.source)
        with open_damaged(chain) as point:
            assert came_out(point, truth) == truth.keys()

    def test_a_flip_in_a_segment_costs_its_own_entries(self, chain: Chain) -> None:
        chain.write()
        with chain.open() as point:
            number = max(range(len(point.root.segments)), key=lambda at: point.root.segments[at].entries)
            lost = {entry.path for entry in point.segment(number).entries() if entry.is_file}
            place = point.container.index.place(point.root.segments[number].number)
        assert lost and place is not None
        damage(chain, ItemKind.ROOT)
        flip(chain.points[-1].path, place.offset + RECORD_HEADER_BYTES + place.length // 2)
        truth = truth_of(chain.source)
        with open_damaged(chain) as point:
            assert isinstance(point, SalvagedPoint)
            assert came_out(point, truth) == truth.keys() - lost
            assert any("A part of its list" in one for one in point.findings)


def merge_path(chain: Chain) -> Path:
    return next(path for path in chain.folder.iterdir() if "." in path.name)


def interrupt(chain: Chain, monkeypatch: pytest.MonkeyPatch, at: float) -> Path:
    """The unfinished file of what chain.write() would write, killed after a share of its writes."""
    states: list[bytes] = []
    whole = writer.FileWriter._write_at

    def write_at(file: writer.FileWriter, offset: int, parts: tuple[bytes, ...]) -> None:
        whole(file, offset, parts)
        states.append(file.path.read_bytes())
        names.append(file.path)

    names: list[Path] = []
    with monkeypatch.context() as patch:
        patch.setattr(writer.FileWriter, "_write_at", write_at)
        written = chain.write(checkpoints=OFTEN)
    chain.points.pop()
    written.path.unlink()
    names[0].write_bytes(states[int(len(states) * at)])
    return names[0]


class TestUnfinished:
    def test_an_unfinished_file_gives_what_its_checkpoints_tell(
        self, chain: Chain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = interrupt(chain, monkeypatch, 0.8)
        truth = truth_of(chain.source)
        with open_best_effort(path, chain.secret(), {}) as point:
            assert isinstance(point, SalvagedPoint) and not point.complete
            found = came_out(point, truth)
        assert len(truth) // 4 < len(found) < len(truth)

    def test_what_a_younger_epoch_says_counts(self, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
        """Resumed on a changed source, then the root is lost. Only what was deleted meanwhile may come back."""
        interrupt(chain, monkeypatch, 0.8)
        deleted = truth_of(chain.source)
        gone = [inside(chain.source, f"0/{number}") for number in (5, 35)]
        for path in gone:
            Path(os.fsdecode(b"/" + path)).unlink()
        write_tree(chain.source, {"0/10": b"changed", "1/new": b"new"})
        written = chain.write(checkpoints=OFTEN)
        assert written.resumed
        damage(chain, ItemKind.ROOT)
        truth = truth_of(chain.source)
        with open_damaged(chain) as point:
            assert len(point.container.index.origin.epochs) == 2
            listed = [entry.path for entry in point.walk() if entry.is_file]
            assert len(set(listed)) == len(listed), "each once"
            assert truth.keys() <= set(listed) <= {*truth, *gone}
            assert came_out(point, {**deleted, **truth}) >= truth.keys()


def test_cut_off_anywhere_it_gives_what_is_whole(chain: Chain) -> None:
    """The longer the file, the more comes out; never anything wrong."""
    chain.write()
    write_tree(chain.source, {f"{number % 5}/{number}": b"changed %d" % number for number in range(0, 150, 7)})
    chain.write(checkpoints=OFTEN)
    path, truth = chain.points[-1].path, truth_of(chain.source)
    with open(path, "rb") as file:
        ends = [record.end for record in whole_records(file.fileno())]
    lengths = {100, BODY_OFFSET - 1, BODY_OFFSET, *ends, *(end - 1 for end in ends), *(end + 20 for end in ends)}
    most = 0
    whole = path.read_bytes()
    for length in sorted(length for length in lengths if length < len(whole)):
        path.write_bytes(whole[:length])
        try:
            point = open_damaged(chain)
        except CorruptFile:
            assert not most, "less than before"
            continue
        with point:
            assert isinstance(point, SalvagedPoint)
            found = len(came_out(point, truth))
        assert found >= most, length
        most = found
    assert most == len(truth)


def test_flips_anywhere_in_the_body_never_give_anything_wrong(chain: Chain) -> None:
    """Two flips each: one that closes the point, and one that walks through the body."""
    for path in list(chain.source.rglob("large")) + list(chain.source.glob("*/1??")):
        path.unlink()
    for path in chain.source.glob("*/[2-9]?"):
        path.write_bytes(b"small %s" % path.name.encode())
    chain.write()
    path, truth = chain.points[0].path, truth_of(chain.source)
    damage_trailer(chain)
    length = path.stat().st_size
    least = len(truth)
    for at in range(BODY_OFFSET, length - TRAILER_BYTES, 397):
        flip(path, at)
        try:
            with open_damaged(chain) as point:
                least = min(least, len(came_out(point, truth)))
        except CorruptFile:
            least = 0
        flip(path, at)
    assert least < len(truth)


def test_behind_a_damaged_record_header_the_next_records_are_found(chain: Chain) -> None:
    """The kind, the length and the number of the header of a block: only what stands in that block is lost."""
    write_tree(chain.source, {"4/larger": random.Random(4).randbytes(9_000_000)})
    chain.write()
    path, truth = chain.points[0].path, truth_of(chain.source)
    damage_trailer(chain)
    damage(chain, ItemKind.INDEX)
    offset, _ = record_of(chain, ItemKind.BLOCK, which=0)
    with open(path, "rb") as file:
        all_records = len(list(found_records(file.fileno())))
    for field in (0, 5, 8, 10, 13):
        flip(path, offset - RECORD_HEADER_BYTES + field)
        with open(path, "rb") as file:
            assert len(list(found_records(file.fileno()))) >= all_records - 1
        with open_damaged(chain) as point:
            assert isinstance(point, SalvagedPoint) and point.complete
            found = came_out(point, truth)
        assert 0 < len(found) < len(truth) or field == 5
        flip(path, offset - RECORD_HEADER_BYTES + field)


def test_a_part_of_the_disk_that_cannot_be_read_is_passed_over(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(chain.source, {"4/larger": random.Random(4).randbytes(9_000_000)})
    chain.write()
    path, truth = chain.points[0].path, truth_of(chain.source)
    damage_trailer(chain)
    damage(chain, ItemKind.INDEX)
    offset, length = record_of(chain, ItemKind.BLOCK, which=0)
    bad_from, bad_to = offset - 8, offset + length // 2
    reading = os.pread

    def pread(fd: int, count: int, at: int) -> bytes:
        if at < bad_to and at + count > bad_from and os.fstat(fd).st_ino == path.stat().st_ino:
            raise OSError(errno.EIO, "Input/output error")
        return reading(fd, count, at)

    monkeypatch.setattr(os, "pread", pread)
    with open_damaged(chain) as point:
        assert isinstance(point, SalvagedPoint) and point.complete
        assert 0 < len(came_out(point, truth)) < len(truth)


class TestTheMiddleOfAChain:
    @pytest.fixture
    def three(self, chain: Chain) -> tuple[Chain, Truth]:
        chain.write()
        for number in (2, 3):
            write_tree(chain.source, {f"own {number}": os.urandom(300_000), f"1/{number}": b"changed"})
            chain.write()
        return chain, truth_of(chain.source)

    @pytest.mark.parametrize("lost", ["removed", "head", "cut in half"])
    def test_what_does_not_need_a_lost_file_comes_out(
        self, three: tuple[Chain, Truth], tmp_path: Path, lost: str
    ) -> None:
        chain, truth = three
        path = chain.points[1].path
        if lost == "removed":
            path.unlink()
        elif lost == "head":
            for at in (50, BODY_OFFSET // 2 + 50):
                flip(path, at)
        else:
            os.truncate(path, BODY_OFFSET + 1000)
        with open_damaged(chain) as point:
            assert not isinstance(point, SalvagedPoint)
            result = recovered(point, tmp_path / "into")
        assert result.damaged_count > 0
        found = {path for path in truth if (tmp_path / "into" / os.fsdecode(path)).exists()}
        assert inside(chain.source, "own 3") in found and inside(chain.source, "own 2") not in found
        assert len(found) > len(truth) // 2
        for path in found:
            assert (tmp_path / "into" / os.fsdecode(path)).read_bytes() == truth[path]

    @pytest.mark.parametrize("damaged", ["trailer", "index"])
    def test_a_damaged_end_of_another_file_costs_nothing(
        self, three: tuple[Chain, Truth], tmp_path: Path, damaged: str
    ) -> None:
        chain, truth = three
        damage_trailer(chain, 0) if damaged == "trailer" else damage(chain, ItemKind.INDEX, 0)
        with chain.open() as point:
            assert recovered(point, tmp_path / "plainly").damaged_count > 0
        with open_damaged(chain) as point:
            assert came_out(point, truth) == truth.keys()

    @pytest.mark.parametrize("path", ["1", "3", "own 3", ""])
    def test_chosen_paths_come_out_although_a_file_is_missing(
        self, three: tuple[Chain, Truth], tmp_path: Path, path: str
    ) -> None:
        """Counting what is wanted, and the folders above it, met the missing file and ended the restore."""
        chain, truth = three
        chain.points[0].path.unlink()
        chosen = inside(chain.source, path).rstrip(b"/")
        with chain.open() as point:
            restore(RestoreOrder(point=point, into=tmp_path / "into", paths=(chosen,), helpers=0), Recorder())
        for one in truth:
            restored = tmp_path / "into" / os.fsdecode(one)
            if restored.exists():
                assert one.startswith(chosen)
                assert restored.read_bytes() == truth[one]
        if path in ("own 3", ""):
            assert (tmp_path / "into" / os.fsdecode(inside(chain.source, "own 3"))).exists()
