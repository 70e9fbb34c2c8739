"""What this console has for the slots of a backup file: the keys of its password records, and what its KMS opens.

It is asked where no file key is kept: under strict custody, for a file that is sealed but not registered, for one that
is unfinished. Whoever may use what opens, and for what, is decided by the callers.
"""

from __future__ import annotations

from uuid import UUID

from keys.crypto_sealed import CannotOpenSealed
from keys.crypto_slots import Slot, SlotKind
from keys.kms.interface import KmsAway, KmsError, KmsMissing, KmsUntrusted
from keys.kms_servers import slot_secrets
from keys.models import PasswordVersion
from keys.passwords import kek_of
from repositories.engine.reader import SlotSecrets


class OwnSecrets:
    """What a SlotSecrets asks. Each slot is looked at once (a head has two copies), and a server that is away is not
    waited for again: one of these may serve a whole chain.

    A forgiving one has no secret where it would raise, and says in `notes` what a server said; one that did not answer
    is not asked again.
    """

    def __init__(self, *, forgiving: bool = False) -> None:
        self.notes: list[str] = []
        self._forgiving = forgiving
        self._known: dict[bytes, bytes | None] = {}
        self._failed: dict[str, KmsError] = {}  # by the name of the server, as slots have it
        self._from_kms = slot_secrets()

    def of(self, slot: Slot, chain_id: UUID, file_id: UUID) -> bytes | None:
        """Return the secret of a slot; None where it is not ours.

        Raises CannotOpenSealed for a record that was changed from outside, and KmsError where a server does not do its
        part.
        """
        if slot.raw not in self._known:
            self._known[slot.raw] = self._found(slot, chain_id, file_id)
        return self._known[slot.raw]

    def _found(self, slot: Slot, chain_id: UUID, file_id: UUID) -> bytes | None:
        try:
            if slot.kind is SlotKind.PASSWORD:
                return self._kek(slot.record, slot.version)
            if slot.kind is SlotKind.KMS and not self.notes:
                return self._asked(slot, chain_id, file_id)
        except CannotOpenSealed:
            if not self._forgiving:
                raise
        except KmsError as error:
            if not self._forgiving:
                raise
            self.notes.append(str(error))
        return None

    def _asked(self, slot: Slot, chain_id: UUID, file_id: UUID) -> bytes | None:
        if slot.hint in self._failed:
            raise self._failed[slot.hint]
        try:
            return self._from_kms(slot, chain_id, file_id)
        except (KmsAway, KmsUntrusted, KmsMissing) as error:
            self._failed[slot.hint] = error
            raise

    @staticmethod
    def _kek(record: UUID, number: int) -> bytes | None:
        versions = PasswordVersion.objects.select_related("record")
        version = versions.filter(record__uuid=record, number=number).first()
        return kek_of(version) if version else None


def own_secrets() -> SlotSecrets:
    """Return all that this console has, for the engine's reader: opening raises what `OwnSecrets.of` raises."""
    return SlotSecrets(OwnSecrets().of)
