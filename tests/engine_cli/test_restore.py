"""Restoring points that were really written: selections, shared work, damage, stops and room."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from repositories.engine import restore as restore_module
from repositories.engine import target
from repositories.engine.backup import write_backup
from repositories.engine.errors import BadTarget, Cancelled, NothingToRestore, OutOfSpace
from repositories.engine.observer import Progress, Silent
from repositories.engine.order import BackupOrder, FreeSpace, Kind, Level
from repositories.engine.reader import Point, open_point
from repositories.engine.restore import Restored, RestoreOrder, restore
from repositories.engine.restore_entry import Failure
from repositories.engine.restore_helpers import Helpers, Process, Standby
from repositories.engine.restore_share import CommonList, Selection
from repositories.engine.target import Existing
from tests.engine_cli.conftest import Facts, read_facts

FactsOf = Callable[[Path], Facts]


class Watching(Silent):
    """Remembers what was said; stops after so many reports."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.reports: list[Progress] = []
        self.said: list[tuple[str, bytes, str]] = []
        self.stop_after = stop_after

    def progress(self, p: Progress) -> None:
        self.reports.append(p)

    def warn(self, code: str, path: bytes, message: str) -> None:
        self.said.append((code, path, message))

    def cancelled(self) -> bool:
        return self.stop_after is not None and len(self.reports) >= self.stop_after


def ticking() -> Callable[[], float]:
    """A clock on which a second passes at each look, so that every beat is a report."""
    seconds = iter(range(1_000_000_000))
    return lambda: float(next(seconds))


def write(source: Path, repository: Path) -> Path:
    order = BackupOrder(
        root=repository,
        chain_id=uuid4(),
        file_id=uuid4(),
        sequence=1,
        kind=Kind.FULL,
        reason="first-session",
        started_at_ns=1,
        sources=(os.fsencode(source),),
        level=Level.NONE,
        reserve=FreeSpace(0, 0.0),
    )
    return write_backup(order, Silent()).path


FILES = 8_200  # more than a segment may have, so that there are always several


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough entries for several segments, with hard links across them. Nobody changes it."""
    root = tmp_path_factory.mktemp("large") / "many"
    for number in range(FILES):
        folder = root / f"{number // 100:03d}"
        if number % 100 == 0:
            folder.mkdir(parents=True)
        (folder / f"{number:05d}").write_bytes(b"%d" % number)
        if number % 1_000 == 999:
            os.link(root / "000" / "00000", folder / "one of many names")
            (folder / "link").symlink_to(f"{number:05d}")
        if number % 100 == 99:
            os.utime(folder, ns=(number, number * 1_000_000_007))
    return root


@pytest.fixture(scope="module")
def written(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A restore point of it."""
    return write(many, tmp_path_factory.mktemp("repository"))


def run(path: Path, into: Path, *paths: bytes, observer: Silent | None = None, **more: object) -> Restored:
    with open_point(path, None) as point:
        order = RestoreOrder(point=point, into=into, paths=paths, **more)  # type: ignore[arg-type]
        return restore(order, observer or Silent())


@pytest.mark.parametrize("helpers", [0, 1, 3])
def test_shared_work_gives_the_same_tree(tmp_path: Path, many: Path, written: Path, helpers: int) -> None:
    with open_point(written, None) as point:
        assert len(point.root.segments) >= 2
    watching = Watching()
    restored = run(written, tmp_path / "into", helpers=helpers, observer=watching)
    assert read_facts(tmp_path / "into" / many.relative_to("/")) == read_facts(many)
    assert (restored.files, restored.links, restored.others) == (FILES, 8, 8)
    assert (restored.failed_count, restored.losses, watching.said) == (0, {}, [])
    last = watching.reports[-1]
    assert (last.files_done, last.files_total) == (FILES + 8, FILES + 8)
    assert last.bytes_processed == last.bytes_total


def test_helpers_leave_existing_files_alone_too(tmp_path: Path, many: Path, written: Path) -> None:
    place = tmp_path / "into" / many.relative_to("/")
    (place / "010").mkdir(parents=True)
    (place / "050").mkdir()
    for name in ("010/01000", "050/05000"):
        (place / name).write_bytes(b"mine")
    restored = run(written, tmp_path / "into", helpers=1)
    assert restored.skipped == 2
    assert (place / "010/01000").read_bytes() == (place / "050/05000").read_bytes() == b"mine"
    again = run(written, tmp_path / "into", helpers=1)
    assert (again.files, again.links, again.skipped) == (0, 0, FILES + 16)


def test_a_folder_stays_open_while_a_file_is_written_into_it(
    tmp_path: Path, many: Path, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Existing names are looked up ahead of the writing, which opens folders, and only so many may be open."""
    monkeypatch.setattr(target, "OPEN_FOLDERS_MAX", 3)
    place = tmp_path / "into" / many.relative_to("/")
    (place / "050").mkdir(parents=True)
    (place / "050" / "05000").write_bytes(b"mine")
    restored = run(written, tmp_path / "into", helpers=0)
    assert (restored.skipped, restored.failed_count) == (1, 0)
    expected = {path: facts[4] for path, facts in read_facts(many).items() if path != b"050/05000"}
    assert {path: facts[4] for path, facts in read_facts(place).items() if path != b"050/05000"} == expected


def test_starting_a_stopped_restore_again_ends_with_the_same_tree(tmp_path: Path, many: Path, written: Path) -> None:
    for helpers in (0, 1):
        into = tmp_path / str(helpers)
        with pytest.raises(Cancelled):
            run(written, into, helpers=helpers, observer=Watching(stop_after=100), clock=ticking())
        assert run(written, into, helpers=helpers).failed_count == 0
        found, expected = read_facts(into / many.relative_to("/")), read_facts(many)
        shared = b"one of many names"  # which of a file's names were restored by which run is not remembered
        for facts in (found, expected):
            for path in [path for path in facts if path.endswith(shared) or path == b"000/00000"]:
                del facts[path]
        assert found == expected


def test_a_stop_reaches_helpers_and_leaves_no_unfinished_file(tmp_path: Path, many: Path, written: Path) -> None:
    with pytest.raises(Cancelled):
        run(written, tmp_path / "into", helpers=1, observer=Watching(stop_after=30), clock=ticking())
    found = [name for _, _, names in os.walk(tmp_path / "into") for name in names]
    assert len(found) < FILES
    assert not [name for name in found if name.startswith(".backupsite")]


def test_folders_of_a_helper_that_was_done_before_the_stop_are_completed(
    tmp_path: Path, many: Path, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The helper does everything; the stop comes when that was heard, and not yet taken over."""
    made: list[Helpers] = []

    class Heard(Silent):
        def cancelled(self) -> bool:
            return any(helper.finished for helper in made[0]._helpers)

    def make(failed: Callable[[Failure], None]) -> Helpers:
        made.append(Helpers(failed))
        return made[0]

    monkeypatch.setattr(restore_module, "Helpers", make)
    monkeypatch.setattr(CommonList, "__iter__", lambda common: iter(()))
    with pytest.raises(Cancelled):
        run(written, tmp_path / "into", helpers=1, observer=Heard(), clock=ticking())
    place = tmp_path / "into" / many.relative_to("/")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()}
    assert modes == {path.name: stat.S_IMODE(path.stat().st_mode) for path in many.iterdir()}


@pytest.mark.parametrize("reports", [30, 250])
def test_folders_of_a_stopped_restore_are_completed(tmp_path: Path, many: Path, written: Path, reports: int) -> None:
    """So that starting it again with existing files skipped ends with the right modes and times. A late stop falls
    into the completing itself.
    """
    with pytest.raises(Cancelled):
        run(written, tmp_path / "into", helpers=0, observer=Watching(stop_after=reports), clock=ticking())
    place = tmp_path / "into" / many.relative_to("/")
    made = sorted(os.listdir(place))
    assert made
    for name in made:
        assert stat.S_IMODE((place / name).stat().st_mode) == stat.S_IMODE((many / name).stat().st_mode)


def test_a_selection_across_segments(tmp_path: Path, many: Path, written: Path) -> None:
    base = os.fsencode(many.relative_to("/"))
    wanted = (base + b"/000/00007", base + b"/042", base + b"/042/04200", base + b"/059/05999")
    restored = run(written, tmp_path / "into", *wanted)
    place = tmp_path / "into" / many.relative_to("/")
    assert sorted(os.listdir(place)) == ["000", "042", "059"]
    assert len(os.listdir(place / "042")) == 100
    assert restored.files == 102
    for folder in ("000", "042", "059"):
        assert (place / folder).stat().st_mtime_ns == (many / folder).stat().st_mtime_ns


def test_the_segments_of_a_selection_are_those_that_hold_it(tmp_path: Path, many: Path, written: Path) -> None:
    with open_point(written, None) as point:
        base = os.fsencode(many.relative_to("/"))
        for path in (base + b"/000", base + b"/035", base + b"/059/05999", base):
            slow = [
                number
                for number in range(len(point.root.segments))
                if any(e.path == path or e.path.startswith(path + b"/") for e in point.segment(number).entries())
            ]
            selection = Selection(point, (path,))
            assert set(slow) <= set(selection.segment_numbers())
            assert [e.path for e in selection.entries(lambda: None)] == [e.path for e in point.walk(path)]


def test_a_path_that_is_not_there(tmp_path: Path, tree: Path) -> None:
    path = write(tree, tmp_path / "repository")
    with pytest.raises(NothingToRestore):
        run(path, tmp_path / "into", b"no/such/thing")
    assert not (tmp_path / "into").exists()


def test_no_room_is_said_before_anything_is_written(tmp_path: Path, tree: Path) -> None:
    path = write(tree, tmp_path / "repository")
    with pytest.raises(OutOfSpace) as caught:
        run(path, tmp_path / "into", reserve=FreeSpace(1 << 60, 0.0))
    assert caught.value.fields["needed_bytes"] >= 300_000
    assert os.listdir(tmp_path / "into") == []


def test_room_that_goes_while_restoring_stops_it(tmp_path: Path, written: Path) -> None:
    """What stands in the target already may be skipped or replaced, so only writing can tell."""
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / "something").touch()
    with pytest.raises(OutOfSpace):
        run(written, tmp_path / "into", reserve=FreeSpace(1 << 60, 0.0), clock=ticking())


def test_damage_of_a_list_of_entries_costs_those_entries_only(tmp_path: Path, many: Path, written: Path) -> None:
    with open_point(written, None) as point:
        rows = point.root.segments
        place = point.container.index.place(rows[1].number)
        assert place is not None
        offset = place.offset + place.length // 2
        lost = rows[1].entries
    path = tmp_path / "copy"
    shutil.copyfile(written, path)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))
    for helpers in (0, 1):
        watching = Watching()
        into = tmp_path / f"into {helpers}"
        restored = run(path, into, helpers=helpers, observer=watching)
        assert restored.damaged_count == restored.failed_count == lost
        assert [code for code, _, _ in watching.said] == ["corrupt-file"]
        assert (into / many.relative_to("/") / "000" / "00000").exists()


def test_a_target_below_a_root_is_reached_without_links(tmp_path: Path, tree: Path) -> None:
    path = write(tree, tmp_path / "repository")
    roots, outside = tmp_path / "roots", tmp_path / "outside"
    roots.mkdir()
    outside.mkdir()
    (roots / "link").symlink_to(outside)
    with pytest.raises(BadTarget):
        run(path, roots / "link", below=roots)
    assert os.listdir(outside) == []
    assert run(path, roots / "new", below=roots).failed_count == 0


def test_a_second_restore_renames(tmp_path: Path, tree: Path) -> None:
    path = write(tree, tmp_path / "repository")
    docs = os.fsencode(tree.relative_to("/")) + b"/docs"
    for _ in range(2):
        run(path, tmp_path / "into", docs, existing=Existing.RENAME)
    place = tmp_path / "into" / tree.relative_to("/") / "docs"
    assert {"a.txt", "a (restored).txt", "script", "script (restored)"} <= set(os.listdir(place))
    assert (place / "a (restored).txt").stat().st_ino == (place / "same as a (restored)").stat().st_ino
    assert stat.S_IMODE((place / "script (restored)").stat().st_mode) == 0o755


def test_a_closed_list_gives_each_number_once() -> None:
    common = CommonList.of(list(range(1_000)))
    other = CommonList(os.dup(common.descriptor))
    first, second = iter(common), iter(other)
    taken = [next(first), next(second), next(second), next(first), *first, *second]
    assert sorted(taken) == list(range(1_000))
    common.close()
    other.close()


def test_processes_that_stood_by_take_part(tmp_path: Path, written: Path) -> None:
    with Standby(2) as standby:
        restored = run(written, tmp_path / "into", helpers=1, standby=standby)
        assert len(standby.processes) == 1
    assert (restored.files, restored.links, restored.failed_count) == (FILES, 8, 0)


def test_processes_that_stood_by_for_nothing_are_ended() -> None:
    with pytest.raises(NothingToRestore), Standby(1) as standby:
        (waiting,) = standby.processes
        assert Path(f"/proc/{waiting.number}").exists()
        raise NothingToRestore("the password was wrong")
    assert not Path(f"/proc/{waiting.number}").exists()


def test_a_process_without_an_order_ends_when_nobody_is_left_to_give_one() -> None:
    process = Process()
    process.stdin.close()
    assert process.stdout.read() == b""  # its end
    process.end()


def test_no_key_is_shown(tmp_path: Path, tree: Path) -> None:
    with open_point(write(tree, tmp_path / "repository"), None) as point:
        assert isinstance(point, Point)
        shown = repr(RestoreOrder(point=point, into=tmp_path))
    assert "file_key" not in shown
