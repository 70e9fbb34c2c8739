"""The backup file while it is written: items are compressed, sealed and appended by threads, then it is published.

The thread that adds items decides their numbers, so every address is known before the item is on disk; offsets go into
the index when the bytes are appended. The file has a temporary name and an exclusive lock for life; it becomes a
restore point by link(), which never overwrites. A process that writes on in an unfinished file begins a new epoch with
fresh random bytes, so no key of an earlier process is used again. What the items contain is left to backup.py, which
unfinished files are written on to adoption.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import UUID

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from repositories.engine.encrypted_only import check_plain
from repositories.engine.errors import AlreadyExists, AnotherWriter, OutOfSpace, RepositoryUnwritable, text
from repositories.engine.head import Head, pack_head
from repositories.engine.index import ItemIndex, ItemTable, Origin, pack_index
from repositories.engine.layout import (
    BODY_OFFSET,
    EPOCH_RANDOM_BYTES,
    HEAD_A_OFFSET,
    HEAD_B_OFFSET,
    MAX_ITEMS,
    NO_ITEM,
    RECORD_HEADER_BYTES,
    TAG_BYTES,
    Epoch,
    ItemKind,
    Trailer,
    pack_record_header,
    pack_trailer,
)
from repositories.engine.pace import Pace
from repositories.engine.seal import Statement, pack_seal
from repositories.engine.sealing import METADATA_LEVEL, EpochSealer, Level, pack_payload

Raw = bytes | memoryview
UNFINISHED_SUFFIX = ".part"
_SPACE_CHECK_BYTES = 16 * 1024 * 1024


class Reserve(Protocol):
    @property
    def bytes(self) -> int: ...
    @property
    def share(self) -> float: ...


@dataclass(frozen=True, slots=True)
class WrittenPart:
    """What stands in an unfinished file up to its last checkpoint: the lists are by item number."""

    epochs: tuple[Epoch, ...]
    kinds: array[int]
    offsets: array[int]
    lengths: array[int]
    end: int


@dataclass(frozen=True, slots=True)
class SealParts:
    """What the caller knows about the seal; digests and places are added here."""

    sequence: int
    parent_id: UUID
    parent_seal_hash: bytes
    chain_key: bytes
    signer: Ed25519PrivateKey | None
    keyring: int
    root: int


class FileWriter:
    """One file being written. Use finish() and publish(), or abort(); close() in any case."""

    def __init__(
        self,
        folder: Path,
        head: Head,
        file_key: bytes | None,
        level: Level,
        reserve: Reserve,
        threads: int,
        adopted: tuple[int, WrittenPart] | None = None,
    ) -> None:
        """`adopted` is an unfinished file, open and locked, and what of it is kept; the rest of it is cut off."""
        self._encrypted, self._root = head.encrypted, folder.parent
        self.path = folder / f"{head.sequence}.{head.file_id}{UNFINISHED_SUFFIX}"
        self.final = folder / str(head.sequence)
        self.proxy_seconds = self.repository_seconds = 0.0
        self.copied: tuple[tuple[Origin, ItemTable], ...] = ()  # what a merge copied, before finish()
        self.pace: Pace | None = None  # set by who limits the writing
        self._head, self._file_key, self._level, self._reserve = head, file_key, level, reserve
        self._fd = _create(folder, self.path) if adopted is None else adopted[0]
        part = WrittenPart((), array("I"), array("Q"), array("I"), BODY_OFFSET) if adopted is None else adopted[1]
        self._position = part.end
        self._space_checked_at = -_SPACE_CHECK_BYTES
        self._lock = threading.Lock()
        self._kinds, self._offsets, self._lengths = part.kinds, part.offsets, part.lengths
        self._tags: dict[int, bytes] = {}
        self._pending: deque[Future[None]] = deque()
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="sealer")
        self.epoch = Epoch(len(part.epochs), len(self._kinds), os.urandom(EPOCH_RANDOM_BYTES))
        self._epochs = (*part.epochs, self.epoch)
        self._sealer = EpochSealer(self._file_key, head.chain_id, head.file_id, self.epoch)
        try:
            self._start(is_new=adopted is None)
        except BaseException:
            self.abort()
            raise

    def _start(self, *, is_new: bool) -> None:
        """The head tells from the beginning who the file is and which slots open it; the trailer, that it is whole."""
        if is_new:
            self._write_heads()
        else:
            self._cut_off()
        header = pack_record_header(ItemKind.EPOCH, self.epoch.number, self.epoch.first_item, EPOCH_RANDOM_BYTES)
        self._append(header, self.epoch.random)

    def _cut_off(self) -> None:
        try:
            os.ftruncate(self._fd, self._position)
        except OSError as error:
            raise unwritable(self.path, error) from error

    @property
    def position(self) -> int:
        return self._position

    def reserve_block(self) -> int:
        return self._new_number(ItemKind.BLOCK)

    def add_block(self, number: int, raw: memoryview, done: Callable[[], None]) -> None:
        """Seal and append a reserved block in the background, and call `done` when `raw` is not needed any more.

        Waits only while many others do. Raises what an earlier item raised (OutOfSpace, RepositoryUnwritable).
        """
        self._submit(ItemKind.BLOCK, number, raw, self._level, done)

    def add_metadata(self, kind: ItemKind, raw: bytes) -> int:
        number = self._new_number(kind)
        self._submit(kind, number, raw, METADATA_LEVEL, _nothing)
        return number

    def add_checkpoint(self, raw: bytes) -> int:
        """Append a checkpoint when everything before it is on disk; returns its number."""
        self.settle()
        self._sync()
        number = len(self._kinds)
        sealed_length = len(self._seal_now(ItemKind.CHECKPOINT, raw))
        self._offsets[number] = self._position - sealed_length - RECORD_HEADER_BYTES
        self._lengths[number] = sealed_length
        return number

    def tag(self, number: int) -> bytes:
        """The tag of a segment or identities item; waits until it is sealed."""
        while number not in self._tags:
            self._take_oldest()
        return self._tags[number]

    def append_copy(self, header: bytes, sealed: bytes) -> int:
        """A sealed item of another file, byte for byte; returns its offset, for the tables of `copied`."""
        if self.pace is not None:
            self.pace.wait()
        with self._lock:
            return self._append(header, sealed)

    def settle(self) -> None:
        """Wait until everything added is appended."""
        while self._pending:
            self._take_oldest()

    def finish(self, parts: SealParts) -> tuple[bytes, int]:
        """Append index, seal and trailer, fsync. Returns the seal hash and the length."""
        self.settle()
        raw_index = self._index()
        index_number, index_offset = len(self._kinds), self._position
        sealed_index = self._seal_now(ItemKind.INDEX, raw_index)
        statement = Statement(
            chain_id=self._head.chain_id,
            file_id=self._head.file_id,
            sequence=parts.sequence,
            encrypted=self._file_key is not None,
            parent_id=parts.parent_id,
            parent_seal_hash=parts.parent_seal_hash,
            keyring_number=parts.keyring,
            root_number=parts.root,
            index_number=index_number,
            index_offset=index_offset,
            index_length=len(sealed_index),
            keyring_digest=bytes(32) if parts.keyring == NO_ITEM else self._digest(parts.keyring),
            root_digest=self._digest(parts.root),
            index_digest=hashlib.sha256(sealed_index).digest(),
        )
        raw_seal, seal_hash = pack_seal(statement, parts.chain_key, parts.signer)
        seal_number, seal_offset = len(self._kinds), self._position
        sealed = self._seal_now(ItemKind.SEAL, raw_seal)
        self._write_trailer(seal_number, seal_offset, len(sealed))
        self._sync()
        return seal_hash, self._position

    def publish(self) -> None:
        """Give the file its name, unless another one has it; then the folder is on disk too.

        Raises AlreadyExists, PlaintextRefused, RepositoryUnwritable; of the last the file may have its name already,
        and is whole then.
        """
        if not self._encrypted:
            check_plain(self._root)  # the marker may have come while the file was written
        if not self._has_its_name():
            raise RepositoryUnwritable(
                f"The unfinished file {text(self.path)} was removed or exchanged while it was written, so nothing was "
                "published. Let nobody else change the repository; then start the session again.",
                path=text(self.path),
                reason="the unfinished file was removed or exchanged",
            )
        try:
            os.link(self.path, self.final)
        except FileExistsError:
            raise AlreadyExists(
                f"The repository already has {text(self.final)}: another session sealed this number first. "
                "Rescan the repository; the next session then continues from the newest point.",
                path=text(self.final),
                sequence=self._head.sequence,
            ) from None
        except OSError as error:
            raise unwritable(self.final, error) from error
        try:
            os.unlink(self.path)
            fsync_folder(self.final.parent)
            fsync_folder(self.final.parent.parent)
        except OSError as error:
            raise unwritable(self.final, error) from error

    def abort(self) -> None:
        """Stop the threads and remove the temporary file, and the folder if nothing else is in it.

        What a failing disk does not let go is left to the next session: the error that led here is what is to be told.
        """
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()
        with contextlib.suppress(OSError):
            if self._has_its_name():
                os.unlink(self.path)
        with contextlib.suppress(OSError):  # not empty, which is the usual case
            self.path.parent.rmdir()
        self.close()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _has_its_name(self) -> bool:
        """False if somebody removed the file meanwhile; another writer may go on with a copy under the same name."""
        try:
            return os.path.samestat(os.lstat(self.path), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def _submit(self, kind: ItemKind, number: int, raw: Raw, level: Level, done: Callable[[], None]) -> None:
        while len(self._pending) > self._threads:
            self._take_oldest()
        if self.pace is not None:
            self.pace.wait()
        self._pending.append(self._pool.submit(self._seal_and_append, kind, number, raw, level, done))

    def _take_oldest(self) -> None:
        self._pending.popleft().result()

    def _new_number(self, kind: ItemKind) -> int:
        number = len(self._kinds)
        if number >= MAX_ITEMS:
            raise RepositoryUnwritable("A backup file cannot hold more items; back up fewer files with one job.")
        with self._lock:
            self._kinds.append(kind)
            self._offsets.append(0)
            self._lengths.append(0)
        return number

    def _seal_and_append(self, kind: ItemKind, number: int, raw: Raw, level: Level, done: Callable[[], None]) -> None:
        start = time.perf_counter()
        payload = pack_payload(raw, level)
        done()
        sealed = self._sealer.seal(kind, number, payload)
        sealed_at = time.perf_counter()
        header = pack_record_header(kind, self.epoch.number, number, len(sealed))
        with self._lock:
            self._offsets[number] = self._append(header, sealed)
            self._lengths[number] = len(sealed)
            if kind in (ItemKind.SEGMENT, ItemKind.IDENTITIES):
                self._tags[number] = sealed[-TAG_BYTES:]
            self.proxy_seconds += sealed_at - start
            self.repository_seconds += time.perf_counter() - sealed_at

    def _seal_now(self, kind: ItemKind, raw: bytes) -> bytes:
        number = self._new_number(kind)
        sealed = self._sealer.seal(kind, number, pack_payload(raw, METADATA_LEVEL))
        self._append(pack_record_header(kind, self.epoch.number, number, len(sealed)), sealed)
        return sealed

    def _append(self, header: bytes, body: bytes) -> int:
        """Returns the offset of the record. Called with the lock held, or when no thread runs."""
        offset = self._position
        length = len(header) + len(body)
        self._check_space(length)
        self._write_at(offset, (header, body))
        self._position = offset + length
        if self.pace is not None:
            self.pace.spend(length)
        return offset

    def _write_at(self, offset: int, parts: tuple[bytes, ...]) -> None:
        try:
            written = os.pwritev(self._fd, parts, offset)
            rest = b"".join(parts)[written:] if written < sum(map(len, parts)) else b""
            while rest:
                offset += written
                written = os.pwrite(self._fd, rest, offset)
                rest = rest[written:]
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _check_space(self, length: int) -> None:
        if self._position + length - self._space_checked_at < _SPACE_CHECK_BYTES:
            return
        check_free_space(self.path.parent, self._reserve, length)
        self._space_checked_at = self._position

    def _index(self) -> bytes:
        count = len(self._kinds)
        own = ItemTable(
            numbers=np.arange(count, dtype=np.uint32),
            kinds=np.array(self._kinds, dtype=np.uint32),
            offsets=np.array(self._offsets, dtype=np.uint64),
            lengths=np.array(self._lengths, dtype=np.uint32),
        )
        return pack_index(ItemIndex(Origin(self._head.file_id, self._epochs), own, self.copied))

    def _digest(self, number: int) -> bytes:
        sealed = os.pread(self._fd, self._lengths[number], self._offsets[number] + RECORD_HEADER_BYTES)
        return hashlib.sha256(sealed).digest()

    def _write_trailer(self, number: int, offset: int, length: int) -> None:
        trailer = Trailer(self.epoch, offset, number, length, 0)
        total = self._position + len(pack_trailer(trailer))
        raw = pack_trailer(Trailer(self.epoch, offset, number, length, total))
        self._write_at(self._position, (raw,))
        self._position = total

    def _write_heads(self) -> None:
        head = pack_head(self._head, self._file_key)
        self._write_at(HEAD_B_OFFSET, (head,))
        self._write_at(HEAD_A_OFFSET, (head,))

    def _sync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise unwritable(self.path, error) from error


def _nothing() -> None:
    """For raw content that nobody waits for."""


def check_free_space(folder: Path, reserve: Reserve, needed_bytes: int) -> None:
    """Raises OutOfSpace if less than the reserve would be left."""
    found = os.statvfs(folder)
    free_bytes = found.f_bavail * found.f_frsize
    kept = max(reserve.bytes, int(reserve.share * found.f_blocks * found.f_frsize))
    if free_bytes - needed_bytes >= kept:
        return
    raise OutOfSpace(
        f"There is too little room in {text(folder)}: {free_bytes} bytes are free, and {kept} must stay free. "
        "Make room or use another repository; the chain is as it was before.",
        path=text(folder),
        free_bytes=free_bytes,
        needed_bytes=kept + needed_bytes,
    )


def unwritable(path: Path, error: OSError) -> RepositoryUnwritable:
    reason = error.strerror or type(error).__name__
    return RepositoryUnwritable(
        f"The repository cannot be written at {text(path)}: {reason}. Check its permissions and the disk.",
        path=text(path),
        reason=reason,
    )


def fsync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _create(folder: Path, path: Path) -> int:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise AnotherWriter(f"Another writer has {text(path)} open.", path=text(path)) from None
    except OSError as error:
        with contextlib.suppress(OSError):  # was not made, or is not empty, which is the usual case
            folder.rmdir()
        raise unwritable(path, error) from error
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd
