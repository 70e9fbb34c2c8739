"""Which files are cut on a grid, where the cuts are, and what a change inside a disk image costs."""

import itertools
import os
import random
from pathlib import Path

import pytest

from repositories.engine.backup import CheckpointInterval, Level
from repositories.engine.cutting import GRID_BYTES, ContentCutter, Cutter, GridCutter, is_disk_image
from repositories.engine.layout import MIB
from repositories.engine.patterns import Patterns
from repositories.engine.reader import Hole, Point
from tests.engine.lab import Chain, content_of, inside
from tests.engine.test_resume import Snapshots, put_back

NO_PATTERNS = Patterns(())
EMPTY_FILE_BYTES = 210_000  # two copies of the head, a manifest of few entries


@pytest.mark.parametrize(
    ("path", "size", "is_image"),
    [
        (b"/srv/vm-100-disk-0.qcow2", 5 * MIB, True),
        (b"/srv/DISK.IMG", 5 * MIB, True),
        (b"/srv/disk-flat.vmdk", 5 * MIB, True),
        (b"/srv/a.raw/b", 5 * MIB, False),
        (b"/srv/disk.img", 4 * MIB, False),
        (b"/srv/disk.img", 4 * MIB + 1, True),
        (b"/srv/debian.iso", 5 * MIB, False),
        (b"/srv/disk.img.gz", 5 * MIB, False),
        (b"/srv/img", 5 * MIB, False),
        (b"/srv/.img", 5 * MIB, False),
        (b"/proc/self/fd/7/far.vdi", 5 * MIB, True),
    ],
)
def test_what_is_a_disk_image(path: bytes, size: int, is_image: bool) -> None:
    assert is_disk_image(path, size, NO_PATTERNS) is is_image


def test_an_order_may_name_more() -> None:
    patterns = Patterns(("*.ibd", "/srv/volumes/*", "!*.txt"))
    for path, is_image in (
        (b"/a/table.ibd", True),
        (b"/srv/volumes/x", True),
        (b"/x", False),
        (b"/srv/volumes/x.txt", False),
    ):
        assert is_disk_image(path, 5 * MIB, patterns) is is_image
        assert not is_disk_image(path, 3 * MIB, patterns)


@pytest.mark.parametrize(
    ("position", "length", "last", "cuts"),
    [
        (0, 3 * MIB, False, [MIB, MIB, MIB]),
        (0, 3 * MIB, True, [MIB, MIB, MIB]),
        (0, 3 * MIB - 1, False, [MIB, MIB]),
        (0, 3 * MIB - 1, True, [MIB, MIB, MIB - 1]),
        (MIB - 5, 2 * MIB, False, [5, MIB]),
        (MIB - 5, 2 * MIB, True, [5, MIB, MIB - 5]),
        (7 * MIB + 4096, 4096, True, [4096]),
        (7 * MIB + 4096, 4 * MIB, False, [MIB - 4096, MIB, MIB, MIB]),
        (2**40 + 1, 1, True, [1]),
    ],
)
def test_the_grid(position: int, length: int, last: bool, cuts: list[int]) -> None:
    found = GridCutter().cut(memoryview(bytes(length)), position, last=last)
    assert [size for _, size in found] == cuts
    assert [offset for offset, _ in found] == [0, *itertools.accumulate(cuts)][:-1]


@pytest.mark.parametrize("cutter", [GridCutter(), ContentCutter(bytes(32))], ids=["grid", "content"])
def test_cutting_in_parts_gives_the_same_chunks(cutter: Cutter) -> None:
    """What is left out at the end of a part is cut again with what follows."""
    data = memoryview(random.Random(1).randbytes(21 * MIB + 12_345))
    whole = [size for _, size in cutter.cut(data, 0, last=True)]
    for part in (8 * MIB, 8 * MIB - 4096, 5 * MIB + 1):
        position, sizes = 0, []
        while position < len(data):
            end = min(position + part, len(data))
            sizes += [size for _, size in cutter.cut(data[position:end], position, last=end == len(data))]
            position = sum(sizes)
        assert sizes == whole and position == len(data)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@pytest.fixture
def chain(tmp_path: Path, source: Path) -> Chain:
    return Chain(tmp_path / "repository", source)


def lengths(point: Point, path: bytes) -> list[int]:
    """Of stored chunks; of holes negative."""
    return [-chunk.length if chunk.block is None else chunk.length for chunk in point.entry(path).chunks]


def overwrite(path: Path, dice: random.Random, places: list[int], size: int = 4096) -> None:
    with open(path, "r+b") as file:
        for place in places:
            file.seek(place)
            file.write(dice.randbytes(size))


def test_a_changed_disk_image_costs_the_chunks_that_changed(chain: Chain, source: Path) -> None:
    dice = random.Random(2)
    (source / "disk.raw").write_bytes(dice.randbytes(40 * MIB + 4096))
    chain.write(level=Level.NONE)
    # Two of forty chunks are overwritten: one in its middle, one across its whole length.
    overwrite(source / "disk.raw", dice, [7 * MIB + 500_000])
    overwrite(source / "disk.raw", dice, [30 * MIB], MIB)
    written = chain.write(level=Level.NONE)
    assert 2 * MIB < written.length < 2 * MIB + EMPTY_FILE_BYTES
    with chain.open() as point:
        path = inside(source, "disk.raw")
        assert lengths(point, path) == [MIB] * 40 + [4096]
        own = [n for n, chunk in enumerate(point.entry(path).chunks) if chunk.block.origin == written.file_id]
        assert own == [7, 30]
        assert content_of(point, path) == (source / "disk.raw").read_bytes()


def test_by_pattern_or_by_content(chain: Chain, source: Path) -> None:
    (source / "volume").write_bytes(random.Random(3).randbytes(12 * MIB))
    chain.write()
    chain.write()
    os.utime(source / "volume")
    chain.write(disk_images=("volume",))
    with chain.open(0) as first, chain.open(1) as second, chain.open(2) as third:
        path = inside(source, "volume")
        assert lengths(first, path) == lengths(second, path) != [GRID_BYTES] * 12
        assert lengths(third, path) == [GRID_BYTES] * 12
        assert content_of(third, path) == content_of(first, path)


def sparse_image(path: Path, size: int, islands: dict[int, bytes]) -> None:
    with open(path, "wb") as file:
        file.truncate(size)
        for place, data in islands.items():
            file.seek(place)
            file.write(data)
    if path.stat().st_blocks * 512 > 64 * MIB:
        pytest.skip("this file system has no sparse files")


def test_islands_in_a_sparse_image_lie_on_the_grid_of_the_file(chain: Chain, source: Path) -> None:
    """Holes are neither read nor stored, and end a chunk; behind them the grid is that of the file."""
    dice, gib = random.Random(4), 1024 * MIB
    islands = {0: dice.randbytes(4096), 5 * gib - 65_536: dice.randbytes(2 * MIB), 9 * gib: dice.randbytes(MIB + 4096)}
    sparse_image(source / "disk.img", 10 * gib, islands)
    written = chain.write()
    data = sum(len(island) for island in islands.values())
    assert written.source_bytes == 10 * gib and data <= written.read_bytes < data + MIB
    assert written.length < data + EMPTY_FILE_BYTES
    path = inside(source, "disk.img")
    with chain.open() as point:
        found = lengths(point, path)
        stored = [size for size in found if size > 0]
        assert stored == [4096, 65_536, MIB, MIB - 65_536, MIB, 4096]
        assert sum(abs(size) for size in found) == 10 * gib
        # The same islands come back at their places.
        position, pieces = 0, {}
        for _, content in point.read_many([point.entry(path)]):
            for piece in content:
                if not isinstance(piece, Hole):
                    pieces[position] = bytes(piece)
                position += piece.length if isinstance(piece, Hole) else len(piece)
        for place, island in islands.items():
            assert b"".join(data for at, data in sorted(pieces.items()) if place <= at < place + len(island)) == island
    # Data that comes into a hole cuts no chunk anew but its own.
    overwrite(source / "disk.img", dice, [3 * gib], MIB)
    assert MIB < chain.write().length < MIB + EMPTY_FILE_BYTES


def test_a_resumed_image_goes_on_along_the_grid(
    chain: Chain, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "disk.vdi").write_bytes(random.Random(5).randbytes(40 * MIB + 1))
    with monkeypatch.context() as patch:
        snapshots = Snapshots(patch, tmp_path / "kills")
        chain.write(checkpoints=CheckpointInterval(bytes=4 * MIB, seconds=3600.0))
    (chain.folder / "1").unlink()
    chain.points.clear()
    put_back(next(path for path in snapshots.taken if path.stat().st_size > 36 * MIB), chain)
    written = chain.write()
    assert written.resumed and 0 < written.read_bytes < 40 * MIB
    with chain.open() as point:
        path = inside(source, "disk.vdi")
        assert lengths(point, path) == [MIB] * 40 + [1]
        assert content_of(point, path) == (source / "disk.vdi").read_bytes()
