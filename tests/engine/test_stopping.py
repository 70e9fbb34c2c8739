"""What goes wrong while a point is written: it stops cleanly or warns with the path, and the chain is as before.

Files that change while they are read have test_moving_sources.py.
"""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from repositories.engine import chains
from repositories.engine.backup import FreeSpace, Kind
from repositories.engine.errors import (
    AlreadyExists,
    AnotherWriter,
    BadOrder,
    Cancelled,
    EngineError,
    Fenced,
    OutOfSpace,
    RepositoryUnwritable,
    SourceMissing,
    SourceRefused,
    SourceUnreadable,
)
from tests.engine.lab import Chain, Recorder, facts_in_point, facts_on_disk, inside, paths, write_tree


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_tree(tmp_path / "source", {"a": b"content of a", "folder/b": b"content of b", "z": b"z" * 100})
    return tmp_path / "source"


@pytest.fixture
def chain(tmp_path: Path, source: Path) -> Chain:
    return Chain(tmp_path / "repository", source)


class Stopper(Recorder):
    """Says stop at the n-th question."""

    def __init__(self, at: int = 1) -> None:
        super().__init__()
        self.left = at
        self.stopped_at = 0.0

    def cancelled(self) -> bool:
        self.left -= 1
        if self.left <= 0:
            self.stopped_at = self.stopped_at or time.monotonic()
        return self.left <= 0


class Fencing(Recorder):
    def before_seal(self) -> None:
        raise Fenced("The lease ran out.")


def assert_nothing_happened(chain: Chain, error: type[EngineError], **fields) -> EngineError:
    """The write is refused with this error; the files are as before, and the newest point still opens."""
    before = chain.names()
    with pytest.raises(error) as caught:
        chain.write(**fields)
    assert chain.names() == before
    if chain.points:
        with chain.open() as point:
            assert facts_in_point(point)
    return caught.value


@pytest.mark.parametrize("earlier", [0, 1])
def test_stopped_before_sealing_leaves_nothing(chain: Chain, earlier: int) -> None:
    for _ in range(earlier):
        chain.write()
    assert_nothing_happened(chain, Fenced, observer=Fencing())
    assert_nothing_happened(chain, Cancelled, observer=Stopper())
    assert_nothing_happened(chain, OutOfSpace, reserve=FreeSpace(bytes=1 << 60))
    assert chain.folder.exists() == bool(earlier)


def test_cancelled_in_the_middle_stops_soon(chain: Chain, source: Path) -> None:
    for number in range(12):
        (source / f"large {number}").write_bytes(os.urandom(16 * 1024 * 1024))
    observer = Stopper(at=2)
    assert_nothing_happened(chain, Cancelled, observer=observer)
    assert observer.reports, "it was running"
    assert time.monotonic() - observer.stopped_at < 2


def test_out_of_space_names_the_numbers(chain: Chain) -> None:
    error = assert_nothing_happened(chain, OutOfSpace, reserve=FreeSpace(bytes=1 << 60))
    assert error.fields["needed_bytes"] >= 1 << 60 > error.fields["free_bytes"]
    error = assert_nothing_happened(chain, OutOfSpace, reserve=FreeSpace(bytes=0, share=1.0))
    assert str(chain.folder) in str(error)


def test_space_is_watched_while_writing(chain: Chain, source: Path) -> None:
    """The reserve leaves room for 40 MiB; 120 MiB that do not compress are stopped on the way."""
    (source / "large").write_bytes(os.urandom(120 * 1024 * 1024))
    found = os.statvfs(source)
    reserve = FreeSpace(bytes=found.f_bavail * found.f_frsize - 40 * 1024 * 1024, share=0.0)
    observer = Recorder()
    assert_nothing_happened(chain, OutOfSpace, reserve=reserve, observer=observer)
    assert observer.sealed == 0


def test_a_failing_write_is_reported(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    chain.write()
    for call in ("pwritev", "fsync", "link"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, _failing)
            error = assert_nothing_happened(chain, RepositoryUnwritable)
            assert "Input/output error" in str(error)


def _failing(*_args: object) -> int:
    raise OSError(errno.EIO, "Input/output error")


def test_short_writes_are_continued(chain: Chain, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, parts, at: whole(fd, [b"".join(parts)[:7]], at))
    chain.write()
    with chain.open() as point:
        assert facts_in_point(point) == facts_on_disk(source)


def test_of_two_writers_one_seals(chain: Chain) -> None:
    written = chain.write()

    class Overtaken(Recorder):
        def before_seal(self) -> None:
            (chain.folder / "2").write_bytes(b"of the other writer")

    with pytest.raises(AlreadyExists):
        chain.write(observer=Overtaken())
    assert (chain.folder / "2").read_bytes() == b"of the other writer"
    assert chain.names() == ["1", "2"]
    with pytest.raises(AlreadyExists):
        chain.write(sequence=2)
    with pytest.raises(AlreadyExists):
        chain.write(sequence=1, kind=Kind.FULL, parent=None)
    assert chain.points == [written]


def test_the_same_file_is_not_written_twice_at_once(chain: Chain) -> None:
    chain.write()
    file_id = uuid4()

    class Nested(Recorder):
        def before_seal(self) -> None:
            with pytest.raises(AnotherWriter):
                chain.write(file_id=file_id, sequence=2)
            assert chains.leftovers(chain.root) == []
            assert chains.remove_leftovers(chain.root) == []

    chain.write(file_id=file_id, observer=Nested())
    assert chain.names() == ["1", "2"]


def test_orders_that_contradict_the_chain_are_refused(chain: Chain, tmp_path: Path, source: Path) -> None:
    with pytest.raises(BadOrder):
        chain.write(kind=Kind.INCREMENTAL)
    with pytest.raises(BadOrder):
        chain.write(sequence=0)
    chain.write()
    chain.write()
    other = Chain(tmp_path / "repository", source)
    other.points = chain.points
    with pytest.raises(BadOrder):
        other.write()
    chain.points = chain.points[:1]
    (chain.folder / "2").unlink()
    with pytest.raises(BadOrder):
        chain.write(sequence=1, root=tmp_path / "elsewhere")


def test_sources_that_cannot_be(chain: Chain, tmp_path: Path, source: Path) -> None:
    (tmp_path / "repository/inside").mkdir(parents=True)
    (tmp_path / "way in").symlink_to(tmp_path / "repository/inside")
    for error, sources in (
        (SourceMissing, (b"/does/not/exist",)),
        (SourceMissing, (os.fsencode(source), os.fsencode(source / "gone"))),
        (SourceMissing, (os.fsencode(source / "a/below a file"),)),
        (SourceMissing, ()),
        (SourceRefused, (b"relative/path",)),
        (SourceRefused, (os.fsencode(tmp_path / "repository/inside"),)),
        (SourceRefused, (os.fsencode(tmp_path / "way in"),)),
    ):
        assert_nothing_happened(chain, error, sources=sources)
    closed = os.fsencode(source / "folder")
    for below in (closed, closed + b"/b"):
        assert_nothing_happened(chain, SourceRefused, sources=(below,), never=(closed,))


def test_a_repository_that_cannot_be_written(chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "a file").write_bytes(b"")
    with pytest.raises(RepositoryUnwritable):
        chain.write(root=tmp_path / "a file")


@pytest.fixture
def as_nobody() -> Iterator[Callable[[Path], None]]:
    """Gives a folder to an unprivileged user and becomes that user until the end of the test."""
    if os.geteuid() != 0:
        yield lambda _folder: None
        return

    def become(folder: Path) -> None:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, 65534, 65534, follow_symlinks=False)
        os.seteuid(65534)

    yield become
    os.seteuid(0)


def test_what_cannot_be_read_is_a_warning(as_nobody: Callable[[Path], None]) -> None:
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        write_tree(
            place / "source", {"secret": b"s", "large secret": bytes(600_000), "open": b"o", "closed/inside": b"i"}
        )
        chain, observer = Chain(place / "repository", place / "source"), Recorder()
        for name in ("secret", "large secret", "closed"):
            (place / "source" / name).chmod(0)
        as_nobody(place)
        written = chain.write(observer=observer)
        assert {(code, path) for code, path, _ in observer.warnings} == {
            ("unreadable", inside(place / "source", name)) for name in ("secret", "large secret", "closed")
        }
        assert all("Permission denied" in message for _, _, message in observer.warnings)
        assert written.warnings == 3
        with chain.open() as point:
            assert paths(point.list_folder(inside(place / "source"))) == [
                inside(place / "source", n) for n in ("closed", "open")
            ]
            assert point.summary.warnings == 3
        with pytest.raises(SourceUnreadable):
            chain.write(sources=(os.fsencode(place / "source/closed"),))
    finally:
        (place / "source/closed").chmod(0o700)
        if os.getuid() == 0:
            os.seteuid(0)
        shutil.rmtree(place)


class Meddling:
    """Lets something happen in the file system just before a path is opened, looked at or listed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def before(self, call: str, path: Path, happen: Callable[[], object]) -> None:
        whole = getattr(os, call)

        def wrapper(given: object, *args: object, **kwargs: object) -> object:
            named = os.fsencode(path.name if kwargs.get("dir_fd") is not None else path)
            matches = isinstance(given, bytes) and given.rstrip(b"/") == named
            if matches:
                happen()
            return whole(given, *args, **kwargs)

        self._patch.setattr(os, call, wrapper)


@pytest.fixture
def meddling(monkeypatch: pytest.MonkeyPatch) -> Meddling:
    return Meddling(monkeypatch)


@pytest.mark.parametrize("call", ["lstat", "open"])
def test_a_file_that_vanishes_is_a_warning(chain: Chain, source: Path, meddling: Meddling, call: str) -> None:
    meddling.before(call, source / "a", (source / "a").unlink)
    observer = Recorder()
    chain.write(observer=observer)
    assert [(code, path) for code, path, _ in observer.warnings] == [("vanished", inside(source, "a"))]
    with chain.open() as point:
        assert facts_in_point(point).keys() == facts_on_disk(source).keys()


def test_a_folder_that_vanishes_is_a_warning(chain: Chain, source: Path, meddling: Meddling) -> None:
    meddling.before("open", source / "folder", lambda: shutil.rmtree(source / "folder"))
    observer = Recorder()
    chain.write(observer=observer)
    assert [(code, path) for code, path, _ in observer.warnings] == [("vanished", inside(source, "folder"))]


def test_files_written_within_the_tick_of_their_reading_are_read_again(chain: Chain, source: Path) -> None:
    chain.write(clock=time.time_ns)
    written = chain.write(clock=time.time_ns)
    assert (written.unchanged_files, written.changed_files) == (0, 3)
    assert written.length < 205_000, "read again, not stored again"
    assert chain.write().changed_files == 3, "still marked by the one before"
    assert chain.write().unchanged_files == 3


def test_a_file_from_the_future_is_read_again(chain: Chain, source: Path) -> None:
    future = time.time_ns() + 10**15
    os.utime(source / "a", ns=(future, future))
    chain.write()
    assert chain.write().changed_files == 1


def test_progress_is_reported(chain: Chain, source: Path) -> None:
    observer = Recorder()
    chain.write(observer=observer)
    chain.write(observer=observer)
    first, last = observer.reports[0], observer.reports[-1]
    assert (first.stage, first.files_total) == ("walk+write", None)
    assert (last.files_total, last.bytes_total) == (3, chain.points[0].source_bytes)
    assert set(last.busy_seconds) == {"source", "proxy", "repository"}
