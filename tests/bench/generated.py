"""Trees that are made up, the same at every time and place: many small files, a disk image, content that does not
compress. Runs as a process of its own, so that its memory is not taken for that of what is measured:

    python -m tests.bench.generated KIND FOLDER AMOUNT

Which amounts are measured is decided in trees.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np

MIB = 1 << 20
WORDS = 2_000
WORD_BYTES = 8
FILES_A_FOLDER = 100
FOLDERS_A_FOLDER = 100
MEDIAN_FILE_BYTES = 450
FILE_BYTES_MAX = 60_000
EXTENT_MIB = 16  # of an image: so much in a row is a hole, text or noise
HOLE_SHARE, TEXT_SHARE = 0.4, 0.3
RANDOM_FILE_MIB = 32
FOLDER_OF_RANDOM_FILES = 4
SETTINGS_FILES = 200
ENDINGS = ("py", "html", "js", "css", "json", "md", "txt", "svg", "conf", "po")
SYLLABLES = (
    "ba",
    "co",
    "de",
    "fi",
    "ga",
    "hu",
    "in",
    "jo",
    "ka",
    "le",
    "mo",
    "nu",
    "or",
    "pe",
    "qui",
    "ra",
    "se",
    "tu",
)


def words() -> np.ndarray:
    """A vocabulary of fixed width: so text is made at the speed of memory, and compresses about 5 to 1."""
    draw = np.random.default_rng(1)
    made = {"".join(draw.choice(SYLLABLES, 4))[: WORD_BYTES - 1] for _ in range(4 * WORDS)}
    return np.array(sorted(made)[:WORDS], dtype=f"S{WORD_BYTES}")


def text(draw: np.random.Generator, vocabulary: np.ndarray, size_bytes: int) -> bytes:
    """Words with usual ones and rare ones, each followed by a space or a line's end."""
    count = -(-size_bytes // WORD_BYTES)
    drawn = np.minimum(draw.exponential(len(vocabulary) / 6, count).astype(np.int32), len(vocabulary) - 1)
    return vocabulary[drawn].tobytes().replace(b"\0\0", b" \n").replace(b"\0", b" ")[:size_bytes]


def small_files(root: Path, first: int, count: int) -> None:
    """The files number `first` and following. All names and contents depend on the number only."""
    vocabulary = words()
    spoken = [word.decode().rstrip("\0") for word in vocabulary.tolist()]
    for number in range(first - first % FILES_A_FOLDER, first + count, FILES_A_FOLDER):
        draw = np.random.default_rng(number)
        folder = root / small_folder(spoken, number // FILES_A_FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        sizes = np.minimum(draw.lognormal(np.log(MEDIAN_FILE_BYTES), 0.9, FILES_A_FOLDER), FILE_BYTES_MAX).astype(int)
        content = text(draw, vocabulary, int(sizes.sum()))
        names = draw.integers(0, len(spoken), (FILES_A_FOLDER, 2)).tolist()
        small_folder_files(folder, range(number, number + FILES_A_FOLDER), names, sizes.tolist(), content,
                           spoken, range(first, first + count))  # fmt: skip


def small_folder(spoken: list[str], number: int) -> str:
    above = number // FOLDERS_A_FOLDER
    return f"{spoken[above * 7 % len(spoken)]}-{above:03}/{spoken[number * 13 % len(spoken)]}_{number % 100:02}"


def small_folder_files(
    folder: Path,
    numbers: range,
    names: list[list[int]],
    sizes: list[int],
    content: bytes,
    spoken: list[str],
    wanted: range,
) -> None:
    at = 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    descriptor = os.open(folder, os.O_RDONLY)
    for number, (one, two), size in zip(numbers, names, sizes, strict=True):
        if number in wanted:
            name = f"{spoken[one]}_{spoken[two]}_{number % 997:03}.{ENDINGS[one % len(ENDINGS)]}"
            file = os.open(f"{number % FILES_A_FOLDER:02}{name}", flags, 0o644, dir_fd=descriptor)
            os.write(file, content[at : at + size])
            os.close(file)
        at += size
    os.close(descriptor)


def image_part(root: Path, first: int, count: int) -> None:
    """The extents number `first` and following of the image."""
    vocabulary = words()
    descriptor = os.open(root / "disk.img", os.O_WRONLY)
    for number in range(first, first + count):
        draw = np.random.default_rng(number)
        kind = draw.random()
        for area in range(EXTENT_MIB if kind >= HOLE_SHARE else 0):
            content = text(draw, vocabulary, MIB) if kind < HOLE_SHARE + TEXT_SHARE else draw.bytes(MIB)
            os.pwrite(descriptor, content, (number * EXTENT_MIB + area) * MIB)
    os.close(descriptor)


def random_file(root: Path, first: int, count: int) -> None:
    for number in range(first, first + count):
        draw = np.random.default_rng(number)
        folder = root / f"folder-{number // FOLDER_OF_RANDOM_FILES:02}"
        folder.mkdir(exist_ok=True)
        with (folder / f"film-{number:03}.bin").open("wb") as out:
            for _ in range(RANDOM_FILE_MIB):
                out.write(draw.bytes(MIB))


def make_image(root: Path, size_mib: int) -> None:
    with (root / "disk.img").open("wb") as image:
        image.truncate(size_mib * MIB)
    small_files(root / "settings", 0, SETTINGS_FILES)
    share_out(image_part, root, range(size_mib // EXTENT_MIB), 1)


def share_out(make: Callable[[Path, int, int], None], root: Path, numbers: range, unit: int) -> None:
    """Make the things of these numbers by two processes, some at a time; a unit of them is always made by one."""
    step = max(unit, len(numbers) // 16 // unit * unit)
    firsts = [numbers.start, *range((numbers.start // unit + 1) * unit, numbers.stop, step)]
    with ProcessPoolExecutor(2) as pool:
        parts = [pool.submit(make, root, first, behind - first) for first, behind in pairwise([*firsts, numbers.stop])]
        for part in parts:
            part.result()


def main(kind: str, root: Path, amount: int) -> None:
    root.mkdir(parents=True, exist_ok=True)
    if kind == "small":
        share_out(small_files, root, range(amount), FILES_A_FOLDER)
    elif kind == "image":
        make_image(root, amount)
    elif kind == "random":
        share_out(random_file, root, range(amount // RANDOM_FILE_MIB or 1), FOLDER_OF_RANDOM_FILES)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
