"""The catalogue learns what a head says now: its generation, and which slots open the point.

Heads come from files that were just authenticated with their own key: nothing here opens one. An older head than the
catalogue knows changes nothing; that such a file is refused is decided in `repositories.engine.expectation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db import transaction

from repositories.catalogue import SlotFor, kms_version_of, recovery_key_of, version_of
from repositories.models import Chain, RestorePoint, Slot


@dataclass(frozen=True)
class HeadNow:
    """What an authentic head says."""

    file_id: UUID
    generation: int
    slots: tuple[SlotFor, ...]


@transaction.atomic
def store_heads(chain: Chain, heads: Sequence[HeadNow]) -> int:
    """Bring rows up to heads, and return how many were behind. Storing a head twice changes nothing."""
    said = {head.file_id: head for head in heads}
    rows = RestorePoint.objects.select_for_update().filter(chain=chain, uuid__in=said).order_by("pk")
    behind = [point for point in rows.prefetch_related("slots") if _is_behind(point, said[point.uuid])]
    for point in behind:
        point.head_generation = said[point.uuid].generation
    RestorePoint.objects.bulk_update(behind, ["head_generation"])
    Slot.objects.filter(point__in=behind).delete()
    Slot.objects.bulk_create(slot_rows((point, said[point.uuid].slots) for point in behind))
    return len(behind)


def slot_rows(points: Iterable[tuple[RestorePoint, tuple[SlotFor, ...]]]) -> list[Slot]:
    """Return unsaved rows; each record is looked up once."""
    known: dict[tuple[str, UUID, int], dict[str, object]] = {}
    rows = []
    for point, slots in points:
        for slot in slots:
            place = (slot.kind, slot.record, slot.version)
            if place not in known:
                known[place] = _records(slot)
            rows.append(
                Slot(
                    point=point,
                    kind=slot.kind,
                    record_uuid=slot.record,
                    version=slot.version,
                    hint=slot.hint,
                    **known[place],
                )
            )
    return rows


def _records(slot: SlotFor) -> dict[str, object]:
    """Which of our records a slot is for; none for a stranger's."""
    return {
        "password": version_of(slot.record, slot.version) if slot.kind == "password" else None,
        "kms": kms_version_of(slot.record, slot.version) if slot.kind == "kms" else None,
        "recovery": recovery_key_of(slot.record) if slot.kind == "recovery" else None,
    }


def _is_behind(point: RestorePoint, head: HeadNow) -> bool:
    if head.generation != point.head_generation:
        return head.generation > point.head_generation
    return {_shown(slot) for slot in point.slots.all()} != {(s.kind, s.record, s.version, s.hint) for s in head.slots}


def _shown(slot: Slot) -> tuple[str, UUID, int, str]:
    return slot.kind, slot.record_uuid, slot.version, slot.hint
