"""What goes into a point comes out of it: every kind of entry, every kind of name, full and incremental."""

import os
import random
import socket
import stat
from pathlib import Path

import pytest

from repositories.engine import manifest
from repositories.engine.backup import Kind
from repositories.engine.entries import EntryType
from repositories.engine.errors import NothingToRestore
from repositories.engine.reader import Hole
from tests.engine.lab import (
    Chain,
    Recorder,
    content_of,
    end_segments_often,
    facts_in_point,
    facts_on_disk,
    inside,
    paths,
    write_tree,
)

MIB = 1024 * 1024


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture(params=["encrypted", "plain"])
def chain(request: pytest.FixtureRequest, tmp_path: Path, source: Path) -> Chain:
    return Chain(tmp_path / "repository", source, ("correct horse",) if request.param == "encrypted" else ())


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of about 32 entries, so that a thousand files make many."""
    end_segments_often(monkeypatch, 32)
    monkeypatch.setattr(manifest, "MAX_ENTRIES", 500)


@pytest.fixture
def encrypted(tmp_path: Path, source: Path) -> Chain:
    return Chain(tmp_path / "repository", source)


def make_everything(source: Path) -> None:
    random_bytes = random.Random(1).randbytes
    write_tree(
        source,
        {
            "empty": b"",
            "small.txt": b"hello\n",
            "deep/er/and/deeper/file": b"x" * 1000,
            "medium.bin": random_bytes(400_000),
            "large.bin": random_bytes(9 * MIB + 17),
            "copy of large.bin": random_bytes(0),
            "zeros": bytes(3 * MIB),
            "just at the limit": random_bytes(512 * 1024),
            "just above": random_bytes(512 * 1024 + 1),
        },
    )
    (source / "empty folder").mkdir()
    (source / "link").symlink_to("small.txt")
    (source / "dangling").symlink_to("/nowhere/at all")
    (source / "folder link").symlink_to("deep")
    os.link(source / "small.txt", source / "second name")
    os.mkfifo(source / "fifo")
    raw = os.fsencode(source)
    for name in (
        b"latin-1 \xe9\xff",
        b"new\nline",
        b"tab\t\x01\x7f",
        b"\xf0\x9f\x92\xbe",
        b"*?[x]",
        b" space ",
        b"-rf",
    ):
        Path(os.fsdecode(raw + b"/" + name)).write_bytes(name)
    (source / "private").write_bytes(b"p")
    (source / "private").chmod(0o600)
    (source / "deep").chmod(0o2750)
    (source / "suid").write_bytes(b"s")
    (source / "suid").chmod(0o4755)
    os.utime(source / "medium.bin", ns=(1, 1_234_567_890_123_456_789))
    os.utime(source / "small.txt", ns=(1, -1_000_000_001))
    if os.geteuid() == 0:
        os.chown(source / "empty", 12345, 54321)
        os.mknod(source / "device", stat.S_IFCHR | 0o640, os.makedev(1, 3))


def test_everything_comes_back(chain: Chain, source: Path) -> None:
    make_everything(source)
    written = chain.write()
    with chain.open() as point:
        assert facts_in_point(point) == facts_on_disk(source)
        assert point.summary.files == written.files == sum(e.is_file for e in point.walk())
        assert point.summary.source_bytes == sum(e.size for e in point.walk())


def test_extended_attributes_come_back(chain: Chain, source: Path) -> None:
    write_tree(source, {"file": b"x"})
    try:
        os.setxattr(source / "file", "user.colour", b"\x00blue\xff")
        os.setxattr(source, "user.folder", b"yes")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    chain.write()
    with chain.open() as point:
        assert (b"user.colour", b"\x00blue\xff") in point.entry(inside(source, "file")).xattrs
        assert facts_in_point(point) == facts_on_disk(source)


def test_hard_links_are_known_as_one_file(chain: Chain, source: Path) -> None:
    write_tree(source, {"a": b"one" * 100, "big": random.Random(2).randbytes(2 * MIB), "alone": b"one"})
    os.link(source / "a", source / "b")
    os.link(source / "big", source / "big 2")
    written = chain.write()
    assert written.length < 2.5 * MIB
    with chain.open() as point:
        entries = {name: point.entry(inside(source, name)) for name in ("a", "b", "big", "big 2", "alone")}
        for one, two in (("a", "b"), ("big", "big 2")):
            assert entries[one].hard_linked and entries[two].hard_linked
            assert (entries[one].device, entries[one].inode) == (entries[two].device, entries[two].inode)
        assert not entries["alone"].hard_linked
        assert facts_in_point(point) == facts_on_disk(source)


def test_holes_are_neither_read_nor_stored(chain: Chain, source: Path) -> None:
    with open(source / "sparse", "wb") as file:
        file.truncate(300 * MIB)
        file.seek(100 * MIB)
        file.write(b"in the middle")
    if os.stat(source / "sparse").st_blocks * 512 > 10 * MIB:
        pytest.skip("this file system has no sparse files")
    written = chain.write()
    assert written.length < MIB and written.read_bytes < 2 * MIB
    with chain.open() as point:
        entry = point.entry(inside(source, "sparse"))
        pieces = [
            (piece, bytes(piece) if not isinstance(piece, Hole) else b"")
            for _, content in point.read_many([entry])
            for piece in content
        ]
        assert sum(piece.length if isinstance(piece, Hole) else len(data) for piece, data in pieces) == 300 * MIB
        assert any(isinstance(piece, Hole) for piece, _ in pieces)
        assert content_of(point, entry.path) == (source / "sparse").read_bytes()


def test_sockets_are_passed_over_and_counted(chain: Chain, tmp_path: Path) -> None:
    short = Path(os.path.realpath(tmp_path)) / "s"
    short.mkdir()
    chain.source = short
    with socket.socket(socket.AF_UNIX) as listener:
        folder = os.open(short, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{folder}/x")
        os.close(folder)
        os.link(short / "x", short / "y")
        for fields, count in (({}, 2), ({"exclude": ("y",)}, 1), ({"include": ("x", "z")}, 1)):
            observer = Recorder()
            chain.write(observer=observer, **fields)
            assert observer.warnings == [] and [code for code, _ in observer.notes] == ["sockets-skipped"]
            assert f": {count}." in observer.notes[0][1]
        chain.write(sources=(os.fsencode(short / "x"),))
    with chain.open(0) as point:
        assert paths(point.list_folder(inside(short))) == []
    with chain.open() as point:
        assert [entry for entry in point.walk() if not entry.ancestor] == []


def test_an_incremental_has_everything(chain: Chain, source: Path) -> None:
    make_everything(source)
    chain.write()
    before = facts_on_disk(source)
    (source / "small.txt").write_bytes(b"changed\n")
    (source / "deep/er/new").write_bytes(b"new")
    (source / "medium.bin").unlink()
    (source / "empty folder").rmdir()
    (source / "empty folder").write_bytes(b"now a file")
    (source / "link").unlink()
    (source / "link").symlink_to("elsewhere")
    (source / "suid").chmod(0o755)
    written = chain.write()
    assert (written.kind, written.new_files, written.changed_files) == (Kind.INCREMENTAL, 1, 4)
    with chain.open() as point:
        assert point.summary.kind == "incremental" and point.summary.parent_id == chain.points[0].file_id
        assert facts_in_point(point) == facts_on_disk(source)
    with chain.open(0) as point:
        assert facts_in_point(point) == before


def test_unchanged_adds_next_to_nothing(chain: Chain, source: Path) -> None:
    write_tree(source, {f"{i % 20}/{i}": b"%d" % i for i in range(1_500)})
    chain.write()
    written = chain.write()
    assert (written.read_bytes, written.new_files, written.changed_files, written.unchanged_files) == (0, 0, 0, 1_500)
    assert written.length < 210_000  # of which 192 KiB are the two copies of the head
    assert written.source_bytes == chain.points[0].source_bytes
    with chain.open() as point:
        assert facts_in_point(point) == facts_on_disk(source)


def test_one_insertion_rewrites_one_segment(encrypted: Chain, source: Path, small_segments: None) -> None:
    chain = encrypted
    write_tree(source, {f"{i:06d}": b"%d" % i for i in range(2_000)})
    chain.write()
    (source / "001234 new").write_bytes(b"new")
    chain.write()
    with chain.open(0) as old, chain.open() as new:
        known = {row.tag for row in old.root.segments}
        assert len(known) > 20
        # The source's own (its mtime changed), and that of the new file, which may be a boundary and cut it in two.
        assert sum(row.tag not in known for row in new.root.segments) <= 3
        assert facts_in_point(new).keys() - facts_in_point(old).keys() == {inside(source, "001234 new")}


def test_everything_deleted(encrypted: Chain, source: Path, small_segments: None) -> None:
    chain = encrypted
    write_tree(source, {f"{i:06d}": b"%d" % i for i in range(600)})
    chain.write()
    for path in source.iterdir():
        path.unlink()
    chain.write()
    with chain.open() as point:
        assert facts_in_point(point) == facts_on_disk(source)
        assert len(facts_in_point(point)) == 1


@pytest.mark.parametrize("seed", range(3))
def test_random_edits(tmp_path: Path, source: Path, seed: int) -> None:
    """A chain of ten points over a tree that changes at random; every point gives back its own state."""
    dice = random.Random(seed)
    chain = Chain(tmp_path / "repository", source)
    states = []
    for _ in range(10):
        for _ in range(60):
            path = source / "/".join(dice.choices("abcd", k=dice.randint(1, 4)))
            action = dice.random()
            if action < 0.6 and not path.is_dir() and not any(parent.is_file() for parent in path.parents):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(dice.randbytes(dice.choice((0, 1, 50, 5_000, 700_000))))
            elif path.is_file():
                path.unlink()
        chain.write()
        states.append(facts_on_disk(source))
    for number, state in enumerate(states):
        with chain.open(number) as point:
            assert facts_in_point(point) == state


def test_folders_are_listed_and_found(encrypted: Chain, source: Path, small_segments: None) -> None:
    chain = encrypted
    write_tree(source, {f"many/{i:05d}/file": b"" for i in range(600)} | {"many.txt": b"", "a/b": b"", "z": b""})
    chain.write()
    with chain.open() as point:
        assert len(point.root.segments) > 2
        assert paths(point.list_folder(b"")) == [inside(source).split(b"/")[0]]
        assert paths(point.list_folder(inside(source))) == [inside(source, n) for n in ("a", "many", "many.txt", "z")]
        assert paths(point.list_folder(inside(source, "many"))) == [inside(source, f"many/{i:05d}") for i in range(600)]
        assert paths(point.list_folder(inside(source, "many/00471"))) == [inside(source, "many/00471/file")]
        assert point.entry(inside(source, "z")).type is EntryType.FILE
        assert len(list(point.walk(inside(source, "many/00012")))) == 2
        for missing in ("nothing", "many/00600", "many/00001/file/x", "zz"):
            with pytest.raises(NothingToRestore):
                point.entry(inside(source, missing))
        with pytest.raises(NothingToRestore):
            point.list_folder(inside(source, "z"))
        with pytest.raises(NothingToRestore):
            list(point.walk(inside(source, "nothing")))


def test_listing_a_folder_opens_only_its_segments(encrypted: Chain, source: Path, small_segments: None) -> None:
    chain = encrypted
    write_tree(source, {f"{folder}/{i:05d}": b"" for folder in "abc" for i in range(600)})
    chain.write()
    with chain.open() as point:
        opened = []
        original = point.segment
        point.segment = lambda number: opened.append(number) or original(number)  # type: ignore[method-assign]
        assert len(point.list_folder(inside(source))) == 3
        assert len(set(opened)) <= 4 < len(point.root.segments)


def test_read_many_in_any_order(chain: Chain, source: Path) -> None:
    make_everything(source)
    chain.write()
    with chain.open() as point:
        entries = [entry for entry in point.walk() if entry.is_file]
        random.Random(3).shuffle(entries)
        got = {
            entry.path: b"".join(bytes(p) if not isinstance(p, Hole) else bytes(p.length) for p in pieces)
            for entry, pieces in point.read_many(entries)
        }
        assert got == {path: fact[-1] for path, fact in facts_on_disk(source).items() if stat.S_ISREG(fact[0])}
        half_taken = [next(pieces, None) is not None for _, pieces in point.read_many(entries)]
        assert len(half_taken) == len(entries)
