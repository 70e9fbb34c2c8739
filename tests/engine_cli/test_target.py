"""Entries, honest and hostile, written into real folders: nothing may land, or be touched, outside of the target."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from repositories.engine.entries import Entry
from repositories.engine.errors import BadTarget
from repositories.engine.target import OPEN_FOLDERS_MAX, TEMPORARY_PREFIX, Existing, Target, open_into
from repositories.engine.target_names import NAME_BYTES_MAX, Blocked, components, free_name
from tests.engine_cli.desk import make_entry, open_desk, pieces


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder beside the target that must look the same after each test."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_bytes(b"precious")
    yield folder
    assert sorted(os.listdir(folder)) == ["precious"]
    assert (folder / "precious").read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) in (["into", "outside"], ["outside"])


@pytest.mark.parametrize(
    "path",
    [
        b"../outside/evil",
        b"a/../../outside/evil",
        b"a/./b",
        b"..",
        b".",
        b"",
        b"/etc/evil",
        b"/evil",
        b"a//b",
        b"a/",
        b"a\0b",
        b"a\0/b",
        b"a/..",
    ],
)
def test_a_hostile_path_is_reported_and_nothing_is_written(tmp_path: Path, outside: Path, path: bytes) -> None:
    for existing in Existing:
        desk = open_desk(tmp_path / "into", existing)
        desk.write(path, b"evil")
        assert desk.codes() == ["hostile-path"]
        assert desk.tally.files == 0
    assert [p for p in (tmp_path / "into").rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("path", [b"../outside/new", b"..", b"a/../../outside/new", b"/outside/new"])
def test_a_hostile_folder_is_not_made(tmp_path: Path, outside: Path, path: bytes) -> None:
    desk = open_desk(tmp_path / "into")
    desk.write(path, kind=stat.S_IFDIR)
    assert desk.codes() == ["hostile-path"]


@pytest.mark.parametrize("existing", list(Existing))
def test_a_planted_link_is_never_followed(tmp_path: Path, outside: Path, existing: Existing) -> None:
    into = tmp_path / "into"
    into.mkdir()
    (into / "d").symlink_to(outside)
    (into / "f").symlink_to(outside / "precious")
    desk = open_desk(into, existing)
    desk.write(b"d/evil", b"evil")
    desk.write(b"d/sub/evil", b"evil")
    desk.write(b"f", b"evil")
    if existing is Existing.SKIP:
        assert desk.codes() == ["not-a-folder", "not-a-folder"]
        assert desk.tally.skipped == 1
        assert (into / "f").is_symlink()
    if existing is Existing.OVERWRITE:
        assert not (into / "d").is_symlink()
        assert (into / "d" / "sub" / "evil").read_bytes() == b"evil"
        assert (into / "f").read_bytes() == b"evil"
        assert not (into / "f").is_symlink()
    if existing is Existing.RENAME:
        assert (into / "d").is_symlink()
        assert (into / "d (restored)" / "sub" / "evil").read_bytes() == b"evil"
        assert (into / "f (restored)").read_bytes() == b"evil"


def test_a_link_of_the_backup_itself_is_not_followed_either(tmp_path: Path, outside: Path) -> None:
    desk = open_desk(tmp_path / "into")
    desk.write(b"d", kind=stat.S_IFLNK, target=os.fsencode(outside))
    desk.write(b"d/evil", b"evil")
    desk.write(b"d/precious", b"evil")
    assert desk.codes() == ["not-a-folder", "not-a-folder"]
    assert os.readlink(tmp_path / "into" / "d") == str(outside)


def test_a_folder_exchanged_for_a_link_while_it_is_restored(tmp_path: Path, outside: Path) -> None:
    """The open descriptor stays with the old folder; once it was closed, the link is found and refused."""
    into = tmp_path / "into"
    desk = open_desk(into)
    desk.write(b"d/first", b"1")
    (into / "d").rename(into / "moved")
    (into / "d").symlink_to(outside)
    desk.write(b"d/second", b"2")
    assert (into / "moved" / "second").read_bytes() == b"2"
    for number in range(OPEN_FOLDERS_MAX + 1):
        desk.write(b"other/%d" % number, kind=stat.S_IFDIR)
    desk.write(b"d/third", b"3")
    assert desk.codes() == ["not-a-folder"]


def test_into_may_not_leave_the_folder_below_which_it_must_stay(tmp_path: Path) -> None:
    roots, elsewhere = tmp_path / "roots", tmp_path / "elsewhere"
    roots.mkdir()
    elsewhere.mkdir()
    (roots / "link").symlink_to(elsewhere)
    for into in (roots / "link", roots / "link" / "x", elsewhere, roots / ".." / "elsewhere"):
        with pytest.raises(BadTarget):
            open_into(into, roots)
    assert os.listdir(elsewhere) == []
    with Target(open_into(roots / "new" / "deeper", roots), Existing.SKIP):
        assert (roots / "new" / "deeper").is_dir()


def test_into_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "into").write_bytes(b"")
    with pytest.raises(BadTarget, match="into"):
        open_into(tmp_path / "into", None)


class TestExisting:
    def test_skip_leaves_the_file_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"old")
        desk = open_desk(tmp_path)
        desk.write(b"f", b"new")
        assert (tmp_path / "f").read_bytes() == b"old"
        assert (desk.tally.skipped, desk.tally.files, desk.failures) == (1, 0, [])

    def test_overwrite_replaces_the_name_and_not_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"old")
        os.link(tmp_path / "f", tmp_path / "other name")
        desk = open_desk(tmp_path, Existing.OVERWRITE)
        desk.write(b"f", b"new")
        assert (tmp_path / "f").read_bytes() == b"new"
        assert (tmp_path / "other name").read_bytes() == b"old"

    def test_overwrite_never_removes_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "f").mkdir()
        (tmp_path / "f" / "kept").write_bytes(b"kept")
        desk = open_desk(tmp_path, Existing.OVERWRITE)
        desk.write(b"f", b"new")
        assert desk.codes() == ["folder-in-the-way"]
        assert (tmp_path / "f" / "kept").read_bytes() == b"kept"
        assert os.listdir(tmp_path) == ["f"]

    def test_overwrite_replaces_a_file_where_a_folder_belongs(self, tmp_path: Path) -> None:
        (tmp_path / "d").write_bytes(b"old")
        desk = open_desk(tmp_path, Existing.OVERWRITE)
        desk.write(b"d/f", b"new")
        assert (tmp_path / "d" / "f").read_bytes() == b"new"

    def test_rename_finds_a_free_name_each_time(self, tmp_path: Path) -> None:
        (tmp_path / "report.pdf").write_bytes(b"0")
        for content in (b"1", b"2"):
            desk = open_desk(tmp_path, Existing.RENAME)
            desk.write(b"report.pdf", content)
        assert (tmp_path / "report.pdf").read_bytes() == b"0"
        assert (tmp_path / "report (restored).pdf").read_bytes() == b"1"
        assert (tmp_path / "report (restored 2).pdf").read_bytes() == b"2"

    @pytest.mark.parametrize("existing", [Existing.SKIP, Existing.RENAME])
    def test_a_file_that_appears_meanwhile_is_not_replaced(self, tmp_path: Path, existing: Existing) -> None:
        desk = open_desk(tmp_path, existing)
        desk.write(b"first", b"1")  # the names of the folder are known from here on
        (tmp_path / "f").write_bytes(b"theirs")
        desk.write(b"f", b"ours")
        assert (tmp_path / "f").read_bytes() == b"theirs"
        assert (tmp_path / "f (restored)").exists() is (existing is Existing.RENAME)
        assert not [name for name in os.listdir(tmp_path) if name.startswith(".backupsite")]

    def test_an_existing_folder_keeps_its_mode_unless_overwriting(self, tmp_path: Path) -> None:
        for existing, mode in ((Existing.SKIP, 0o750), (Existing.RENAME, 0o750), (Existing.OVERWRITE, 0o755)):
            folder = tmp_path / existing.value
            (folder / "d").mkdir(parents=True)
            (folder / "d").chmod(0o750)
            desk = open_desk(folder, existing)
            entry = make_entry(b"d", stat.S_IFDIR, 0o755)
            desk.writer.write(entry, ())
            if entry.path in desk.target.created or existing is Existing.OVERWRITE:
                desk.writer.complete_folder(entry)
            assert stat.S_IMODE((folder / "d").stat().st_mode) == mode


class TestHardLinks:
    def make(self, path: bytes, inode: int = 5) -> Entry:
        return make_entry(path, inode=inode, device=2, hard_linked=True)

    def test_names_of_one_file_become_names_of_one_file(self, tmp_path: Path) -> None:
        desk = open_desk(tmp_path)
        for path in (b"a/one", b"b/two", b"c/three"):
            desk.writer.write(self.make(path), pieces(b"x"))
        desk.writer.write(self.make(b"c/other", inode=6), pieces(b"y"))
        facts = [(tmp_path / name).stat() for name in ("a/one", "b/two", "c/three", "c/other")]
        assert facts[0].st_ino == facts[1].st_ino == facts[2].st_ino != facts[3].st_ino
        assert (facts[0].st_nlink, facts[3].st_nlink) == (3, 1)
        assert (desk.tally.files, desk.tally.links) == (2, 2)

    def test_a_foreign_file_is_never_linked(self, tmp_path: Path) -> None:
        """The first name was replaced by somebody else's file before the second one came."""
        desk = open_desk(tmp_path)
        desk.writer.write(self.make(b"one"), pieces(b"ours"))
        (tmp_path / "theirs").write_bytes(b"theirs")
        os.replace(tmp_path / "theirs", tmp_path / "one")
        desk.writer.write(self.make(b"two"), pieces(b"ours"))
        assert (tmp_path / "two").read_bytes() == b"ours"
        assert (tmp_path / "one").stat().st_nlink == 1
        assert sorted(os.listdir(tmp_path)) == ["one", "two"]

    def test_an_existing_first_name_that_was_skipped_is_foreign(self, tmp_path: Path) -> None:
        (tmp_path / "one").write_bytes(b"theirs")
        desk = open_desk(tmp_path)
        for name in (b"one", b"two", b"three"):
            desk.writer.write(self.make(name), pieces(b"ours"))
        assert (tmp_path / "one").read_bytes() == b"theirs"
        assert (tmp_path / "two").stat().st_ino == (tmp_path / "three").stat().st_ino
        assert (tmp_path / "two").read_bytes() == b"ours"

    def test_the_first_folder_was_closed_meanwhile(self, tmp_path: Path) -> None:
        desk = open_desk(tmp_path)
        desk.writer.write(self.make(b"a/one"), pieces(b"x"))
        for number in range(OPEN_FOLDERS_MAX + 1):
            desk.write(b"other/%d" % number, kind=stat.S_IFDIR)
        desk.writer.write(self.make(b"z/two"), pieces(b"x"))
        assert (tmp_path / "a" / "one").stat().st_ino == (tmp_path / "z" / "two").stat().st_ino

    def test_overwriting_twice_leaves_no_temporary_name(self, tmp_path: Path) -> None:
        desk = open_desk(tmp_path, Existing.OVERWRITE)
        for _ in range(2):
            for name in (b"one", b"two"):
                desk.writer.write(self.make(name), pieces(b"x"))
        assert sorted(os.listdir(tmp_path)) == ["one", "two"]


def test_folders_deeper_and_more_than_may_be_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    desk = open_desk(tmp_path)
    deep = b"/".join([b"d" * 20] * (OPEN_FOLDERS_MAX + 100))  # longer than a path that the kernel takes
    desk.write(deep + b"/f", b"deep")
    assert desk.failures == []
    desk.write(deep + b"/g", b"deep")
    assert desk.tally.files == 2
    assert len(os.listdir("/proc/self/fd")) - before <= OPEN_FOLDERS_MAX + 1
    desk.target.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_name_that_is_too_long_concerns_this_entry_alone(tmp_path: Path) -> None:
    desk = open_desk(tmp_path)
    desk.write(b"n" * 300, b"x")
    desk.write(b"ok", b"x")
    assert desk.codes() == ["not-written"]
    assert os.listdir(tmp_path) == ["ok"]


def test_names() -> None:
    assert components(b"a/b c/\xff") == [b"a", b"b c", b"\xff"]
    with pytest.raises(Blocked):
        components(b"a//b")
    assert free_name(b"f") == b"f (restored)"
    assert free_name(b".profile") == b".profile (restored)"
    assert free_name(b"a.tar", taken={b"a (restored).tar"}) == b"a (restored 2).tar"
    long = free_name(b"n" * 251 + b".txt")
    assert len(long) == NAME_BYTES_MAX
    assert long.endswith(b" (restored).txt")
    assert len(free_name(b"x." + b"n" * 253)) <= NAME_BYTES_MAX


def test_temporary_names_say_whose_they_are(tmp_path: Path) -> None:
    with Target(open_into(tmp_path, None), Existing.SKIP) as target:
        assert target.temporary_name().startswith(TEMPORARY_PREFIX)
        assert target.temporary_name() != target.temporary_name()
