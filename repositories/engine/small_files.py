"""Reading a batch of entries: the content of small files, the targets of links, extended attributes, and what can be
computed of them beside it, identities and boundaries.

It is what a backup of many small files costs, so there is as little Python as possible per file, and a further process
can do it: a batch is asked for and answered in plain columns, and nothing big is imported here. Content lies in the
given buffer, one file behind the other. Who reads which batch is decided in read_ahead.py, what becomes of it in
storing.py. A file that is not what the walk saw is left to the careful reader of content.py.
"""

from __future__ import annotations

import errno
import os
import time
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from blake3 import blake3

SMALL_FILE_BYTES = 512 * 1024
IDENTITY_BYTES = 24
BOUNDARY_MODULUS = 2_048
OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

# What is to be done with an entry: nothing, read a small file, read a link, or only its extended attributes.
NOTHING, SMALL, LINK, ATTRIBUTES = range(4)

_FOLDER_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_WORTH_A_FOLDER = 3  # so many entries of one folder pay for opening it
_GONE = (FileNotFoundError, NotADirectoryError)

Xattrs = tuple[tuple[bytes, bytes], ...]


class Request(NamedTuple):
    """A batch in columns. Folders are absolute and end with a slash; names are joined with NUL; the others are 64-bit
    integers as bytes.
    """

    runs: list[tuple[bytes, int]]  # consecutive entries of one folder: which, and how many
    names: bytes
    kinds: bytes
    sizes: bytes
    inodes: bytes
    mtimes: bytes
    ctimes: bytes
    devices: bytes


class Answer(NamedTuple):
    """What came of a batch; entries are named by their number in it."""

    identities: bytes  # of the small files that were read, in order
    changed: list[int]  # small files that were not what was expected
    lost: list[tuple[int, int]]  # with the number of the error
    targets: dict[int, bytes]
    xattrs: dict[int, Xattrs]
    closed: list[tuple[int, str]]  # entries whose extended attributes cannot be read, and what is to be said of them
    unread: list[int]  # entries whose extended attributes were not read: their path is too long, or they changed
    boundaries: list[int]
    seconds: float


class Keys(NamedTuple):
    """Keys of the chain for what is computed here. `repr` shows none of them."""

    identities: bytes
    boundaries: bytes

    def __repr__(self) -> str:
        return "Keys()"


def is_boundary(path: bytes, key: bytes) -> bool:
    """Whether a segment of a manifest ends behind the entry with this path (docs/FORMAT.md, 4.5)."""
    return int.from_bytes(blake3(path, key=key).digest(length=4), "little") % BOUNDARY_MODULUS == 0


def identity(chunk: bytes | bytearray | memoryview, key: bytes) -> bytes:
    return bytes(blake3(chunk, key=key).digest(length=IDENTITY_BYTES))


class BatchReader:
    """Reads batches; remembers which file systems have no extended attributes."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._without_xattrs: set[int] = set()

    def read(self, request: Request, buffer: memoryview) -> Answer:
        """`buffer` has room for all small files of the batch and one byte more."""
        started = time.perf_counter()
        one = _Batch(self._keys, self._without_xattrs, buffer)
        one.read(request)
        return Answer(
            b"".join(one.identities),
            one.changed,
            one.lost,
            one.targets,
            one.xattrs,
            one.closed,
            one.unread,
            one.boundaries,
            time.perf_counter() - started,
        )


class _Batch:
    """One batch being read."""

    def __init__(self, keys: Keys, without_xattrs: set[int], buffer: memoryview) -> None:
        self._keys, self._without_xattrs, self._buffer = keys, without_xattrs, buffer
        self._position = 0
        self.identities: list[bytes] = []
        self.changed: list[int] = []
        self.lost: list[tuple[int, int]] = []
        self.targets: dict[int, bytes] = {}
        self.xattrs: dict[int, Xattrs] = {}
        self.closed: list[tuple[int, str]] = []
        self.unread: list[int] = []
        self.boundaries: list[int] = []

    def read(self, request: Request) -> None:
        if not request.kinds:
            return
        rows = zip(
            request.names.split(b"\0"),
            request.kinds,
            _integers("q", request.sizes),
            _integers("Q", request.inodes),
            _integers("q", request.mtimes),
            _integers("q", request.ctimes),
            _integers("Q", request.devices),
            strict=True,
        )
        numbered = enumerate(rows)
        for folder, count in request.runs:
            self._read_run(folder, count, numbered)

    def _read_run(
        self, folder: bytes, count: int, numbered: Iterator[tuple[int, tuple[bytes, int, int, int, int, int, int]]]
    ) -> None:
        """Entries of one folder. The loop over small files is written out, since there may be a million."""
        at_folder = _open_folder(folder) if count >= _WORTH_A_FOLDER else None
        where = b"" if at_folder is not None else folder
        path_start = folder[1:]
        boundary_key = self._keys.boundaries
        try:
            for number, (name, kind, size, inode, mtime, ctime, device) in numbered:
                if is_boundary(path_start + name, boundary_key):
                    self.boundaries.append(number)
                if kind == SMALL:
                    try:
                        self._small(number, where + name, at_folder, size, (inode, mtime, ctime, device))
                    except OSError as error:
                        self.lost.append((number, error.errno or errno.EIO))
                        self.unread += [number] if error.errno == errno.ENAMETOOLONG else []
                elif kind:
                    self._other(number, folder + name, kind, inode, device)
                count -= 1
                if not count:
                    return
        finally:
            if at_folder is not None:
                os.close(at_folder)

    def _small(
        self, number: int, name: bytes, at_folder: int | None, size: int, expected: tuple[int, int, int, int]
    ) -> None:
        position = self._position
        end = position + size
        fd = os.open(name, OPEN_FLAGS, dir_fd=at_folder)
        try:
            length = os.readv(fd, (self._buffer[position : end + 1],))
            after = os.fstat(fd)
            found = (after.st_ino, after.st_mtime_ns, after.st_ctime_ns, after.st_dev)
            if length != size or found != expected or after.st_size != size:
                self.changed.append(number)
                self.unread.append(number)
                return
            if expected[3] not in self._without_xattrs:
                self._attributes(number, fd, expected[3], None)
        finally:
            os.close(fd)
        content = self._buffer[position:end]
        self.identities.append(blake3(content, key=self._keys.identities).digest(length=IDENTITY_BYTES))
        self._position = end

    def _other(self, number: int, path: bytes, kind: int, inode: int, device: int) -> None:
        try:
            if kind == LINK:
                self.targets[number] = os.readlink(path)
                if not _is_still(path, inode, device):
                    self.changed.append(number)
        except OSError as error:
            self.lost.append((number, error.errno or errno.EIO))
        if device not in self._without_xattrs:
            self._attributes(number, path, device, inode)

    def _attributes(self, number: int, place: int | bytes, device: int, inode: int | None) -> None:
        """`inode` is given where it has to be made sure that a path still leads to what the walk saw."""
        try:
            found = read_attributes(place)
            if not found.pairs and not found.problem:
                return
            if found.pairs and inode is not None and not found.is_usual and not _is_still(place, inode, device):
                found = Attributes((), "was exchanged while its extended attributes were read")
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                self._without_xattrs.add(device)
            elif error.errno == errno.ENAMETOOLONG:
                self.unread.append(number)
            elif not isinstance(error, _GONE):
                self.closed.append((number, "has extended attributes that cannot be listed"))
            return
        if found.pairs:
            self.xattrs[number] = found.pairs
        if found.problem:
            self.closed.append((number, found.problem))


class Attributes(NamedTuple):
    """Extended attributes, and what is to be said of those that cannot be read."""

    pairs: Xattrs
    problem: str = ""

    @property
    def is_usual(self) -> bool:
        """Only a label that every file has where there are any; it tells nothing of the content."""
        return len(self.pairs) == 1 and self.pairs[0][0] == b"security.selinux"


def read_attributes(place: int | bytes) -> Attributes:
    """Of an open file, or of what a path names, which may be a link. Raises OSError where they cannot be listed."""
    follow = isinstance(place, int)
    names = os.listxattr(place) if follow else os.listxattr(place, follow_symlinks=False)
    if not names:
        return _NO_ATTRIBUTES
    pairs, lost = [], []
    for name in sorted(names):
        try:
            pairs.append((os.fsencode(name), os.getxattr(place, name, follow_symlinks=follow)))
        except OSError as error:
            if error.errno != errno.ENODATA and not isinstance(error, _GONE):  # it was removed meanwhile
                lost.append(os.fsencode(name).decode("utf-8", "backslashreplace"))
    return Attributes(tuple(pairs), f"has extended attributes that cannot be read: {', '.join(lost)}" if lost else "")


_NO_ATTRIBUTES = Attributes(())


def _is_still(place: int | bytes, inode: int, device: int) -> bool:
    now = os.lstat(place) if isinstance(place, bytes) else os.fstat(place)
    return (now.st_ino, now.st_dev) == (inode, device)


def _open_folder(folder: bytes) -> int | None:
    """None where it cannot be opened: then each entry says why, by its own path."""
    try:
        return os.open(folder, _FOLDER_FLAGS)
    except OSError:
        return None


def _integers(code: str, column: bytes) -> array[int]:
    integers = array(code)
    integers.frombytes(column)
    return integers
