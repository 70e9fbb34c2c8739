"""Very many names in one folder, very large files, mounts that lead in circles: what they cost, and that they end."""

import os
import random
import subprocess
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from repositories.engine.layout import MIB
from repositories.engine.patterns import Patterns
from repositories.engine.restore import RestoreOrder, restore
from repositories.engine.walk import Walk, clean_sources
from tests.engine.lab import Chain, Recorder, folder_in_memory, inside, write_tree

GIB = 1024 * MIB


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    with folder_in_memory(tmp_path) as folder:
        (folder / "source").mkdir()
        yield folder / "source"


@pytest.fixture
def chain(tmp_path: Path, source: Path) -> Chain:
    return Chain(tmp_path / "repository", source)


def fill(folder: Path, count: int) -> None:
    """Empty files; making them one by one by path would take longer than the test."""
    descriptor = os.open(folder, os.O_RDONLY)
    for number in range(count):
        os.mknod(f"{number:07d}", dir_fd=descriptor)
    os.close(descriptor)


def walk_and_measure(source: Path) -> tuple[int, int]:
    """How many entries there are, and the highest number of bytes that the walk held."""
    sources = clean_sources([os.fsencode(source)], ())
    walk = Walk(sources, Patterns(()), Patterns(()), (), Recorder(), lambda: None)
    tracemalloc.start()
    try:
        found = sum(1 for *_, ancestor in walk if not ancestor)
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


NAME_BYTES = 100  # an object of bytes with seven of them, and its place in the list and in the set of os.listdir()


def test_a_folder_of_20_000_entries(chain: Chain, source: Path) -> None:
    fill(source, 20_000)
    found, peak_bytes = walk_and_measure(source)
    assert found == 20_001
    assert peak_bytes < 20_000 * NAME_BYTES + 500_000
    assert chain.write().files == 20_000
    assert chain.write().unchanged_files == 20_000
    with chain.open() as point:
        assert sum(1 for _ in point.list_folder(inside(source))) == 20_000


def test_only_the_names_of_one_folder_are_held(source: Path) -> None:
    for number in range(10):
        (source / str(number)).mkdir()
        fill(source / str(number), 500)
    found, peak_bytes = walk_and_measure(source)
    assert found == 5_011
    assert peak_bytes < 500 * NAME_BYTES + 50_000 < 5_000 * NAME_BYTES / 4


@pytest.mark.soak
def test_a_folder_of_1_000_000_entries(chain: Chain, source: Path) -> None:
    fill(source, 1_000_000)
    found, peak_bytes = walk_and_measure(source)
    assert found == 1_000_001
    assert peak_bytes < 1_000_000 * NAME_BYTES
    assert chain.write().files == 1_000_000
    written = chain.write()
    assert written.unchanged_files == 1_000_000 and written.length < MIB


def test_a_file_of_200_gib_with_a_few_islands(chain: Chain, source: Path, tmp_path: Path) -> None:
    """What is not there is neither read, nor stored, nor written: it takes as long as the islands do."""
    dice = random.Random(9)
    islands = {place: dice.randbytes(MIB) for place in (0, 3 * GIB, 77 * GIB, 200 * GIB - MIB)}
    with open(source / "sparse", "wb") as file:
        for place, data in islands.items():
            file.seek(place)
            file.write(data)
    if (source / "sparse").stat().st_blocks * 512 > 64 * MIB:
        pytest.skip("this file system has no sparse files")
    written = chain.write()
    assert (written.source_bytes, written.read_bytes) == (200 * GIB, 4 * MIB) and written.length < 4.3 * MIB
    with chain.open() as point:
        restored = restore(RestoreOrder(point, tmp_path / "into", helpers=0), Recorder())
    assert restored.bytes_written == 200 * GIB and not restored.warnings
    result = tmp_path / "into" / inside(source, "sparse").decode()
    found = result.stat()
    assert found.st_size == 200 * GIB and found.st_blocks * 512 < 8 * MIB
    with open(result, "rb") as file:
        for place, data in islands.items():
            file.seek(place)
            assert file.read(MIB) == data
        assert os.lseek(file.fileno(), 4 * GIB, os.SEEK_DATA) == 77 * GIB
    (source / "sparse").touch()
    assert chain.write().length < 250_000


@pytest.fixture
def bound(source: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder from elsewhere bound into the source, and the source bound into itself."""
    write_tree(tmp_path / "elsewhere", {"a": b"bound"})
    write_tree(source, {"own": b"own"})
    (source / "bound").mkdir()
    (source / "circle").mkdir()
    mounts: list[Path] = []
    try:
        for what, where in ((tmp_path / "elsewhere", source / "bound"), (source, source / "circle")):
            done = subprocess.run(["mount", "--bind", what, where], check=False, capture_output=True)
            if done.returncode:
                pytest.skip("only root may mount, and not in every container")
            mounts.append(where)
        yield source
    finally:
        for where in reversed(mounts):
            subprocess.run(["umount", where], check=True)


def test_bind_mounts_are_entered_and_circles_end(chain: Chain, bound: Path) -> None:
    chain.write()
    with chain.open() as point:
        found = {os.path.relpath("/" + entry.path.decode(), bound) for entry in point.walk(inside(bound))}
    assert found == {".", "own", "bound", "bound/a", "circle", "circle/own", "circle/bound", "circle/circle"}


def test_the_repository_is_not_in_its_backup_by_way_of_a_bind_mount(tmp_path: Path, source: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    write_tree(source, {"own": b"own", "bound/hidden": b""})
    done = subprocess.run(["mount", "--bind", repository, source / "bound"], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("only root may mount, and not in every container")
    try:
        chain = Chain(repository, source)
        assert [chain.write().files for _ in range(2)] == [1, 1]
    finally:
        subprocess.run(["umount", source / "bound"], check=True)
