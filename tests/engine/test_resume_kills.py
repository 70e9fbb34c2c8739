"""Processes that are killed or stopped in the middle of a backup: what the next one goes on with, and what it may not.

Every process here is a real one, killed by a real kill -9 or stopped by a real SIGSTOP.
"""

import hashlib
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from repositories.engine import chains, sealing, storing, writer
from repositories.engine.backup import CheckpointInterval, Kind, Level, Written
from repositories.engine.errors import AlreadyExists, RepositoryUnwritable
from repositories.engine.verify import verify
from tests import soak
from tests.engine.children import Child, Killed, in_child
from tests.engine.disk_calls import Fault, killed, killed_in_the_middle, stopped, watched
from tests.engine.lab import Chain, Recorder, facts_in_point, facts_on_disk, inside, write_tree

MIB = 1024 * 1024
OFTEN = CheckpointInterval(bytes=100_000, seconds=3600.0)
BOUND = 200
IN_ITS_MIDDLE = 24  # a call of a full behind its first checkpoints


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint stands between batches: small ones let a small tree have many."""
    monkeypatch.setattr(storing, "_BATCH_ENTRIES", 10)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    dice = random.Random(11)
    write_tree(tmp_path / "source", {f"{i % 7}/{i}": dice.randbytes(3_000 + i) for i in range(160)})
    write_tree(tmp_path / "source", {"3/large": dice.randbytes(MIB), "8/text": b"some text " * 200})
    return tmp_path / "source"


@pytest.fixture
def chain(tmp_path: Path, source: Path) -> Chain:
    return Chain(tmp_path / "repository", source)


def write_in_child(chain: Chain, at: int | None = None, fault: Fault = killed, **fields: object) -> Written | None:
    """What was written by a process of its own; None if it was killed."""

    fields.setdefault("checkpoints", OFTEN)

    def work() -> Written:
        if at is None:
            return chain.write(**fields)
        with watched(at, fault):
            return chain.write(**fields)

    try:
        written = in_child(work)
    except Killed:
        return None
    chain.points.append(written)
    return written


def check_newest(chain: Chain, source: Path) -> None:
    with chain.open() as point:
        assert facts_in_point(point, inside(source)) == facts_on_disk(source)
        assert verify(point, "full", Recorder()).sound


def codes(observer: Recorder) -> list[str]:
    return [code for code, _ in observer.notes]


# Killed


def test_an_incremental_killed_at_every_call_comes_to_the_same_counts(chain: Chain, source: Path) -> None:
    """Also behind its last block, when all that is new is in the unfinished file and nothing needs to be looked up."""
    chain.write()
    dice = random.Random(5)
    write_tree(source, {f"{number % 7}/{number}": dice.randbytes(4_000) for number in range(0, 160, 8)})
    write_tree(source, {f"5/new {number}": dice.randbytes(4_000) for number in range(30)})
    (source / "1/1").unlink()
    kept, points = chain.root.with_name("as it was"), list(chain.points)
    shutil.copytree(chain.folder, kept)
    resumed = 0
    for at in range(BOUND):
        if write_in_child(chain, at, checkpoints=CheckpointInterval(bytes=1)) is not None:
            break
        if "2" not in chain.names():
            written = write_in_child(chain)
            assert written is not None and written.kind is Kind.INCREMENTAL
            assert (written.new_files, written.changed_files, written.unchanged_files) == (30, 20, 141)
            resumed += written.resumed
            if written.resumed or at < 3:
                check_newest(chain, source)
            assert chain.names() == ["1", "2"]
        shutil.rmtree(chain.folder)
        shutil.copytree(kept, chain.folder)
        chain.points[:] = points
    assert 10 < resumed < at < BOUND - 1, (resumed, at)


def test_killed_at_nine_tenths_less_than_a_seventh_is_read_again(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 MiB with a checkpoint every 2 MiB: read again are the tenth that was not written, 2 MiB, and a batch.

    With those of every day, every 256 MiB or 20 seconds, that holds for whatever takes longer than seven minutes or is
    larger than 6 GiB: the last 256 MiB, and the blocks that are being sealed, are less than a twentieth of it.
    """
    chain.source = tmp_path / "larger"
    dice, total = random.Random(8), 64 * MIB
    write_tree(chain.source, {f"{i % 8}/{i}": dice.randbytes(96 * 1024) for i in range(512)})
    write_tree(chain.source, {"3/large": dice.randbytes(16 * MIB)})
    interval = CheckpointInterval(bytes=2 * MIB, seconds=3600.0)
    whole = writer.FileWriter._write_at

    def write_at(file: writer.FileWriter, offset: int, parts: tuple[bytes, ...]) -> None:
        if offset > 0.9 * total:
            os.kill(os.getpid(), 9)
        whole(file, offset, parts)

    def killed_late() -> None:
        monkeypatch.setattr(writer.FileWriter, "_write_at", write_at)
        chain.write(level=Level.NONE, checkpoints=interval)

    with pytest.raises(Killed):
        in_child(killed_late)
    observer = Recorder()
    written = chain.write(observer=observer, level=Level.NONE, checkpoints=interval)
    assert written.resumed and codes(observer) == ["resumed"]
    assert written.source_bytes == total and 0.05 * total < written.read_bytes < 0.15 * total
    check_newest(chain, chain.source)


class Seals:
    """Everything that is sealed by this process and its children: key and nonce, and a digest of what, in a file."""

    RECORD = 32 + 12 + 32

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path, cipher = path, sealing.AESGCM
        told = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        class Recording:
            def __init__(self, key: bytes) -> None:
                self._key, self._cipher = hashlib.sha256(key).digest(), cipher(key)
                self.decrypt = self._cipher.decrypt

            def encrypt(self, nonce: bytes, payload: bytes, aad: bytes) -> bytes:
                os.write(told, self._key + nonce + hashlib.sha256(aad + payload).digest())
                return self._cipher.encrypt(nonce, payload, aad)

        monkeypatch.setattr(sealing, "AESGCM", Recording)

    def check(self) -> int:
        """Returns how many there are; none with a key and a nonce that another one has."""
        raw = self._path.read_bytes()
        records = [raw[at : at + self.RECORD] for at in range(0, len(raw), self.RECORD)]
        plain: dict[bytes, bytes] = {}
        for record in records:
            assert plain.setdefault(record[:44], record[44:]) == record[44:], "a key and nonce sealed two plaintexts"
        assert len(plain) == len(records), "a sealed buffer was sealed again"
        return len(records)


@pytest.mark.parametrize(
    "rounds, branches", [(3, 3), pytest.param(6, 12, marks=pytest.mark.soak)], ids=["some", "many"]
)
def test_whatever_was_killed_is_written_on_and_no_nonce_is_repeated(
    chain: Chain, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int, branches: int
) -> None:
    """The repository is copied at every kill; from each copy several go on with sources that differ, and are killed."""
    seals = Seals(tmp_path / "seals", monkeypatch)
    dice = random.Random(23 if branches < 10 else soak.seed())
    states: list[Path | None] = [None]
    resumed = ended = 0

    def go_on(state: Path | None, at: int | None) -> None:
        nonlocal resumed, ended
        shutil.rmtree(chain.root, ignore_errors=True)
        if state is not None:
            shutil.copytree(state, chain.root)
        chain.points.clear()
        write_tree(source, {f"{dice.randrange(7)}/{dice.randrange(160)}": dice.randbytes(dice.randrange(20_000))})
        write_tree(source, {f"{dice.randrange(10)} new/file": dice.randbytes(dice.randrange(200_000))})
        written = write_in_child(chain, at, dice.choice((killed, killed_in_the_middle)))
        if written is not None:
            ended, resumed = ended + 1, resumed + written.resumed
            check_newest(chain, source)
            assert chain.names() == ["1"]

    for _ in range(rounds):
        found: list[Path] = []
        for state in dice.sample(states, min(len(states), branches)):
            for _ in range(branches):
                go_on(state, dice.randrange(8, 60))
                if not chain.points and "1" not in chain.names():
                    found.append(tmp_path / f"state {len(os.listdir(tmp_path))}")
                    shutil.copytree(chain.root, found[-1])
        states = [*found]
        for state in dice.sample(states, min(len(states), branches)):
            go_on(state, None)
    assert resumed >= branches and ended >= rounds
    assert seals.check() > 500


# Stopped


def stopped_child(chain: Chain, at: int | str) -> Child:
    def work() -> Written:
        with watched(at, stopped):
            return chain.write(checkpoints=OFTEN)

    child = Child(work)
    child.wait_until_stopped()
    return child


@pytest.mark.parametrize("at", [IN_ITS_MIDDLE, "link"])
def test_a_stopped_writer_that_wakes_finds_its_number_sealed(chain: Chain, source: Path, at: int | str) -> None:
    with stopped_child(chain, at) as child:
        (part,) = chain.folder.glob("*.part")
        before, observer = part.read_bytes(), Recorder()
        assert chains.remove_leftovers(chain.root, adoptable_too=True) == []
        assert chains.adoptable_files(chain.folder) == []
        written = chain.write(observer=observer)
        assert codes(observer) == ["unfinished-held"] and not written.resumed
        assert part.read_bytes() == before
        sealed = written.path.read_bytes()
        child.go_on()
        with pytest.raises(AlreadyExists):
            child.wait()
    assert chain.names() == ["1"] and written.path.read_bytes() == sealed
    check_newest(chain, source)


def exchange(part: Path) -> None:
    """A copy with the same name, which nobody holds: what a repository that was copied back has."""
    copy = part.with_name("copy")
    shutil.copy2(part, copy)
    os.replace(copy, part)


@pytest.mark.parametrize("meanwhile", [os.unlink, exchange], ids=["removed", "exchanged"])
@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "being written"])
def test_a_stopped_writer_that_wakes_publishes_nothing_but_its_own_file(
    chain: Chain, source: Path, meanwhile: Callable[[Path], None], is_sealed: bool
) -> None:
    """Its file was taken away from under it, or another session goes on with a copy of it under the same name."""
    with stopped_child(chain, IN_ITS_MIDDLE) as child:
        (part,) = chain.folder.glob("*.part")
        meanwhile(part)
        if is_sealed:
            assert chain.write().resumed == (meanwhile is exchange)
            child.go_on()
            with pytest.raises((AlreadyExists, RepositoryUnwritable)):
                child.wait()
        else:
            with stopped_child(chain, 4) as second:
                (held,) = chain.folder.glob("*.part")
                assert (held == part) == (meanwhile is exchange)
                before = held.read_bytes()
                child.go_on()
                with pytest.raises(RepositoryUnwritable, match="removed or exchanged"):
                    child.wait()
                assert held.read_bytes() == before and chain.names() == [held.name]
                second.go_on()
                chain.points.append(second.wait())
    assert chain.names() == ["1"]
    check_newest(chain, source)
