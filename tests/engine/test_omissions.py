"""What an order leaves out beside its patterns: mount points, caches, and what has the nodump flag."""

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from repositories.engine.omissions import CACHE_SIGNATURE, CACHE_TAG, Omission
from repositories.engine.patterns import Patterns
from repositories.engine.walk import Walk, clean_sources
from tests.engine.lab import Chain, Recorder, inside, write_tree

ONE_FILE_SYSTEM, SKIP_CACHES, SKIP_NODUMP = Omission
_LONG = struct.calcsize("l") << 16
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS, _FS_NODUMP_FL = 0x80006601 | _LONG, 0x40006602 | _LONG, 0x40
TAG = CACHE_TAG.decode()


def walk(*sources: Path, omit: Omission, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> set[str]:
    """Everything that the walk finds, relative to the first source."""
    observer = Recorder()
    chosen = clean_sources([os.fsencode(source) for source in sources], ())
    found = Walk(chosen, Patterns(include), Patterns(exclude), (), observer, lambda: None, frozenset({omit}))
    paths = {folder + name for folder, name, _, ancestor in found if not ancestor}
    assert observer.warnings == []
    return {os.path.relpath("/" + os.fsdecode(path), sources[0]) for path in paths}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_tree(tmp_path / "source", {"a/b/c": b"1", "a/d": b"2", "e": b"3", "f/g": b"4"})
    return tmp_path / "source"


EVERYTHING = {".", "a", "a/b", "a/b/c", "a/d", "e", "f", "f/g"}


class TestCaches:
    def test_the_folder_and_its_tag_stay(self, source: Path) -> None:
        (source / "a" / TAG).write_bytes(CACHE_SIGNATURE + b"\n# made by a test\n")
        assert walk(source, omit=SKIP_CACHES) == {".", "a", f"a/{TAG}", "e", "f", "f/g"}
        assert walk(source, omit=ONE_FILE_SYSTEM) == EVERYTHING | {f"a/{TAG}"}

    @pytest.mark.parametrize("content", [b"", CACHE_SIGNATURE[:-1], b" " + CACHE_SIGNATURE, CACHE_SIGNATURE.upper()])
    def test_a_tag_without_the_signature_is_a_file_like_others(self, source: Path, content: bytes) -> None:
        (source / "a" / TAG).write_bytes(content)
        assert walk(source, omit=SKIP_CACHES) == EVERYTHING | {f"a/{TAG}"}

    def test_a_tag_that_is_no_file_says_nothing(self, source: Path) -> None:
        (source / "real").write_bytes(CACHE_SIGNATURE)
        (source / "a" / TAG).symlink_to("../real")
        os.mkfifo(source / "f" / TAG)
        (source / "a" / "b" / TAG).mkdir()
        expected = EVERYTHING | {"real", f"a/{TAG}", f"f/{TAG}", f"a/b/{TAG}"}
        assert walk(source, omit=SKIP_CACHES) == expected

    def test_patterns_hold_beside_it(self, source: Path) -> None:
        (source / "a" / TAG).write_bytes(CACHE_SIGNATURE)
        assert walk(source, omit=SKIP_CACHES, include=("c", "g")) == {".", "f", "f/g"}
        assert walk(source, omit=SKIP_CACHES, exclude=(TAG,)) == {".", "a", "e", "f", "f/g"}

    def test_a_source_that_is_a_cache(self, source: Path) -> None:
        (source / TAG).write_bytes(CACHE_SIGNATURE)
        assert walk(source, omit=SKIP_CACHES) == {".", TAG}


def set_nodump(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        flags = struct.unpack("l", fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, bytes(struct.calcsize("l"))))[0]
        fcntl.ioctl(descriptor, _FS_IOC_SETFLAGS, struct.pack("l", flags | _FS_NODUMP_FL))
    except OSError:
        pytest.skip("this file system has no nodump flag")
    finally:
        os.close(descriptor)


class TestNodump:
    def test_files_and_folders_with_the_flag_are_left_out(self, source: Path) -> None:
        set_nodump(source / "a" / "b")
        set_nodump(source / "f" / "g")
        assert walk(source, omit=SKIP_NODUMP) == EVERYTHING - {"a/b", "a/b/c", "f/g"}
        assert walk(source, omit=SKIP_CACHES) == EVERYTHING

    def test_links_and_fifos_are_not_opened(self, source: Path) -> None:
        set_nodump(source / "e")
        (source / "link").symlink_to("e")
        os.mkfifo(source / "fifo")
        assert walk(source, omit=SKIP_NODUMP) == EVERYTHING - {"e"} | {"link", "fifo"}

    def test_a_source_is_walked_whatever_flag_it_has(self, source: Path) -> None:
        set_nodump(source)
        assert walk(source, omit=SKIP_NODUMP) == EVERYTHING

    def test_included_things_with_the_flag_are_left_out(self, source: Path) -> None:
        set_nodump(source / "a" / "d")
        assert walk(source, omit=SKIP_NODUMP, include=("d", "c")) == {".", "a", "a/b", "a/b/c"}

    def test_a_file_system_without_flags(self, tmp_path: Path) -> None:
        """/proc answers ENOTTY: everything is kept."""
        folder = Path("/proc/sys/kernel/random")
        if not folder.is_dir():
            pytest.skip("there is no /proc")
        assert walk(folder, omit=SKIP_NODUMP) == {".", *os.listdir(folder)}


@pytest.fixture
def mounted(source: Path) -> Iterator[Path]:
    """A tmpfs at f, with one file and one folder in it."""
    done = subprocess.run(["mount", "-t", "tmpfs", "none", source / "f"], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("only root may mount, and not in every container")
    try:
        write_tree(source / "f", {"inside/x": b"5"})
        yield source
    finally:
        subprocess.run(["umount", source / "f"], check=True)


class TestOneFileSystem:
    def test_a_mount_point_is_kept_empty(self, mounted: Path) -> None:
        without = EVERYTHING - {"f/g"}
        assert walk(mounted, omit=ONE_FILE_SYSTEM) == without
        assert walk(mounted, omit=SKIP_CACHES) == without | {"f/inside", "f/inside/x"}

    def test_each_source_has_its_own(self, mounted: Path) -> None:
        assert walk(mounted / "f", mounted / "a", omit=ONE_FILE_SYSTEM) == {
            ".", "inside", "inside/x", "../a", "../a/b", "../a/b/c", "../a/d",
        }  # fmt: skip

    def test_a_mount_point_that_is_not_included(self, mounted: Path) -> None:
        assert walk(mounted, omit=ONE_FILE_SYSTEM, include=("x", "e")) == {".", "e"}
        assert walk(mounted, omit=ONE_FILE_SYSTEM, include=("f/", "e")) == {".", "e", "f"}

    def test_the_root_is_a_source_like_others(self) -> None:
        """Stopped early by leaving out all that is on its device: what is mounted below it stays, and is empty."""
        names = [name for name in os.listdir("/") if not os.path.ismount("/" + name)]
        if len(names) == len(os.listdir("/")):
            pytest.skip("nothing is mounted in /")
        exclude = tuple(f"/{name}" for name in names)
        assert all("/" not in path for path in walk(Path("/"), omit=ONE_FILE_SYSTEM, exclude=exclude))


def test_the_options_are_sealed_and_change_what_is_in_a_point(tmp_path: Path, source: Path) -> None:
    (source / "a" / TAG).write_bytes(CACHE_SIGNATURE)
    chain = Chain(tmp_path / "repository", source)
    chain.write()
    chain.write(options=frozenset({SKIP_NODUMP, SKIP_CACHES}))
    chain.write()
    found = []
    for number in range(3):
        with chain.open(number) as point:
            found.append((point.summary.options, {entry.path for entry in point.walk(inside(source, "a"))}))
    assert [options for options, _ in found] == [(), ("skip-caches", "skip-nodump"), ()]
    assert found[1][1] == {inside(source, "a"), inside(source, f"a/{TAG}")}
    assert found[2][1] == found[0][1] > found[1][1]
    assert chain.points[2].new_files == 2
