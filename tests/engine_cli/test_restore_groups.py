"""Small files in groups: the same tree as one by one, whatever goes wrong with one of them, and what a kill leaves."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from repositories.engine import restore_groups
from repositories.engine.file_groups import GROUP_FILES_MAX, NAME, FileGroup, grouped
from repositories.engine.layout import ItemKind
from repositories.engine.reader import open_point
from repositories.engine.target import Existing, Folder
from repositories.engine.target_unfinished import UNFINISHED_MODE, is_unfinished
from tests.bench.tools import PROJECT
from tests.engine_cli.conftest import read_facts
from tests.engine_cli.test_restore import Watching, run, write

FILES = 300  # more than a group


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files of every sort, and between them what is in no group. Nobody changes it."""
    root = tmp_path_factory.mktemp("mixed") / "tree"
    (root / "small" / "inner").mkdir(parents=True)
    (root / "0 empty").write_bytes(b"")
    (root / "large").write_bytes(os.urandom(9 << 20))
    (root / "zeros").write_bytes(bytes(200_000))
    with (root / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 20)
    for number in range(FILES):
        file = root / "small" / f"{number:03d}"
        file.write_bytes(b"%d" % number * (number % 7))
        os.chmod(file, (0o644, 0o600, 0o4755, 0o444, UNFINISHED_MODE)[number % 5])
        os.utime(file, ns=(number, number * 1_000_000_007))
    (root / "small" / "100x").symlink_to("100")
    (root / "small" / "inner" / "one").write_bytes(b"1")
    os.link(root / "small" / "200", root / "small" / "inner" / "two")
    os.setxattr(root / "small" / "050", "user.note", b"kept")
    return root


@pytest.fixture(scope="module")
def stored(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(mixed, tmp_path_factory.mktemp("repository"))


def test_groups_and_entries_are_the_segment_in_its_order(stored: Path) -> None:
    grouped_files = 0
    with open_point(stored, None) as point:
        for number in range(len(point.root.segments)):  # a keyed hash may end a segment anywhere
            segment = point.segment(number)
            found = []
            for item in grouped(segment):
                if isinstance(item, FileGroup):
                    assert 1 <= len(item.files) <= GROUP_FILES_MAX
                    assert {item.path_of(file) for file in item.files} == {item.entry(f).path for f in item.files}
                    found += [item.entry(file) for file in item.files]
                else:
                    found.append(item)
            assert [entry.path for entry in found] == segment.paths()
            groups = [item for item in grouped(segment) if isinstance(item, FileGroup)]
            grouped_files += sum(len(group.files) for group in groups)
            assert not [f for group in groups for f in group.files if f[NAME] in (b"large", b"sparse", b"200", b"100x")]
    assert grouped_files > FILES - 10


def test_everything_comes_back(tmp_path: Path, mixed: Path, stored: Path) -> None:
    watching = Watching()
    restored = run(stored, tmp_path / "into", helpers=0, observer=watching)
    place = tmp_path / "into" / mixed.relative_to("/")
    assert read_facts(place) == read_facts(mixed)
    assert os.getxattr(place / "small" / "050", "user.note") == b"kept"
    assert (place / "zeros").stat().st_blocks == 8 * ((200_000 % 65_536 + 4_095) // 4_096)
    assert (restored.failed_count, restored.losses, watching.said) == (0, {}, [])
    assert watching.reports[-1].bytes_processed == watching.reports[-1].bytes_total


def break_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = restore_groups._write_content

    def broken(descriptor: int, content: memoryview, length: int) -> None:
        whole(descriptor, content[: length // 2], length // 2)
        raise OSError(errno.EIO, "half of it")

    monkeypatch.setattr(restore_groups, "_write_content", broken)


def break_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore_groups, "has_mark", lambda facts: False)


@pytest.mark.parametrize("breaks", [break_writing, break_mark])
def test_what_goes_wrong_goes_the_careful_way(
    tmp_path: Path, mixed: Path, stored: Path, monkeypatch: pytest.MonkeyPatch, breaks: object
) -> None:
    assert callable(breaks)
    breaks(monkeypatch)
    restored = run(stored, tmp_path / "into", helpers=0)
    assert read_facts(tmp_path / "into" / mixed.relative_to("/")) == read_facts(mixed)
    assert (restored.failed_count, restored.losses) == (0, {})
    assert restored.files == FILES + 5


def test_a_name_that_somebody_takes_meanwhile_is_left_alone(
    tmp_path: Path, mixed: Path, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = restore_groups._look_at_first

    def plant(folder: Folder, descriptor: int) -> None:
        look(folder, descriptor)
        if folder.path.endswith(b"/small"):
            os.symlink("/nowhere", b"007", dir_fd=folder.descriptor)

    monkeypatch.setattr(restore_groups, "_look_at_first", plant)
    restored = run(stored, tmp_path / "into", helpers=0)
    place = tmp_path / "into" / mixed.relative_to("/") / "small"
    assert os.readlink(place / "007") == "/nowhere"
    assert (restored.skipped, restored.failed_count) == (1, 0)
    assert (place / "008").read_bytes() == (mixed / "small" / "008").read_bytes()


def test_damage_of_a_block_is_reported_for_each_file_in_it(tmp_path: Path, mixed: Path) -> None:
    path = write(mixed, tmp_path / "repository")
    with open_point(path, None) as point:
        chunks = [(chunk.block, entry) for entry in point.walk() for chunk in entry.chunks if chunk.block]
        block = Counter(block for block, _ in chunks).most_common(1)[0][0]
        hit = {entry.path for of_entry, entry in chunks if of_entry == block}
        place = point.container.index.place(block.number)
        assert place and place.kind is ItemKind.BLOCK
    with path.open("r+b") as file:
        file.seek(place.offset + 40)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    watching = Watching()
    restored = run(path, tmp_path / "into", helpers=0, observer=watching)
    assert len(hit) > FILES // 2
    assert {name for _, name, _ in watching.said} >= hit - {os.fsencode(mixed / "small" / "inner" / "two")[1:]}
    assert restored.damaged_count == len(hit) == restored.failed_count
    into = tmp_path / "into"
    assert not [name for name in hit if os.path.lexists(into / os.fsdecode(name))]
    assert (into / mixed.relative_to("/") / "0 empty").stat().st_size == 0


KILLED = """
import os, signal, sys
from pathlib import Path
from repositories.engine import restore_groups
from tests.engine_cli.test_restore import run

def kill(descriptor, content, length, whole=restore_groups._write_content, seen=[]):
    seen.append(length)
    length //= 1 + (len(seen) > 100)
    whole(descriptor, content[:length], length)
    if len(seen) > 100:
        os.kill(os.getpid(), signal.SIGKILL)

restore_groups._write_content = kill
run(Path(sys.argv[1]), Path(sys.argv[2]), helpers=0)
"""


@pytest.mark.parametrize("existing", [Existing.SKIP, Existing.RENAME, Existing.OVERWRITE])
def test_what_a_kill_leaves_is_no_file_to_anybody(
    tmp_path: Path, mixed: Path, stored: Path, existing: Existing
) -> None:
    """Half a file has the mark; every file without it is complete. The next restore replaces it, in any case."""
    into = tmp_path / "into"
    killed = subprocess.run([sys.executable, "-c", KILLED, stored, into], cwd=PROJECT, check=False)
    assert killed.returncode == -signal.SIGKILL
    small = into / mixed.relative_to("/") / "small"
    files = [path for path in small.iterdir() if path.is_file()]
    unfinished = [path for path in files if stat.S_IMODE(path.lstat().st_mode) == UNFINISHED_MODE]
    halves = [path for path in unfinished if path.read_bytes() != (mixed / "small" / path.name).read_bytes()]
    assert len(halves) == 1
    for path in set(files).difference(halves):
        assert path.read_bytes() == (mixed / "small" / path.name).read_bytes()
        assert path.stat().st_mtime_ns == (mixed / "small" / path.name).stat().st_mtime_ns
    assert run(stored, into, helpers=0, existing=existing).failed_count == 0
    found, expected = read_facts(small), read_facts(mixed / "small")
    assert found[os.fsencode(halves[0].name)] == expected[os.fsencode(halves[0].name)]
    assert {name: facts[4] for name, facts in found.items() if b"(restored" not in name} == {
        name: facts[4] for name, facts in expected.items()
    }


def test_only_a_file_with_exactly_the_mark_is_unfinished(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name, mode, expected in ((b"a", UNFINISHED_MODE, True), (b"b", 0o1600, False), (b"c", 0o200, False)):
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=folder))
            os.chmod(name, mode, dir_fd=folder)
            assert is_unfinished(folder, name) is expected
        os.mkdir(b"d", dir_fd=folder)
        os.chmod(b"d", UNFINISHED_MODE, dir_fd=folder)
        os.symlink(b"a", b"e", dir_fd=folder)
        assert not any(is_unfinished(folder, name) for name in (b"d", b"e", b"none"))
    finally:
        os.close(folder)
