"""Content into a file of the target: every byte, and holes where there were holes or long runs of zeros.

Which file that is, and what becomes of one that is not complete, is decided in `repositories.engine.target`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from repositories.engine.reader import Hole, Piece

HOLE_BYTES = 64 * 1024
ZEROS = bytes(HOLE_BYTES)


def write_pieces(descriptor: int, pieces: Iterable[Piece], took: Callable[[int], None]) -> None:
    """Write content; recorded holes, and long runs of zeros where they are aligned, become holes.

    `took` hears the length of each piece that is done, and may raise to stop.
    """
    length = 0
    hole_at_end = False
    for piece in pieces:
        if isinstance(piece, Hole):
            size = piece.length
            os.lseek(descriptor, size, os.SEEK_CUR)
            hole_at_end = True
        else:
            size = len(piece)
            hole_at_end = size >= HOLE_BYTES and _write_sparse(descriptor, piece)
            if size < HOLE_BYTES:
                _write_all(descriptor, piece)
        length += size
        took(size)
    if hole_at_end:
        os.ftruncate(descriptor, length)


def _write_sparse(descriptor: int, piece: memoryview) -> bool:
    """Write a piece without its long runs of zeros; return whether it ends in a hole that the file does not have
    yet.
    """
    start = position = 0
    hole = False
    for position in range(0, len(piece) - HOLE_BYTES + 1, HOLE_BYTES):
        hole = _is_zero(piece, position)
        if hole:
            _write_all(descriptor, piece[start:position])
            start = position + HOLE_BYTES
            os.lseek(descriptor, HOLE_BYTES, os.SEEK_CUR)
    if start < len(piece):
        _write_all(descriptor, piece[start:])
        return False
    return hole


def _is_zero(piece: memoryview, position: int) -> bool:
    """Whether a hole's length of zeros is at `position`; looking at three bytes first spares most copies."""
    last = position + HOLE_BYTES - 1
    if piece[position] or piece[position + HOLE_BYTES // 2] or piece[last]:
        return False
    return bytes(piece[position : last + 1]) == ZEROS


def _write_all(descriptor: int, data: memoryview) -> None:
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, data[written:])
