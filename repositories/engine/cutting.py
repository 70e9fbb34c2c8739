"""Where large files are cut into chunks: by their content, or on a grid.

* By content (FastCDC; average 1 MiB, 256 KiB to 4 MiB): a byte inserted at the head moves one border, not all. This
  is for everything that is rewritten whole.
* On a grid of 1 MiB, counted from the begin of the file: for disk images, whose blocks are overwritten in place. What
  was not overwritten is the same chunk again, with no hash over each byte to find its borders, however much around it
  changed. A hole ends a chunk early; behind it chunks end on the same grid.

A file is a disk image if it has more than 4 MiB and its name one of the usual suffixes, or if the order says so by a
pattern. An ISO image is none: it is written once. Both ways give chunks that any reader takes, so the rule may change
between points, at the cost of storing such a file once more.

What is read, and where holes are, is left to content.py.
"""

from __future__ import annotations

import itertools
from typing import Protocol

from pyfastcdc import FastCDC

from keys import crypto
from repositories.engine.layout import MIB
from repositories.engine.patterns import Patterns
from repositories.engine.sealing import INFO

GRID_BYTES = MIB
IMAGE_MIN_BYTES = 4 * MIB
IMAGE_SUFFIXES = frozenset(
    b"img raw dd qcow qcow2 qed vmdk vdi vhd vhdx avhd avhdx hdd hds sparseimage".split()
)  # fmt: skip
_MIN_CHUNK, _AVERAGE_CHUNK, _MAX_CHUNK = MIB // 4, MIB, 4 * MIB

Cuts = list[tuple[int, int]]  # (offset, length), without gaps from the first byte on


class Cutter(Protocol):
    def cut(self, data: memoryview, position: int, *, last: bool) -> Cuts:
        """The chunks of `data`, which stands at `position` of its file, and is longer than the largest chunk.

        Unless it is the last before a hole or the end, what the following bytes may still lengthen is left out.
        """


class ContentCutter:
    """Borders differ from chain to chain. The seed is no secret key: sizes may still betray known files."""

    def __init__(self, chain_key: bytes) -> None:
        seed = int.from_bytes(crypto.hkdf(chain_key, salt=b"", info=INFO + b"chunking", length=7), "little")
        self._fastcdc = FastCDC(avg_size=_AVERAGE_CHUNK, min_size=_MIN_CHUNK, max_size=_MAX_CHUNK, seed=seed)

    def cut(self, data: memoryview, position: int, *, last: bool) -> Cuts:
        cuts = [(cut.offset, cut.length) for cut in self._fastcdc.cut_buf(data)]
        return cuts if last else cuts[:-1]


class GridCutter:
    def cut(self, data: memoryview, position: int, *, last: bool) -> Cuts:
        end = position + len(data)
        borders = [position, *range(position - position % GRID_BYTES + GRID_BYTES, end, GRID_BYTES)]
        if last or not end % GRID_BYTES:
            borders.append(end)
        return [(start - position, stop - start) for start, stop in itertools.pairwise(borders)]


class Cutting:
    """Chooses the cutter of a file. `images` are patterns that name disk images beside the usual suffixes."""

    def __init__(self, chain_key: bytes, images: Patterns) -> None:
        self._by_content, self._on_grid = ContentCutter(chain_key), GridCutter()
        self._images = images

    def cutter_for(self, path: bytes, size: int) -> Cutter:
        """`path` is absolute."""
        return self._on_grid if is_disk_image(path, size, self._images) else self._by_content


def is_disk_image(path: bytes, size: int, images: Patterns) -> bool:
    if size <= IMAGE_MIN_BYTES:
        return False
    name = path.rpartition(b"/")[2]
    stem, _, suffix = name.rpartition(b".")
    return (bool(stem) and suffix.lower() in IMAGE_SUFFIXES) or images.match(path.lstrip(b"/"), name, False)
