"""Trees whose paths are longer than one call of the kernel takes: backed up, compared and restored like others."""

import os
import random
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from repositories.engine import walk
from repositories.engine.restore import RestoreOrder, restore
from tests.engine.lab import Chain, Recorder, inside

PATH_MAX = 4_096  # with the NUL at the end
LEVEL = b"l" * 199
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class FarTree:
    """A tree made, and looked at, from folder to folder."""

    def __init__(self, top: Path) -> None:
        top.mkdir()
        self.top, self.path = top, os.fsencode(top)
        self.folder = os.open(top, FOLDER_FLAGS)

    def descend(self, name: bytes = LEVEL) -> None:
        os.mkdir(name, dir_fd=self.folder)
        below = os.open(name, FOLDER_FLAGS, dir_fd=self.folder)
        os.close(self.folder)
        self.folder, self.path = below, self.path + b"/" + name

    def descend_to(self, length: int) -> None:
        """Until the path has exactly this length."""
        while length - len(self.path) > 2 * (len(LEVEL) + 1):
            self.descend()
        rest = length - len(self.path)
        self.descend(b"r" * (rest // 2 - 1))
        self.descend(b"r" * (rest - rest // 2 - 1))
        assert len(self.path) == length

    def write(self, name: bytes, content: bytes) -> None:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=self.folder)
        os.write(descriptor, content)
        os.close(descriptor)


def facts_below(folder: int, path: bytes = b"") -> dict[bytes, tuple]:
    """Everything below an open folder, which is closed."""
    facts = {}
    for name in os.listdir(folder):
        raw = os.fsencode(name)
        found = os.lstat(raw, dir_fd=folder)
        content: object = None
        if stat.S_ISLNK(found.st_mode):
            content = os.readlink(raw, dir_fd=folder)
        elif stat.S_ISREG(found.st_mode):
            descriptor = os.open(raw, os.O_RDONLY, dir_fd=folder)
            xattrs = {key: os.getxattr(descriptor, key) for key in os.listxattr(descriptor)}
            content = (os.read(descriptor, found.st_size + 1), xattrs, found.st_nlink)
            os.close(descriptor)
        facts[path + raw] = (found.st_mode, found.st_mtime_ns, found.st_uid, content)
        if stat.S_ISDIR(found.st_mode):
            facts |= facts_below(os.open(raw, FOLDER_FLAGS, dir_fd=folder), path + raw + b"/")
    os.close(folder)
    return facts


def facts_of(top: Path) -> dict[bytes, tuple]:
    return facts_below(os.open(top, FOLDER_FLAGS))


@pytest.fixture
def far(tmp_path: Path) -> Iterator[FarTree]:
    tree = FarTree(tmp_path / "source")
    yield tree
    os.close(tree.folder)
    shutil.rmtree(tmp_path)  # what is left for the session's end removes trees by path


def fill(tree: FarTree) -> None:
    """One of everything in the folder that the tree has come to."""
    dice = random.Random(len(tree.path))
    tree.write(b"small", b"small content")
    tree.write(b"large", dice.randbytes(700_000))
    tree.write(b"empty", b"")
    os.symlink(b"nowhere", b"link", dir_fd=tree.folder)
    os.mkfifo(b"fifo", dir_fd=tree.folder)
    os.link(b"small", b"small again", src_dir_fd=tree.folder, dst_dir_fd=tree.folder)
    tree.write(b"tagged", b"tagged")
    descriptor = os.open(b"tagged", os.O_RDONLY, dir_fd=tree.folder)
    try:
        os.setxattr(descriptor, b"user.far", b"away")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    finally:
        os.close(descriptor)


def test_a_far_tree_is_backed_up_compared_and_restored(tmp_path: Path, far: FarTree) -> None:
    fill(far)
    far.descend_to(PATH_MAX - 6)
    fill(far)  # some of their paths are just short enough: 4,095 bytes are
    far.descend_to(2 * PATH_MAX + 100)
    fill(far)
    truth = facts_of(far.top)
    lengths = {len(inside(far.top)) + 2 + len(path) for path in truth}
    assert {PATH_MAX - 1, PATH_MAX, 2 * PATH_MAX + 106} <= lengths
    chain = Chain(tmp_path / "repository", far.top)
    observer = Recorder()
    written = chain.write(observer=observer)
    assert observer.warnings == [] and written.files == 15
    again = chain.write(observer=observer)
    assert (again.unchanged_files, again.read_bytes) == (15, 0)
    with chain.open() as point:
        restored = restore(RestoreOrder(point, tmp_path / "into"), observer)
    assert observer.warnings == [] and restored.failed_count == 0
    assert facts_of(tmp_path / "into" / far.top.relative_to("/")) == truth


def test_beyond_the_bound_it_is_a_warning_with_the_path(
    tmp_path: Path, far: FarTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in a folder with a path of that many bytes is still taken, and a deeper folder without its content."""
    monkeypatch.setattr(walk, "MAX_FOLDER_BYTES", 5_000)
    far.descend_to(5_000)
    far.write(b"1" * 255, b"in")
    far.descend(b"x")
    far.write(b"2", b"out")
    far.descend(b"y")
    observer = Recorder()
    chain = Chain(tmp_path / "repository", far.top)
    written = chain.write(observer=observer)
    assert written.files == 1
    assert [(code, len(path) + 1) for code, path, _ in observer.warnings] == [("unreadable", 5_002)]
    assert "more than 5,000 bytes" in observer.warnings[0][2]


def test_what_vanishes_far_away_is_said_so(tmp_path: Path, far: FarTree) -> None:
    far.descend_to(PATH_MAX + 10)
    far.write(b"gone", b"x")
    far.write(b"turned", b"x")
    far.write(b"there", b"y")

    def meddle() -> int:
        if not observer.warnings:
            os.unlink(b"gone", dir_fd=far.folder)
            os.unlink(b"turned", dir_fd=far.folder)
            os.mkdir(b"turned", dir_fd=far.folder)
            observer.warnings.append(("meddled", b"", ""))
        return 1 << 62

    observer = Recorder()
    written = Chain(tmp_path / "repository", far.top).write(observer=observer, clock=meddle)
    assert written.files == 1
    assert [(code, path.rpartition(b"/")[2]) for code, path, _ in observer.warnings] == [
        ("meddled", b""),
        ("vanished", b"gone"),
        ("vanished", b"turned"),
    ]
