"""The catalogue beside the repository: registering sealed files, comparing the two, deleting points.

The repository is the truth. A file counts from the moment it is published; its row follows at once, and if a crash
comes between, the file is adopted before the next planning. What a damaged chain means for the next session is decided
in `jobs.planning`; which points retention removes, in `jobs.retention`; finding chains that nobody knows is left to
rescan.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from django.db import transaction

from keys.crypto_slots import Slot as SlotOnDisk
from keys.models import KmsKeyVersion, PasswordVersion, RecoveryKey
from repositories.engine.chains import FileOnDisk, delete_file, scan_chain
from repositories.engine.encrypted_only import check_plain
from repositories.engine.errors import CannotUnwrap, EngineError, text
from repositories.engine.expectation import check_child, difference
from repositories.engine.reader import Point, open_point
from repositories.engine.takeover import Opened
from repositories.models import Chain, Kind, PointState, RestorePoint, Slot
from repositories.own_secrets import own_secrets
from repositories.reading import expected, seal_file_key

HINT_LETTERS = 200


class RepositoryAway(Exception):
    """The repository's folder is not there (a disk that is not mounted?): nothing is concluded from its absence."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"The repository {path} is not there: mount its disk or create the folder, then try again.")
        self.path = path


class CannotAdopt(Exception):
    """A sealed file that the catalogue does not know can't be registered: nothing is written beside it."""

    def __init__(self, path: Path, because: str) -> None:
        super().__init__(f"{path} is not in the catalogue and cannot be registered: {because}")
        self.path = path


class StillNeeded(Exception):
    """Points that would stay depend on points that would go: `by` names them."""

    def __init__(self, by: list[RestorePoint]) -> None:
        super().__init__(f"Still needed by {', '.join(str(point) for point in by)}.")
        self.by = by


@dataclass(frozen=True)
class SlotFor:
    """Who one slot is for."""

    record: UUID
    version: int
    kind: str = "password"
    hint: str = ""


@dataclass(frozen=True)
class SealedFile:
    """What the catalogue keeps of a published file: told by the session that wrote it, or read from the file itself."""

    file_id: UUID
    sequence: int
    kind: str
    parent_id: UUID | None  # None for a full
    started_at: datetime
    sealed_at: datetime
    length: int
    source_bytes: int
    read_bytes: int
    files: int
    seal_hash: bytes
    head_generation: int
    recipients: tuple[SlotFor, ...]
    file_key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Comparison:
    """A chain's folder beside its rows.

    `unknown` are sealed files after the newest row; they are registered, not damage.
    """

    missing: tuple[RestorePoint, ...] = ()
    foreign: tuple[str, ...] = ()
    unknown: tuple[FileOnDisk, ...] = ()

    def damage(self) -> str:
        """Say what is missing or wrong, by name; empty when the chain is whole."""
        parts = []
        if self.missing:
            names = ", ".join(f"{point.sequence} ({point.started_at:%Y-%m-%d %H:%M} UTC)" for point in self.missing)
            parts.append(f"the file of point {names} is missing")
        return "; ".join([*parts, *self.foreign])


@transaction.atomic
def register(chain: Chain, sealed: SealedFile, *, keeps_key: bool = True) -> RestorePoint:
    """Add the rows of a published file; registering it twice gives the same row.

    Without `keeps_key` (strict custody) its file key is not stored. Raises PlaintextRefused for a plain file where the
    repository takes encrypted ones only.
    """
    existing = RestorePoint.objects.filter(uuid=sealed.file_id).first()
    if existing is not None:
        return existing
    if refuses_plain(chain):
        check_plain(chain.repository.root, allowed=False)
    parent = RestorePoint.objects.get(uuid=sealed.parent_id, chain=chain) if sealed.parent_id else None
    point = point_row(chain, sealed, parent)
    point.save()
    if sealed.file_key is not None and keeps_key:
        seal_file_key(point, sealed.file_key)
    Slot.objects.bulk_create(slot_row(point, recipient, known_as(recipient)) for recipient in sealed.recipients)
    return point


def point_row(chain: Chain, sealed: SealedFile, parent: RestorePoint | None) -> RestorePoint:
    """Make the row of a published file, without its key; it is not saved."""
    return RestorePoint(
        uuid=sealed.file_id,
        chain=chain,
        sequence=sealed.sequence,
        kind=sealed.kind,
        parent=parent if sealed.kind == Kind.INCREMENTAL else None,
        started_at=sealed.started_at,
        sealed_at=sealed.sealed_at,
        size_bytes=sealed.length,
        source_bytes=sealed.source_bytes,
        read_bytes=sealed.read_bytes,
        files=sealed.files,
        seal_hash=sealed.seal_hash,
        head_generation=sealed.head_generation,
    )


@dataclass(frozen=True)
class KnownAs:
    """Which record of this console a slot is for, if any."""

    password: PasswordVersion | None = None
    kms: KmsKeyVersion | None = None
    recovery: RecoveryKey | None = None


def known_as(recipient: SlotFor) -> KnownAs:
    match recipient.kind:
        case "password":
            return KnownAs(password=version_of(recipient.record, recipient.version))
        case "kms":
            return KnownAs(kms=kms_version_of(recipient.record, recipient.version))
        case "recovery":
            return KnownAs(recovery=recovery_key_of(recipient.record))
    return KnownAs()


def slot_row(point: RestorePoint, recipient: SlotFor, known: KnownAs) -> Slot:
    """Make the row of a slot; it is not saved."""
    return Slot(
        point=point,
        kind=recipient.kind,
        record_uuid=recipient.record,
        version=recipient.version,
        hint=recipient.hint,
        password=known.password,
        kms=known.kms,
        recovery=known.recovery,
    )


def points_of(chain: Chain) -> list[RestorePoint]:
    """Return the points that can be restored, oldest first."""
    return list(chain.points.sealed().order_by("sequence"))


def compare(chain: Chain) -> Comparison:
    """Compare the folder with the rows, by what can be said without a key. Raises RepositoryAway."""
    if not chain.repository.root.is_dir():
        raise RepositoryAway(chain.repository.root)
    on_disk = {file.sequence: file for file in _files(chain)}
    known = {point.sequence: point for point in chain.points.all()}
    newest = max(known, default=0)
    sealed = [point for point in known.values() if point.state == PointState.SEALED]
    missing = tuple(point for point in sealed if point.sequence not in on_disk)
    foreign = [_foreign(on_disk[point.sequence], point) for point in sealed if point.sequence in on_disk]
    foreign += [f"file {n} is not in the catalogue" for n in on_disk if n not in known and n <= newest]
    unknown = tuple(file for n, file in sorted(on_disk.items()) if n > newest)
    if refuses_plain(chain):
        foreign += [f"file {file.sequence} is plain, and the repository takes encrypted ones only" for file in unknown]
        unknown = ()
    return Comparison(missing, tuple(text for text in foreign if text), unknown)


def refuses_plain(chain: Chain) -> bool:
    """Tell whether a further file of the chain would be a plain one where only encrypted ones are taken."""
    return not chain.encrypted and chain.repository.requires_encryption


def check_chain(chain: Chain) -> str:
    """Return what is missing or damaged in the repository, by name, and keep it on the row; empty when the chain is
    whole.

    Never clears damage that a verify found: that is not seen from outside. Raises RepositoryAway.
    """
    damage = compare(chain).damage()
    if damage and damage != chain.damage:
        Chain.objects.filter(pk=chain.pk).update(damage=damage)
        chain.damage = damage
    return chain.damage


def adopt(chain: Chain, *, keeps_keys: bool = True, signed_by: bytes | None = None) -> list[RestorePoint]:
    """Register every sealed file after the newest row: its session died between publishing and registering.

    An encrypted first file must be signed with `signed_by`, if that is given: no key of a chain tells yet who wrote it,
    and whoever has a public half can make a file that opens.

    Raises CannotAdopt, and RepositoryAway; a file that can't be opened and authenticated is never registered. KmsError
    where the KMS that opens it does not do its part: then it is registered when that is back.
    """
    return [_adopt_one(chain, file, keeps_keys, signed_by) for file in compare(chain).unknown]


def delete_points(points: Iterable[RestorePoint]) -> int:
    """Delete files and rows, newest first; return how many. Raises StillNeeded when a point that stays depends on one
    that goes.

    Each row is marked first: from then on the point is not offered and is no parent, and whoever comes next finishes
    it.
    """
    going = sorted(points, key=lambda point: (point.chain_id, -point.sequence))
    _refuse_needed(going)
    RestorePoint.objects.filter(pk__in=[point.pk for point in going]).update(state=PointState.DELETING)
    for point in going:
        _remove(point)
    return len(going)


def finish_deletions(chain: Chain) -> int:
    """Finish what a crash interrupted: every row that is marked, newest first."""
    marked = list(chain.points.filter(state=PointState.DELETING).order_by("-sequence"))
    for point in marked:
        _remove(point)
    return len(marked)


def delete_chain(chain: Chain) -> int:
    """Delete every point of a chain, its folder and its row; return how many points."""
    count = delete_points(chain.points.all())
    if chain.folder.is_dir() and not any(chain.folder.iterdir()):
        chain.folder.rmdir()
    chain.delete()
    return count


def holds_chains(root: Path) -> bool:
    """Tell whether a folder of any chain stands in the repository; an empty one may be a disk that is not mounted."""
    return any(_is_id(entry.name) for entry in os.scandir(root))


def _is_id(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


def version_of(record: UUID, version: int) -> PasswordVersion | None:
    return PasswordVersion.objects.select_related("record").filter(record__uuid=record, number=version).first()


def kms_version_of(record: UUID, version: int) -> KmsKeyVersion | None:
    return KmsKeyVersion.objects.select_related("key__server").filter(key__uuid=record, number=version).first()


def recovery_key_of(record: UUID) -> RecoveryKey | None:
    return RecoveryKey.objects.filter(uuid=record).first()


def _files(chain: Chain) -> tuple[FileOnDisk, ...]:
    return scan_chain(chain.folder).files if chain.folder.is_dir() else ()


def _foreign(file: FileOnDisk, point: RestorePoint) -> str:
    if file.head is None:
        return f"point {point.sequence} cannot be read: {file.problem}"
    problem = difference(file.head, file.length, expected(point))
    return f"the file of point {point.sequence} is foreign: {problem}" if problem else ""


def _adopt_one(chain: Chain, file: FileOnDisk, keeps_key: bool, signed_by: bytes | None) -> RestorePoint:
    head = file.head
    if head is None:
        raise CannotAdopt(file.path, f"its head cannot be read ({file.problem}).")
    if head.chain_id != chain.uuid or head.encrypted != chain.encrypted or head.sequence != file.sequence:
        raise CannotAdopt(file.path, "it does not belong to this chain. Move it away, then try again.")
    try:
        with open_point(file.path, own_secrets() if head.encrypted else None) as point:
            sealed = sealed_file_of(point)
            newest = chain.points.sealed().order_by("sequence").last()
            if newest is not None:
                check_child(point, expected(newest))
            elif head.encrypted and signed_by is not None and point.summary.signer != signed_by:
                raise CannotAdopt(file.path, "it is not signed by this console: somebody else made it.")
    except CannotUnwrap as error:
        raise CannotAdopt(file.path, "none of the keys that open it are known to this console.") from error
    except EngineError as error:
        raise CannotAdopt(file.path, str(error)) from error
    if sealed.parent_id is not None and not chain.points.filter(uuid=sealed.parent_id).exists():
        raise CannotAdopt(file.path, "the catalogue does not know its parent.")
    return register(chain, sealed, keeps_key=keeps_key)


def sealed_file_of(point: Point | Opened) -> SealedFile:
    """Read from an open point what the catalogue keeps of it."""
    head, summary = point.head, point.summary
    return SealedFile(
        file_id=head.file_id,
        sequence=head.sequence,
        kind=summary.kind,
        parent_id=summary.parent_id if summary.kind == Kind.INCREMENTAL else None,
        started_at=instant(summary.started_at_ns),
        sealed_at=instant(summary.finished_at_ns),
        length=point.length,
        source_bytes=summary.source_bytes,
        read_bytes=summary.read_bytes,
        files=summary.files,
        seal_hash=point.seal_hash,
        head_generation=head.generation,
        recipients=tuple(slot_for(slot) for slot in head.slots),
        file_key=point.file_key,
    )


def slot_for(slot: SlotOnDisk) -> SlotFor:
    return SlotFor(slot.record, slot.version, slot.kind.name.lower(), hint_for(slot.hint))


def hint_for(hint: str) -> str:
    """Return what a slot says to a person as the catalogue keeps it: a stranger may have put anything there."""
    return text(hint)[:HINT_LETTERS]


def instant(ns: int) -> datetime:
    return datetime.fromtimestamp(ns / 1e9, UTC)


def _refuse_needed(going: list[RestorePoint]) -> None:
    keys = [point.pk for point in going]
    children = RestorePoint.objects.filter(parent__in=keys, state=PointState.SEALED).exclude(pk__in=keys)
    needing = list(children.select_related("chain").order_by("sequence"))
    if needing:
        raise StillNeeded(needing)


def _remove(point: RestorePoint) -> None:
    delete_file(point.path)
    RestorePoint.objects.filter(pk=point.pk, state=PointState.DELETING).delete()
