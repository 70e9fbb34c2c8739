"""Taking a chain that was found and opened over into the catalogue: its row, its points, their slots and keys.

All in one transaction, from what `repositories.foreign` found; nothing is read from the repository here. What belongs
to the chain was decided in `repositories.engine.takeover`; who may do this is, in the views.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from django.db import transaction
from django.utils import timezone

from backupsite.models import User
from keys import passwords
from keys.crypto_password import KdfParameters
from keys.models import PasswordRecord
from repositories.catalogue import SealedFile, register
from repositories.engine.takeover import Standing
from repositories.foreign import RightPassword, SeenChain, SeenFile
from repositories.models import Chain, Repository, RestorePoint, Slot
from repositories.reading import seal_file_key

SET_APART = (Standing.DAMAGED, Standing.FOREIGN, Standing.FORK, Standing.ORPHAN)


@dataclass(frozen=True)
class TakenOver:
    """What was stored: points that are new in the catalogue, and points that got their key."""

    chain: Chain
    points: int
    keys: int


class NothingOpened(Exception):
    """No file of the chain can be taken over; str() says why."""


class KnownElsewhere(Exception):
    """The chain is in the catalogue under another repository: its points can be there once only."""

    def __init__(self, chain: Chain) -> None:
        super().__init__(
            f"The catalogue has this chain in the repository {chain.repository}; this is a copy of it. Restore from "
            "there, or recover from the copy with the command line (docs/recover.md)."
        )


@transaction.atomic
def store(repository: Repository, seen: SeenChain) -> TakenOver:
    """Add the points that belong to the chain, and the file keys that the catalogue lacks.

    A chain of one of this console's jobs gets keys only: its new files are registered by its next session. Raises
    NothingOpened, KnownElsewhere.
    """
    if repository.requires_encryption and not seen.encrypted:
        raise NothingOpened(
            f"The repository {repository} takes encrypted backups only: a plain chain stays foreign to it."
        )
    joined = [file for file in seen.files if file.standing == Standing.JOINED and file.sealed]
    if not joined:
        raise NothingOpened("No file of this chain opened and belongs to it: nothing was taken over.")
    chain = _chain_row(repository, seen, joined[-1])
    rows = {row.uuid: row for row in chain.points.all()}
    new = [file for file in joined if file.file_id not in rows] if chain.imported_at else []
    _add_points(chain, seen, new)
    keys = sum(_add_key(rows[file.file_id], file.sealed) for file in joined if file.file_id in rows and file.sealed)
    _note_damage(chain, seen)
    return TakenOver(chain, len(new), keys)


def _chain_row(repository: Repository, seen: SeenChain, newest: SeenFile) -> Chain:
    """Return the chain's row, locked, made if there is none. Raises KnownElsewhere."""
    fields = {
        "repository": repository,
        "job_name": newest.job_name or "a job without a name",
        "encrypted": seen.encrypted,
        "imported_at": timezone.now(),
    }
    row, _ = Chain.objects.select_for_update(of=("self",)).get_or_create(uuid=seen.chain_id, defaults=fields)
    if row.repository_id != repository.pk:
        raise KnownElsewhere(row)
    return row


def _add_points(chain: Chain, seen: SeenChain, new: list[SeenFile]) -> None:
    """Register them, oldest first: a child's parent is there by then, under its own id or as what replaced it."""
    for file in new:
        assert file.sealed is not None, "only what opened is taken over"
        parent = file.sealed.parent_id
        before = _point_before(chain, file) if parent is not None else None
        register(chain, replace(file.sealed, parent_id=before.uuid if before else None))


def _point_before(chain: Chain, file: SeenFile) -> RestorePoint:
    """Return what the file was written behind: the newest point before it, as was found when it was judged."""
    return chain.points.sealed().filter(sequence__lt=file.sequence).order_by("-sequence")[0]


def _add_key(row: RestorePoint, sealed: SealedFile) -> int:
    if sealed.file_key is None or row.file_key_sealed is not None:
        return 0
    seal_file_key(row, sealed.file_key)
    return 1


def _note_damage(chain: Chain, seen: SeenChain) -> None:
    """Keep on the row of an imported chain what of its folder does not belong to it, by name."""
    if not chain.imported_at:
        return
    wrong = [f"File {file.sequence}: {file.problem}" for file in seen.files if file.standing in SET_APART]
    Chain.objects.filter(pk=chain.pk).update(damage=" ".join(wrong))


@transaction.atomic
def keep_password(right: RightPassword, name: str, by: User | None) -> PasswordRecord:
    """Make a record of a password that was typed, under the id that the files know it by, and tell their slots.

    Raises passwords.CannotKeep.
    """
    costs = KdfParameters(right.memory_kib, right.iterations, right.lanes)
    version = passwords.keep_version(
        right.record, right.version, name=name, hint=right.hint, salt=right.salt, costs=costs, kek=right.kek, by=by
    )
    slots = Slot.objects.filter(kind="password", record_uuid=right.record, version=right.version, password=None)
    slots.update(password=version)
    return version.record
