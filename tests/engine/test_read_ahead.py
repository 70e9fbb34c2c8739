"""Small files are read by two processes, and by one where the other is lost; what is stored is the same."""

import os
import signal
import stat
from pathlib import Path

import pytest

from repositories.engine import read_ahead
from repositories.engine.read_ahead import ReadAhead
from tests.engine.lab import Chain, Recorder, facts_in_point, facts_on_disk, write_tree

FILES = 6_000


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Enough batches for a further process, with things in them that are no small files."""
    source = tmp_path / "many"
    write_tree(source, {f"{n // 500:02d}/{n:04d}": b"%d " % n * (n % 40) for n in range(FILES)})
    os.symlink("0000", source / "00" / "a link")
    os.link(source / "03" / "1501", source / "03" / "another name")
    os.setxattr(source / "05" / "2501", "user.note", b"kept")
    os.setxattr(source / "05", "user.note", b"of a folder")
    (source / "07" / "large").write_bytes(os.urandom(700_000))
    return source


def helpers_of(monkeypatch: pytest.MonkeyPatch, count: int) -> list[read_ahead._Helper]:
    """Allow so many further processes whatever the machine has; returns those that were started."""
    started: list[read_ahead._Helper] = []
    begin, end = ReadAhead.__init__, ReadAhead._hear

    def allow(self: ReadAhead, keys: object, beat: object, helpers: int | None = None) -> None:
        begin(self, keys, beat, count)

    def hear(self: ReadAhead, seconds: float) -> None:
        if self._helper is not None and self._helper not in started:
            started.append(self._helper)
        end(self, seconds)

    monkeypatch.setattr(ReadAhead, "__init__", allow)
    monkeypatch.setattr(ReadAhead, "_hear", hear)
    return started


@pytest.mark.parametrize("count", [0, 1])
def test_all_of_it_is_stored(tmp_path: Path, many: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    started = helpers_of(monkeypatch, count)
    chain = Chain(tmp_path / "repository", many)
    written = chain.write()
    assert len(started) == count
    assert all(helper._process.returncode is not None for helper in started), "none is left"
    assert written.new_files == FILES + 2
    with chain.open() as point:
        assert facts_in_point(point) == facts_on_disk(many)


def test_a_lost_process_is_done_without(tmp_path: Path, many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed with batches in its hands: they are read here."""
    take = read_ahead._Helper.take
    killed: list[int] = []

    def take_and_kill(self: read_ahead._Helper, request: read_ahead.Request) -> read_ahead.Ticket | None:
        ticket = take(self, request)
        if len(self.waiting) == 2 and not killed:
            killed.append(self._process.pid)
            os.kill(self._process.pid, signal.SIGKILL)
        return ticket

    monkeypatch.setattr(read_ahead._Helper, "take", take_and_kill)
    started = helpers_of(monkeypatch, 1)
    chain, observer = Chain(tmp_path / "repository", many), Recorder()
    chain.write(observer=observer)
    assert killed and len(started) == 1, "no other one is started"
    assert observer.warnings == []
    with chain.open() as point:
        assert facts_in_point(point) == facts_on_disk(many)


def test_what_cannot_be_read_is_told_by_either(tmp_path: Path, many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that vanish between the walk and their reading, all over the batches."""
    begin = ReadAhead.begin

    def remove_first(self: ReadAhead, request: read_ahead.Request) -> read_ahead.Ticket:
        folder, _ = max(request.runs, key=lambda run: run[1])
        names = {name for name in request.names.split(b"\0") if name.isdigit() and os.path.exists(folder + name)}
        if len(names) > 1:
            os.unlink(folder + max(names))
        return begin(self, request)

    monkeypatch.setattr(ReadAhead, "begin", remove_first)
    helpers_of(monkeypatch, 1)
    chain, observer = Chain(tmp_path / "repository", many), Recorder()
    chain.write(observer=observer)
    assert len(observer.warnings) >= 5
    assert {code for code, _, _ in observer.warnings} == {"vanished"}
    with chain.open() as point:
        gone = {path for _, path, _ in observer.warnings}
        stored = facts_in_point(point)
        assert gone.isdisjoint(stored)
        there = {path: facts for path, facts in facts_on_disk(many).items() if not stat.S_ISDIR(facts[0])}
        assert {path: facts for path, facts in stored.items() if not stat.S_ISDIR(facts[0])} == there
