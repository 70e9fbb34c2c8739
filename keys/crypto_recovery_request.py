"""A recovery request: the console asks the holder of a recovery key to open the secrets of slots, and gets an answer
that only it can read.

For a lost password, or a KMS that is gone. The request is public; it says which console asks, for which job, chain and
points, and until when an answer is wanted, and the console's signature covers all of it. Whose signature is to be
trusted, the holder decides, who sees its key. The answer is sealed to a key that is made for this request, bound to
the request as it was read; it has the secrets that the slots encapsulate, never a file key.

    request   version, 1 | MessagePack of _Request | Ed25519 signature (64) of both
    answer    version, 1 | HPKE (crypto_recovery.py) of MessagePack of [[file id, record, version, secret], ...],
              purpose ANSWER, bound = SHA-256 of the request

Their texts are crypto_armor.py's. Which slots are asked for is decided in `repositories.recovery_requests`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, TypeVar
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from keys import crypto, crypto_recovery
from keys.crypto_armor import armor, unarmor
from keys.crypto_errors import BadText, ForgedRequest, NotForThisKey, OpenFailed, RequestExpired, UnwrapFailed
from keys.crypto_recovery import RecoveryPrivate
from keys.crypto_slots import Slot, SlotKind, secret_of

REQUEST_NAME = "BACKUPSITE RECOVERY REQUEST"
ANSWER_NAME = "BACKUPSITE RECOVERY ANSWER"
MOST_SLOTS = 32  # of all files together, so that the text stays short enough to be carried
MOST_CHARACTERS = 65_536
_VERSION = b"\x01"
_SIGNATURE_BYTES = 64
_SIGNED = b"backupsite recovery request 1|"
_ENCAPSULATED_BYTES = crypto_recovery.ENCAPSULATED_BYTES + crypto.KEY_BYTES + crypto_recovery.TAG_BYTES

_Id = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
_Key = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
_Name = Annotated[str, msgspec.Meta(max_length=400)]
_Seconds = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_T = TypeVar("_T")


class AskedSlot(msgspec.Struct, array_like=True, frozen=True):
    """A slot of a recovery key, without what it wraps: the secret that it encapsulates is asked for."""

    record: _Id
    version: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
    fingerprint: _Key
    name: _Name
    encapsulated: Annotated[bytes, msgspec.Meta(min_length=_ENCAPSULATED_BYTES, max_length=_ENCAPSULATED_BYTES)]

    def __repr__(self) -> str:
        return f"AskedSlot({self.name})"


class AskedFile(msgspec.Struct, array_like=True, frozen=True):
    """A restore point whose slots are asked for; `at_seconds` is when it was taken or, unknown, written."""

    file_id: _Id
    sequence: _Count
    at_seconds: _Seconds
    size_bytes: _Count
    slots: Annotated[list[AskedSlot], msgspec.Meta(min_length=1, max_length=MOST_SLOTS)]


class _Request(msgspec.Struct, array_like=True, frozen=True):
    console: _Key
    request: _Id
    one_time: Annotated[
        bytes, msgspec.Meta(min_length=crypto_recovery.PUBLIC_BYTES, max_length=crypto_recovery.PUBLIC_BYTES)
    ]
    made_at: _Seconds
    expires_at: _Seconds
    asked_by: _Name
    place: _Name
    job_name: _Name
    chain: _Id
    points: _Count
    first_at: _Seconds
    files: Annotated[list[AskedFile], msgspec.Meta(min_length=1, max_length=MOST_SLOTS)]


@dataclass(frozen=True, slots=True)
class Request:
    """A request as its holder sees it. `points` is how many points of the chain open with the answer, the earliest of
    `first_at` (seconds since 1970); `job_name` is empty where the console does not know it. `raw` is all that is
    signed.
    """

    console: bytes
    request: UUID
    one_time: bytes = field(repr=False)
    made_at: int
    expires_at: int
    asked_by: str
    place: str
    job_name: str
    chain: UUID
    points: int
    first_at: int
    files: tuple[AskedFile, ...]
    raw: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class SlotSecret:
    """What a slot of a file encapsulates."""

    file_id: UUID
    record: UUID
    version: int
    secret: bytes = field(repr=False)


def request_text(wanted: Request, signer: Ed25519PrivateKey) -> str:
    """The text for the holder; the console's key is the signer's. Raises BadText for what a request cannot hold."""
    packed = _Request(
        console=signer.public_key().public_bytes_raw(),
        request=wanted.request.bytes,
        one_time=wanted.one_time,
        made_at=wanted.made_at,
        expires_at=wanted.expires_at,
        asked_by=wanted.asked_by,
        place=wanted.place,
        job_name=wanted.job_name,
        chain=wanted.chain.bytes,
        points=wanted.points,
        first_at=wanted.first_at,
        files=list(wanted.files),
    )
    body = _VERSION + msgspec.msgpack.encode(packed)
    _decode(body[1:], _Request, "request")
    return armor(REQUEST_NAME, body + signer.sign(_SIGNED + body))


def read_request(text: str) -> Request:
    """Raises BadText for what is no request, ForgedRequest for one that was changed."""
    raw = unarmor(REQUEST_NAME, text, MOST_CHARACTERS)
    body, signature = raw[:-_SIGNATURE_BYTES], raw[-_SIGNATURE_BYTES:]
    packed = _decode(_of_this_version(body, "request"), _Request, "request")
    try:
        Ed25519PublicKey.from_public_bytes(packed.console).verify(signature, _SIGNED + body)
    except InvalidSignature:
        raise ForgedRequest(
            "This recovery request was not made by the console that it names, or it was changed. Do not answer it."
        ) from None
    return Request(
        console=packed.console,
        request=UUID(bytes=packed.request),
        one_time=packed.one_time,
        made_at=packed.made_at,
        expires_at=packed.expires_at,
        asked_by=packed.asked_by,
        place=packed.place,
        job_name=packed.job_name,
        chain=UUID(bytes=packed.chain),
        points=packed.points,
        first_at=packed.first_at,
        files=tuple(packed.files),
        raw=body,
    )


def check_current(request: Request, now: datetime) -> None:
    """Raises RequestExpired."""
    if now.timestamp() >= request.expires_at:
        raise RequestExpired("This recovery request has expired. Ask the console for a new one.")


@dataclass(frozen=True, slots=True)
class Answer:
    """The text for the console, the files whose secrets it has, and those of which nothing was sealed for this key."""

    text: str
    files: tuple[AskedFile, ...]
    refused: tuple[AskedFile, ...]


def answer(request: Request, private: RecoveryPrivate) -> Answer:
    """Open what was sealed for this key as a slot of just that file, and nothing else.

    Raises NotForThisKey if that is nothing.
    """
    mine = crypto_recovery.fingerprint(private.public())
    meant = [(file, slot) for file in request.files for slot in file.slots if slot.fingerprint == mine]
    if not meant:
        names = ", ".join(sorted({slot.name for file in request.files for slot in file.slots}))
        raise NotForThisKey(f"This request is for other recovery keys ({names}). Take the sheet of one of them.")
    opened = [(file, slot, _secret(request, file, slot, private)) for file, slot in meant]
    secrets = [(file.file_id, slot.record, slot.version, secret) for file, slot, secret in opened if secret is not None]
    if not secrets:
        raise NotForThisKey(
            "Nothing in this request was sealed for this key and for the points that it names. Nothing is answered; "
            "tell the administrators of the console."
        )
    sealed = crypto_recovery.seal_to(
        request.one_time, msgspec.msgpack.encode(secrets), purpose=crypto_recovery.ANSWER, bound=_bound(request.raw)
    )
    answered = {file for file, *_ in secrets}
    files = tuple(file for file in request.files if file.file_id in answered)
    refused = tuple(file for file, *_ in meant if file.file_id not in answered)
    return Answer(armor(ANSWER_NAME, _VERSION + sealed), files, refused)


def read_answer(text: str, request: Request, one_time: RecoveryPrivate) -> tuple[SlotSecret, ...]:
    """Raises BadText for what is no answer, OpenFailed for one to another request, or changed."""
    sealed = _of_this_version(unarmor(ANSWER_NAME, text, MOST_CHARACTERS), "answer")
    try:
        packed = crypto_recovery.open_sealed(
            one_time, sealed, purpose=crypto_recovery.ANSWER, bound=_bound(request.raw)
        )
    except OpenFailed:
        raise OpenFailed("This is the answer to another request, or it was changed. Nothing was opened.") from None
    opened = _decode(packed, list[tuple[_Id, _Id, int, _Key]], "answer")
    return tuple(
        SlotSecret(UUID(bytes=file), UUID(bytes=record), version, key) for file, record, version, key in opened
    )


def _secret(request: Request, file: AskedFile, asked: AskedSlot, private: RecoveryPrivate) -> bytes | None:
    """What a slot of that file encapsulates; None for what is none, as a file that somebody put there may have."""
    slot = Slot(
        kind=SlotKind.RECOVERY,
        record=UUID(bytes=asked.record),
        version=asked.version,
        raw=b"",
        hint=asked.name,
        fingerprint=asked.fingerprint,
        encapsulated=asked.encapsulated,
    )
    try:
        return secret_of(slot, private, chain_id=request.chain, file_id=UUID(bytes=file.file_id))
    except UnwrapFailed:
        return None


def _of_this_version(raw: bytes, what: str) -> bytes:
    if not raw.startswith(_VERSION):
        raise BadText(f"This recovery {what} is of another version. Use the release of the program that made it.")
    return raw[len(_VERSION) :]


def _bound(request: bytes) -> bytes:
    return hashlib.sha256(request).digest()


def _decode(raw: bytes, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.msgpack.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadText(f"This recovery {what} cannot be read. Copy it once more.") from None
