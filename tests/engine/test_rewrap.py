"""Key slots are exchanged, a torn exchange still opens, and nothing of the body is touched."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from repositories.engine.errors import (
    AnotherWriter,
    BadOrder,
    CannotUnwrap,
    CorruptFile,
    MissingFile,
    PlainRefused,
    RepositoryUnwritable,
)
from repositories.engine.head import MAX_SLOTS, Head
from repositories.engine.layout import BODY_OFFSET, HEAD_B_OFFSET
from repositories.engine.reader import FileKey, Kek, inspect, open_point
from repositories.engine.rewrap import RecordVersion, rewrap
from repositories.engine.verify import verify
from tests.engine.lab import Chain, Recorder, facts_in_point, facts_on_disk, recipient, write_tree

HEADS = BODY_OFFSET


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_tree(tmp_path / "source", {"a": b"content of a" * 20, "folder/b": b"content of b" * 20})
    return tmp_path / "source"


@pytest.fixture
def chain(tmp_path: Path, source: Path) -> Chain:
    chain = Chain(tmp_path / "repository", source, ("old",))
    chain.write()
    return chain


OLD, NEW, OTHER = recipient("old"), recipient("new"), recipient("other")


def place_of(password: str) -> RecordVersion:
    return recipient(password).record, recipient(password).version


def opens(path: Path, password: str) -> bool:
    try:
        open_point(path, Kek(recipient(password).kek)).close()
    except CannotUnwrap:
        return False
    return True


def kinds_of_damage(path: Path, password: str) -> list[str]:
    with open_point(path, Kek(recipient(password).kek)) as point:
        return [damage.part for damage in verify(point, "full", Recorder()).damages]


def slots_of(head: Head) -> list[RecordVersion]:
    return [(slot.record, slot.version) for slot in head.slots]


def test_a_slot_is_replaced(chain: Chain, source: Path) -> None:
    path = chain.points[0].path
    before = path.read_bytes()
    head = rewrap(path, Kek(OLD.kek), add=(NEW,), remove=(place_of("old"),))
    assert (head.generation, slots_of(head), head.copies_differ) == (2, [place_of("new")], False)
    assert inspect(path) == head
    assert opens(path, "new") and not opens(path, "old")
    assert path.read_bytes()[HEADS:] == before[HEADS:]
    assert kinds_of_damage(path, "new") == []
    with chain.open(secret=Kek(NEW.kek)) as point:
        assert facts_in_point(point) == facts_on_disk(source)
        assert point.seal_hash == chain.points[0].seal_hash


def test_slots_are_added_and_taken_away_step_by_step(chain: Chain) -> None:
    path = chain.points[0].path
    assert slots_of(rewrap(path, Kek(OLD.kek), add=(NEW, OTHER))) == [place_of(p) for p in ("old", "new", "other")]
    assert all(opens(path, password) for password in ("old", "new", "other"))
    head = rewrap(path, Kek(OTHER.kek), remove=(place_of("old"), place_of("new")))
    assert slots_of(head) == [place_of("other")] and head.generation == 3
    assert [opens(path, password) for password in ("old", "new", "other")] == [False, False, True]
    assert kinds_of_damage(path, "other") == [], "the shorter head leaves nothing of the longer one behind"


def test_the_file_key_is_enough_and_the_chain_goes_on(chain: Chain, source: Path) -> None:
    first = chain.points[0]
    assert first.file_key is not None
    rewrap(first.path, FileKey(first.file_key), add=(NEW,), remove=(place_of("old"),))
    second = chain.write(passwords=("new",))
    assert second.file_key is not None
    rewrap(second.path, Kek(NEW.kek), add=(OTHER,), remove=(place_of("new"),))
    with chain.open(secret=Kek(OTHER.kek)) as point:
        assert facts_in_point(point) == facts_on_disk(source)
        assert verify(point, "full", Recorder()).sound


def test_a_slot_of_the_same_version_is_wrapped_anew_and_a_missing_one_is_passed_over(chain: Chain) -> None:
    path = chain.points[0].path
    before = inspect(path)
    head = rewrap(path, Kek(OLD.kek), add=(OLD,), remove=((uuid4(), 1),))
    assert slots_of(head) == slots_of(before) and head.slots[0].raw != before.slots[0].raw


def test_nothing_to_do_writes_nothing(chain: Chain) -> None:
    path = chain.points[0].path
    before = path.read_bytes()
    assert rewrap(path, Kek(OLD.kek)).generation == 1
    assert rewrap(path, Kek(OLD.kek), remove=((uuid4(), 1),)).generation == 1
    assert path.read_bytes() == before


def test_what_is_refused_changes_nothing(chain: Chain, tmp_path: Path, source: Path) -> None:
    path = chain.points[0].path
    plain = Chain(tmp_path / "repository", source, ()).write().path
    before = path.read_bytes()
    many = tuple(type(OLD)(uuid4(), 1, OLD.salt, OLD.parameters, OLD.kek, OLD.hint) for _ in range(MAX_SLOTS))
    refused: list[tuple[type[Exception], Callable[[], Head]]] = [
        (BadOrder, lambda: rewrap(path, Kek(OLD.kek), remove=(place_of("old"),))),
        (BadOrder, lambda: rewrap(path, Kek(OLD.kek), add=(OLD,), remove=(place_of("old"),))),
        (BadOrder, lambda: rewrap(path, Kek(OLD.kek), add=many)),
        (CannotUnwrap, lambda: rewrap(path, Kek(NEW.kek), add=(NEW,))),
        (CannotUnwrap, lambda: rewrap(path, FileKey(bytes(32)), add=(NEW,))),
        (PlainRefused, lambda: rewrap(plain, Kek(OLD.kek), add=(NEW,))),
        (MissingFile, lambda: rewrap(path.with_name("9"), Kek(OLD.kek), add=(NEW,))),
    ]
    for error, attempt in refused:
        with pytest.raises(error):
            attempt()
    with open(path, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(AnotherWriter):
            rewrap(path, Kek(OLD.kek), add=(NEW,))
    assert path.read_bytes() == before
    assert rewrap(path, Kek(OLD.kek), add=many[: MAX_SLOTS - 1]).slots
    assert kinds_of_damage(path, "old") == []


class TornWrites:
    """os.pwrite that lets through a number of bytes, then fails for good."""

    def __init__(self, allowed: int) -> None:
        self.left = allowed
        self.pwrite = os.pwrite

    def __call__(self, fd: int, data: bytes, offset: int) -> int:
        part = data[: self.left]
        if part:
            self.pwrite(fd, part, offset)
            self.left -= len(part)
        if len(part) < len(data):
            raise OSError(errno.EIO, "torn")
        return len(data)


def exchange(path: Path, allowed: int) -> bool:
    """Old slot against new slot, with the writes torn after some bytes; whether it went through."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", TornWrites(allowed))
        try:
            secret = Kek(OLD.kek) if opens(path, "old") else Kek(NEW.kek)
            rewrap(path, secret, add=(NEW,), remove=(place_of("old"),))
        except RepositoryUnwritable:
            return False
    return True


@pytest.mark.parametrize(
    ("first_tear", "writes", "step"),
    [(None, (0, 4096), 1), ("old", (0, 98_304), 9), ("new", (0, 98_304, 98_304 + 4096), 9)],
    ids=["alike", "torn-in-b", "torn-in-a"],
)
def test_a_rewrap_torn_at_any_byte_still_opens(
    chain: Chain, first_tear: str | None, writes: tuple[int, ...], step: int
) -> None:
    """Also when an earlier rewrap was torn, in copy B (the old secret opens A) or in copy A (the new one opens B).

    `writes` says after how many bytes each write begins: a copy that is not whole is written over to its full length.
    """
    path = chain.points[0].path
    if first_tear:
        assert not exchange(path, 100 if first_tear == "old" else 4096 + 100)
        assert opens(path, first_tear)
    start = path.read_bytes()[:HEADS]
    seen = set()
    with open(path, "r+b", buffering=0) as file:
        for number, allowed in enumerate([*torn_lengths(writes)[::step], 1 << 30]):
            os.pwrite(file.fileno(), start, 0)
            finished = exchange(path, allowed)
            old, new = opens(path, "old"), opens(path, "new")
            assert old or new, f"torn after {allowed} bytes, nothing opens"
            assert inspect(path).copies_differ is not alike(file.fileno())
            seen.add((finished, old, new))
            if number % 50 == 0:
                assert kinds_of_damage(path, "old" if old else "new") == ([] if alike(file.fileno()) else ["head"])
                assert exchange(path, 1 << 30), "done again it is finished"
                assert opens(path, "new") and not opens(path, "old") and kinds_of_damage(path, "new") == []
    assert (True, False, True) in seen and (True, True, True) not in seen
    assert {(False, True, False), (False, False, True)} & seen


def torn_lengths(writes: tuple[int, ...]) -> list[int]:
    """Every byte that means something of each write, and some of the padding."""
    used = 96 + 304 + 64
    return [start + at for start in writes for at in (*range(used + 2), 1000, 4095)]


def alike(fd: int) -> bool:
    """A copy that was cut behind its last byte is whole already."""
    return os.pread(fd, HEAD_B_OFFSET, 0) == os.pread(fd, HEAD_B_OFFSET, HEAD_B_OFFSET)


def test_the_order_is_b_fsync_a_fsync(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[object] = []
    pwrite, fsync = os.pwrite, os.fsync
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: steps.append(offset) or pwrite(fd, data, offset))
    monkeypatch.setattr(os, "fsync", lambda fd: steps.append("fsync") or fsync(fd))
    rewrap(chain.points[0].path, Kek(OLD.kek), add=(NEW,))
    assert steps == [HEAD_B_OFFSET, "fsync", 0, "fsync"]


def test_a_failing_fsync_is_reported_and_both_secrets_or_one_open(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = chain.points[0].path
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(RepositoryUnwritable):
            rewrap(path, Kek(OLD.kek), add=(NEW,), remove=(place_of("old"),))
    assert opens(path, "old")
    rewrap(path, Kek(OLD.kek), add=(NEW,), remove=(place_of("old"),))
    assert opens(path, "new") and not opens(path, "old")


def test_an_old_secret_does_not_take_back_a_torn_rewrap(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy B has the new slots already, copy A is untouched: the old secret opens A, yet B is what goes on."""
    path = chain.points[0].path
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", TornWrites(4096))
        with pytest.raises(RepositoryUnwritable):
            rewrap(path, Kek(OLD.kek), add=(NEW,), remove=(place_of("old"),))
    assert opens(path, "old") and opens(path, "new")
    head = rewrap(path, Kek(OLD.kek), add=(OTHER,))
    assert slots_of(head) == [place_of("new"), place_of("other")] and head.generation == 3


def test_both_copies_damaged_is_said(chain: Chain) -> None:
    path = chain.points[0].path
    with open(path, "r+b") as file:
        for offset in (20, HEAD_B_OFFSET + 20):
            file.seek(offset)
            file.write(b"\xff")
    with pytest.raises(CorruptFile):
        rewrap(path, Kek(OLD.kek), add=(NEW,))
