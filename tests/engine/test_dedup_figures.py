"""What is stored already costs about nothing: under 1 % of its size, or 32 bytes an entry, whichever is more.

Measured is how much longer the file of an incremental is than that of one without changes. Beside the entries of a new
tree that is the rest of the segments in which it begins and ends, of about 2,000 entries each: where these are depends
on the chain's key and the folder of the test, so here they are fixed.
"""

import os
import random
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from repositories.engine import manifest, read_ahead, small_files
from repositories.engine.backup import Level
from repositories.engine.layout import MIB
from repositories.engine.small_files import BOUNDARY_MODULUS
from tests.engine.lab import Chain, content_of, folder_in_memory, inside

FILES = 10_000
A_FOLDER = 100


@pytest.fixture(autouse=True)
def fixed_boundaries(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_boundary(path: bytes, _: bytes) -> bool:
        return zlib.crc32(path.partition(b"/source/")[2]) % BOUNDARY_MODULUS == 0

    for module in (small_files, manifest):
        monkeypatch.setattr(module, "is_boundary", is_boundary)
    monkeypatch.setattr(read_ahead, "_WORTH_ENTRIES", 1 << 30)  # another process would not have this


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    with folder_in_memory(tmp_path) as folder:
        (folder / "source").mkdir()
        yield folder / "source"


@pytest.fixture
def chain(tmp_path: Path, source: Path) -> Chain:
    return Chain(tmp_path / "repository", source)


def make_tree(folder: Path, mean_bytes: int) -> None:
    """Files that do not compress, with names and times that do not either."""
    dice = random.Random(6)
    for number in range(FILES):
        if number % A_FOLDER == 0:
            within = folder / f"folder {number // A_FOLDER}"
            within.mkdir(parents=True)
        path = within / f"{dice.randbytes(4).hex()} {number}"
        path.write_bytes(dice.randbytes(dice.randrange(1, 2 * mean_bytes)))
        os.utime(path, ns=(0, 1_700_000_000_000_000_000 + dice.randrange(10**16)))


def move(tree: Path) -> None:
    tree.rename(tree.parent / "moved")


def copy(tree: Path) -> None:
    shutil.copytree(tree, tree.parent / "copy", symlinks=True)


def touch(tree: Path) -> None:
    for folder, _, names in os.walk(tree):
        for name in names:
            os.utime(os.path.join(folder, name))


def write_again(tree: Path) -> None:
    """The same content into new files, as an unpacked archive does."""
    for folder, _, names in os.walk(tree):
        for name in names:
            path = Path(folder, name)
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)


@pytest.mark.parametrize(
    ("edit", "mean_bytes"), [(move, 100), (copy, 100), (touch, 100), (write_again, 100), (copy, 4_000)]
)
def test_a_tree_that_is_stored_already(
    chain: Chain, source: Path, edit: Callable[[Path], None], mean_bytes: int
) -> None:
    make_tree(source / "tree", mean_bytes)
    full = chain.write()
    unchanged = chain.write()
    edit(source / "tree")
    changed = chain.write()
    assert changed.new_files + changed.changed_files == FILES and changed.read_bytes > FILES * mean_bytes * 0.9
    entries = FILES + FILES // A_FOLDER + 2  # the folders too, and the source with the tree in it
    cost = changed.length - unchanged.length
    assert cost < max(0.01 * full.source_bytes, 32 * entries), f"{cost:,} bytes, {cost / entries:.1f} an entry"


def insert_a_byte(chain: Chain, source: Path, size: int) -> int:
    """What a byte at the head of a large file costs."""
    dice = random.Random(7)
    with open(source / "large", "wb") as file:
        for _ in range(size // MIB):
            file.write(dice.randbytes(MIB))
    chain.write(level=Level.NONE)
    unchanged = chain.write(level=Level.NONE)
    with open(source / "large", "rb") as before, open(source / "new", "wb") as after:
        after.write(b"!")
        shutil.copyfileobj(before, after, MIB)
    os.replace(source / "new", source / "large")
    written = chain.write(level=Level.NONE)
    assert written.read_bytes == size + 1
    with chain.open() as point:
        chunks = list(point.entry(inside(source, "large")).chunks)
        assert sum(chunk.block.origin == written.file_id for chunk in chunks) <= 2
    return written.length - unchanged.length


def test_a_byte_at_the_head_of_a_large_file(chain: Chain, source: Path) -> None:
    """One or two chunks, whatever the size of the file; a chunk has at most 4 MiB."""
    assert insert_a_byte(chain, source, 64 * MIB) < 4.1 * MIB
    with chain.open() as point:
        assert content_of(point, inside(source, "large")) == (source / "large").read_bytes()


@pytest.mark.soak
def test_a_byte_at_the_head_of_1_gib(chain: Chain, source: Path) -> None:
    assert insert_a_byte(chain, source, 1024 * MIB) < 0.01 * 1024 * MIB


@pytest.mark.parametrize("level", [Level.NONE, Level.BALANCED])
def test_a_large_file_that_is_touched_copied_and_moved(chain: Chain, source: Path, level: Level) -> None:
    (source / "large").write_bytes(random.Random(8).randbytes(8 * MIB))
    chain.write(level=level)
    unchanged = chain.write(level=level)
    os.utime(source / "large", ns=(1, 1))
    touched = chain.write(level=level)
    shutil.copy2(source / "large", source / "copy")
    copied = chain.write(level=level)
    (source / "large").rename(source / "moved")
    moved = chain.write(level=level)
    for written in (touched, copied, moved):
        assert written.length - unchanged.length < 0.01 * 8 * MIB
        assert written.read_bytes == 8 * MIB
