"""Recovery requests: what is asked of the holder of a recovery key, and using the answer once.

What a request and an answer look like is decided in `keys.crypto_recovery_request`; opening the chain with what was
answered is `repositories.foreign`'s, as with any other secret.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.db import transaction
from django.utils import timezone

from backupsite.models import User
from keys import crypto_recovery
from keys.crypto_recovery import RecoveryPrivate
from keys.crypto_recovery_request import (
    MOST_SLOTS,
    AskedFile,
    AskedSlot,
    Request,
    SlotSecret,
    read_answer,
    read_request,
    request_text,
)
from keys.crypto_slots import Slot, SlotKind
from keys.sealing import seal_for, unseal_for
from keys.signing import private_bytes
from repositories.engine.chains import FileOnDisk
from repositories.engine.errors import text
from repositories.engine.takeover import SecretOf
from repositories.foreign import on_disk
from repositories.models import Chain, RecoveryRequest, Repository, RestorePoint

GOOD_FOR = timedelta(days=7)
FILES_ASKED = 4  # the newest opens all before it; the others are for the case that it does not
NAME_LETTERS = 400


class CannotAsk(Exception):
    """There is nothing to ask for; str() says why."""


class NotAnswerable(Exception):
    """The request was answered before, or it expired; str() says which."""


@dataclass(frozen=True)
class ToAsk:
    """The newest closed files that have slots of recovery keys, and how many points open with them, since when."""

    files: tuple[AskedFile, ...]
    points: int
    first_at: int


def to_ask(repository: Repository, chain_id: UUID) -> ToAsk:
    """Find what to ask for, where the folder is. Raises CannotAsk, RepositoryAway, foreign.NothingThere."""
    rows = {row.uuid: row for row in RestorePoint.objects.filter(chain__uuid=chain_id, chain__repository=repository)}
    closed = [file for file in on_disk(repository, chain_id).files if _is_closed(file, rows)]
    asked: list[AskedFile] = []
    for file in reversed(closed):
        slots = _asked_slots(file)
        room = MOST_SLOTS - sum(len(one.slots) for one in asked)
        if slots and room >= len(slots) and len(asked) < FILES_ASKED:
            asked.append(_asked_file(file, slots, rows))
    if not asked:
        raise CannotAsk(
            "No closed file of this chain has a slot of a recovery key: nobody can be asked for it."
            if closed
            else "Every encrypted file of this chain is open already."
        )
    opening = [file for file in closed if file.sequence <= asked[0].sequence]
    return ToAsk(tuple(asked), len(opening), min(_at_seconds(file, rows) for file in opening))


@transaction.atomic
def make(repository: Repository, chain_id: UUID, asked: ToAsk, by: User) -> RecoveryRequest:
    """Sign a request, with a key that only its answer is sealed to. Keys of expired requests are dropped."""
    now, one_time = timezone.now(), crypto_recovery.new_private()
    RecoveryRequest.objects.filter(expires_at__lte=now).update(private_sealed=None)
    chain = Chain.objects.filter(uuid=chain_id, repository=repository).first()
    row = RecoveryRequest(
        uuid=uuid.uuid4(), repository=repository, chain_uuid=chain_id, made_by=by, expires_at=now + GOOD_FOR
    )
    wanted = Request(
        console=b"",
        request=row.uuid,
        one_time=one_time.public(),
        made_at=int(now.timestamp()),
        expires_at=int(row.expires_at.timestamp()),
        asked_by=by.username[:NAME_LETTERS],
        place=f"{repository.name} ({repository.path})"[:NAME_LETTERS],
        job_name=chain.job_name if chain else "",
        chain=chain_id,
        points=asked.points,
        first_at=asked.first_at,
        files=asked.files,
    )
    row.text = request_text(wanted, Ed25519PrivateKey.from_private_bytes(private_bytes()))
    row.save()
    row.private_sealed = seal_for(row, "private_sealed", one_time.seed)
    row.save(update_fields=["private_sealed"])
    return row


def asked_in(row: RecoveryRequest) -> Request:
    return read_request(row.text)


def read(row: RecoveryRequest, answer: str) -> tuple[SlotSecret, ...]:
    """Open an answer; it is not used up by this. Raises NotAnswerable, BadText, OpenFailed, CannotOpenSealed."""
    if row.answered_at is not None:
        raise NotAnswerable("This request was answered before. Make a new one.")
    if timezone.now() >= row.expires_at:
        raise NotAnswerable("This request has expired. Make a new one.")
    return read_answer(answer, asked_in(row), RecoveryPrivate(unseal_for(row, "private_sealed")))


def settle(row: RecoveryRequest) -> None:
    """Use the answer up, in the transaction that keeps what came of it. Raises NotAnswerable for the second one."""
    unanswered = RecoveryRequest.objects.filter(pk=row.pk, answered_at=None)
    if not unanswered.update(answered_at=timezone.now(), private_sealed=None):
        raise NotAnswerable("This request was answered before. Make a new one.")


def secret_of(answered: list[SlotSecret]) -> SecretOf:
    """Give the answered secrets for their slots, and for no others."""
    secrets = {(one.file_id, one.record, one.version): one.secret for one in answered}

    def of(slot: Slot, chain_id: UUID, file_id: UUID) -> bytes | None:
        return secrets.get((file_id, slot.record, slot.version)) if slot.kind is SlotKind.RECOVERY else None

    return of


def _is_closed(file: FileOnDisk, rows: dict[UUID, RestorePoint]) -> bool:
    if file.head is None or not file.head.encrypted:
        return False
    row = rows.get(file.head.file_id)
    return row is None or row.file_key_sealed is None


def _asked_slots(file: FileOnDisk) -> list[AskedSlot]:
    slots = file.head.slots if file.head else ()
    return [
        AskedSlot(slot.record.bytes, slot.version, slot.fingerprint, text(slot.hint)[:NAME_LETTERS], slot.encapsulated)
        for slot in slots
        if slot.kind is SlotKind.RECOVERY and slot.encapsulated
    ][:MOST_SLOTS]


def _asked_file(file: FileOnDisk, slots: list[AskedSlot], rows: dict[UUID, RestorePoint]) -> AskedFile:
    assert file.head is not None, "a file with slots has a head"
    return AskedFile(file.head.file_id.bytes, file.sequence, _at_seconds(file, rows), file.length, slots)


def _at_seconds(file: FileOnDisk, rows: dict[UUID, RestorePoint]) -> int:
    """When the point was taken, as far as it is known; else when its file was written."""
    row = rows.get(file.head.file_id) if file.head else None
    at = row.started_at if row else datetime.fromtimestamp(file.path.stat().st_mtime, UTC)
    return max(0, int(at.timestamp()))
