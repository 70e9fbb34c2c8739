"""Taking a chain that was found and opened over into the catalogue: its row, its points, their slots and keys.

All in one transaction, from what `repositories.foreign` found; nothing is read from the repository here. What belongs
to the chain was decided in `repositories.engine.takeover`; who may do this is, in the views.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from uuid import UUID

from django.db import DataError, connection, transaction
from django.utils import timezone

from backupsite.models import User
from keys import passwords
from keys.crypto_password import KdfParameters
from keys.models import PasswordRecord
from keys.sealing import seal_for
from repositories.catalogue import SealedFile, known_as, point_row, slot_row
from repositories.engine.takeover import Standing
from repositories.foreign import RightPassword, SeenChain, SeenFile
from repositories.models import Chain, Kind, PointState, Repository, RestorePoint, Slot
from repositories.reading import seal_file_key

SET_APART = (Standing.DAMAGED, Standing.FOREIGN, Standing.FORK, Standing.ORPHAN)
ROWS_AT_ONCE = 1_000


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


def store(repository: Repository, seen: SeenChain) -> TakenOver:
    """Add the points that belong to the chain, and the file keys that the catalogue lacks.

    A chain of one of this console's jobs gets keys only: its new files are registered by its next session. Raises
    NothingOpened, KnownElsewhere.
    """
    try:
        with transaction.atomic():
            return _store(repository, seen)
    except DataError:
        raise NothingOpened("A file of this chain has numbers or names that the catalogue cannot hold.") from None


def _store(repository: Repository, seen: SeenChain) -> TakenOver:
    if repository.requires_encryption and not seen.encrypted:
        raise NothingOpened(
            f"{repository} takes encrypted backups only, and this chain is not encrypted. Move its folder to another "
            "repository, and import it there."
        )
    joined = [file for file in seen.files if file.standing == Standing.JOINED and file.sealed]
    if not joined:
        raise NothingOpened("No file of this chain opened and belongs to it: nothing was taken over.")
    chain = _chain_row(repository, seen, joined[-1])
    rows = {row.uuid: row for row in chain.points.all()}
    new = [file for file in joined if file.file_id not in rows] if chain.imported_at else []
    _add_points(chain, new, rows)
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


def _add_points(chain: Chain, new: list[SeenFile], rows: dict[UUID, RestorePoint]) -> None:
    """Add them all at once: a chain may have thousands. Each was written behind the point before it."""
    line = {row.sequence: row for row in rows.values() if row.state == PointState.SEALED}
    ids = iter(_ids_for(len(new)))
    for file in new:
        assert file.sealed is not None, "only what opened is taken over"
        before = line[max(number for number in line if number < file.sequence)] if file.sealed.parent_id else None
        row = line[file.sequence] = point_row(chain, file.sealed, before)
        row.pk = next(ids)
        if file.sealed.file_key is not None:
            row.file_key_sealed = seal_for(row, "file_key_sealed", file.sealed.file_key)
    RestorePoint.objects.bulk_create([line[file.sequence] for file in new], batch_size=ROWS_AT_ONCE)
    known = cache(known_as)
    slots = [
        slot_row(line[file.sequence], recipient, known(recipient))
        for file in new
        for recipient in (file.sealed.recipients if file.sealed else ())
    ]
    Slot.objects.bulk_create(slots, batch_size=ROWS_AT_ONCE)


def _ids_for(count: int) -> list[int]:
    """Return primary keys for rows that are to be sealed before they are saved: a sealed key is bound to its row's."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT nextval(pg_get_serial_sequence(%s, 'id')) FROM generate_series(1, %s)",
            [RestorePoint._meta.db_table, count],
        )
        return [number for (number,) in cursor.fetchall()]


def _add_key(row: RestorePoint, sealed: SealedFile) -> int:
    if sealed.file_key is None or row.file_key_sealed is not None:
        return 0
    seal_file_key(row, sealed.file_key)
    return 1


def _note_damage(chain: Chain, seen: SeenChain) -> None:
    """Keep on the row of an imported chain what of its folder does not belong to it, by name."""
    if not chain.imported_at:
        return
    apart = [file for file in seen.files if file.standing in SET_APART]
    noted = {str(file.file_id): [file.standing, file.problem] for file in apart if file.file_id}
    damage = " ".join(f"File {file.sequence}: {file.problem}" for file in apart)
    Chain.objects.filter(pk=chain.pk).update(damage=damage, set_apart=noted)


@transaction.atomic
def forget(chain: Chain) -> int:
    """Take an imported chain out of the catalogue again; its files stay, and it can be imported anew.

    Returns how many points. Raises ProtectedError while a session holds one of them.
    """
    count: int = chain.points.update(kind=Kind.FULL, parent=None)  # they go together: none protects another one
    chain.points.all().delete()
    chain.delete()
    return count


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
