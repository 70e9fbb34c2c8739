"""What an order may leave out beside its patterns: other file systems, caches, and what has the nodump flag.

* `one-file-system`: a folder on another device than its source is kept, but nothing in it is. Only folders are asked,
  since on overlay file systems the device of a file says nothing.
* `skip-caches`: of a folder with a file CACHEDIR.TAG that begins with the standard signature
  (https://bford.info/cachedir/), the folder and the tag are kept, and nothing else in it.
* `skip-nodump`: what has the flag of `chattr +d` is left out, a folder with everything below.

A source itself is always walked: it was named. What cannot be asked is kept. The walk calls these only where the
option was chosen.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from enum import StrEnum

CACHE_TAG = b"CACHEDIR.TAG"
CACHE_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"

_LOOK_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# _IOR('f', 1, long); the few machines that number differently answer ENOTTY, as a file system without flags does.
_FS_IOC_GETFLAGS = 0x80006601 | struct.calcsize("l") << 16
_FS_NODUMP_FL = 0x40
_WITHOUT_FLAGS = frozenset((errno.ENOTTY, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS))


class Omission(StrEnum):
    ONE_FILE_SYSTEM = "one-file-system"
    SKIP_CACHES = "skip-caches"
    SKIP_NODUMP = "skip-nodump"


def is_cache(folder: int) -> bool:
    """Whether the file CACHEDIR.TAG in an open folder is what its name says. A link is not followed."""
    try:
        descriptor = os.open(CACHE_TAG, _LOOK_FLAGS, dir_fd=folder)
    except OSError:
        return False  # if it is there, the walk says that it cannot be read
    try:
        return os.read(descriptor, len(CACHE_SIGNATURE)) == CACHE_SIGNATURE
    except OSError:
        return False
    finally:
        os.close(descriptor)


class NodumpFlags:
    """Asks for the flag of files and folders; a device whose file system has no flags is asked once."""

    def __init__(self) -> None:
        self._without: set[int] = set()

    def has(self, folder: int, name: bytes, device: int) -> bool:
        """Whether something in an open folder has it."""
        if device in self._without:
            return False
        try:
            descriptor = os.open(name, _LOOK_FLAGS, dir_fd=folder)
        except OSError:
            return False  # what cannot be opened is kept, and a warning if it cannot be read either
        try:
            flags = struct.unpack_from("=i", fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, bytes(8)))[0]
        except OSError as error:
            if error.errno in _WITHOUT_FLAGS:
                self._without.add(device)
            return False
        finally:
            os.close(descriptor)
        return bool(flags & _FS_NODUMP_FL)
