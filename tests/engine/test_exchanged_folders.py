"""Folders that are exchanged for links while they are walked or read: what a link leads to is never in the point.

Whoever may write in a source could else let a session that runs as root read what he may not, for instance
/etc/shadow by way of a link that stands where his folder was.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from repositories.engine import open_folders
from repositories.engine.layout import MIB
from repositories.engine.patterns import Patterns
from repositories.engine.walk import Found, Walk, clean_sources
from tests.engine.lab import Chain, Recorder, facts_in_point, inside, write_tree
from tests.engine.test_moving_sources import Meddler, codes

OWN, FOREIGN = b"own", b"not"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two trees with the same names: one that is backed up, and one that nobody is to see."""
    for top, content in (("source", OWN), ("foreign", FOREIGN)):
        files = {f"a/b/{name}": content * 1_000 for name in ("1", "2", "3")}
        write_tree(tmp_path / top, files | {"a/b/large": content * MIB, "z": content})
        os.link(tmp_path / top / "a/b/1", tmp_path / top / "a/b/linked")
        (tmp_path / top / "a/b/link").symlink_to(os.fsdecode(content))
        try:
            os.setxattr(tmp_path / top / "a/b/3", "user.whose", content)
            os.setxattr(tmp_path / top / "a/b", "user.whose", content)
        except OSError:
            pytest.skip("this file system has no extended attributes")
    return tmp_path / "source"


def exchange(folder: Path) -> Callable[[], None]:
    """Puts a link to the folder's twin where the folder is."""

    def act() -> None:
        top = next(parent for parent in folder.parents if parent.name == "source")
        folder.rename(top.parent / "moved away")
        folder.symlink_to(top.parent / "foreign" / folder.relative_to(top))

    return act


def walk(source: Path, observer: Recorder, beat: Callable[[], None] = lambda: None) -> Iterator[Found]:
    sources = clean_sources([os.fsencode(source)], ())
    return iter(Walk(sources, Patterns(()), Patterns(()), (), observer, beat))


def names_of(found: list[Found], source: Path) -> list[str]:
    return [os.path.relpath("/" + os.fsdecode(folder + name), source) for folder, name, _, above in found if not above]


def inodes_below(folder: Path) -> set[int]:
    return {path.lstat().st_ino for path in folder.rglob("*")}


@pytest.mark.parametrize("exchanged", ["a", "a/b"])
@pytest.mark.parametrize("beats", range(1, 5))
def test_exchanged_before_a_folder_is_entered(source: Path, exchanged: str, beats: int) -> None:
    """Every folder is a beat: the source, a, a/b; at the first one the walk has not seen the folders yet."""
    left = iter(range(1, 5))

    def beat() -> None:
        if next(left) == beats:
            exchange(source / exchanged)()

    observer = Recorder()
    found = list(walk(source, observer, beat))
    foreign = inodes_below(source.parent / "foreign")
    assert not foreign & {entry[2].st_ino for entry in found}
    assert "z" in names_of(found, source)
    reached = {"a": 2, "a/b": 3}[exchanged]  # the beat at which this folder is about to be entered
    assert codes(observer, source) == ([("vanished", exchanged)] if beats == reached else [])


@pytest.mark.parametrize("exchanged", ["a", "a/b"])
def test_exchanged_after_a_folder_was_entered(source: Path, exchanged: str) -> None:
    """The walk goes on in the folder that it has open."""
    observer, found = Recorder(), []
    for entry in walk(source, observer):
        found.append(entry)
        if entry[1] == b"2":
            exchange(source / exchanged)()
    assert not inodes_below(source.parent / "foreign") & {entry[2].st_ino for entry in found}
    assert names_of(found, source) == [
        ".", "a", "a/b", "a/b/1", "a/b/2", "a/b/3", "a/b/large", "a/b/link", "a/b/linked", "z",
    ]  # fmt: skip
    assert observer.warnings == []


@pytest.fixture
def deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten folders deep, with a file before and behind each, and only three of them held open."""
    monkeypatch.setattr(open_folders, "MAX_OPEN", 3)
    for depth in range(10):
        write_tree(tmp_path / "source" / ("m/" * depth), {"a": b"", "z": b""})
    return tmp_path / "source"


def test_folders_far_up_are_opened_again(deep: Path) -> None:
    observer = Recorder()
    before = len(os.listdir("/proc/self/fd"))
    found, most = [], 0
    for entry in walk(deep, observer):
        found.append(entry)
        most = max(most, len(os.listdir("/proc/self/fd")) - before)
    assert observer.warnings == [] and most <= 5
    names = names_of(found, deep)
    assert len(names) == len(set(names)) == 30 and names[-1] == "z" and names[1] == "a"
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_walk_that_is_given_up_closes_its_folders(deep: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    found = walk(deep, Recorder())
    for _ in range(25):
        next(found)
    del found
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("put_back", [False, True])
def test_a_folder_that_was_moved_on_the_way_back(deep: Path, tmp_path: Path, put_back: bool) -> None:
    """From what was moved `..` leads elsewhere; by the names from the source it is found again, or said to be gone."""
    observer, found = Recorder(), []
    (tmp_path / "elsewhere").mkdir()
    for entry in walk(deep, observer):
        found.append(entry)
        if len(found) == 21:  # in the ninth folder
            (deep / "m/m/m").rename(tmp_path / "elsewhere/m")
            if not put_back:
                (deep / "m/m").rename(tmp_path / "elsewhere/n")
    names = names_of(found, deep)
    assert names[-1] == "z" and "m/m/m/m/z" in names
    assert ("m/m/z" in names) is put_back
    assert codes(observer, deep) == ([] if put_back else [("vanished", "m/m")])


@pytest.mark.parametrize("exchanged", ["a", "a/b"])
@pytest.mark.parametrize("moment", ["1", "2", "large", "z"])
def test_exchanged_between_the_walk_and_the_reading(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, exchanged: str, moment: str
) -> None:
    """What was not read yet has vanished; nothing of the twin is in the point, under which facts ever."""
    path = source / "a/b" / moment if moment != "z" else source / "z"
    meddler = Meddler(monkeypatch, path, exchange(source / exchanged)).before_open()
    observer, chain = Recorder(), Chain(tmp_path / "repository", source)
    chain.write(observer=observer)
    assert meddler.done
    with chain.open() as point:
        facts = facts_in_point(point)
    files = {path: fact for path, fact in facts.items() if fact[-1] is not None}
    assert files[inside(source, "z")][-1] == OWN
    assert all(FOREIGN not in fact[-1] for fact in files.values())
    assert all(value == OWN for fact in facts.values() for _, value in fact[5])
    # Small files and links of a batch come first, and small files are read from their folder as it was opened, wherever
    # it is by now; files that are large or have several names come behind them, by their paths.
    unread = {
        "1": ["1", "large", "linked"],
        "2": ["1", "large", "link", "linked"],
        "large": ["large", "linked"],
        "z": ["1", "large", "linked"],
    }[moment]
    assert codes(observer, source) == [("vanished", f"a/b/{name}") for name in unread]


def test_a_file_that_is_replaced_beside_a_source_behind_a_link_is_read(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way to a source may lead through links: it was named so."""
    (tmp_path / "way").symlink_to(source / "a")

    def act() -> None:
        (source / "a/b/new").write_bytes(b"replaced")
        os.replace(source / "a/b/new", source / "a/b/2")

    meddler = Meddler(monkeypatch, source / "a/b/2", act)
    meddler._path = os.fsencode(tmp_path / "way/b/2")
    meddler.before_open()
    observer, chain = Recorder(), Chain(tmp_path / "repository", tmp_path / "way")
    chain.write(observer=observer)
    assert meddler.done and observer.warnings == []
    with chain.open() as point:
        assert facts_in_point(point)[inside(tmp_path / "way", "b/2")][-1] == b"replaced"
