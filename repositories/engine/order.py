"""The order for one restore point, what comes of it, and which orders are refused.

Which kind of point is due, and for whom it is wrapped, is decided by the caller (jobs/planning.py, cli.py); here the
order is only checked against the parent and against what lies in the repository. It is carried out by backup.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.crypto_recipients import Recipient
from repositories.engine import chains
from repositories.engine.encrypted_only import check_plain
from repositories.engine.errors import AlreadyExists, BadOrder, PlainRefused, text
from repositories.engine.head import MAX_SLOTS
from repositories.engine.manifest import MAX_PATTERNS
from repositories.engine.omissions import Omission
from repositories.engine.pace import Limit
from repositories.engine.reader import Point

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
class CheckpointInterval:
    """How much may be written, or how long the writing may take, until an unfinished file has its next checkpoint."""

    bytes: int = 256 * 1024**2
    seconds: float = 20.0


@dataclass(frozen=True, slots=True)
class ParentPoint:
    """The newest point of the chain; file_key is None for plain chains."""

    path: Path
    file_key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class BackupOrder:
    """Everything that one session needs to know.

    An unfinished file of the same point is written on if it can be, and keeps its own file id: Written tells which.

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
    recipients: tuple[Recipient, ...] = ()
    parent: ParentPoint | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    options: frozenset[Omission] = frozenset()
    disk_images: tuple[str, ...] = ()  # patterns of files that are cut as such, beside those known by their suffix
    never: tuple[bytes, ...] = ()
    level: Level = Level.BALANCED
    reserve: FreeSpace = field(default_factory=FreeSpace)
    signer: Ed25519PrivateKey | None = field(default=None, repr=False)
    job_name: str = ""
    clock: Callable[[], int] = time.time_ns  # compared with the times of files, and sealed as the end
    checkpoints: CheckpointInterval = field(default_factory=CheckpointInterval)
    file_key: bytes | None = field(default=None, repr=False)  # of a new encrypted file; made here where none is given
    unfinished_key: bytes | None = field(default=None, repr=False)  # of an unfinished file that no recipient opens
    limit: Limit | None = None  # of what is appended to the file
    plain_allowed: bool = True  # whether the repository takes plain files; its own marker is obeyed in any case


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
    resumed: bool = False  # whether an unfinished file was written on


def check_order(order: BackupOrder, parent: Point | None) -> None:
    """Raises BadOrder, PlaintextRefused, PlainRefused or AlreadyExists."""
    if not order.recipients:
        check_plain(order.root, allowed=order.plain_allowed)
    path = chains.file_path(order.root, order.chain_id, order.sequence)
    if order.sequence < 1 or len(order.recipients) > MAX_SLOTS:
        raise BadOrder(f"The order for {text(path)} has an impossible number, or too many recipients.")
    if max(map(len, (order.sources, order.include, order.exclude))) > MAX_PATTERNS:
        raise BadOrder(f"The order for {text(path)} has more than {MAX_PATTERNS:,} sources or patterns; use folders.")
    if os.path.lexists(path):
        raise AlreadyExists(
            f"The repository already has {text(path)}. Rescan it; the next session continues from the newest point.",
            path=text(path),
            sequence=order.sequence,
        )
    if parent is None:
        if order.kind is Kind.INCREMENTAL:
            raise BadOrder("An incremental restore point needs a parent; write a full one first.")
        return
    if parent.head.chain_id != order.chain_id or parent.head.sequence >= order.sequence:
        raise BadOrder(f"{text(parent.path)} cannot be the parent of point {order.sequence} of {order.chain_id}.")
    if parent.head.encrypted != bool(order.recipients):
        raise PlainRefused(
            f"Plain and encrypted points are never joined in one chain ({order.chain_id}): start a new chain.",
            path=text(parent.path),
        )
