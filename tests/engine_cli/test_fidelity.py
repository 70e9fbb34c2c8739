"""What of an entry comes back: every byte, holes, mode, owner, times, attributes, devices; and what is said of the
rest.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from repositories.engine.errors import damaged
from repositories.engine.reader import Hole, Piece
from repositories.engine.restore_entry import EntryWriter, Tally
from repositories.engine.target import Existing, Target, open_into
from repositories.engine.target_names import NAME_BYTES_MAX
from tests.engine_cli.desk import OLD_NS, make_entry, open_desk, pieces

NOBODY = 65534
IS_ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not IS_ROOT, reason="needs root")


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
