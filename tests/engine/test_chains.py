"""What lies in a repository, and how files go away."""

import fcntl
import os
from pathlib import Path

import pytest

from repositories.engine import chains
from repositories.engine.backup import Kind
from repositories.engine.errors import CorruptFile, MissingFile
from tests.engine.lab import Chain, content_of, facts_in_point, facts_on_disk, inside, write_tree

MIB = 1024 * 1024


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_tree(tmp_path / "source", {"a": b"a" * 50, "b/c": b"c"})
    return tmp_path / "source"


@pytest.fixture
def chain(tmp_path: Path, source: Path) -> Chain:
    return Chain(tmp_path / "repository", source)


def test_a_repository_is_scanned_without_keys(chain: Chain, source: Path) -> None:
    for _ in range(3):
        chain.write()
    plain = Chain(chain.root, source, ())
    plain.write()
    (chain.root / "something else").mkdir()
    (chain.folder / "notes.txt").write_bytes(b"")
    found = {one.chain_id: one for one in chains.scan(chain.root)}
    assert set(found) == {chain.chain_id, plain.chain_id}
    files = found[chain.chain_id].files
    assert [(f.sequence, f.length, f.problem) for f in files] == [
        (n + 1, p.length, None) for n, p in enumerate(chain.points)
    ]
    assert [f.head.file_id for f in files if f.head] == [p.file_id for p in chain.points]
    assert all(f.head and f.head.encrypted for f in files)
    assert found[plain.chain_id].files[0].head and not found[plain.chain_id].files[0].head.encrypted


def test_an_unreadable_head_is_a_problem_of_its_file(chain: Chain) -> None:
    first, second = chain.write(), chain.write()
    first.path.write_bytes(b"garbage")
    os.rename(second.path, second.path.with_name("7"))
    (chain.folder / "8").mkdir()
    problems = {f.sequence: f.problem for f in chains.scan_chain(chain.folder).files}
    assert all(isinstance(problem, CorruptFile) for problem in problems.values())
    assert "wrong place" in str(problems[7])
    assert set(problems) == {1, 7, 8}


def test_a_deletion_that_was_interrupted_is_finished_by_the_next_call(chain: Chain) -> None:
    first = chain.write()
    doomed = first.path.with_name("1.deleting")
    os.rename(first.path, doomed)
    chains.delete_file(first.path)
    assert not doomed.exists()
    chains.delete_file(first.path)


def test_a_missing_repository_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingFile):
        chains.scan(tmp_path / "nowhere")


def test_a_file_is_deleted(chain: Chain) -> None:
    first, second = chain.write(), chain.write()
    chains.delete_file(second.path)
    assert chain.names() == ["1"]
    chains.delete_file(second.path)
    os.rename(first.path, first.path.with_name("1.deleting"))
    assert chains.scan(chain.root) == []
    assert [path.name for path in chains.leftovers(chain.root)] == ["1.deleting"]
    assert len(chains.remove_leftovers(chain.root)) == 1
    assert chain.names() == []


def test_unfinished_files_go_unless_a_writer_holds_them(chain: Chain) -> None:
    chain.write()
    held, left = chain.folder / "2.x.part", chain.folder / "3.x.part"
    for path in (held, left):
        path.write_bytes(b"unfinished")
    with open(held, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert chains.leftovers(chain.root) == [left]
        assert chains.remove_leftovers(chain.root) == [left]
        assert chain.names() == ["1", held.name]
    assert chains.remove_leftovers(chain.root) == [held]


def test_a_new_run_needs_nothing_of_the_older_one(chain: Chain, source: Path) -> None:
    """A full in the same chain: the older run can go, and the chain's keys go on."""
    chain.write()
    chain.write()
    chain.write(kind=Kind.FULL)
    (source / "a").write_bytes(b"changed")
    chain.write()
    with chain.open() as point:
        assert len(point.earlier_file_keys) == 3
    for number in (0, 1):
        chains.delete_file(chain.points[number].path)
    with chain.open() as point:
        assert facts_in_point(point) == facts_on_disk(source)


def test_duplicates_cost_nothing(chain: Chain, source: Path) -> None:
    """A moved tree, a copied file and a byte inserted at the head of a large file."""
    large = os.urandom(24 * MIB)
    write_tree(source, {f"tree/{i}": os.urandom(5_000) for i in range(200)} | {"large": large})
    full = chain.write()
    (source / "tree").rename(source / "moved")
    (source / "copy").write_bytes(large)
    second = chain.write()
    assert second.length < 250_000
    (source / "large").write_bytes(b"!" + large)
    third = chain.write()
    assert third.length < 5 * MIB < full.length
    with chain.open() as point:
        assert facts_in_point(point) == facts_on_disk(source)
        assert content_of(point, inside(source, "copy")) == large


def test_duplicates_within_one_session_are_stored_once(chain: Chain, source: Path) -> None:
    block = os.urandom(300_000)
    write_tree(source, {f"{i}": block for i in range(50)})
    assert chain.write().length < 700_000


def test_many_points_keep_few_runs_of_identities(chain: Chain, source: Path) -> None:
    for number in range(24):
        (source / f"new {number}").write_bytes(os.urandom(2_000) * (1 + number % 3))
        (source / "copy").write_bytes((source / "new 0").read_bytes())
        chain.write()
    with chain.open() as point:
        assert len(point.root.runs) <= 8
        assert sum(run.entries for run in point.root.runs) == 2 + 24
        assert facts_in_point(point) == facts_on_disk(source)
