"""Writing one restore point: the order, and the steps from the walk to the published file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.crypto_slots import PasswordRecipient
from repositories.engine.observer import Observer

GIB = 1024**3


class Kind(Enum):
    FULL = "full"
    INCREMENTAL = "incremental"


class Level(Enum):
    NONE = "none"
    FAST = "fast"
    BALANCED = "balanced"
    STRONG = "strong"


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """What must stay free where the repository lies: the larger of both."""

    bytes: int = GIB
    share: float = 0.02


@dataclass(frozen=True, slots=True)
class ParentPoint:
    """The newest point of the chain; file_key is None for plain chains."""

    path: Path
    file_key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class BackupOrder:
    """Everything that one session needs to know.

    The first file of a chain has no parent. A full with a parent starts a new run of the parent's chain: it shares
    nothing with earlier points but the chain's keys. An incremental needs a parent.
    """

    root: Path
    chain_id: UUID
    file_id: UUID
    sequence: int
    kind: Kind
    reason: str
    started_at_ns: int
    sources: tuple[bytes, ...]
    recipients: tuple[PasswordRecipient, ...] = ()
    parent: ParentPoint | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    never: tuple[bytes, ...] = ()
    level: Level = Level.BALANCED
    reserve: FreeSpace = field(default_factory=FreeSpace)
    signer: Ed25519PrivateKey | None = field(default=None, repr=False)
    job_name: str = ""
    clock: Callable[[], int] = time.time_ns  # only compared with file times (racy entries) and sealed as the end


@dataclass(frozen=True, slots=True)
class Written:
    file_id: UUID
    sequence: int
    kind: Kind
    path: Path
    length: int
    seal_hash: bytes
    head_generation: int
    file_key: bytes | None = field(repr=False)
    files: int
    directories: int
    others: int
    source_bytes: int
    read_bytes: int
    written_bytes: int
    new_files: int
    changed_files: int
    unchanged_files: int
    warnings: int


def write_backup(order: BackupOrder, observer: Observer) -> Written:
    """Write and publish one restore point. Nothing is left behind when it raises an EngineError."""
    raise NotImplementedError
