"""Opening a restore point and reading what is in it; everything is hostile until it is authenticated.

    with open_point(path, Password(password_bytes("..."))) as point:
        for entry in point.list_folder(b""):
            ...
        for entry, pieces in point.read_many(point.walk(b"")):   # for whole trees: blocks are opened ahead by threads
            for piece in pieces:
                ...

How content is fetched and prefetched is left to blocks.py, what is written where on restore to restore.py, and what
counts as damage of a whole chain to verify.py.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from uuid import UUID

import numpy as np

from repositories.engine import identities
from repositories.engine.blocks import BlockReader, Content, Hole, Piece, T
from repositories.engine.chains import check_place
from repositories.engine.columns import Array
from repositories.engine.container import Container
from repositories.engine.entries import BlockAddress, Entry, is_below, order_key
from repositories.engine.errors import CorruptFile, NothingToRestore, damaged, text
from repositories.engine.head import Head, open_for_reading, read_heads
from repositories.engine.keyring import Keyring, parse_keyring
from repositories.engine.layout import NO_ITEM, ItemKind, Malformed
from repositories.engine.manifest import Facts, Root, RunRow, folder_segments, parse_root
from repositories.engine.pace import Pace
from repositories.engine.seal import NO_PARENT, Seal, check_chain_mac, plain_chain_key
from repositories.engine.segment_reader import read_segment
from repositories.engine.segments import Segment
from repositories.engine.shelf import Shelf
from repositories.engine.unlocking import FileKey, Kek, Password, Secret, SlotSecrets, unlock

__all__ = [
    "FileKey", "Hole", "Kek", "Password", "Piece", "Point", "Secret", "SlotSecrets", "Summary", "inspect", "open_point",
]  # fmt: skip


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
    options: tuple[str, ...]  # sorted
    parent_id: UUID | None
    parent_seal_hash: bytes
    signer: bytes  # the raw Ed25519 public key whose signature verified, or empty: unsigned


class Point:
    """An open restore point; a context manager. Made by open_point(). Not for use by several threads at once."""

    def __init__(self, container: Container, keyring: Keyring | None, root: Root, *, rebuild: bool = False) -> None:
        """With `rebuild` also what is found in damaged files of the chain is taken, each item authenticated."""
        self.container, self.keyring = container, keyring
        self.path: Path = container.path
        self.head: Head = container.head
        self.file_key: bytes | None = container.file_key
        self.earlier_file_keys: dict[UUID, bytes] = dict(keyring.file_keys) if keyring else {}
        self.seal_hash: bytes = container.seal.seal_hash
        self.length: int = container.length
        self._shelf = Shelf(container, self.earlier_file_keys, rebuild=rebuild)
        self._blocks = BlockReader(self._shelf)
        self._last: tuple[int, Segment] | None = None
        self._take_root(root)

    def _take_root(self, root: Root) -> None:
        self.root = root
        self.summary: Summary = _summary(root.facts, self.container.seal)
        self._origins = [UUID(bytes=origin) for origin in root.origins]
        self._firsts = [order_key(row.first) for row in root.segments]

    def __enter__(self) -> Point:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Point({text(self.path)}, {self.head.file_id})"

    def close(self) -> None:
        self._blocks.close()
        self._shelf.close()

    def set_pace(self, pace: Pace) -> None:
        """From now on blocks are read as fast as it allows."""
        self._blocks.pace = pace

    def list_folder(self, path: bytes) -> list[Entry]:
        """The direct children of a folder, sorted; the empty path gives the roots. Raises NothingToRestore."""
        if path and not self.entry(path).is_directory:
            raise NothingToRestore(f"/{text(path)} is not a folder.", path=text(path))
        prefix = path + b"/" if path else b""
        children: list[Entry] = []
        for number in folder_segments(self.root, path):
            segment = self.segment(number)
            wanted = {i for i, folder in enumerate(segment.folders) if folder == prefix}
            for row, folder in enumerate(segment.folder.tolist()):
                if folder in wanted:
                    children += segment.entries(row, row + 1)
        return children

    def entry(self, path: bytes) -> Entry:
        """Raises NothingToRestore if there is no such entry."""
        if self._firsts and path:
            segment = self.segment(self._segment_at(path))
            paths = segment.paths()
            row = bisect.bisect_left(paths, order_key(path), key=order_key)
            if row < len(paths) and paths[row] == path:
                return next(segment.entries(row, row + 1))
        raise NothingToRestore(f"The restore point {text(self.path)} has no entry /{text(path)}.", path=text(path))

    def walk(self, path: bytes = b"") -> Iterator[Entry]:
        """`path` itself (if not empty) and everything below it, in manifest order: a folder before its children.

        Raises NothingToRestore, at the first step, if `path` is not in the point.
        """
        if path:
            self.entry(path)
        for number in range(self._segment_at(path) if path else 0, len(self.root.segments)):
            row = self.root.segments[number]
            if not is_below(row.first, path) and order_key(row.first) > order_key(path):
                return
            segment = self.segment(number)
            if is_below(row.first, path) and is_below(row.last, path):
                yield from segment.entries()
            else:
                yield from (entry for entry in segment.entries() if is_below(entry.path, path))

    def read(self, entry: Entry) -> Iterator[bytes]:
        """The content of one file, every block verified.

        Raises CorruptFile, MissingFile, CannotUnwrap in the middle of it.
        """
        for piece in self.pieces(entry):
            if isinstance(piece, Hole):
                yield from _zeros(piece.length)
            else:
                yield bytes(piece)

    def pieces(self, entry: Entry) -> Content:
        """The same in pieces, as read_many() gives them."""
        for _, pieces in self.read_many([entry]):
            yield from pieces

    def read_many(self, items: Iterable[T]) -> Iterator[tuple[T, Content]]:
        """Each item (an entry of any type, or a group of files) with its pieces, in the order given; blocks are opened
        ahead by threads.

        Take all pieces of an item before the next one. Pieces are slices of an opened block: use or copy them before
        going on. Damage is raised (CorruptFile, MissingFile, CannotUnwrap) while the pieces of an item that it touches
        are taken; the others go on. `items` is consumed a little ahead of what is yielded.
        """
        return self._blocks.read_many(items)

    def blocks(self, addresses: Iterable[BlockAddress]) -> Iterator[tuple[BlockAddress, bytes | Exception]]:
        """Opened blocks in the order given, each with its content or the EngineError that it raised; prefetched."""
        return self._blocks.blocks(addresses)

    def container_of(self, file_id: UUID) -> Container:
        """Another file of the chain, opened with the keyring's key. Raises MissingFile, CannotUnwrap, CorruptFile."""
        return self._shelf.container(file_id)

    def segment(self, number: int) -> Segment:
        """One segment of the manifest, opened and checked against the root. The last one is remembered."""
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        row = self.root.segments[number]
        origin = self._origins[row.origin]
        segment = read_segment(self._shelf.container(origin), row, origin)
        self._last = (number, segment)
        return segment

    def identity_run(self, run: RunRow, origin_number: dict[UUID, int]) -> identities.Run:
        """A run of identities, its origins numbered by `origin_number`, which grows.

        Without those of blocks that a merge left out.
        """
        whole = identities.join([self._identity_part(*part, origin_number) for part in run.parts])
        return identities.without(whole, self._left_out(whole, origin_number))

    def _left_out(self, run: identities.Run, origin_number: dict[UUID, int]) -> Array:
        """Which entries name a block that is no longer there, or is not there for long."""
        gone = np.zeros(len(run), bool)
        numbers = set(np.unique(run.addresses[:, 0]).tolist())
        for origin, number in origin_number.items():
            kept = self._shelf.merged_blocks(origin) if number in numbers else None
            if kept is not None:
                gone |= (run.addresses[:, 0] == number) & ~np.isin(run.addresses[:, 1], kept)
        return gone

    def _identity_part(self, index: int, number: int, tag: bytes, origin_number: dict[UUID, int]) -> identities.Run:
        origin = self._origins[index]
        container = self._shelf.container(origin)
        name = f"identities {number}"
        if container.tag(number, ItemKind.IDENTITIES, origin) != tag:
            raise damaged(container.path, name, "it is not the one that the root knows")
        try:
            return identities.parse_part(container.read(number, ItemKind.IDENTITIES, origin), origin_number)
        except Malformed as error:
            raise damaged(container.path, name, str(error)) from None

    def _segment_at(self, path: bytes) -> int:
        return max(bisect.bisect_right(self._firsts, order_key(path)) - 1, 0)


def inspect(path: Path) -> Head:
    """What can be said without any key. Raises CorruptFile, UnknownVersion, MissingFile."""
    fd = open_for_reading(path)
    try:
        return read_heads(fd, path)[0]
    finally:
        os.close(fd)


def open_point(path: Path, secret: Secret | None, *, rebuild: bool = False) -> Point:
    """Open one restore point; earlier files of its chain are found beside it when their blocks are needed.

    This one must be whole in any case; `rebuild` is for those others, of which a damaged one gives what can be found.
    `secret` is None for plain files only. Raises CannotUnwrap (wrong secret, or none for an encrypted file),
    PlainRefused (a secret for a plain file), CorruptFile, UnknownVersion, MissingFile.
    """
    container = open_container(path, secret)
    try:
        keyring, chain_key = read_keyring(container)
        check_chain_mac(container.seal, chain_key)
        root = parse_root(sealed_item(container, ItemKind.ROOT))
        return Point(container, keyring, root, rebuild=rebuild)
    except Malformed as error:
        container.close()
        raise damaged(path, "seal or root", str(error)) from None
    except BaseException:
        container.close()
        raise


def open_container(path: Path, secret: Secret | None) -> Container:
    fd, _, head, file_key = open_head(path, secret)
    try:
        return Container(fd, path, head, file_key)
    except BaseException:
        os.close(fd)
        raise


def open_head(path: Path, secret: Secret | None) -> tuple[int, Path, Head, bytes | None]:
    """An open descriptor, the path, and the head, authenticated by the file key that the secret gives."""
    fd = open_for_reading(path)
    try:
        heads = read_heads(fd, path)
        _check_a_place(path, heads)
        head, file_key = unlock(path, heads, secret)
        check_place(path, head)  # the copy that authenticates need not be the one that was looked at first
        return fd, path, head, file_key
    except BaseException:
        os.close(fd)
        raise


def _check_a_place(path: Path, heads: list[Head]) -> None:
    """Raises CorruptFile if no copy of the head belongs here: said before a secret is tried."""
    errors: list[CorruptFile] = []
    for head in heads:
        try:
            return check_place(path, head)
        except CorruptFile as error:
            errors.append(error)
    raise errors[0]


def read_keyring(container: Container) -> tuple[Keyring | None, bytes]:
    """The keyring and the chain key, as the seal says. Raises Malformed, CorruptFile."""
    if not container.head.encrypted:
        if container.seal.statement.keyring_number != NO_ITEM:
            raise Malformed("a plain file has a keyring")
        return None, plain_chain_key(container.head.chain_id)
    keyring = parse_keyring(sealed_item(container, ItemKind.KEYRING))
    return keyring, keyring.chain_key


def sealed_item(container: Container, kind: ItemKind) -> bytes:
    """An item whose digest stands in the seal. Raises Malformed if it is another one."""
    said = container.seal.statement
    number, digest = (
        (said.keyring_number, said.keyring_digest) if kind is ItemKind.KEYRING else (said.root_number, said.root_digest)
    )
    raw = container.read(number, kind)
    if container.sealed_digest(number) != digest:
        raise Malformed(f"the {kind.name.lower()} is not the one that was sealed")
    return raw


def _summary(facts: Facts, seal: Seal) -> Summary:
    parent = seal.statement.parent_id
    return Summary(
        kind=facts.kind,
        reason=facts.reason,
        job_name=facts.job_name,
        level=facts.level,
        started_at_ns=facts.started_at_ns,
        finished_at_ns=facts.finished_at_ns,
        sources=tuple(facts.sources),
        include=tuple(facts.include),
        exclude=tuple(facts.exclude),
        files=facts.files,
        directories=facts.directories,
        others=facts.others,
        source_bytes=facts.source_bytes,
        read_bytes=facts.read_bytes,
        new_files=facts.new_files,
        changed_files=facts.changed_files,
        unchanged_files=facts.unchanged_files,
        warnings=facts.warnings,
        options=tuple(facts.options),
        parent_id=None if parent == NO_PARENT else parent,
        parent_seal_hash=seal.statement.parent_seal_hash,
        signer=seal.signer,
    )


def _zeros(length: int) -> Iterator[bytes]:
    while length:
        part = min(length, 1024 * 1024)
        yield bytes(part)
        length -= part
