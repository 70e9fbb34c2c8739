"""What a session's worker and its process say to each other: one JSON object a line, bytes in base64.

The worker writes the request, then an answer to each question; the process writes events, the last of which is Done or
Failed. Keys go through these pipes and nowhere else: they are never an argument, in the environment or in a repr. Pure:
no Django, no database.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec

from keys.crypto_recipients import KmsRecipient, PasswordRecipient, Recipient, RecoveryRecipient

GIB = 1024**3


@dataclass(frozen=True)
class Recipients:
    """Who a file is wrapped for, kind by kind; none at all means plain."""

    passwords: tuple[PasswordRecipient, ...] = ()
    kms: tuple[KmsRecipient, ...] = ()
    recovery: tuple[RecoveryRecipient, ...] = ()

    def all(self) -> tuple[Recipient, ...]:
        return (*self.passwords, *self.kms, *self.recovery)


@dataclass(frozen=True)
class BackupRequest:
    """One restore point to be written, under `file_key`. `unfinished_key` is the file key of an unfinished file of the
    chain, where a KMS opened it.
    """

    root: bytes
    chain_id: UUID
    file_id: UUID
    sequence: int
    kind: str
    reason: str
    started_at_ns: int
    sources: tuple[bytes, ...]
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    never: tuple[bytes, ...]
    level: str
    recipients: Recipients
    parent_id: UUID | None
    parent_path: bytes | None
    parent_key: bytes | None = field(repr=False)
    job_name: str
    signer: bytes | None = field(default=None, repr=False)  # the console's raw Ed25519 private key
    file_key: bytes | None = field(default=None, repr=False)
    unfinished_key: bytes | None = field(default=None, repr=False)
    plain_allowed: bool = (
        True  # false: the repository takes encrypted files only, whatever the rest of the request says
    )
    reserve_bytes: int = GIB
    reserve_share: float = 0.02


@dataclass(frozen=True)
class PointFile:
    """A file to be read, and what the catalogue knows of it: another file in its place is refused."""

    path: bytes
    file_id: UUID
    head_generation: int
    seal_hash: bytes
    file_key: bytes | None = field(repr=False)


@dataclass(frozen=True)
class RestoreRequest:
    """`paths` empty means everything. Nothing is written into `kept_out`, wherever `into` begins."""

    point: PointFile
    paths: tuple[bytes, ...]
    into: bytes
    below: bytes | None
    existing: str
    kept_out: tuple[bytes, ...]
    reserve_bytes: int = GIB
    reserve_share: float = 0.02


@dataclass(frozen=True)
class VerifyRequest:
    point: PointFile
    depth: str


@dataclass(frozen=True)
class RewrapRequest:
    """The files of a chain, oldest first, each with its key: who shall open them, and who no longer."""

    chain_id: UUID
    points: tuple[PointFile, ...]
    add: Recipients
    remove: tuple[tuple[UUID, int], ...]


Request = BackupRequest | RestoreRequest | VerifyRequest | RewrapRequest
REQUESTS: dict[str, type[Request]] = {
    "backup": BackupRequest,
    "restore": RestoreRequest,
    "verify": VerifyRequest,
    "rewrap": RewrapRequest,
}


class Progressed(msgspec.Struct, tag="progress", frozen=True):
    stage: str
    files_done: int
    files_total: int | None
    bytes_processed: int
    bytes_total: int | None
    bytes_read: int
    bytes_written: int
    current_path: bytes
    busy_seconds: dict[str, float]


class Noted(msgspec.Struct, tag="note", frozen=True):
    """A line for the log: `level` is info, warning or error."""

    level: str
    code: str
    message: str


class MaySeal(msgspec.Struct, tag="may-seal", frozen=True):
    """The process waits: everything is on disk, and only a worker whose lease holds may say yes."""


class Written(msgspec.Struct, tag="written", frozen=True):
    """A backup is published. `file_id` is that of an unfinished file, if one was written on."""

    file_id: UUID
    length: int
    seal_hash: bytes
    head_generation: int
    file_key: bytes | None
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

    def __repr__(self) -> str:
        return f"Written({self.files} files)"  # not the key


class Restored(msgspec.Struct, tag="restored", frozen=True):
    files: int
    directories: int
    others: int
    skipped: int
    failed: int
    bytes_written: int
    warnings: int


class Verified(msgspec.Struct, tag="verified", frozen=True):
    """`damage` is one sentence, empty when the point is sound; `notes` don't touch what can be restored."""

    damage: str
    damages: int
    damaged_files: int
    notes: int
    bytes_checked: int
    blocks_checked: int


class SlotSaid(msgspec.Struct, frozen=True, array_like=True):
    """One slot of a head, as the catalogue keeps it."""

    kind: str
    record: UUID
    version: int
    hint: str


class HeadSaid(msgspec.Struct, frozen=True, array_like=True):
    """An authentic head, as it is on disk now."""

    file_id: UUID
    generation: int
    slots: list[SlotSaid]


class Heads(msgspec.Struct, tag="heads", frozen=True):
    """What was rewrapped, or was as wanted already: the worker brings the catalogue up to it."""

    heads: list[HeadSaid]


class RewrapDone(msgspec.Struct, tag="rewrap-done", frozen=True):
    """`stopped`: on the worker's wish, before all points were looked at."""

    written: int
    passed: int
    refused: int
    stopped: bool


class Failed(msgspec.Struct, tag="failed", frozen=True):
    code: str
    params: dict[str, Any]
    message: str


class MaySealAnswer(msgspec.Struct, tag="seal", frozen=True):
    allowed: bool


Event = Progressed | Noted | MaySeal | Heads | Written | Restored | Verified | RewrapDone | Failed
End = Written | Restored | Verified | RewrapDone | Failed
ENDS = (Written, Restored, Verified, RewrapDone, Failed)

_events: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_answers = msgspec.json.Decoder(MaySealAnswer)


def request_line(request: Request) -> bytes:
    kind = next(name for name, known in REQUESTS.items() if isinstance(request, known))
    return msgspec.json.encode({"kind": kind, "request": request}) + b"\n"


def read_request(line: bytes) -> Request:
    """Raises ValueError for what is no request; the message never repeats the line, which holds keys."""
    try:
        envelope = msgspec.json.decode(line)
        return msgspec.convert(envelope["request"], REQUESTS[envelope["kind"]])
    except (msgspec.MsgspecError, KeyError, TypeError):
        raise ValueError("The request of a session's process could not be read.") from None


def line_of(message: Event | MaySealAnswer) -> bytes:
    return msgspec.json.encode(message) + b"\n"


def read_event(line: bytes) -> Event:
    """Raises ValueError."""
    try:
        return _events.decode(line)
    except msgspec.MsgspecError:
        raise ValueError("A session's process wrote something that is no event.") from None


def read_answer(line: bytes) -> bool:
    """Return whether the file may be sealed; no line (the worker is gone) means no."""
    try:
        return _answers.decode(line).allowed
    except msgspec.MsgspecError:
        return False
