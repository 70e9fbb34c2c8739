"""Another way to what a path names: from folder to folder, without a link, named through /proc/self/fd.

Of use where a path is longer than the kernel takes in one call (PATH_MAX: 4,096 bytes with the NUL at the end), as in
trees that programs make from folder to folder; and where a file is no longer the one that the walk saw, so that it
has to be made sure that no folder above it became a link. Both are rare, so usual trees pay nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

_FOLDER_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def is_too_long(error: OSError) -> bool:
    return error.errno == errno.ENAMETOOLONG


@contextmanager
def near(path: bytes, source: bytes) -> Iterator[bytes]:
    """A short path to what `path` names, of use inside the context only. Raises OSError.

    Both are absolute and normalised. The way to the source is followed as it is; below it a link is an error.
    """
    start = source if path != source else os.path.dirname(source)
    *above, name = path[len(start) :].strip(b"/").split(b"/")
    folder = os.open(start, _FOLDER_FLAGS)
    try:
        for part in above:
            below = os.open(part, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = below
        here = b"/proc/self/fd/%d" % folder
        if not os.path.exists(here):
            raise OSError(errno.ENAMETOOLONG, "it can only be reached where /proc is mounted")
        yield here + b"/" + name
    finally:
        os.close(folder)
