"""A repository that takes encrypted files only: no writer gets a plain one in, and what is there stays readable."""

from pathlib import Path
from uuid import uuid4

import pytest

from repositories.engine.backup import Kind, ParentPoint
from repositories.engine.encrypted_only import MARKER, is_marked, mark, unmark
from repositories.engine.errors import PlaintextRefused, RepositoryUnwritable
from repositories.engine.merging import MergeOrder, merge
from repositories.engine.synthetic import SyntheticOrder, write_synthetic_full
from repositories.engine.verify import verify
from tests.engine.lab import NO_RESERVE, Chain, Recorder, facts_in_point, facts_on_disk, recipient, write_tree


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_tree(tmp_path / "source", {"a": b"one", "b": b"two" * 5000})
    return tmp_path / "source"


@pytest.fixture
def plain(tmp_path: Path, source: Path) -> Chain:
    """Three plain points of one run, written while that was allowed."""
    chain = Chain(tmp_path / "repository", source, ())
    for number in range(3):
        write_tree(source, {f"new {number}": b"x" * 1000})
        chain.write()
    return chain


def write(chain: Chain, **fields: object) -> None:
    chain.write(**fields)


def synthesize(chain: Chain, **fields: object) -> None:
    newest = chain.points[-1]
    parent = ParentPoint(newest.path, newest.file_key)
    order = {"root": chain.root, "chain_id": chain.chain_id, "file_id": uuid4(), "sequence": newest.sequence + 1}
    write_synthetic_full(SyntheticOrder(**order, reason="x", parent=parent, reserve=NO_RESERVE, **fields), Recorder())


def merge_two(chain: Chain, **fields: object) -> None:
    newest = ParentPoint(chain.points[-1].path, None)
    order = {"root": chain.root, "chain_id": chain.chain_id, "file_id": uuid4(), "sequence": 2, "newest": newest}
    merge(MergeOrder(**order, reserve=NO_RESERVE, **fields), Recorder())


WRITERS = {"backup": write, "synthetic full": synthesize, "merge": merge_two}


@pytest.mark.parametrize("by", ["order", "marker"])
@pytest.mark.parametrize("writer", WRITERS)
def test_no_writer_gets_a_plain_file_in(plain: Chain, writer: str, by: str) -> None:
    if by == "marker":
        mark(plain.root)
    before = sorted(plain.root.rglob("*"))
    with pytest.raises(PlaintextRefused) as refused:
        WRITERS[writer](plain, **({"plain_allowed": False} if by == "order" else {}))
    assert refused.value.fields == {"repository": str(plain.root)}
    assert (MARKER in str(refused.value)) == (by == "marker")
    assert sorted(plain.root.rglob("*")) == before


@pytest.mark.parametrize("writer", WRITERS)
def test_where_plain_is_allowed_each_of_them_writes(plain: Chain, writer: str) -> None:
    mark(plain.root)
    unmark(plain.root)
    before = {path: path.stat().st_ino for path in plain.folder.iterdir()}
    WRITERS[writer](plain)
    assert {path: path.stat().st_ino for path in plain.folder.iterdir()} != before


def test_the_first_file_of_a_plain_chain_is_refused_before_anything_is_made(tmp_path: Path, source: Path) -> None:
    with pytest.raises(PlaintextRefused):
        Chain(tmp_path / "vault", source, ()).write(plain_allowed=False)
    assert not (tmp_path / "vault").exists()


def test_a_marker_that_comes_while_a_plain_file_is_written_keeps_it_out(plain: Chain) -> None:
    class Late(Recorder):
        def before_seal(self) -> None:
            mark(plain.root)

    with pytest.raises(PlaintextRefused):
        plain.write(observer=Late())
    assert plain.names() == ["1", "2", "3"]
    assert sorted(path.name for path in plain.folder.iterdir()) == ["1", "2", "3"]


def test_encrypted_files_are_written_and_plain_ones_stay_readable(plain: Chain, tmp_path: Path, source: Path) -> None:
    mark(plain.root)
    sealed = Chain(plain.root, source)
    for _ in range(2):
        sealed.write(plain_allowed=False)
    sealed.write(kind=Kind.FULL, plain_allowed=False)
    synthesize(sealed, plain_allowed=False, recipients=(recipient(),))
    with plain.open() as point:
        assert facts_in_point(point) == facts_on_disk(source)
        assert verify(point, "full", Recorder()).sound


def test_marking_twice_and_unmarking_twice_are_one(tmp_path: Path) -> None:
    for _ in range(2):
        mark(tmp_path)
        assert is_marked(tmp_path)
    for _ in range(2):
        unmark(tmp_path)
        assert not is_marked(tmp_path)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RepositoryUnwritable, match=MARKER):
        mark(tmp_path / "none")


def test_a_link_in_its_place_counts_as_the_marker(tmp_path: Path, source: Path) -> None:
    (tmp_path / MARKER).symlink_to("/nowhere")
    with pytest.raises(PlaintextRefused):
        Chain(tmp_path, source, ()).write()
    mark(tmp_path)
    assert not Path("/nowhere").exists()
