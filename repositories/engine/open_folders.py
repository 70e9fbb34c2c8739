"""The folders on the way down of a walk, held open, so that no name is ever looked up by a path.

Each folder is opened by its name in the open one above it, and never through a symbolic link: whoever exchanges a
folder for a link while it is walked leads nowhere, and a tree may be deeper than a path is long. That costs no more
than paths do, since the kernel looks up one name and not all of them.

What is done with the names is left to walk.py.
"""

from __future__ import annotations

import os
import sys

MAX_OPEN = 100  # of one walk; those further up are closed, and opened again on the way back
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_HAS_PROC = os.path.isdir("/proc/self/fd")


class _Frame:
    __slots__ = ("descriptor", "identity", "name")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.descriptor = -1
        self.identity: tuple[int, int] | None = None  # known once it was closed


class OpenFolders:
    """A stack of folders, the first one a source; a context manager, which closes all of them."""

    def __init__(self) -> None:
        self._frames: list[_Frame] = []

    def __enter__(self) -> OpenFolders:
        return self

    def __exit__(self, *_: object) -> None:
        while self._frames:
            _close(self._frames.pop())

    @property
    def current(self) -> int:
        """The descriptor of the last folder."""
        return self._frames[-1].descriptor

    def enter(self, name: bytes) -> list[bytes]:
        """Go into a folder of the current one, or, as the first, into a source by its path, whose links are followed.
        Returns its names, unsorted. Raises OSError; the folder is on the stack even then, and must be left.
        """
        above = self._frames[-1].descriptor if self._frames else None
        frame = _Frame(name)
        self._frames.append(frame)
        frame.descriptor = os.open(name, _FLAGS if above is None else _FLAGS | os.O_NOFOLLOW, dir_fd=above)
        if len(self._frames) > MAX_OPEN:
            self._rest(self._frames[-MAX_OPEN])
        return _names(frame.descriptor)

    def leave(self) -> bool:
        """Go back to the folder above. False if that one cannot be reached any more: it was moved meanwhile."""
        left = self._frames.pop()
        try:
            above = self._frames[-1] if self._frames else None
            return above is None or above.descriptor >= 0 or self._open_again(above, left)
        finally:
            _close(left)

    def _rest(self, frame: _Frame) -> None:
        """Close a folder that is far up; the first one stays open."""
        if frame is not self._frames[0] and frame.descriptor >= 0:
            frame.identity = _identity(frame.descriptor)
            _close(frame)

    def _open_again(self, frame: _Frame, below: _Frame) -> bool:
        for way in (self._from_below, self._from_above):
            try:
                frame.descriptor = way(frame, below)
            except OSError:
                continue  # the other way may still lead there
            if _identity(frame.descriptor) == frame.identity:
                return True
            _close(frame)
        return False

    def _from_below(self, _frame: _Frame, below: _Frame) -> int:
        return os.open(b"..", _FLAGS | os.O_NOFOLLOW, dir_fd=below.descriptor)

    def _from_above(self, _frame: _Frame, _below: _Frame) -> int:
        descriptor = os.dup(self._frames[0].descriptor)
        for frame in self._frames[1:]:
            above = descriptor
            try:
                descriptor = os.open(frame.name, _FLAGS | os.O_NOFOLLOW, dir_fd=above)
            finally:
                os.close(above)
        return descriptor


def _names(descriptor: int) -> list[bytes]:
    if _HAS_PROC:
        return os.listdir(b"/proc/self/fd/%d" % descriptor)  # a descriptor alone gives str, which costs time and memory
    return [name.encode(sys.getfilesystemencoding(), "surrogateescape") for name in os.listdir(descriptor)]


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _close(frame: _Frame) -> None:
    if frame.descriptor >= 0:
        os.close(frame.descriptor)
        frame.descriptor = -1
