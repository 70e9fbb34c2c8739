"""Taking over a chain that nobody here knows: what opens, what belongs together, and what is set apart, and why."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from keys.crypto_password import password_bytes
from repositories.engine.backup import Kind, ParentPoint
from repositories.engine.chains import scan_chain
from repositories.engine.errors import Cancelled
from repositories.engine.expectation import Expected
from repositories.engine.merging import MergeOrder, merge
from repositories.engine.settling import settle
from repositories.engine.takeover import Judged, TypedPassword, take_over
from tests.engine.lab import Chain, Recorder, recipient

OLD, NEW = "correct horse", "another horse"


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"content\n")
    return Chain(tmp_path / "repository", source, passwords=(OLD,))


def opened_with(chain: Chain, password: str = OLD, known: tuple[Expected, ...] = ()) -> list[Judged]:
    return take_over(scan_chain(chain.folder), TypedPassword(password_bytes(password)).of, known)


def standings(judged: list[Judged]) -> list[str]:
    return [one.standing.value for one in judged]


def elsewhere(chain: Chain, **fields: object) -> Chain:
    """The same chain, as somebody with a copy of it goes on with it."""
    shutil.copytree(chain.root, chain.root.with_name("copy"), dirs_exist_ok=True)
    copied = replace(chain, root=chain.root.with_name("copy"), points=list(chain.points), **fields)
    copied.points = [replace(point, path=copied.folder / point.path.name) for point in chain.points]
    return copied


def test_the_newest_password_opens_what_an_older_one_was_typed_for(chain: Chain) -> None:
    chain.write()
    chain.write()
    chain.write(passwords=(NEW,))
    judged = opened_with(chain, NEW)
    assert standings(judged) == ["joined"] * 3
    assert [one.opened.file_key for one in judged if one.opened] == [point.file_key for point in chain.points]
    assert {one.opened.summary.job_name for one in judged if one.opened} == {"a job"}
    assert standings(opened_with(chain, OLD)) == ["joined", "joined", "closed"]
    assert standings(opened_with(chain, "wrong")) == ["closed"] * 3


def test_what_was_closed_is_opened_later_behind_what_is_known(chain: Chain) -> None:
    chain.write()
    chain.write(passwords=(NEW,))
    first = chain.points[0]
    known = (Expected(first.file_id, first.seal_hash, 1, chain.chain_id, 1, first.length, True),)
    judged = opened_with(chain, NEW, known)
    assert standings(judged) == ["joined", "joined"]
    shutil.move(first.path, chain.root / "away")
    assert standings(opened_with(chain, NEW, known)) == ["joined"]  # its parent is known, only its file is gone
    assert standings(opened_with(chain, NEW)) == ["orphan"]


def test_a_plain_chain_needs_nothing(chain: Chain) -> None:
    chain.passwords = ()
    chain.write()
    chain.write()
    judged = take_over(scan_chain(chain.folder), lambda *_: None)
    assert standings(judged) == ["joined", "joined"]
    assert [one.opened.file_key for one in judged if one.opened] == [None, None]


def test_a_fork_is_shown_with_what_was_written_behind_it(chain: Chain) -> None:
    chain.write()
    copy = elsewhere(chain)
    chain.write()
    for _ in range(3):
        copy.write()
    copy.write(Kind.FULL)
    for point in copy.points[2:]:
        shutil.copy(point.path, chain.folder)
    judged = opened_with(chain)
    # Point 2 of the copy is not here, so 3 has no parent, and what is behind it goes with it; a full stands for itself.
    assert standings(judged) == ["joined", "joined", "orphan", "orphan", "joined"]
    assert [one.because for one in judged[2:4]] == ["Its parent is not there.", "Its parent, point 3, lacks its own."]
    shutil.copy(copy.points[1].path, chain.folder / "2")
    assert standings(opened_with(chain)) == ["joined"] * 5


def test_two_children_of_one_parent(chain: Chain) -> None:
    chain.write()
    parent = chain.points[0]
    chain.write()
    chain.write(sequence=3, parent=ParentPoint(parent.path, parent.file_key))
    chain.write()
    judged = opened_with(chain)
    assert standings(judged) == ["joined", "joined", "fork", "fork"]
    assert "another file was written behind" in judged[2].because and "point 3" in judged[3].because


def test_a_file_of_somebody_who_knows_only_the_password_is_foreign(chain: Chain) -> None:
    chain.write()
    chain.write()
    stranger = replace(chain, root=chain.root.with_name("stranger"), points=[])
    stranger.write(sequence=3)
    shutil.copy(stranger.points[0].path, chain.folder)
    judged = opened_with(chain)
    assert standings(judged) == ["joined", "joined", "foreign"]
    assert "not sealed with the key of this chain" in judged[2].because


def test_a_plain_file_in_an_encrypted_chain_is_foreign(chain: Chain) -> None:
    chain.write()
    stranger = replace(chain, root=chain.root.with_name("stranger"), passwords=(), points=[])
    stranger.write(sequence=2)
    shutil.copy(stranger.points[0].path, chain.folder)
    judged = opened_with(chain)
    assert standings(judged) == ["joined", "foreign"] and "not encrypted" in judged[1].because


def test_a_damaged_file_and_what_needs_it(chain: Chain) -> None:
    for _ in range(3):
        chain.write()
    chain.write(Kind.FULL)
    path = chain.points[1].path
    path.write_bytes(path.read_bytes()[:-10])
    judged = opened_with(chain)
    assert standings(judged) == ["joined", "damaged", "orphan", "joined"]
    assert judged[2].because == "Its parent, point 2, is damaged."
    path.write_bytes(bytes(200_000))
    assert standings(opened_with(chain)) == ["joined", "damaged", "orphan", "joined"]


def test_a_file_in_the_place_of_a_known_one_is_foreign(chain: Chain) -> None:
    chain.write()
    point = chain.points[0]
    known = Expected(point.file_id, point.seal_hash, 2, chain.chain_id, 1, point.length, True)
    assert "generation 1" in opened_with(chain, known=(known,))[0].because
    other = Expected(chain.chain_id, point.seal_hash, 1, chain.chain_id, 1, point.length, True)
    assert "in the place of point 1" in opened_with(chain, known=(other,))[0].because


def test_a_merged_chain_is_one_line(chain: Chain) -> None:
    for _ in range(4):
        chain.write()
    newest = chain.points[-1]
    order = MergeOrder(
        root=chain.root,
        chain_id=chain.chain_id,
        file_id=chain.chain_id,
        sequence=2,
        newest=ParentPoint(newest.path, newest.file_key),
        recipients=(recipient(OLD),),
    )
    merged = merge(order, Recorder())
    unfinished = opened_with(chain)
    assert standings(unfinished)[0] == "orphan" and "run it again" in unfinished[0].because
    settle(merged.path, order.newest)
    judged = opened_with(chain)
    assert standings(judged) == ["joined"] * 3
    assert judged[0].opened and judged[0].opened.summary.kind == "full"


def test_a_password_is_derived_for_four_salts_at_most_and_for_the_one_that_is_wanted(chain: Chain) -> None:
    passwords = tuple(f"horse {number}" for number in range(5))
    chain.write(passwords=passwords)
    fifth = recipient(passwords[4])
    assert standings(opened_with(chain, passwords[4])) == ["closed"]
    typed = TypedPassword(password_bytes(passwords[4]), (fifth.record, fifth.version))
    assert standings(take_over(scan_chain(chain.folder), typed.of)) == ["joined"]
    assert list(typed.right) == [(fifth.record, 1)]
    assert fifth.kek.hex() not in repr(typed) and repr(fifth.kek) not in repr(typed)


def test_it_can_be_stopped(chain: Chain) -> None:
    chain.write()

    def stop() -> None:
        raise Cancelled("Too slow.")

    with pytest.raises(Cancelled):
        take_over(scan_chain(chain.folder), lambda *_: None, beat=stop)
