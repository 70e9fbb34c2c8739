"""A sealed backup file, opened: head, trailer, seal and index are authenticated, then items can be read by number.

What the items mean (manifest, keyring, identities) is left to reader.py, segments.py and the others; the file that is
being written, to writer.py.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from repositories.engine.errors import damaged
from repositories.engine.head import Head
from repositories.engine.index import ItemIndex, Origin, Place, parse_index
from repositories.engine.layout import (
    BODY_OFFSET,
    RECORD_HEADER_BYTES,
    TAG_BYTES,
    TRAILER_BYTES,
    Epoch,
    ItemKind,
    Malformed,
    Trailer,
    max_sealed_bytes,
    pack_record_header,
    parse_trailer,
    pread,
)
from repositories.engine.seal import Seal, parse_seal
from repositories.engine.sealing import EpochSealer


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a damaged file does not tell itself any more, as far as it could be found otherwise (rebuilt.py)."""

    trailer: Trailer
    seal: Seal
    index: ItemIndex


class Container:
    """Takes over `fd`; close() it. `head` has been authenticated with `file_key` by the caller.

    Raises CorruptFile, naming the part, for everything that does not verify. read() is safe to use from threads.
    """

    def __init__(self, fd: int, path: Path, head: Head, file_key: bytes | None, rebuilt: Rebuilt | None = None) -> None:
        self.path, self.head, self.file_key = path, head, file_key
        self._fd = fd
        self._sealers: dict[tuple[UUID, int], EpochSealer] = {}
        self.length = _regular_length(fd, path)
        if rebuilt is not None:
            self.trailer, self.seal, self.index = rebuilt.trailer, rebuilt.seal, rebuilt.index
            return
        self.trailer = self._read_trailer()
        self.seal = self._read_seal()
        self.index = self._read_index()

    @property
    def file_id(self) -> UUID:
        return self.head.file_id

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def holds(self, file_id: UUID) -> bool:
        """Whether it is that file, or has items of it."""
        return self.index.part(file_id) is not None

    def seal_hash_of(self, file_id: UUID) -> bytes:
        """Its own seal hash, or that of a file that it replaced; empty if it knows nothing of the file."""
        part = self.index.part(file_id)
        return b"" if part is None else part[0].seal_hash or self.seal.seal_hash

    def read(self, number: int, kind: ItemKind, origin: UUID | None = None) -> bytes:
        """The raw content of an item; without an origin, of one of the file's own."""
        source, place, name = self._find(number, kind, origin)
        try:
            sealer, sealed = self._sealed(source, place, number)
            return sealer.open(kind, number, sealed)
        except Malformed as error:
            raise damaged(self.path, name, str(error)) from None

    def read_sealed(self, number: int, kind: ItemKind, origin: UUID) -> bytes:
        """An item as it lies in the file, its tag verified, to be copied byte for byte."""
        source, place, name = self._find(number, kind, origin)
        try:
            sealer, sealed = self._sealed(source, place, number)
            sealer.authenticate(kind, number, sealed)
        except Malformed as error:
            raise damaged(self.path, name, str(error)) from None
        return sealed

    def stored_bytes(self, number: int, origin: UUID) -> int:
        """The length of an item as it lies in the file; 0 if there is none."""
        part = self.index.part(origin)
        place = part[1].place(number) if part else None
        return place.length if place else 0

    def tag(self, number: int, kind: ItemKind, origin: UUID | None = None) -> bytes:
        """The last 16 bytes of a sealed item: its tag, as a root remembers it."""
        _, place, name = self._find(number, kind, origin)
        try:
            return pread(self._fd, TAG_BYTES, place.offset + RECORD_HEADER_BYTES + place.length - TAG_BYTES)
        except Malformed as error:
            raise damaged(self.path, name, str(error)) from None

    def _find(self, number: int, kind: ItemKind, origin: UUID | None) -> tuple[Origin, Place, str]:
        name = f"{kind.name.lower()} {number}"
        part = self.index.part(origin or self.file_id)
        place = part[1].place(number) if part else None
        if part is None or place is None or place.kind is not kind:
            raise damaged(self.path, name, "the index does not have it")
        return part[0], place, name

    def _sealed(self, origin: Origin, place: Place, number: int) -> tuple[EpochSealer, bytes]:
        epoch = origin.epoch_of(number)
        return self._sealer(origin, epoch), self._record(place.kind, epoch, number, place.offset, place.length)

    def sealed_digest(self, number: int) -> bytes:
        """SHA-256 of a sealed item as it lies in the file; empty if there is none. Raises Malformed."""
        place = self.index.place(number)
        if place is None:
            return b""
        return hashlib.sha256(pread(self._fd, place.length, place.offset + RECORD_HEADER_BYTES)).digest()

    @property
    def fd(self) -> int:
        return self._fd

    def _read_trailer(self) -> Trailer:
        try:
            raw = pread(self._fd, TRAILER_BYTES, max(self.length - TRAILER_BYTES, 0))
            if self.length < BODY_OFFSET + TRAILER_BYTES:
                raise Malformed("the file is shorter than the shortest one; it is truncated")
            return parse_trailer(raw, self.length)
        except Malformed as error:
            raise damaged(self.path, "trailer", str(error)) from None

    def _read_seal(self) -> Seal:
        trailer, origin = self.trailer, Origin(self.file_id, ())
        try:
            sealed = self._record(
                ItemKind.SEAL, trailer.epoch, trailer.seal_number, trailer.seal_offset, trailer.seal_length
            )
            seal = parse_seal(self._sealer(origin, trailer.epoch).open(ItemKind.SEAL, trailer.seal_number, sealed))
            self._check_seal(seal)
        except Malformed as error:
            raise damaged(self.path, "seal", str(error)) from None
        return seal

    def _check_seal(self, seal: Seal) -> None:
        said, head = seal.statement, self.head
        if (said.chain_id, said.file_id, said.sequence) != (head.chain_id, head.file_id, head.sequence):
            raise Malformed("the seal belongs to another file")
        if said.encrypted != head.encrypted:
            raise Malformed("the seal and the head disagree about encryption")

    def _read_index(self) -> ItemIndex:
        said, epoch = self.seal.statement, self.trailer.epoch
        try:
            if said.index_length > max_sealed_bytes(ItemKind.INDEX):
                raise Malformed("its length is impossible")
            sealed = self._record(ItemKind.INDEX, epoch, said.index_number, said.index_offset, said.index_length)
            if hashlib.sha256(sealed).digest() != said.index_digest:
                raise Malformed("it is not the one that was sealed")
            raw = self._sealer(Origin(self.file_id, ()), epoch).open(ItemKind.INDEX, said.index_number, sealed)
            index = parse_index(raw, said.file_id, self.trailer.seal_offset)
            if index.origin.epochs[-1] != epoch:
                raise Malformed("the epoch in the trailer is not the last one")
            if any(bool(origin.file_key) != self.head.encrypted for origin, _ in index.copied):
                raise Malformed("it mixes plain and encrypted items")
        except Malformed as error:
            raise damaged(self.path, "index", str(error)) from None
        return index

    def _record(self, kind: ItemKind, epoch: Epoch, number: int, offset: int, length: int) -> bytes:
        if offset + RECORD_HEADER_BYTES + length > self.length:
            raise Malformed("the file ends before it")
        header = pread(self._fd, RECORD_HEADER_BYTES, offset)
        sealed = pread(self._fd, length, offset + RECORD_HEADER_BYTES)
        if len(sealed) != length:
            raise Malformed("the file ends before it")
        if header != pack_record_header(kind, epoch.number, number, length):
            raise Malformed("its record header is wrong")
        return sealed

    def _sealer(self, origin: Origin, epoch: Epoch) -> EpochSealer:
        """An item of another file was sealed under that file's key and in its name."""
        known = (origin.file_id, epoch.number)
        sealer = self._sealers.get(known)
        if sealer is None:
            key = origin.file_key or self.file_key
            sealer = self._sealers[known] = EpochSealer(key, self.head.chain_id, origin.file_id, epoch)
        return sealer


def _regular_length(fd: int, path: Path) -> int:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise damaged(path, "file", "it is not a regular file")
    return found.st_size
