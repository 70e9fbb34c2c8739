"""Every sequence of four settings of one job (none, passwords A and B, KMS keys X and Y) through planner and engine.

A tree of sessions: each shared prefix is written once, and its folder is handed down by hard links. At every node the
kind, the reason, the slots of the new file and what each secret opens are compared with the rules of the chain.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from jobs.planning import CurrentChain, Key, Newest, Plan, Situation, plan
from keys import crypto
from keys.crypto_errors import UnwrapFailed
from keys.crypto_recipients import KmsRecipient, PasswordRecipient, Recipient, RecoveryRecipient
from keys.crypto_recovery import RecoveryPrivate, new_private
from keys.crypto_rsa import Oaep, decapsulate
from keys.crypto_slots import Slot, SlotKind, secret_of
from repositories.engine.backup import BackupOrder, FreeSpace, Kind, Level, ParentPoint, write_backup
from repositories.engine.errors import CannotUnwrap, PlainRefused
from repositories.engine.reader import FileKey, Kek, Secret, SlotSecrets, inspect, open_point
from tests.engine.lab import Recorder
from tests.factories import CHEAP

NONE = "none"
SETTINGS = (NONE, "A", "B", "X", "Y")
LENGTH = 4
STARTED_AT = datetime(2026, 1, 1, tzinfo=UTC)


@cache
def pair(name: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=3072)


@cache
def recovery() -> RecoveryPrivate:
    return new_private()


def record(name: str) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_OID, name)


@cache
def recipient(name: str) -> Recipient:
    if name == "R":
        return RecoveryRecipient(record(name), recovery().public(), "safe")
    if name in "AB":
        return PasswordRecipient(record(name), 1, name.encode() * 16, CHEAP, name.encode() * 32, f"hint {name}")
    public = (
        pair(name)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return KmsRecipient(record(name), 1, Oaep.SHA256, public, f"id-{name}", f"server {name}")


def secret(name: str) -> Secret:
    """What a holder of this secret, and of no other, has."""
    if name == "R":
        return SlotSecrets(_opened_by_recovery)
    if name in "AB":
        return Kek(name.encode() * 32)

    def opened(slot: Slot, chain_id: uuid.UUID, file_id: uuid.UUID) -> bytes | None:
        if slot.kind is not SlotKind.KMS:
            return None
        try:
            return decapsulate(slot.encapsulated, pair(name), Oaep.SHA256)
        except UnwrapFailed:
            return None

    return SlotSecrets(opened)


def _opened_by_recovery(slot: Slot, chain_id: uuid.UUID, file_id: uuid.UUID) -> bytes | None:
    return secret_of(slot, recovery(), chain_id=chain_id, file_id=file_id) if slot.kind is SlotKind.RECOVERY else None


@dataclass(frozen=True)
class Written:
    """A point as the catalogue would know it."""

    setting: str
    chain: uuid.UUID
    file_id: uuid.UUID
    sequence: int
    path: Path
    key: bytes | None = field(repr=False)


@dataclass(frozen=True)
class World:
    """A repository after some sessions of one job; the points of its chains, oldest first."""

    root: Path
    points: tuple[Written, ...] = ()

    def current(self) -> list[Written]:
        return [point for point in self.points if point.chain == self.points[-1].chain] if self.points else []

    def handed_down(self, root: Path) -> World:
        """The same repository at another place; sealed files are never written to again, so links do."""
        moved = []
        for point in self.points:
            path = root / str(point.chain) / str(point.sequence)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(point.path, path)
            moved.append(replace(point, path=path))
        return World(root, tuple(moved))


def key_of(setting: str) -> Key | None:
    return None if setting == NONE else Key(str(record(setting)), 1, setting)


def situation(world: World, setting: str) -> Situation:
    points = world.current()
    chain = None
    if points:
        newest = points[-1]
        known = key_of(newest.setting)
        chain = CurrentChain(
            id=str(newest.chain),
            repository="here",
            encrypted=newest.setting != NONE,
            points=len(points),
            run_points=len(points),
            newest=Newest(
                str(newest.file_id), newest.sequence, STARTED_AT + timedelta(newest.sequence), (known,) if known else ()
            ),
        )
    return Situation(key=key_of(setting), repository="here", keep_points=100, chain=chain, had_chain=bool(world.points))


def write(world: World, setting: str, planned: Plan, source: Path) -> Written:
    parent = None if planned.new_chain else world.current()[-1]
    order = BackupOrder(
        root=world.root,
        chain_id=parent.chain if parent else uuid.uuid4(),
        file_id=uuid.uuid4(),
        sequence=parent.sequence + 1 if parent else 1,
        kind=Kind(planned.kind),
        reason=planned.reason,
        started_at_ns=1_700_000_000_000_000_000 + len(world.points),
        sources=(os.fsencode(source),),
        recipients=() if setting == NONE else (recipient(setting), recipient("R")),
        parent=ParentPoint(parent.path, parent.key) if parent else None,
        level=Level.NONE,
        reserve=FreeSpace(bytes=0, share=0),
    )
    done = write_backup(order, Recorder())
    return Written(setting, order.chain_id, done.file_id, order.sequence, done.path, done.file_key)


def expected(before: str | None, setting: str) -> tuple[str, bool, str]:
    """Kind, whether a chain begins, and the reason: the table of the design, in words of this test."""
    if before is None:
        return "full", True, "first-session"
    if before == setting:
        return "incremental", False, "changes-since-parent"
    if before == NONE:
        return "full", True, "encryption-enabled"
    if setting == NONE:
        return "full", True, "encryption-disabled"
    return "incremental", False, "key-changed"


def check_slots(point: Written) -> None:
    slots = [(slot.kind, slot.record) for slot in inspect(point.path).slots]
    if point.setting == NONE:
        assert slots == []
        return
    kind = SlotKind.PASSWORD if point.setting in "AB" else SlotKind.KMS
    assert slots == [(kind, record(point.setting)), (SlotKind.RECOVERY, record("R"))]


def check_secrets(world: World) -> None:
    """Each secret opens the files that were written for it, and what its newest file's keyring has: all before it."""
    newest = world.points[-1]
    for name in ("A", "B", "X", "Y", "R"):
        opens = newest.setting != NONE and name in (newest.setting, "R")
        if not opens:
            with pytest.raises(PlainRefused if newest.setting == NONE else CannotUnwrap):
                open_point(newest.path, secret(name))
            continue
        with open_point(newest.path, secret(name)) as point:
            earlier = {one.file_id: one.key for one in world.current()[:-1]}
            assert point.earlier_file_keys == earlier
            assert point.file_key == newest.key
    if newest.setting == NONE:
        with open_point(newest.path, None) as point:
            assert point.keyring is None
    else:
        with pytest.raises(CannotUnwrap):
            open_point(newest.path, None)
        with pytest.raises(CannotUnwrap):
            open_point(newest.path, FileKey(crypto.random_key()))


def check_content(world: World, source: Path) -> None:
    """What was written before is still whole: the newest point restores, block by block, through its chain."""
    newest = world.points[-1]
    with open_point(newest.path, FileKey(newest.key) if newest.key else None) as point:
        content = {entry.path: b"".join(point.read(entry)) for entry in point.walk() if entry.is_file}
    assert content == {os.fsencode(str(path)).lstrip(b"/"): path.read_bytes() for path in source.iterdir()}


def step(world: World, setting: str, source: Path) -> World:
    before = world.points[-1].setting if world.points else None
    planned = plan(situation(world, setting))
    assert (planned.kind, planned.new_chain, str(planned.reason)) == expected(before, setting)
    written = write(world, setting, planned, source)
    after = World(world.root, (*world.points, written))
    check_slots(written)
    check_secrets(after)
    check_content(after, source)
    return after


def descend(
    world: World, prefix: tuple[str, ...], folder: Path, source: Path, length: int
) -> Iterator[tuple[str, ...]]:
    """Write every continuation of a prefix, and yield each sequence that has the whole length."""
    if len(prefix) == length:
        yield prefix
        return
    for setting in SETTINGS:
        name = "-".join((*prefix, setting))
        (source / "changes").write_text(name)
        after = step(world.handed_down(folder / name), setting, source)
        yield from descend(after, (*prefix, setting), folder, source, length)
        for point in after.points:
            point.path.unlink()


@pytest.mark.parametrize("first", SETTINGS)
def test_all_sequences_of_four_settings(first: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "stays").write_bytes(b"the same in every point" * 50)
    (source / "changes").write_text(first)
    root = tmp_path / "worlds"
    begun = step(World(root / first), first, source)
    done = list(descend(begun, (first,), root, source, LENGTH))
    assert len(done) == len(set(done)) == len(SETTINGS) ** (LENGTH - 1)
