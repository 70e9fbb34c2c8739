"""An unfinished file is written on, by whom and by whom not. Kills of real processes are in test_resume_kills.py."""

import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from repositories.engine import chains, storing, writer
from repositories.engine.backup import CheckpointInterval, Kind, Level, ParentPoint
from repositories.engine.errors import AlreadyExists
from repositories.engine.layout import BODY_OFFSET, ItemKind
from repositories.engine.merging import MergeOrder, merge
from repositories.engine.omissions import Omission
from repositories.engine.records import whole_records
from repositories.engine.settling import settle
from repositories.engine.verify import verify
from tests.engine.lab import (
    NO_RESERVE,
    Chain,
    Recorder,
    facts_in_point,
    facts_on_disk,
    inside,
    later,
    recipient,
    write_tree,
)
from tests.engine.second_reader import SecondReader
from tests.engine.test_format import read_plainly

MIB = 1024 * 1024
OFTEN = CheckpointInterval(bytes=256 * 1024, seconds=3600.0)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint stands between batches: small ones let a small tree have many."""
    monkeypatch.setattr(storing, "_BATCH_ENTRIES", 10)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    dice = random.Random(11)
    write_tree(tmp_path / "source", {f"{i % 7}/{i}": dice.randbytes(9_000 + i) for i in range(240)})
    write_tree(tmp_path / "source", {"3/large": dice.randbytes(3 * MIB), "8/text": b"some text " * 200})
    return tmp_path / "source"


@pytest.fixture
def chain(tmp_path: Path, source: Path) -> Chain:
    return Chain(tmp_path / "repository", source)


class Snapshots:
    """Copies of the unfinished file after every write into it: what a kill -9 there leaves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.taken: list[Path] = []
        self._folder, self._writes = folder, 0
        folder.mkdir()
        whole = writer.FileWriter._write_at

        def write_at(file: writer.FileWriter, offset: int, parts: tuple[bytes, ...]) -> None:
            whole(file, offset, parts)
            self._writes += 1
            self.taken.append(self._folder / f"{self._writes}-{file.path.name}")
            shutil.copy2(file.path, self.taken[-1])

        monkeypatch.setattr(writer.FileWriter, "_write_at", write_at)


def put_back(snapshot: Path, chain: Chain) -> Path:
    """The repository as a kill left it."""
    chain.folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy2(snapshot, chain.folder / snapshot.name.partition("-")[2]))


def interrupt(chain: Chain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **fields) -> Path:
    """An unfinished file with checkpoints of what chain.write() would write now, killed before its end."""
    with monkeypatch.context() as patch:
        snapshots = Snapshots(patch, tmp_path / f"kills {uuid4()}")
        before, names = list(chain.points), set(chain.names())
        chain.write(checkpoints=OFTEN, **fields)
        chain.points = before
        for name in set(chain.names()) - names:
            (chain.folder / name).unlink()
    return put_back(snapshots.taken[-8], chain)


def codes(observer: Recorder) -> list[str]:
    return [code for code, _ in observer.notes]


def check_point(chain: Chain, source: Path) -> None:
    with chain.open() as point:
        found, truth = facts_in_point(point), facts_on_disk(source)
        assert found == {path: fact for path, fact in truth.items() if path in found}
        assert len(found) == len(truth)
        assert verify(point, "full", Recorder()).sound


@pytest.mark.parametrize("passwords", [("correct horse",), ()], ids=["encrypted", "plain"])
def test_a_killed_full_is_written_on(
    chain: Chain, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passwords: tuple[str, ...]
) -> None:
    chain.passwords = passwords
    part = interrupt(chain, monkeypatch, tmp_path)
    observer = Recorder()
    written = chain.write(observer=observer)
    assert codes(observer) == ["resumed"] and written.resumed
    assert part.name == f"1.{written.file_id}.part" and chain.names() == ["1"]
    assert written.read_bytes < 0.15 * written.source_bytes
    assert (written.new_files, written.changed_files, written.unchanged_files) == (242, 0, 0)
    check_point(chain, source)
    reader = SecondReader(written.path, passwords[0] if passwords else None)
    assert len(reader.origins[reader.file][1]) == 2, "epochs"
    truth = read_plainly(source)
    assert {path: fact for path, fact in reader.files().items() if path in truth} == truth
    with chain.open() as point:
        assert sum(run.entries for run in point.root.runs) == 240 + 1 + len(
            list(point.entry(inside(source, "3/large")).chunks)
        )
    copied = source / "9 copy"
    shutil.copytree(source / "0", copied)
    second = chain.write()
    assert second.length < 260_000, "what is in the kept part is found again, and not stored again"
    check_point(chain, source)


def test_a_killed_incremental_is_written_on(
    chain: Chain, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.write()
    dice = random.Random(5)
    for number in range(0, 240, 2):
        (source / f"{number % 7}/{number}").write_bytes(dice.randbytes(11_000))
    write_tree(source, {f"5/new {i}": dice.randbytes(10_000) for i in range(50)})
    (source / "1/1").unlink()
    interrupt(chain, monkeypatch, tmp_path)
    written = chain.write()
    assert written.resumed and written.kind is Kind.INCREMENTAL
    assert written.read_bytes < 0.15 * 120 * 11_000 + 50 * 10_000
    assert (written.new_files, written.changed_files, written.unchanged_files) == (50, 120, 121)
    check_point(chain, source)


def test_a_large_file_is_read_on_in_its_middle(
    chain: Chain, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "2/very large").write_bytes(random.Random(3).randbytes(60 * MIB))
    with open(source / "2/very large", "r+b") as file:
        file.truncate(80 * MIB)
    snapshots = Snapshots(monkeypatch, tmp_path / "kills")
    chain.write(checkpoints=CheckpointInterval(bytes=4 * MIB, seconds=3600.0))
    (chain.folder / "1").unlink()
    chain.points.clear()
    killed = next(path for path in snapshots.taken if path.stat().st_size > 60 * MIB)
    put_back(killed, chain)
    written = chain.write()
    assert written.resumed and written.read_bytes < 25 * MIB
    check_point(chain, source)


def change_sources(_chain: Chain, source: Path) -> dict:
    return {"sources": (os.fsencode(source / "0"), os.fsencode(source / "3"))}


CHANGES: dict[str, tuple[Callable[[Chain, Path], dict], str]] = {
    "sources": (change_sources, "the sources were changed"),
    "exclude": (lambda _c, _s: {"exclude": ("*.tmp",)}, "the patterns were changed"),
    "include": (lambda _c, _s: {"include": ("[0-9]",)}, "the patterns were changed"),
    "level": (lambda _c, _s: {"level": Level.NONE}, "the level was changed"),
    "options": (lambda _c, _s: {"options": frozenset({Omission.SKIP_CACHES})}, "the options were changed"),
    "password": (lambda _c, _s: {"passwords": ("another",)}, "its recipients were changed"),
    "one more": (lambda _c, _s: {"passwords": ("correct horse", "another")}, "its recipients were changed"),
    "disabled": (lambda _c, _s: {"passwords": ()}, "encryption was disabled"),
    "kek": (
        lambda _c, _s: {"passwords": (), "recipients": (replace(recipient(), kek=bytes(32)),)},
        "its recipients were changed",
    ),
    "version": (
        lambda _c, _s: {"passwords": (), "recipients": (replace(recipient(), version=2),)},
        "its recipients were changed",
    ),
    "old": (lambda _c, _s: {"clock": lambda: time.time_ns() + 25 * 3600 * 10**9}, "older than 24 hours"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_was_begun_under_other_settings_is_not_adopted(
    chain: Chain, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    part = interrupt(chain, monkeypatch, tmp_path)
    kept = part.read_bytes()[BODY_OFFSET : BODY_OFFSET + 50_000]
    change, why = CHANGES[what]
    observer = Recorder()
    written = chain.write(observer=observer, **change(chain, source))
    assert codes(observer) == ["leftover-removed"] and why in observer.notes[0][1], observer.notes
    assert not written.resumed and written.read_bytes == written.source_bytes
    assert chain.names() == ["1"]
    assert kept not in written.path.read_bytes()


def test_what_was_begun_plain_is_not_adopted_when_encryption_was_enabled(
    chain: Chain, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(chain, monkeypatch, tmp_path, passwords=())
    (source / "8/text").write_bytes(b"text that is secret now " * 9_000)
    observer = Recorder()
    written = chain.write(observer=observer)
    assert not written.resumed and "encryption was enabled" in observer.notes[0][1]
    check_point(chain, source)


def test_another_parent_or_kind_is_not_adopted(
    chain: Chain, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.write()
    write_tree(source, {f"new/{i}": os.urandom(9_000) for i in range(150)})
    part = interrupt(chain, monkeypatch, tmp_path)
    saved = part.read_bytes()
    observer = Recorder()
    chain.write(observer=observer, kind=Kind.FULL)
    assert "another kind of point" in observer.notes[0][1]
    part.write_bytes(saved)
    observer = Recorder()
    written = chain.write(observer=observer)
    assert "not the next one any more" in observer.notes[0][1] and written.sequence == 3
    check_point(chain, source)


@pytest.mark.parametrize("where", ["head", "segment", "first checkpoint", "last checkpoint", "cut off"])
def test_damage_of_an_unfinished_file_costs_what_it_touches(
    chain: Chain, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    part = interrupt(chain, monkeypatch, tmp_path)
    with open(part, "r+b") as file:
        records = list(whole_records(file.fileno()))
        checkpoints = [record for record in records if record.kind is ItemKind.CHECKPOINT]
        assert len(checkpoints) > 3
        at = {
            "head": 100,
            "segment": next((r.offset for r in records if r.kind is ItemKind.IDENTITIES), 0) + 20,
            "first checkpoint": checkpoints[0].offset + 20,
            "last checkpoint": checkpoints[-1].offset + 20,
            "cut off": checkpoints[-1].end - 1,
        }[where]
        byte = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes((byte[0] ^ 1,)), at)
        if where == "cut off":
            file.truncate(at)
    written = chain.write()
    assert written.resumed == (where in ("last checkpoint", "cut off"))
    assert chain.names() == ["1"]
    check_point(chain, source)


def test_a_file_without_a_checkpoint_is_removed(
    chain: Chain, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots = Snapshots(monkeypatch, tmp_path / "kills")
    chain.write()
    (chain.folder / "1").unlink()
    chain.points.clear()
    for killed in (snapshots.taken[0], snapshots.taken[2], snapshots.taken[-1]):
        put_back(killed, chain)
        assert len(chains.leftovers(chain.root)) == 1
        observer = Recorder()
        assert not chain.write(observer=observer).resumed
        assert codes(observer) == ["leftover-removed"]
        check_point(chain, source)
        (chain.folder / "1").unlink()
        chain.points.clear()


def test_adoptable_files_are_no_leftovers_for_a_day(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = interrupt(chain, monkeypatch, tmp_path)
    assert chains.remove_leftovers(chain.root) == [] and chains.adoptable_files(chain.folder) == [part]
    assert chains.leftovers(chain.root, adoptable_too=True) == [part]
    tomorrow = part.stat().st_mtime_ns + chains.ADOPTABLE_NS
    assert chains.leftovers(chain.root, lambda: tomorrow - 1) == []
    assert chains.leftovers(chain.root, lambda: tomorrow) == [part]
    assert chains.adoptable_files(chain.folder, lambda: tomorrow) == []
    (chain.folder / "1").write_bytes(b"the point is there")
    assert chains.remove_leftovers(chain.root) == [part]


def test_a_file_that_a_living_writer_holds_stays_its_own(chain: Chain, source: Path) -> None:
    """A stopped writer that wakes finds its file as it left it; of both one seals."""

    class Overtaken(Recorder):
        def before_seal(self) -> None:
            (held,) = chain.folder.glob("*.part")
            before = held.read_bytes()
            observer = Recorder()
            other = chain.write(observer=observer, sequence=1, kind=Kind.FULL, parent=None)
            assert codes(observer) == ["unfinished-held"] and not other.resumed
            assert held.read_bytes() == before

    with pytest.raises(AlreadyExists):
        chain.write(observer=Overtaken(), checkpoints=OFTEN)
    assert chain.names() == ["1"] and len(chain.points) == 1
    check_point(chain, source)


def test_the_youngest_of_several_is_written_on(
    chain: Chain, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = interrupt(chain, monkeypatch, tmp_path)
    kept = first.read_bytes()
    first.unlink()
    second = interrupt(chain, monkeypatch, tmp_path)
    first.write_bytes(kept)
    os.utime(first, ns=(0, second.stat().st_mtime_ns - 10**9))
    observer = Recorder()
    written = chain.write(observer=observer)
    assert sorted(codes(observer)) == ["leftover-removed", "resumed"]
    assert str(written.file_id) in second.name and chain.names() == ["1"]


def test_resumed_points_are_merged_and_a_merge_leaves_the_unfinished_file(
    chain: Chain, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of several epochs are copied; what an unfinished file shares with a replaced one is found again."""
    dice = random.Random(17)
    for number in range(4):
        write_tree(source, {f"more {number}/{i}": dice.randbytes(8_000) for i in range(120)})
        part = interrupt(chain, monkeypatch, tmp_path)
        if number < 3:
            assert chain.write().resumed
    newest = chain.points[-1]
    order = MergeOrder(
        root=chain.root,
        chain_id=chain.chain_id,
        file_id=uuid4(),
        sequence=2,
        newest=ParentPoint(newest.path, newest.file_key),
        recipients=(recipient(),),
        reserve=NO_RESERVE,
        clock=later,
    )
    merged = merge(order, Recorder())
    settle(merged.path, ParentPoint(newest.path, newest.file_key))
    assert part.exists() and chain.names() == ["2", "3", part.name]
    written = chain.write()
    assert written.resumed and written.new_files == 120
    check_point(chain, source)
    reader = SecondReader(written.path, "correct horse")
    truth = read_plainly(source)
    assert {path: fact for path, fact in reader.files().items() if path in truth} == truth


def test_a_resumed_incremental_that_has_nothing_to_store_is_sealed(
    chain: Chain, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything new was stored before the last checkpoint: the identities are adopted, and none is looked up."""
    chain.write()
    write_tree(source, {f"0/new {number}": b"new %d" % number for number in range(50)})
    with monkeypatch.context() as patch:
        snapshots = Snapshots(patch, tmp_path / "kills")
        chain.write(checkpoints=CheckpointInterval(bytes=1, seconds=3600.0)).path.unlink()
        chain.points.pop()
    last = next(path for path in reversed(snapshots.taken) if ends_with_a_checkpoint(path))
    put_back(last, chain)
    written = chain.write()
    assert written.resumed and written.read_bytes == 0
    check_point(chain, source)


def ends_with_a_checkpoint(path: Path) -> bool:
    with path.open("rb") as file:
        records = list(whole_records(file.fileno()))
    return bool(records) and records[-1].kind is ItemKind.CHECKPOINT
