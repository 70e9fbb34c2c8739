"""Sources that do not hold still: files that change, shrink, grow, vanish or turn into something else while they are
read, at a moment that the test chooses. Never does a point hold what a file never was without saying so.
"""

import os
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from repositories.engine.layout import MIB
from tests.engine.lab import Chain, Recorder, content_of, inside

LARGE = 20 * MIB


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@pytest.fixture
def chain(tmp_path: Path, source: Path) -> Chain:
    return Chain(tmp_path / "repository", source)


class Meddler:
    """Does something at a call of the operating system that concerns one file: the first time, or the first times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path, act: Callable[[], None], times: int = 1) -> None:
        self._patch, self._path, self._act, self._left = monkeypatch, os.fsencode(path), act, times
        self._inode = os.stat(path).st_ino
        self._at_work = False

    @property
    def done(self) -> bool:
        return not self._left

    def _meddle(self) -> None:
        if self._left and not self._at_work:
            self._left -= 1
            self._at_work = True
            self._act()
            self._at_work = False

    def before_open(self) -> "Meddler":
        original = os.open

        def opened(path: bytes, *args: object, **more: object) -> int:
            folder = more.get("dir_fd")
            named = path if folder is None else os.fsencode(os.readlink(f"/proc/self/fd/{folder}")) + b"/" + path
            if named in (self._path, os.path.realpath(self._path)):
                self._meddle()
            return original(path, *args, **more)

        self._patch.setattr(os, "open", opened)
        return self

    def behind_read(self) -> "Meddler":
        """After the content of a small file was read, before it is looked whether the file is the same."""
        self._wrap("readv", 0)
        return self

    def behind_piece(self, position: int = 0) -> "Meddler":
        """After a piece of a large file was read, that begins at or behind a position."""
        self._wrap("pread", position)
        return self

    def _wrap(self, name: str, position: int) -> None:
        original = getattr(os, name)

        def wrapped(fd: int, what: object, *at: int) -> object:
            result: object = original(fd, what, *at)
            if sum(at) >= position and os.fstat(fd).st_ino == self._inode:
                self._meddle()
            return result

        self._patch.setattr(os, name, wrapped)


def rewrite(path: Path, content: bytes) -> None:
    """In place: the inode stays."""
    with open(path, "r+b") as file:
        file.write(content)
        file.truncate()


def replace(path: Path, content: bytes) -> None:
    """Another file with the same name."""
    path.with_name("temporary").write_bytes(content)
    os.replace(path.with_name("temporary"), path)


def codes(observer: Recorder, source: Path) -> list[tuple[str, str]]:
    return [(code, os.path.relpath("/" + os.fsdecode(path), source)) for code, path, _ in observer.warnings]


SIZES = {"small": 5_000, "large": LARGE}


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> int:
    return SIZES[request.param]


@pytest.fixture
def file(source: Path, size: int) -> Path:
    (source / "a").write_bytes(b"before it")
    (source / "file").write_bytes(random.Random(1).randbytes(size))
    (source / "z").write_bytes(b"behind it")
    return source / "file"


@pytest.mark.parametrize("edit", [rewrite, replace])
@pytest.mark.parametrize("difference", [-1_000, 0, 1_000])
def test_changed_before_it_is_read(
    chain: Chain, source: Path, file: Path, size: int, monkeypatch: pytest.MonkeyPatch,
    edit: Callable[[Path, bytes], None], difference: int,
) -> None:  # fmt: skip
    """It is read as it is now, which is a state that it had: no warning."""
    now = random.Random(2).randbytes(size + difference)
    meddler = Meddler(monkeypatch, file, lambda: edit(file, now)).before_open()
    observer = Recorder()
    written = chain.write(observer=observer)
    assert meddler.done and observer.warnings == []
    with chain.open() as point:
        entry = point.entry(inside(source, "file"))
        found = file.stat()
        assert (entry.size, entry.inode, entry.mtime_ns) == (size + difference, found.st_ino, found.st_mtime_ns)
        assert content_of(point, entry.path) == now and not entry.torn
    assert written.source_bytes == size + difference + 18
    assert chain.write().unchanged_files == 3


def turn_into_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def turn_into_link(path: Path) -> None:
    path.with_name("elsewhere").write_bytes(b"foreign")
    path.unlink()
    path.symlink_to("elsewhere")


def turn_into_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def turn_into_socket(path: Path) -> None:
    path.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (Path.unlink, "vanished before it was read"),
        (turn_into_folder, "turned into something else"),
        (turn_into_link, "turned into something else"),
        (turn_into_fifo, "turned into something else"),
        (turn_into_socket, "turned into something else"),
    ],
)
def test_gone_before_it_is_read(
    chain: Chain, source: Path, file: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], None], said: str
) -> None:
    meddler = Meddler(monkeypatch, file, lambda: act(file)).before_open()
    observer = Recorder()
    written = chain.write(observer=observer)
    assert meddler.done and codes(observer, source) == [("vanished", "file")]
    assert said in observer.warnings[0][2] and written.files == 2 and written.warnings == 1
    with chain.open() as point:
        assert [entry.name for entry in point.list_folder(inside(source))] == [b"a", b"z"]


def test_a_folder_that_is_gone_before_its_files_are_read(
    chain: Chain, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "folder").mkdir()
    for name in "abc":
        (source / "folder" / name).write_bytes(b"content")
    (source / "folder" / "link").symlink_to("a")
    meddler = Meddler(
        monkeypatch, source / "folder" / "a", lambda: (source / "folder").rename(source / "other")
    ).before_open()
    observer = Recorder()
    chain.write(observer=observer)
    assert meddler.done
    # The small files are read from their folder as it was opened, wherever it is by now.
    assert codes(observer, source) == [("vanished", "folder/link")]
    with chain.open() as point:
        assert {content_of(point, inside(source, f"folder/{name}")) for name in "abc"} == {b"content"}


@pytest.mark.parametrize("difference", [-1_000, 0, 1_000])
def test_a_small_file_changed_between_reading_and_looking(
    chain: Chain, source: Path, monkeypatch: pytest.MonkeyPatch, difference: int
) -> None:
    """It is read a second time, and that is one state of it."""
    file = source / "file"
    file.write_bytes(b"x" * 5_000)
    now = b"y" * (5_000 + difference)
    meddler = Meddler(monkeypatch, file, lambda: rewrite(file, now)).behind_read()
    observer = Recorder()
    chain.write(observer=observer)
    assert meddler.done and observer.warnings == []
    with chain.open() as point:
        assert content_of(point, inside(source, "file")) == now


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("grows", lambda path: rewrite(path, b"g" * (path.stat().st_size + 1_000))),
        ("shrinks", lambda path: rewrite(path, b"s" * (path.stat().st_size - 9_000_000))),
        ("shrinks to nothing", lambda path: rewrite(path, b"")),
        ("is overwritten", lambda path: rewrite(path, b"o" * path.stat().st_size)),
        ("is replaced", lambda path: replace(path, b"r" * 10_000)),
        ("is appended to", lambda path: path.open("ab").write(b"tail")),
    ],
)
def test_a_large_file_that_changes_while_it_is_read(
    chain: Chain, source: Path, monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[Path], None]
) -> None:
    """What was read stays, marked and with a warning, and the next session reads it again."""
    file = source / "file"
    before = random.Random(3).randbytes(LARGE)
    file.write_bytes(before)
    meddler = Meddler(monkeypatch, file, lambda: act(file)).behind_piece(4 * MIB)
    observer = Recorder()
    chain.write(observer=observer)
    assert meddler.done and codes(observer, source) == [("changed", "file")]
    with chain.open() as point:
        entry = point.entry(inside(source, "file"))
        content = content_of(point, entry.path)
        assert entry.torn and entry.size == len(content) and content[: 4 * MIB] == before[: 4 * MIB]
    again = chain.write(observer=observer)
    assert again.changed_files == 1 and len(observer.warnings) == 1
    with chain.open() as point:
        entry = point.entry(inside(source, "file"))
        assert not entry.torn and content_of(point, entry.path) == file.read_bytes()


def test_a_large_file_that_vanishes_while_it_is_read(
    chain: Chain, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was read to its end; it says that it changed."""
    before = random.Random(4).randbytes(LARGE)
    (source / "file").write_bytes(before)
    meddler = Meddler(monkeypatch, source / "file", (source / "file").unlink).behind_piece(4 * MIB)
    observer = Recorder()
    chain.write(observer=observer)
    assert meddler.done and codes(observer, source) == [("changed", "file")]
    with chain.open() as point:
        assert content_of(point, inside(source, "file")) == before
    assert chain.write().files == 0


def test_a_small_file_that_never_holds_still(chain: Chain, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = source / "file"
    file.write_bytes(b"x" * 5_000)
    number = iter(range(100))

    def act() -> None:
        rewrite(file, b"%d" % next(number) * 5_000)

    first = Meddler(monkeypatch, file, act).behind_read()
    second = Meddler(monkeypatch, file, act).behind_piece()
    observer = Recorder()
    chain.write(observer=observer)
    assert first.done and second.done and codes(observer, source) == [("changed", "file")]
    with chain.open() as point:
        assert point.entry(inside(source, "file")).torn
    assert chain.write(observer=observer).changed_files == 1
    with chain.open() as point:
        assert content_of(point, inside(source, "file")) == file.read_bytes()


@pytest.mark.parametrize("size", [5_000, MIB])
@pytest.mark.parametrize("moment", ["before", "during", "between"])
def test_a_file_with_several_names_that_changes(
    chain: Chain, source: Path, monkeypatch: pytest.MonkeyPatch, size: int, moment: str
) -> None:
    (source / "a").write_bytes(b"x" * size)
    os.link(source / "a", source / "b")
    (source / "aa").write_bytes(b"between both names")
    now = b"y" * (size + 1)
    meddler = {
        "before": lambda: Meddler(monkeypatch, source / "a", lambda: rewrite(source / "a", now)).before_open(),
        "during": lambda: Meddler(monkeypatch, source / "a", lambda: rewrite(source / "a", now)).behind_piece(),
        "between": lambda: Meddler(monkeypatch, source / "aa", lambda: rewrite(source / "a", now)).before_open(),
    }[moment]()
    observer = Recorder()
    chain.write(observer=observer)
    assert meddler.done
    assert codes(observer, source) == ([("changed", "a")] if moment == "during" else [])
    with chain.open() as point:
        entries = [point.entry(inside(source, name)) for name in ("a", "b")]
        for entry in entries:
            content = content_of(point, entry.path)
            assert entry.hard_linked and len(content) == entry.size
            assert entry.torn or content in (b"x" * size, now)
    chain.write(observer=observer)
    with chain.open() as point:
        for name in ("a", "b"):
            assert content_of(point, inside(source, name)) == now
    assert len(observer.warnings) == (moment == "during")
