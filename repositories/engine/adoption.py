"""Which unfinished file is written on, and which are removed.

A file is written on only if its settings, recipients and parent are those of the order, and its last checkpoint is
younger than 24 hours. Whoever writes it holds an exclusive lock on it for life, and whoever adopts it must get that
lock: a writer that is stopped and wakes again still has it, so its file stays its own, and another one is written
beside it. What is not adopted and held by nobody is removed, and the log says why. How an unfinished file is read is
left to unfinished.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from keys.crypto_errors import UnwrapFailed
from keys.crypto_recipients import PasswordRecipient, Recipient
from keys.crypto_slots import Slot, is_for, unwrap
from repositories.engine.chains import ADOPTABLE_NS, adoptable_files, lock_unfinished, remove_locked, unfinished_name
from repositories.engine.checkpoint import Settings
from repositories.engine.errors import Cancelled, EngineError, Interrupted, text
from repositories.engine.head import Head, authenticates, open_for_reading, read_heads
from repositories.engine.index import MAX_EPOCHS
from repositories.engine.observer import Observer, Progress, Pulse
from repositories.engine.order import BackupOrder, Kind
from repositories.engine.reader import Point
from repositories.engine.seal import NO_HASH, NO_PARENT
from repositories.engine.unfinished import Unfinished
from repositories.engine.unlocking import Secret, unlock
from repositories.engine.writer import UNFINISHED_SUFFIX, unwritable


class NotAdopted(Exception):
    """Why an unfinished file is not written on, as the end of a sentence."""


def unfinished_key(folder: Path, secret: Secret) -> tuple[UUID, bytes] | None:
    """File id and file key of the youngest unfinished file of a chain that nobody holds, as BackupOrder wants it.

    Whoever has the public half of a recipient can make such a file with a key of his own: the caller has to know that
    the key is the one that it was begun with. None where there is none, or where it does not open: then it is not
    written on. What a secret raises is raised.
    """
    there = set(adoptable_files(folder))
    for path in (path for path in _unfinished_files(folder) if path in there):
        try:
            fd = open_for_reading(path)
        except EngineError:
            continue  # finished or removed since
        try:
            head, key = unlock(path, read_heads(fd, path), secret)
            return (head.file_id, key) if key is not None else None
        except EngineError:
            continue
        finally:
            os.close(fd)
    return None


def settings_of(order: BackupOrder, sources: list[bytes], parent: Point | None) -> Settings:
    return Settings(
        kind=order.kind.value,
        level=order.level.value,
        sources=sources,
        include=list(order.include),
        exclude=list(order.exclude),
        parent_id=(parent.head.file_id if parent else NO_PARENT).bytes,
        parent_seal_hash=parent.seal_hash if parent else NO_HASH,
        options=sorted(option.value for option in order.options),
    )


def adopt(order: BackupOrder, settings: Settings, parent: Point | None, observer: Observer) -> Unfinished | None:
    """The unfinished file to be written on, if there is one; all others of the chain that nobody holds are removed.

    Raises RepositoryUnwritable.
    """
    folder = order.root / str(order.chain_id)
    try:
        return _adopt(folder, order, settings, parent, observer)
    except OSError as error:
        raise unwritable(folder, error) from error


def _adopt(
    folder: Path, order: BackupOrder, settings: Settings, parent: Point | None, observer: Observer
) -> Unfinished | None:
    adopted: Unfinished | None = None
    pulse = Pulse(observer, time.monotonic)
    for path in _unfinished_files(folder):
        fd = lock_unfinished(path)
        if fd is None:
            if path.exists():
                observer.note(
                    "unfinished-held",
                    f"Another writer holds the unfinished file {text(path.name)}, so it stays as it is; a new file is "
                    "written beside it.",
                )
            continue
        try:
            if adopted is not None:
                raise NotAdopted("a younger one is written on")
            adopted = _opened(fd, path, order, settings, parent, lambda: pulse.beat(lambda: Progress(stage="resume")))
        except NotAdopted as reason:
            remove_locked(fd, path)
            observer.note(
                "leftover-removed",
                f"The unfinished file {text(path.name)} of an earlier session was removed: {reason}.",
            )
        except BaseException:
            for held in {fd, fd if adopted is None else adopted.fd}:
                os.close(held)
            raise
    if adopted is not None:
        observer.note(
            "resumed",
            f"The session goes on with the unfinished file {text(adopted.path.name)}, of which "
            f"{adopted.part.end:,} bytes are kept.",
        )
    return adopted


def _unfinished_files(folder: Path) -> list[Path]:
    """The youngest first."""
    try:
        names = [name for name in os.listdir(folder) if name.endswith(UNFINISHED_SUFFIX)]
    except OSError:
        return []  # the writer says it, if it matters
    paths = [folder / name for name in names]
    return sorted(paths, key=lambda path: (-path.stat().st_mtime_ns if path.exists() else 0, path.name))


def _opened(
    fd: int, path: Path, order: BackupOrder, settings: Settings, parent: Point | None, beat: Callable[[], None]
) -> Unfinished:
    """Raises NotAdopted, and what `beat` raises."""
    named = unfinished_name(path.name)
    if named is None or named[0] != order.sequence:
        raise NotAdopted("the point that it was to be is not the next one any more")
    head = _head(fd, path, order, named[1])
    unfinished = Unfinished(fd, path, head, _file_key(head, order), beat)
    checkpoint = unfinished.checkpoint
    if checkpoint is None or len(unfinished.part.epochs) >= MAX_EPOCHS:
        raise NotAdopted("it ended before its first checkpoint")
    if order.clock() - checkpoint.at_ns >= ADOPTABLE_NS:
        raise NotAdopted("it is older than 24 hours")
    _check_settings(checkpoint.settings, settings)
    if parent is not None and parent.keyring is not None and checkpoint.chain_key != parent.keyring.chain_key:
        raise NotAdopted("it belongs to another chain")
    try:
        unfinished.check(parent if order.kind is Kind.INCREMENTAL else None)
    except (Cancelled, Interrupted):
        raise
    except EngineError:
        raise NotAdopted("it is damaged") from None
    return unfinished


def _head(fd: int, path: Path, order: BackupOrder, file_id: UUID) -> Head:
    try:
        heads = read_heads(fd, path)
    except EngineError:
        raise NotAdopted("its head cannot be read") from None
    head = heads[0]
    if len(heads) != 1 or head.copies_differ:
        raise NotAdopted("its head is damaged")
    if (head.chain_id, head.sequence, head.file_id) != (order.chain_id, order.sequence, file_id):
        raise NotAdopted("it is another file than its name says")
    if head.encrypted != bool(order.recipients):
        raise NotAdopted("encryption was enabled since" if order.recipients else "encryption was disabled since")
    return head


def _file_key(head: Head, order: BackupOrder) -> bytes | None:
    """The one file key that every slot gives which opens here; none in plain files. Raises NotAdopted.

    Slots of KMS and recovery keys do not open here: what they are for is compared, and the order may bring the key.
    """
    if len(head.slots) != len(order.recipients):
        raise NotAdopted("its recipients were changed since")
    found = [_unwrapped(head, *pair) for pair in zip(head.slots, order.recipients, strict=True)]
    keys = {key for key in [*found, order.unfinished_key if head.encrypted else None] if key is not None}
    if head.encrypted and not keys:
        raise NotAdopted("none of its keys is in reach")
    if len(keys) > 1 or not authenticates(head, next(iter(keys), None)):
        raise NotAdopted("its head does not fit its recipients")
    return next(iter(keys), None)


def _unwrapped(head: Head, slot: Slot, recipient: Recipient) -> bytes | None:
    if not is_for(slot, recipient):
        raise NotAdopted("its recipients were changed since")
    if not isinstance(recipient, PasswordRecipient):
        return None
    try:
        return unwrap(slot, recipient.kek, chain_id=head.chain_id, file_id=head.file_id)
    except UnwrapFailed:
        raise NotAdopted("its recipients were changed since") from None


def _check_settings(before: Settings, now: Settings) -> None:
    parents = [(settings.parent_id, settings.parent_seal_hash) for settings in (before, now)]
    for what, old, new in (
        ("it is to be another kind of point now", before.kind, now.kind),
        ("the parent is another one now", *parents),
        ("the sources were changed since", before.sources, now.sources),
        ("the patterns were changed since", (before.include, before.exclude), (now.include, now.exclude)),
        ("the level was changed since", before.level, now.level),
        ("the options were changed since", before.options, now.options),
    ):  # fmt: skip
        if old != new:
            raise NotAdopted(what)
