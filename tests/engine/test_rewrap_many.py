"""Slots of a whole chain are exchanged: what is done already is passed over, what cannot be done is a result."""

import errno
import fcntl
import hashlib
import os
from itertools import count
from pathlib import Path

import pytest

from keys.crypto_recipients import RecoveryRecipient
from keys.crypto_recovery import new_private
from repositories.engine.errors import AnotherWriter, CannotUnwrap, CorruptFile, MissingFile
from repositories.engine.expectation import Expected
from repositories.engine.head import Head
from repositories.engine.layout import BODY_OFFSET
from repositories.engine.reader import Kek, inspect, open_point
from repositories.engine.rewrap import rewrap
from repositories.engine.rewrap_many import Exchange, KnownFile, known_head, obstacle, obstacle_of, rewrap_many
from tests.engine.lab import Chain, recipient, write_tree

OLD, NEW = recipient("old"), recipient("new")
REPLACED = Exchange((NEW,), ((OLD.record, OLD.version),))
POINTS = 5


def never() -> bool:
    return False


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    write_tree(tmp_path / "source", {"a": b"content of a" * 20})
    chain = Chain(tmp_path / "repository", tmp_path / "source", ("old",))
    for _ in range(POINTS):
        chain.write()
    return chain


@pytest.fixture
def files(chain: Chain) -> list[KnownFile]:
    return [
        KnownFile(point.path, Expected(point.file_id, point.seal_hash, point.head_generation), point.file_key or b"")
        for point in chain.points
    ]


def bodies(chain: Chain) -> list[bytes]:
    return [hashlib.sha256(point.path.read_bytes()[BODY_OFFSET:]).digest() for point in chain.points]


def slots_of(head: Head) -> list[tuple[object, int]]:
    return [(slot.record, slot.version) for slot in head.slots]


def test_every_file_is_rewrapped_and_no_body_touched(chain: Chain, files: list[KnownFile]) -> None:
    before = bodies(chain)
    done = list(rewrap_many(files, REPLACED, never))
    assert [result.file_id for result in done] == [point.file_id for point in chain.points]
    assert all(result.written and result.problem is None for result in done)
    assert [slots_of(result.head) for result in done if result.head] == [[(NEW.record, NEW.version)]] * POINTS
    assert bodies(chain) == before
    for point in chain.points:
        open_point(point.path, Kek(NEW.kek)).close()
        with pytest.raises(CannotUnwrap):
            open_point(point.path, Kek(OLD.kek))


def test_done_again_nothing_is_written(chain: Chain, files: list[KnownFile]) -> None:
    list(rewrap_many(files[:2], REPLACED, never))
    written = [result.written for result in rewrap_many(files, REPLACED, never)]
    assert written == [False, False, True, True, True]
    times = [point.path.stat().st_mtime_ns for point in chain.points]
    assert not any(result.written for result in rewrap_many(files, REPLACED, never))
    assert [point.path.stat().st_mtime_ns for point in chain.points] == times
    assert [inspect(point.path).generation for point in chain.points] == [2] * POINTS


def test_a_torn_exchange_is_healed_although_the_slots_are_as_wanted(chain: Chain, files: list[KnownFile]) -> None:
    path = files[0].path
    before = path.read_bytes()
    list(rewrap_many(files[:1], REPLACED, never))
    with path.open("r+b") as file:  # copy A as it was: the crash came between the two copies
        file.write(before[:4096])
    assert inspect(path).copies_differ
    [result] = rewrap_many(files[:1], REPLACED, never)
    assert result.written and result.head and not result.head.copies_differ and result.head.generation == 3


def test_a_recovery_key_is_added_beside_what_is_there(chain: Chain, files: list[KnownFile]) -> None:
    key = RecoveryRecipient(chain.chain_id, new_private().public())
    heads = [result.head for result in rewrap_many(files, Exchange((key,)), never)]
    assert all(head and slots_of(head) == [(OLD.record, OLD.version), (key.record, 1)] for head in heads)
    assert not any(result.written for result in rewrap_many(files, Exchange((key,)), never))


def test_the_newest_file_is_the_last_and_a_stop_leaves_it(chain: Chain, files: list[KnownFile]) -> None:
    asked = count()
    done = list(rewrap_many(files, REPLACED, lambda: next(asked) >= 2))
    assert [result.file_id for result in done] == [file.expected.file_id for file in files[:2]]
    assert [inspect(file.path).generation for file in files] == [2, 2, 1, 1, 1]


def test_what_cannot_be_done_is_named_and_the_others_are_done(chain: Chain, files: list[KnownFile]) -> None:
    files[0].path.unlink()
    old_head = files[1].path.read_bytes()[:BODY_OFFSET]
    rewrap(files[1].path, Kek(OLD.kek), add=(recipient("other"),))
    files[1] = KnownFile(files[1].path, Expected(files[1].expected.file_id, b"", 2), files[1].file_key)
    with files[1].path.open("r+b") as file:
        file.write(old_head)
    files[2] = KnownFile(files[2].path, files[2].expected, bytes(32))
    with files[3].path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = list(rewrap_many(files, REPLACED, never))
    problems = [type(result.problem) for result in done]
    assert problems == [MissingFile, CorruptFile, CannotUnwrap, AnotherWriter, type(None)]
    assert "generation 1, and 2 was seen before" in str(done[1].problem)
    assert done[4].written
    assert inspect(files[1].path).generation == 1, "an older head is never gone on from"


def test_another_chains_file_in_the_place_is_refused(files: list[KnownFile], tmp_path: Path) -> None:
    files[0].path.write_bytes(files[1].path.read_bytes())
    with pytest.raises(CannotUnwrap):
        known_head(files[0])


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EROFS, "read-only-file-system"),
        (errno.EACCES, "not-permitted"),
        (errno.ENOENT, "missing"),
        (errno.EIO, "unwritable"),
        (errno.EPERM, "not-permitted"),
    ],
)
def test_an_obstacle_has_a_name(
    number: int, said: str, files: list[KnownFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refusing(path: Path, flags: int, *rest: int, **more: int) -> int:
        if flags & os.O_RDWR:
            raise OSError(number, os.strerror(number))
        return real(path, flags, *rest, **more)

    assert obstacle(files[0].path) == ""
    monkeypatch.setattr(os, "open", refusing)
    assert obstacle(files[0].path) == said
    [result] = rewrap_many(files[:1], REPLACED, never)
    assert result.problem and obstacle_of(result.problem, files[0].path) in (said, "missing-file")


@pytest.mark.parametrize(("letter", "said"), [("a", "append-only"), ("i", "immutable")])
def test_attributes_of_the_file_system_are_named(
    letter: str, said: str, files: list[KnownFile], tmp_path: Path
) -> None:
    """Needs chattr's rights; where nobody may set the attribute there is nothing that it could stand for."""
    path = files[0].path
    if os.system(f"chattr +{letter} {path} 2>/dev/null"):
        pytest.skip("this file system, or this user, cannot set the attribute")
    try:
        assert obstacle(path) == said
        [result] = rewrap_many(files[:1], REPLACED, never)
        assert result.problem and obstacle_of(result.problem, path) == said
    finally:
        os.system(f"chattr -{letter} {path}")
