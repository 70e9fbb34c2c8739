"""Entries, honest and hostile, written into real folders: nothing may land, or be touched, outside of the target."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from repositories.engine.entries import Entry
from repositories.engine.errors import BadTarget, damaged
from repositories.engine.reader import Hole, Piece
from repositories.engine.restore_entry import EntryWriter, Failure, Tally
from repositories.engine.target import OPEN_FOLDERS_MAX, TEMPORARY_PREFIX, Existing, Target, open_into
from repositories.engine.target_names import NAME_BYTES_MAX, Blocked, components, free_name

OLD_NS = 1_234_567_890_123_456_789
NOBODY = 65534
IS_ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not IS_ROOT, reason="needs root")


def make_entry(path: bytes, kind: int = stat.S_IFREG, mode: int = 0o644, **more: object) -> Entry:
    facts: dict[str, object] = {
        "uid": os.geteuid(),
        "gid": os.getegid(),
        "size": 0,
        "mtime_ns": OLD_NS,
        "ctime_ns": OLD_NS,
        "inode": 7,
        "device": 1,
    }
    return Entry(path=path, mode=kind | mode, **(facts | more))  # type: ignore[arg-type]


DESKS: list[Desk] = []


@dataclass
class Desk:
    """A target and its writer, and what was reported."""

    target: Target
    writer: EntryWriter
    tally: Tally
    failures: list[Failure] = field(default_factory=list)

    def write(self, path: bytes, content: bytes = b"", **more: object) -> None:
        self.writer.write(make_entry(path, **more), pieces(content))  # type: ignore[arg-type]

    def codes(self) -> list[str]:
        return [failure.code for failure in self.failures]


def pieces(*contents: bytes) -> list[Piece]:
    return [memoryview(content) for content in contents if content]


def open_desk(into: Path, existing: Existing = Existing.SKIP, below: Path | None = None) -> Desk:
    target, tally = Target(open_into(into, below), existing), Tally()
    failures: list[Failure] = []
    desk = Desk(target, EntryWriter(target, tally, failures.append, lambda: None), tally, failures)
    DESKS.append(desk)
    return desk


@pytest.fixture(autouse=True)
def close_desks() -> Iterator[None]:
    yield
    while DESKS:
        DESKS.pop().target.close()


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


class TestContent:
    def test_every_byte(self, tmp_path: Path) -> None:
        desk = open_desk(tmp_path)
        content = os.urandom(300_001)
        desk.writer.write(make_entry(b"f"), pieces(content[:10], content[10:200_000], content[200_000:]))
        assert (tmp_path / "f").read_bytes() == content
        assert desk.tally.bytes_written == len(content)

    @pytest.mark.parametrize(
        "shape",
        [
            [1 << 20],
            [-(1 << 20)],
            [-(64 << 10), 5, -(128 << 10)],
            [3, -(200 << 10), 70 << 10, -(64 << 10)],
            [-(64 << 10), -1],
        ],
    )
    def test_runs_of_zeros_become_holes_and_read_back_alike(self, tmp_path: Path, shape: list[int]) -> None:
        content = b"".join(bytes(-length) if length < 0 else b"x" * length for length in shape)
        desk = open_desk(tmp_path)
        desk.writer.write(make_entry(b"whole"), pieces(content))
        desk.writer.write(
            make_entry(b"parts"), pieces(*(content[i : i + 100_000] for i in range(0, len(content), 100_000)))
        )
        assert (tmp_path / "whole").read_bytes() == content
        assert (tmp_path / "parts").read_bytes() == content

    def test_recorded_holes_take_no_room(self, tmp_path: Path) -> None:
        desk = open_desk(tmp_path)
        gib = 1 << 30
        desk.writer.write(make_entry(b"f"), [Hole(gib), memoryview(b"middle"), Hole(gib)])
        facts = (tmp_path / "f").stat()
        assert facts.st_size == 2 * gib + 6
        assert facts.st_blocks * 512 < 1 << 20
        with (tmp_path / "f").open("rb") as file:
            file.seek(gib - 1)
            assert file.read(8) == b"\0middle\0"

    def test_damage_in_the_middle_leaves_nothing_of_the_file(self, tmp_path: Path) -> None:
        def breaking() -> Iterator[Piece]:
            yield memoryview(b"begin")
            raise damaged("repository/1", "block 17")

        desk = open_desk(tmp_path)
        desk.writer.write(make_entry(b"bad"), breaking())
        desk.write(b"good", b"good")
        assert os.listdir(tmp_path) == ["good"]
        assert desk.codes() == ["corrupt-file"]
        assert "bad" in desk.failures[0].sentence
        assert desk.tally.damaged == 1

    def test_a_stop_in_the_middle_leaves_nothing_of_the_file(self, tmp_path: Path) -> None:
        class Stop(Exception):
            pass

        def stop() -> None:
            raise Stop

        with Target(open_into(tmp_path, None), Existing.SKIP) as target:
            writer = EntryWriter(target, Tally(), lambda failure: None, stop)
            with pytest.raises(Stop):
                writer.write(make_entry(b"f"), pieces(b"content"))
        assert os.listdir(tmp_path) == []


class TestFidelity:
    def test_mode_and_times_of_a_file(self, tmp_path: Path) -> None:
        desk = open_desk(tmp_path)
        desk.write(b"f", b"x", mode=0o4751)
        facts = (tmp_path / "f").stat()
        assert stat.S_IMODE(facts.st_mode) == 0o4751
        assert facts.st_mtime_ns == OLD_NS
        assert desk.tally.losses.counts == {}

    def test_a_folder_is_completed_last_and_keeps_its_time(self, tmp_path: Path) -> None:
        desk = open_desk(tmp_path)
        entry = make_entry(b"d", stat.S_IFDIR, 0o2555)
        desk.writer.write(entry, ())
        desk.write(b"d/f", b"x")
        desk.writer.complete_folder(entry)
        facts = (tmp_path / "d").stat()
        assert facts.st_mtime_ns == OLD_NS
        assert stat.S_IMODE(facts.st_mode) == 0o2555

    def test_a_folder_above_a_source_gets_no_time(self, tmp_path: Path) -> None:
        desk = open_desk(tmp_path)
        entry = make_entry(b"home", stat.S_IFDIR, 0o711, ancestor=True)
        desk.writer.write(entry, ())
        desk.writer.complete_folder(entry)
        facts = (tmp_path / "home").stat()
        assert stat.S_IMODE(facts.st_mode) == 0o711
        assert facts.st_mtime_ns != OLD_NS

    def test_links_fifos_and_names_of_any_byte(self, tmp_path: Path) -> None:
        desk = open_desk(tmp_path)
        any_name = bytes(byte for byte in range(1, 256) if byte != ord("/"))[:NAME_BYTES_MAX]
        desk.write(any_name, b"x")
        desk.write(b"link", kind=stat.S_IFLNK, target=b"no\xffwhere")
        desk.write(b"fifo", kind=stat.S_IFIFO, mode=0o620)
        names = {os.fsencode(name) for name in os.listdir(tmp_path)}
        assert names == {any_name, b"link", b"fifo"}
        assert os.readlink(os.fsencode(tmp_path / "link")) == b"no\xffwhere"
        assert (tmp_path / "link").lstat().st_mtime_ns == OLD_NS
        fifo = (tmp_path / "fifo").lstat()
        assert stat.S_ISFIFO(fifo.st_mode)
        assert stat.S_IMODE(fifo.st_mode) == 0o620
        assert fifo.st_mtime_ns == OLD_NS

    @as_root
    def test_owners_as_root(self, tmp_path: Path) -> None:
        desk = open_desk(tmp_path)
        desk.write(b"f", b"x", uid=12345, gid=54321, mode=0o6755)
        desk.write(b"link", kind=stat.S_IFLNK, target=b"f", uid=12345, gid=54321)
        facts = (tmp_path / "f").stat()
        assert (facts.st_uid, facts.st_gid, stat.S_IMODE(facts.st_mode)) == (12345, 54321, 0o6755)
        assert (tmp_path / "link").lstat().st_uid == 12345

    @as_root
    def test_devices_as_root(self, tmp_path: Path) -> None:
        desk = open_desk(tmp_path)
        desk.write(b"null", kind=stat.S_IFCHR, mode=0o666, rdev=os.makedev(1, 3))
        if desk.codes() == ["device-not-made"]:
            pytest.skip("this container may not make devices")
        facts = (tmp_path / "null").lstat()
        assert stat.S_ISCHR(facts.st_mode)
        assert facts.st_rdev == os.makedev(1, 3)
        assert stat.S_IMODE(facts.st_mode) == 0o666

    @as_root
    def test_an_ordinary_user_gets_counted_losses_and_no_setuid(self) -> None:
        with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
            into = Path(folder)
            os.chown(into, NOBODY, NOBODY)
            assert as_nobody(lambda: write_as_nobody(into)) == 0
            facts = (into / "f").stat()
            assert (facts.st_uid, stat.S_IMODE(facts.st_mode)) == (NOBODY, 0o755)

    def test_extended_attributes(self, tmp_path: Path) -> None:
        try:
            os.setxattr(tmp_path, "user.probe", b"1")
        except OSError:
            pytest.skip("this file system has no extended attributes")
        desk = open_desk(tmp_path)
        desk.write(b"f", b"x", mode=0o400, xattrs=((b"user.colour", b"blue\0"), (b"user.x", b"")))
        assert os.getxattr(tmp_path / "f", "user.colour") == b"blue\0"
        assert desk.tally.losses.counts == {}

    def test_attributes_that_cannot_be_set_are_one_counted_loss(self, tmp_path: Path) -> None:
        desk = open_desk(tmp_path)
        for name in (b"f", b"g"):
            desk.write(name, b"x", xattrs=((b"nonsense.a", b"1"), (b"nonsense.b", b"2")))
        assert desk.tally.losses.counts == {"attributes-not-set": 2}
        assert desk.tally.losses.first_paths == {"attributes-not-set": b"f"}


def as_nobody(act: Callable[[], int]) -> int:
    """Run in a child process, because a change of user cannot be undone; the exit code is what `act` returns."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 99
    try:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        code = act()
    finally:
        os._exit(code)


def write_as_nobody(into: Path) -> int:
    desk = open_desk(into)
    desk.write(b"f", b"x", uid=0, gid=0, mode=0o4755)
    desk.write(b"null", kind=stat.S_IFCHR, rdev=os.makedev(1, 3))
    counts = desk.tally.losses.counts
    right = counts == {"owner-not-set": 1, "special-bits-dropped": 1} and desk.codes() == ["device-not-made"]
    return 0 if right else 1


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
