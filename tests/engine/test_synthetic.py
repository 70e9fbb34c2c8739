"""A synthetic full holds what its parent holds, needs no source and no older file, and the chain goes on from it."""

import os
import random
import shutil
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from repositories.engine import chains
from repositories.engine.backup import FreeSpace, ParentPoint, Written
from repositories.engine.errors import AlreadyExists, Cancelled, CorruptFile, Fenced, OutOfSpace, PlainRefused
from repositories.engine.layout import ItemKind
from repositories.engine.observer import Observer
from repositories.engine.reader import Kek
from repositories.engine.synthetic import SyntheticOrder, write_synthetic_full
from repositories.engine.verify import verify
from tests.engine.lab import NO_RESERVE, Chain, Recorder, facts_in_point, facts_on_disk, later, recipient, write_tree
from tests.engine.second_reader import SecondReader


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source, dice = tmp_path / "source", random.Random(11)
    write_tree(source, {f"folder {i % 5}/{i}": dice.randbytes(i * 900) for i in range(80)})
    write_tree(source, {"large": dice.randbytes(3_000_000), "empty": b"", "copy": dice.randbytes(5_000) * 2})
    with open(source / "sparse", "wb") as file:
        file.truncate(4_000_000)
        file.seek(2_000_000)
        file.write(b"in the middle")
    (source / "link").symlink_to("large")
    os.link(source / "copy", source / "copy again")
    return source


@pytest.fixture(params=["encrypted", "plain"])
def chain(request: pytest.FixtureRequest, tmp_path: Path, source: Path) -> Chain:
    chain = Chain(tmp_path / "repository", source, ("correct horse",) if request.param == "encrypted" else ())
    chain.write()
    for number in range(3):
        write_tree(source, {f"new {number}": os.urandom(20_000), f"folder 1/{number}": b"changed"})
        (source / f"folder 2/{2 + 5 * number}").unlink()
        chain.write()
    return chain


def synthesize(chain: Chain, observer: Observer | None = None, **fields: object) -> Written:
    newest = chain.points[-1]
    order = {
        "root": chain.root,
        "chain_id": chain.chain_id,
        "file_id": uuid4(),
        "sequence": newest.sequence + 1,
        "reason": "run-is-long",
        "parent": ParentPoint(newest.path, newest.file_key),
        "recipients": tuple(recipient(password) for password in chain.passwords),
        "reserve": NO_RESERVE,
        "clock": later,
    }
    written = write_synthetic_full(SyntheticOrder(**{**order, **fields}), observer or Recorder())
    chain.points.append(written)
    return written


def test_it_holds_what_the_newest_point_holds(chain: Chain, source: Path) -> None:
    truth = facts_on_disk(source)
    with chain.open() as parent:
        before, entries = parent.summary, list(map(str, parent.walk()))
    shutil.rmtree(source)
    signer = Ed25519PrivateKey.generate()
    written = synthesize(chain, signer=signer)
    with chain.open() as point:
        assert facts_in_point(point) == truth
        assert len(list(point.walk())) == len(entries)
        report = verify(point, "full", Recorder())
        assert report.sound and not report.notes
        summary = point.summary
    assert (summary.kind, summary.reason, summary.read_bytes) == ("full", "run-is-long", 0)
    assert summary.sources == before.sources and summary.started_at_ns == before.started_at_ns
    assert (summary.files, summary.directories, summary.others) == (before.files, before.directories, before.others)
    assert (written.files, written.source_bytes, written.read_bytes) == (before.files, before.source_bytes, 0)
    assert summary.parent_id == chain.points[-2].file_id and summary.parent_seal_hash == chain.points[-2].seal_hash
    assert summary.finished_at_ns > before.finished_at_ns


def test_the_older_run_can_go(chain: Chain, source: Path) -> None:
    truth = facts_on_disk(source)
    synthesize(chain)
    for point in reversed(chain.points[:-1]):
        chains.delete_file(point.path)
    with chain.open() as point:
        assert facts_in_point(point) == truth
        assert verify(point, "full", Recorder()).sound
    password = chain.passwords[0] if chain.passwords else None
    found = SecondReader(chain.points[-1].path, password).files()
    assert {path: fact[2] for path, fact in found.items() if path in truth} == {
        path: fact[6] or b"" for path, fact in truth.items()
    }


def test_the_chain_goes_on_with_little(chain: Chain, source: Path) -> None:
    full = synthesize(chain)
    (source / "copied").write_bytes((source / "large").read_bytes())
    (source / "folder 3").rename(source / "moved")
    after = chain.write()
    assert after.length < 300_000 < full.length
    assert after.unchanged_files > after.changed_files == 0
    with chain.open() as point:
        assert facts_in_point(point) == facts_on_disk(source)
    for point in reversed(chain.points[:-2]):
        chains.delete_file(point.path)
    with chain.open() as point:
        assert facts_in_point(point) == facts_on_disk(source)
        assert verify(point, "full", Recorder()).sound
    if chain.passwords:
        assert after.file_key is not None


def test_an_earlier_point_opens_by_way_of_the_new_key(tmp_path: Path, source: Path) -> None:
    chain = Chain(tmp_path / "repository", source, ("old",))
    first = chain.write()
    chain.passwords = ("new",)
    written = synthesize(chain)
    assert written.file_key != first.file_key
    with chain.open(secret=Kek(recipient("new").kek)) as point:
        assert point.earlier_file_keys == {first.file_id: first.file_key}


def test_what_is_stored_twice_is_packed_once(chain: Chain, source: Path) -> None:
    once = synthesize(chain)
    for number in range(4):
        (source / f"large {number}").write_bytes((source / "large").read_bytes())
    chain.write()
    assert synthesize(chain).length < once.length + 20_000


def test_damage_of_the_chain_is_not_copied(chain: Chain) -> None:
    with chain.open(0) as point:
        index = point.container.index
        place = index.place(int(index.own.of_kind(ItemKind.BLOCK)[0]))
    assert place is not None
    with open(chain.points[0].path, "r+b") as file:
        file.seek(place.offset + 100)
        file.write(b"damage")
    before = chain.names()
    with pytest.raises(CorruptFile):
        synthesize(chain)
    assert chain.names() == before


def test_what_stops_it_leaves_nothing(chain: Chain) -> None:
    class Stop(Recorder):
        def cancelled(self) -> bool:
            return True

    class Fence(Recorder):
        def before_seal(self) -> None:
            raise Fenced("The lease ran out.")

    before = chain.names()
    for error, fields in (
        (Cancelled, {"observer": Stop()}),
        (Fenced, {"observer": Fence()}),
        (OutOfSpace, {"reserve": FreeSpace(bytes=1 << 60)}),
        (AlreadyExists, {"sequence": 2}),
        (PlainRefused, {"recipients": () if chain.passwords else (recipient("one"),)}),
    ):
        with pytest.raises(error):
            synthesize(chain, **fields)
        assert chain.names() == before
