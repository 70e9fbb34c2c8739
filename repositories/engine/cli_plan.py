"""What `backup` writes next, and why: the rules of the chain over what stands in the folder and what was typed.

The console decides the same from its records, in `jobs.planning`; here there are no records. The reasons have the same
names. How a point is written is left to `repositories.engine.backup`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID, uuid4

from keys.crypto_slots import Slot
from repositories.engine.chains import ChainOnDisk
from repositories.engine.cli_points import Listed, Opener, Shelf
from repositories.engine.errors import CannotUnwrap, CorruptFile, EngineError, MissingFile, text
from repositories.engine.order import Kind, ParentPoint
from repositories.engine.reader import Point


class PasswordChangeUnproven(EngineError):
    """A password that does not open the newest point, and nothing that does. Fields: path."""

    code = "password-change-unproven"


class ConsoleChain(EngineError):
    """The newest chain belongs to a job of a console. Fields: path, job."""

    code = "console-chain"


@dataclass(frozen=True, slots=True)
class Parent:
    """The newest point, opened and closed again: what the next one needs to know of it."""

    number: int
    chain_id: UUID
    sequence: int
    point: ParentPoint = field(repr=False)
    slot: Slot | None  # the one that the password of the next point opened; None where that is another password


@dataclass(frozen=True, slots=True)
class Plan:
    """The next restore point; without a parent it starts a chain."""

    kind: Kind
    reason: str
    because: str  # for people
    parent: Parent | None = None
    chain_id: UUID = field(default_factory=uuid4)
    sequence: int = 1


def plan(shelf: Shelf, previous_password: bytes | None, *, full: bool) -> Plan:
    """Decide by the first rule that applies. Raises PasswordChangeUnproven, ConsoleChain, UnknownVersion."""
    if not shelf.points:
        return Plan(Kind.FULL, "first-session", "the first point of this folder")
    wants_encryption = shelf.opener.password is not None
    if wants_encryption != shelf.is_encrypted():
        _refuse_console(shelf)
        done = "enabled" if wants_encryption else "disabled"
        return Plan(Kind.FULL, f"encryption-{done}", f"encryption was {done}; a new chain begins")
    damage = missing(shelf.chains[-1])
    parent = _parent(shelf, previous_password)
    if parent is None or damage:
        return Plan(Kind.FULL, "chain-damaged", damage or "the newest point is damaged; a new chain begins")
    return _of_the_chain(parent, full=full)


def _of_the_chain(parent: Parent, *, full: bool) -> Plan:
    encrypted = parent.point.file_key is not None
    if full:
        kind, reason, because = Kind.FULL, "active-full", "a full was asked for"
    elif encrypted and parent.slot is None:
        kind, reason, because = Kind.INCREMENTAL, "key-changed", "the password was changed"
    else:
        kind, reason, because = Kind.INCREMENTAL, "changes-since-parent", f"changes since point {parent.number}"
    return Plan(kind, reason, because, parent, parent.chain_id, parent.sequence + 1)


def missing(chain: ChainOnDisk) -> str:
    """What is missing or unreadable in a chain, as half a sentence; empty if nothing is."""
    for before, file in zip(chain.files, chain.files[1:], strict=False):
        if file.sequence != before.sequence + 1:
            return f"file {before.sequence + 1} of chain {chain.chain_id} is missing; a new chain begins"
    for file in chain.files:
        if file.head is None:
            return f"{text(file.path)} is damaged; a new chain begins"
    return ""


def _parent(shelf: Shelf, previous_password: bytes | None) -> Parent | None:
    """The newest point if it can be built on; None if it is damaged, and then the password is proven on an older one.

    A password that opens nothing here is refused: a mistyped one would end in a chain that nobody can open.
    """
    for listed in reversed(shelf.points):
        if listed.encrypted is not (shelf.opener.password is not None):
            continue
        try:
            parent = _open_parent(shelf, listed, previous_password)
        except (CorruptFile, MissingFile):
            continue
        return parent if listed is shelf.points[-1] else None
    return None


def _open_parent(shelf: Shelf, listed: Listed, previous_password: bytes | None) -> Parent:
    head = listed.file.head
    if head is None or not head.encrypted:
        return _parent_of(shelf.opener.open(listed.file), listed, None)
    try:
        point, slot = shelf.opener.open_with_password(listed.file.path, head)
    except CannotUnwrap as error:
        if previous_password is None:
            raise _unproven(shelf) from error
        return _open_with_previous(shelf, listed, previous_password)
    return _parent_of(point, listed, slot)


def _open_with_previous(shelf: Shelf, listed: Listed, previous_password: bytes) -> Parent:
    try:
        return _parent_of(Opener(previous_password).open(listed.file), listed, None)
    except CannotUnwrap as error:
        raise _unproven(shelf) from error


def _parent_of(point: Point, listed: Listed, slot: Slot | None) -> Parent:
    with point:
        refuse_job(point, listed)
        reference = ParentPoint(listed.file.path, point.file_key)
        return Parent(listed.number, listed.chain_id, listed.file.sequence, reference, slot)


def _refuse_console(shelf: Shelf) -> None:
    """Where the newest point opens as it is, see that no console owns it; a closed one does not say."""
    newest = shelf.newest()
    if newest.encrypted is False:
        with shelf.opener.open(newest.file) as point:
            refuse_job(point, newest)


def refuse_job(point: Point, listed: Listed) -> None:
    job = point.summary.job_name
    if job:
        raise ConsoleChain(
            f"{text(listed.file.path)} was written by the job {job} of a console, and a chain has one writer. "
            "Back up to a folder of its own with --to.",
            path=text(listed.file.path),
            job=job,
        )


def _unproven(shelf: Shelf) -> PasswordChangeUnproven:
    place = text(shelf.place)
    return PasswordChangeUnproven(
        f"The password does not open the newest restore point in {place}. If it was changed, give the one before with "
        "--previous-password-file; if it was mistyped, correct it.",
        path=place,
    )
