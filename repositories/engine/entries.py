"""What a restore point knows about one thing in the file system, and where its content lies.

Paths are bytes, absolute, without the leading slash (`usr/share/doc`): they need not be UTF-8 and may hold newlines.
How entries are stored is decided in segments.py; how they are put back, in restore.py.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple, Protocol
from uuid import UUID

import msgspec


class EntryType(Enum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    FIFO = "fifo"
    SOCKET = "socket"  # never stored: a socket cannot be restored; the walk counts those that it passes over
    CHARACTER_DEVICE = "character device"
    BLOCK_DEVICE = "block device"


_TYPES = {
    stat.S_IFREG: EntryType.FILE,
    stat.S_IFDIR: EntryType.DIRECTORY,
    stat.S_IFLNK: EntryType.SYMLINK,
    stat.S_IFIFO: EntryType.FIFO,
    stat.S_IFSOCK: EntryType.SOCKET,
    stat.S_IFCHR: EntryType.CHARACTER_DEVICE,
    stat.S_IFBLK: EntryType.BLOCK_DEVICE,
}


class BlockAddress(NamedTuple):
    """A sealed block: the id of the file that it was first written to, and its item number there. Never an offset."""

    origin: UUID
    number: int


class Chunk(NamedTuple):
    """`length` bytes of content at `offset` inside the opened block; `block` is None for a hole (zeros, not stored)."""

    block: BlockAddress | None
    offset: int
    length: int


class Chunks(Protocol):
    """The chunks of one file in order, made when they are asked for: a file of 1 TiB has a million."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Chunk]: ...


class Entry(msgspec.Struct, frozen=True):
    """One thing in a restore point. `mode` is st_mode in full (type and permission bits)."""

    path: bytes
    mode: int
    uid: int
    gid: int
    size: int  # of a file: bytes of content; else 0
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    target: bytes = b""  # of a symbolic link
    rdev: int = 0  # of a device
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    chunks: Chunks = ()
    hard_linked: bool = False  # entries with equal (device, inode) and this flag were one file with several names
    ancestor: bool = False  # a folder above a source: its mode and owner are kept, its times and other children are not
    torn: bool = False  # the file changed while it was read: the content is what was read, perhaps no state it ever had

    @property
    def type(self) -> EntryType:
        return _TYPES[stat.S_IFMT(self.mode)]

    @property
    def name(self) -> bytes:
        return self.path.rpartition(b"/")[2]

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


def order_key(path: bytes) -> bytes:
    """The order of a manifest: by path components as bytes. NUL is in no path and sorts before everything else."""
    return path.replace(b"/", b"\0")


def is_below(path: bytes, folder: bytes) -> bool:
    """Whether `path` is `folder` itself or inside it; everything is below the empty path."""
    return not folder or path == folder or path.startswith(folder + b"/")
