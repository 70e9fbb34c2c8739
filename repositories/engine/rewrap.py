"""Exchanging the key slots of a sealed file: who opens it changes, nothing of its body does.

The new head has a generation one higher. It is written over copy B, then over copy A, with an fsync behind each, so
that a crash at any byte leaves one whole copy, the old one or the new one; until both are on disk it is not finished.
A slot that is taken away does not take a file key from whoever learned it. For whom a file is to be wrapped is decided
by the callers.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from keys.crypto_recipients import Recipient
from keys.crypto_slots import Slot
from repositories.engine.chain_keys import new_slots
from repositories.engine.errors import AnotherWriter, BadOrder, MissingFile, damaged, text
from repositories.engine.head import MAX_SLOTS, Head, authenticates, pack_head, read_heads, read_used
from repositories.engine.layout import HEAD_A_OFFSET, HEAD_B_OFFSET, HEAD_COPY_BYTES
from repositories.engine.unlocking import Secret, unlock
from repositories.engine.writer import unwritable

_SECTOR_BYTES = 4096
RecordVersion = tuple[UUID, int]


def rewrap(
    path: Path,
    secret: Secret,
    add: tuple[Recipient, ...] = (),
    remove: tuple[RecordVersion, ...] = (),
) -> Head:
    """Add a slot for each of `add`, take away those of `remove`; returns the head as it is on disk now.

    Done again after a crash it finishes the work: a slot that is there already is wrapped anew, one that is gone is
    passed over, and copies that differ are made alike. Raises BadOrder if no slot or too many would be left,
    AnotherWriter, CannotUnwrap, PlainRefused, CorruptFile, UnknownVersion, MissingFile, RepositoryUnwritable.
    """
    fd = _open_locked(path)
    try:
        head, file_key = _newest_head(fd, path, secret)
        slots = _slots(path, head, file_key, add, remove)
        if slots != head.slots or head.copies_differ:
            _heal(fd, path, head)
            _write_both(fd, path, pack_head(replace(head, slots=slots, generation=head.generation + 1), file_key))
        return _read_back(fd, path)
    finally:
        os.close(fd)


def _open_locked(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFile(f"The backup file {text(path)} does not exist.", path=text(path)) from None
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise AnotherWriter(f"Another process rewraps {text(path)} now.", path=text(path)) from None
    return fd


def _newest_head(fd: int, path: Path, secret: Secret) -> tuple[Head, bytes]:
    """The highest generation that the file key authenticates, also if the secret itself opens only an older one."""
    heads = read_heads(fd, path)
    _, file_key = unlock(path, heads, secret)
    if file_key is None:
        raise BadOrder(f"{text(path)} is not encrypted, so it has no key slots.", path=text(path))
    return next(head for head in heads if authenticates(head, file_key)), file_key


def _slots(
    path: Path,
    head: Head,
    file_key: bytes,
    add: tuple[Recipient, ...],
    remove: tuple[RecordVersion, ...],
) -> tuple[Slot, ...]:
    """Those that stay, in their order, then the new ones. Raises BadOrder."""
    new = {(recipient.record, recipient.version): recipient for recipient in add}
    stay = [slot for slot in head.slots if (slot.record, slot.version) not in {*new, *remove}]
    wanted = [recipient for place, recipient in new.items() if place not in remove]
    if not stay and not wanted:
        raise BadOrder(
            f"No key slot would be left in {text(path)}, and nobody could open it again. Add the new key first, or "
            "delete the file.",
            path=text(path),
        )
    if len(stay) + len(wanted) > MAX_SLOTS:
        raise BadOrder(
            f"{text(path)} cannot hold more than {MAX_SLOTS} key slots. Take away some that are not needed.",
            path=text(path),
        )
    return (*stay, *new_slots(wanted, file_key, chain_id=head.chain_id, file_id=head.file_id))


def _heal(fd: int, path: Path, head: Head) -> None:
    """Make a damaged or older copy A like the good copy B before B is written over: one copy is whole at any time."""
    if head.copies_differ and read_used(fd, HEAD_A_OFFSET) != head.raw:
        _write_copy(fd, path, HEAD_A_OFFSET, head.raw)


def _write_both(fd: int, path: Path, raw: bytes) -> None:
    for offset in (HEAD_B_OFFSET, HEAD_A_OFFSET):
        _write_copy(fd, path, offset, raw)


def _write_copy(fd: int, path: Path, offset: int, raw: bytes) -> None:
    """The copy and zeros over all that the one before used, then fsync. Raises RepositoryUnwritable."""
    before = read_used(fd, offset)
    used = max(len(raw), len(before)) if before else HEAD_COPY_BYTES
    rest = raw.ljust(min(-(-used // _SECTOR_BYTES) * _SECTOR_BYTES, HEAD_COPY_BYTES), b"\0")
    try:
        while rest:
            written = os.pwrite(fd, rest, offset)
            offset, rest = offset + written, rest[written:]
        os.fsync(fd)
    except OSError as error:
        raise unwritable(path, error) from error


def _read_back(fd: int, path: Path) -> Head:
    heads = read_heads(fd, path)
    if heads[0].copies_differ:
        raise damaged(path, "head", "its copies differ although both were written")
    return heads[0]
