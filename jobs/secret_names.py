"""What a key slot is called on a page: by the record that it belongs to, or by its hint if it is a stranger's."""

from __future__ import annotations

from repositories.models import Slot

RECORDS = ("password__record", "kms__key__server", "recovery")  # for select_related and prefetch_related
RECOVERY = "recovery"
KINDS = {"password": "password", "kms": "KMS key", "recovery": "recovery key"}


def name_of(slot: Slot) -> str:
    """Return the name of what opens the slot, with its version from the second on."""
    if slot.password is not None:
        return versioned(slot.password.record.name, slot.version)
    if slot.kms is not None:
        return versioned(f"{slot.kms.key.server.name} / {slot.kms.key.owner_name}", slot.version)
    if slot.recovery is not None:
        return slot.recovery.name
    return stranger(slot.kind, str(slot.record_uuid), slot.version, slot.hint)


def versioned(name: str, version: int) -> str:
    return name if version == 1 else f"{name}, version {version}"


def stranger(kind: str, record: str, version: int, hint: str) -> str:
    """Return what can be said of a slot without a record here: the hint in the file, and the id."""
    known_by = f"“{hint}”" if hint else record[:8]
    return versioned(f"unknown {KINDS.get(kind, kind)} {known_by}", version)
