"""What changes between two points. Every change is an XOR with bytes that depend on the place, so that the same change
made again takes it back: all tools and all runs begin with the same tree.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

SHARE = 0.01
IMAGE_SHARE = 0.05
AREA_BYTES = 1 << 20
PATCH_BYTES = 64
LITTLE = 30  # files, where only something is to change
IMAGE = "disk.img"


@dataclass(frozen=True)
class Patch:
    path: str
    offset: int
    length: int
    salt: int = 0

    def apply(self) -> None:
        with open(self.path, "r+b") as file:
            before = os.pread(file.fileno(), self.length, self.offset)
            mask = random.Random(f"{self.offset} {self.salt}").randbytes(len(before))
            after = int.from_bytes(before, "big") ^ int.from_bytes(mask, "big")
            os.pwrite(file.fileno(), after.to_bytes(len(before), "big"), self.offset)


@dataclass
class Changes:
    """The changes of one tree that may be made, and those that are made now."""

    share: list[Patch]
    small: list[Patch]  # of these some are taken for each point of a long chain
    changed_at_seconds: float = field(default_factory=time.monotonic)
    _made: list[Patch] = field(default_factory=list)

    def make_share(self) -> None:
        self._apply(self.share)

    def make_little(self, number: int) -> None:
        """Other files for each number, as far as there are enough, and other bytes in any case."""
        start = number * LITTLE % len(self.small)
        chosen = (self.small[start:] + self.small[:start])[:LITTLE]
        self._apply([replace(patch, salt=number) for patch in chosen])

    def take_back(self) -> None:
        if self._made:
            for patch in self._made:
                patch.apply()
            self._made = []
            self.changed_at_seconds = time.monotonic()

    def _apply(self, patches: list[Patch]) -> None:
        for patch in patches:
            patch.apply()
        self._made += patches
        self.changed_at_seconds = time.monotonic()


def of_tree(root: Path) -> Changes:
    """Chosen by a seed: of an image its areas, else files. A tree has one file that changes at least."""
    draw = random.Random(7)
    image = root / IMAGE
    if image.exists():
        small = [Patch(path, 0, PATCH_BYTES) for path in files(root) if path != os.fspath(image)]
        return Changes(areas(image, draw), small)
    chosen, last = [], ""
    for path in files(root):
        last = path
        if draw.random() < SHARE:
            chosen.append(in_file(path, draw))
    chosen = chosen or [in_file(last, draw)]
    return Changes(chosen, list(chosen))


def files(root: Path) -> Iterator[str]:
    """Regular files with content that have no other name and may be written to, in the order of their paths."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            facts = os.lstat(path)
            is_plain = facts.st_mode & 0o170000 == 0o100000 and facts.st_size and facts.st_nlink == 1
            if is_plain and os.access(path, os.W_OK):
                yield path


def in_file(path: str, draw: random.Random) -> Patch:
    size = os.path.getsize(path)
    return Patch(path, draw.randrange(max(1, size - PATCH_BYTES)), PATCH_BYTES)


def areas(image: Path, draw: random.Random) -> list[Patch]:
    """The beginning of each chosen area, 4 to 64 KiB of it; holes stay holes."""
    size = image.stat().st_size
    count = max(1, int(size // AREA_BYTES * IMAGE_SHARE))
    written = [offset for offset in range(0, size, AREA_BYTES) if is_written(image, offset)]
    chosen = sorted(draw.sample(written, min(count, len(written))))
    return [Patch(os.fspath(image), offset, draw.randrange(1, 17) * 4096) for offset in chosen]


def is_written(image: Path, offset: int) -> bool:
    with image.open("rb") as file:
        try:
            return os.lseek(file.fileno(), offset, os.SEEK_DATA) == offset
        except OSError:
            return False
