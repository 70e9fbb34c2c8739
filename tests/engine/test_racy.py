"""A file that is rewritten within one tick of the clock right after it was read has the same size and times as before:
it is read again next time, and the new content is stored.
"""

import os
import stat
from pathlib import Path

import pytest

from repositories.engine.backup import Kind, ParentPoint
from repositories.engine.segments import RACY
from tests.engine.forger import Forged, Forger
from tests.engine.lab import Chain, content_of, inside, write_tree

SECOND_NS = 1_000_000_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_tree(tmp_path / "source", {"file": b"new content", "large": b"new" * 400_000, "other": b"same content"})
    os.symlink("new target", tmp_path / "source" / "target")
    return tmp_path / "source"


def read_before(source: Path, name: str, flags: int) -> Forged:
    """What a point knows of a file that it read just before its content became what it is now."""
    facts = os.lstat(source / name)
    known = Forged(
        os.fsencode(source)[1:] + b"/",
        os.fsencode(name),
        kind=stat.S_IFMT(facts.st_mode),
        permissions=stat.S_IMODE(facts.st_mode),
        inode=facts.st_ino,
        device=facts.st_dev,
        uid=facts.st_uid,
        gid=facts.st_gid,
        mtime_ns=facts.st_mtime_ns,
        ctime_ns=facts.st_ctime_ns,
        flags=flags,
    )
    if known.kind == stat.S_IFLNK:
        known.target = b"old target"
    elif name == "other":
        known.content = b"same content"
    else:
        known.content = b"old".ljust(facts.st_size, b".")
    return known


@pytest.mark.parametrize("flags", [RACY, 0], ids=["within a tick", "long before"])
def test_a_file_rewritten_within_a_tick_is_read_again(tmp_path: Path, source: Path, flags: int) -> None:
    """Without the mark nothing tells the two contents apart: so it is the mark that does."""
    forger = Forger(tmp_path / "repository")
    known = [read_before(source, name, flags) for name in ("file", "large", "other", "target")]
    with forger.write([known]) as parent:
        chain = Chain(forger.root, source, chain_id=parent.head.chain_id)
        written = chain.write(kind=Kind.INCREMENTAL, sequence=2, parent=ParentPoint(parent.path, parent.file_key))
    is_read = bool(flags)
    sizes = [len(b"new content"), 3 * 400_000, len(b"same content")]
    assert written.read_bytes == (sum(sizes) if is_read else 0)
    with chain.open() as point:
        content = content_of(point, inside(source, "file"))
        assert content == (b"new content" if is_read else b"old........")
        assert (content_of(point, inside(source, "large")) == b"new" * 400_000) is is_read
        assert content_of(point, inside(source, "other")) == b"same content"
        assert point.entry(inside(source, "target")).target == (b"new target" if is_read else b"old target")
        assert marked(point) == set()


def marked(point) -> set[bytes]:
    """The names of the entries that are to be read again."""
    names = set()
    for number in range(len(point.root.segments)):
        segment = point.segment(number)
        names |= {segment.names[row] for row in range(len(segment)) if segment.flags[row] & RACY}
    return names


@pytest.mark.parametrize(
    ("after_ns", "is_marked"),
    [
        (-SECOND_NS, True),
        (0, True),
        (SECOND_NS, True),
        (2 * SECOND_NS - 1, True),
        (2 * SECOND_NS, False),
        (3 * SECOND_NS, False),
    ],
    ids=["in the future", "now", "a second", "just within two seconds", "two seconds", "three seconds"],
)
def test_what_was_changed_within_two_seconds_of_its_reading_is_marked(
    tmp_path: Path, source: Path, after_ns: int, is_marked: bool
) -> None:
    for name in ("large", "other", "target"):
        (source / name).unlink()
    changed_ns = os.lstat(source / "file").st_ctime_ns
    chain = Chain(tmp_path / "repository", source)
    chain.write(clock=lambda: changed_ns + after_ns)
    with chain.open() as point:
        assert marked(point) == ({b"file"} if is_marked else set())
    again = chain.write(clock=lambda: changed_ns + 10 * SECOND_NS)
    assert again.read_bytes == (len(b"new content") if is_marked else 0)
    assert chain.write(clock=lambda: changed_ns + 10 * SECOND_NS).read_bytes == 0, "it is read again once"


def test_a_time_that_was_set_back_does_not_hide_a_change(tmp_path: Path, source: Path) -> None:
    """The time of the change of the inode cannot be set, so it counts as well."""
    os.utime(source / "file", ns=(SECOND_NS, SECOND_NS))
    changed_ns = os.lstat(source / "file").st_ctime_ns
    chain = Chain(tmp_path / "repository", source)
    chain.write(clock=lambda: changed_ns + SECOND_NS)
    with chain.open() as point:
        assert b"file" in marked(point)
    (source / "file").write_bytes(b"NEW CONTENT")
    os.utime(source / "file", ns=(SECOND_NS, SECOND_NS))
    chain.write()
    with chain.open() as point:
        assert content_of(point, inside(source, "file")) == b"NEW CONTENT"
