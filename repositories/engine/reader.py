"""Opening a restore point and reading what is in it; everything is hostile until it is authenticated.

    with open_point(path, Password(password_bytes("..."))) as point:
        for entry in point.list_folder(b""):
            ...
        for entry, pieces in point.read_many(point.walk(b"")):   # for whole trees: blocks are opened ahead by threads
            for piece in pieces:
                ...

What is written where on restore is left to restore.py; what counts as damage of a whole chain, to verify.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from uuid import UUID

from repositories.engine.entries import BlockAddress, Entry
from repositories.engine.head import Head


@dataclass(frozen=True, slots=True)
class Password:
    """The bytes of keys.crypto_password.password_bytes(); derived here, within the bounds for files to be opened."""

    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Kek:
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class FileKey:
    value: bytes = field(repr=False)


Secret = Password | Kek | FileKey


@dataclass(frozen=True, slots=True)
class Summary:
    """What a point says about itself, sealed."""

    kind: str  # "full" or "incremental"
    reason: str
    job_name: str
    level: str
    started_at_ns: int
    finished_at_ns: int
    sources: tuple[bytes, ...]
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    files: int
    directories: int
    others: int  # links, FIFOs, devices
    source_bytes: int
    read_bytes: int
    new_files: int
    changed_files: int
    unchanged_files: int
    warnings: int
    parent_id: UUID | None
    parent_seal_hash: bytes
    signer: bytes  # the raw Ed25519 public key whose signature verified, or empty: unsigned


@dataclass(frozen=True, slots=True)
class Hole:
    """`length` zero bytes of a sparse file: seek instead of writing."""

    length: int


Piece = memoryview | Hole


class Point:
    """An open restore point; a context manager. Made by open_point()."""

    path: Path
    head: Head
    summary: Summary
    file_key: bytes | None
    earlier_file_keys: dict[UUID, bytes]
    seal_hash: bytes
    length: int  # of the file in bytes

    def __enter__(self) -> Point:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        raise NotImplementedError

    def list_folder(self, path: bytes) -> list[Entry]:
        """The direct children of a folder, sorted; the empty path gives the roots. Raises NothingToRestore."""
        raise NotImplementedError

    def entry(self, path: bytes) -> Entry:
        """Raises NothingToRestore if there is no such entry."""
        raise NotImplementedError

    def walk(self, path: bytes) -> Iterator[Entry]:
        """`path` itself (if not empty) and everything below it, in manifest order: a folder before its children."""
        raise NotImplementedError

    def read(self, entry: Entry) -> Iterator[bytes]:
        """The content of one file, every block verified. Raises CorruptFile, MissingFile in the middle of it."""
        raise NotImplementedError

    def read_many(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, Iterator[Piece]]]:
        """Each entry (any type; files have content) with its pieces, in the order given, blocks opened ahead by threads.

        Take all pieces of an entry before the next entry. Pieces are slices of an opened block: use or copy them before
        going on. Damage is raised (CorruptFile, MissingFile) while the pieces of an entry that it touches are taken;
        the other entries go on. `entries` is consumed a little ahead of what is yielded.
        """
        raise NotImplementedError

    def blocks(self, addresses: Iterable[BlockAddress]) -> Iterator[tuple[BlockAddress, bytes | Exception]]:
        """Opened blocks in the order given, each with its content or with the EngineError that it raised; prefetched."""
        raise NotImplementedError


def inspect(path: Path) -> Head:
    """What can be said without any key. Raises CorruptFile, UnknownVersion, MissingFile."""
    raise NotImplementedError


def open_point(path: Path, secret: Secret | None) -> Point:
    """Open one restore point; earlier files of its chain are found beside it when their blocks are needed.

    `secret` is None for plain files only. Raises CannotUnwrap (wrong secret, or none for an encrypted file),
    PlainRefused (a secret for a plain file), CorruptFile, UnknownVersion, MissingFile.
    """
    raise NotImplementedError
