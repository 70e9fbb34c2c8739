"""The head of a backup file: who it is and which slots open it, in two authenticated copies."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from keys.crypto_slots import Slot


@dataclass(frozen=True, slots=True)
class Head:
    """What a file says before a key is known. Authentic only once a Point was opened from it."""

    version: int
    encrypted: bool
    chain_id: UUID
    file_id: UUID
    sequence: int
    generation: int
    slots: tuple[Slot, ...]
    replaces: tuple[UUID, ...] = ()
    commitment: bytes = field(default=b"", repr=False)
    copies_differ: bool = False  # one copy is damaged or a rewrap was torn: reported, still readable
