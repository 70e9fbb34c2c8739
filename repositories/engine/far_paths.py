"""Paths that are longer than the kernel takes in one call (PATH_MAX: 4,096 bytes with the NUL at the end).

Such trees are made by programs that work from folder to folder. They are reached alike: the folders on the way are
opened in steps, without following a link in the last place of a step, and what is in the last one is named through
/proc/self/fd. This is asked for only after a call failed with ENAMETOOLONG, so usual trees pay nothing.

Paths of more than MAX_PATH_BYTES are refused: each folder's path stands in the manifest, and a tree of any depth
would make it larger than its source.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

MAX_PATH_BYTES = 16 * 1024
_STEP_BYTES = 4_000
_FOLDER_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_too_long(error: OSError) -> bool:
    return error.errno == errno.ENAMETOOLONG


@contextmanager
def near(path: bytes) -> Iterator[bytes]:
    """A short path to what `path` (absolute, normalised) names, of use inside the context only. Raises OSError."""
    if len(path) > MAX_PATH_BYTES:
        raise OSError(errno.ENAMETOOLONG, f"its path has more than {MAX_PATH_BYTES:,} bytes")
    above, _, name = path.rpartition(b"/")
    folder = os.open(b"/", _FOLDER_FLAGS)
    try:
        for step in _steps(above):
            below = os.open(step, _FOLDER_FLAGS, dir_fd=folder)
            os.close(folder)
            folder = below
        here = b"/proc/self/fd/%d" % folder
        if not os.path.exists(here):
            raise OSError(errno.ENAMETOOLONG, "its path is too long to be reached without /proc")
        yield here + b"/" + name
    finally:
        os.close(folder)


def _steps(folder: bytes) -> Iterator[bytes]:
    """The path in pieces that end at slashes, each short enough for one call."""
    rest = folder.strip(b"/")
    while len(rest) > _STEP_BYTES:
        end = rest.rindex(b"/", 0, _STEP_BYTES)
        yield rest[:end]
        rest = rest[end + 1 :]
    if rest:
        yield rest
