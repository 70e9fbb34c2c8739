"""What this console has for the slots of a backup file: the keys of its password records, and what its KMS opens.

It is asked where no file key is kept: under strict custody, for a file that is sealed but not registered, for one that
is unfinished. Whoever may use what opens, and for what, is decided by the callers.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from keys.crypto_slots import Slot, SlotKind
from keys.kms_servers import slot_secrets
from keys.models import PasswordVersion
from keys.passwords import kek_of
from repositories.engine.reader import SlotSecrets


def own_secrets() -> SlotSecrets:
    """Return the secret of a slot for the engine's reader; None where it is not ours.

    Opening a file with it raises CannotOpenSealed for a record that was changed from outside, and KmsError where a
    server does not do its part.
    """
    from_kms = slot_secrets()

    def secret(slot: Slot, chain_id: UUID, file_id: UUID) -> bytes | None:
        if slot.kind is SlotKind.PASSWORD:
            return _kek(slot)
        return from_kms(slot, chain_id, file_id) if slot.kind is SlotKind.KMS else None

    return SlotSecrets(_asked_once(secret))


Of = Callable[[Slot, UUID, UUID], bytes | None]


def _asked_once(of: Of) -> Of:
    """Each slot is asked for once: a head has two copies, and a server is not asked twice for the same."""
    known: dict[bytes, bytes | None] = {}

    def secret(slot: Slot, chain_id: UUID, file_id: UUID) -> bytes | None:
        if slot.raw not in known:
            known[slot.raw] = of(slot, chain_id, file_id)
        return known[slot.raw]

    return secret


def _kek(slot: Slot) -> bytes | None:
    versions = PasswordVersion.objects.select_related("record")
    version = versions.filter(record__uuid=slot.record, number=slot.version).first()
    return kek_of(version) if version else None
