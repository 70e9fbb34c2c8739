"""What opens a point beside its password: a recovery key's sheet, a KMS server, a secret that the KMS's own tool gave.

Each is a file, or the person at the terminal; never an argument or the environment. Passwords are in cli_passwords.py;
in which order all of these are tried is decided in cli_points.py.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import getpass
import json
import sys
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from keys import crypto_recovery, crypto_rsa
from keys.crypto import KEY_BYTES
from keys.crypto_errors import BadPublicKey, UnwrapFailed
from keys.crypto_recovery import RecoveryPrivate
from keys.crypto_sheet import GROUP_LETTERS, GROUPS, read_sheet
from keys.crypto_slots import Slot, SlotKind, secret_of
from keys.kms.connecting import connect
from keys.kms.interface import Kms, KmsAway, KmsError, KmsKeyGone, KmsMissing, KmsRefused, KmsUntrusted, ServerAddress
from repositories.engine.cli_passwords import may_ask
from repositories.engine.errors import EngineError, text
from repositories.engine.reader import SlotSecrets

MOST_BYTES_OF_A_FILE = 65_536
ASK = Path("-")
_LINES = 3
_PORT = 5696

Say = Callable[[str], None]


class KeyFileUnreadable(EngineError):
    """A file that a secret, or the way to it, was to be read from. Fields: path, reason."""

    code = "key-file-unreadable"


class KmsFailed(EngineError):
    """A KMS server that was to open a slot and did not. Fields: server, kms_code."""

    code = "kms-failed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recovery_key(parser)
    parser.add_argument(
        "--kms", metavar="FILE", type=Path, help="the KMS server that opens them: host, port, certificates (TOML, JSON)"
    )
    parser.add_argument(
        "--slot-secret-file",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="what the KMS's own tool made of a slot's encapsulated secret: 32 bytes, base64 or hex; can be repeated",
    )


def add_recovery_key(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    parser.add_argument(
        "--recovery-key",
        metavar="SHEET",
        type=Path,
        required=required,
        help="the file with a recovery key's letters or its whole sheet; - asks at the terminal",
    )


def slot_secrets(options: argparse.Namespace, say: Say) -> tuple[SlotSecrets, ...]:
    """What was given, the surest first: a server may be away. Raises KeyFileUnreadable, BadSheet."""
    found = []
    if options.recovery_key:
        found.append(SlotSecrets(of_recovery_key(private_half(options.recovery_key))))
    found += [SlotSecrets(of_secret(_secret_in(path))) for path in options.slot_secret_file]
    if options.kms:
        found.append(SlotSecrets(KmsSecrets(kms_address(options.kms), say)))
    return tuple(found)


def of_recovery_key(private: RecoveryPrivate) -> Callable[[Slot, UUID, UUID], bytes | None]:
    fingerprint = crypto_recovery.fingerprint(private.public())

    def of(slot: Slot, chain_id: UUID, file_id: UUID) -> bytes | None:
        if slot.kind is SlotKind.RECOVERY and slot.fingerprint == fingerprint:
            with suppress(UnwrapFailed):  # a slot that was changed is none that opens
                return secret_of(slot, private, chain_id=chain_id, file_id=file_id)
        return None

    return of


def of_secret(secret: bytes) -> Callable[[Slot, UUID, UUID], bytes | None]:
    """The secret of one slot; which one it is shows when it opens."""

    def of(slot: Slot, _chain_id: UUID, _file_id: UUID) -> bytes | None:
        return None if slot.kind is SlotKind.PASSWORD else secret

    return of


@dataclass(slots=True)
class KmsSecrets:
    """Lets a server open KMS slots, each with a connection of its own. One that is away is asked once."""

    address: ServerAddress
    say: Say = field(repr=False)
    failed: KmsFailed | None = None
    unknown: set[str] = field(default_factory=set)

    def __call__(self, slot: Slot, _chain_id: UUID, _file_id: UUID) -> bytes | None:
        """Raises KmsFailed. None for slots of other kinds, and for keys that this server does not know."""
        if slot.kind is not SlotKind.KMS or slot.oaep is None or slot.key_id in self.unknown:
            return None
        if self.failed is not None:
            raise self.failed
        try:
            with connect(self.address) as server:
                return self._opened(server, slot, slot.oaep)
        except KmsKeyGone as error:
            self.unknown.add(slot.key_id)
            self.say(f"warning: {error}")
            return None
        except KmsError as error:
            failed = KmsFailed(str(error), server=str(self.address), kms_code=error.code)
            if isinstance(error, KmsAway | KmsUntrusted | KmsMissing):  # it is the same for every other slot
                self.failed = failed
            raise failed from error

    def _opened(self, server: Kms, slot: Slot, oaep: crypto_rsa.Oaep) -> bytes | None:
        """Decrypted by the server; one that cannot may release the private half, which is used and dropped."""
        try:
            return server.unwrap(slot.key_id, slot.encapsulated, oaep)
        except KmsRefused as refused:
            try:
                private = server.private_key(slot.key_id)
            except KmsRefused:
                raise refused from None
        self.say(f"note: the server {self.address} did not decrypt; it gave out the private key, which was not kept.")
        with suppress(UnwrapFailed, BadPublicKey):
            return crypto_rsa.decapsulate(slot.encapsulated, crypto_rsa.private_key(private), oaep)
        return None


def private_half(path: Path) -> RecoveryPrivate:
    """The recovery key in a file, or as it is typed. Raises KeyFileUnreadable, BadSheet."""
    return read_sheet(_typed_sheet() if path == ASK else read_text(path))


def _typed_sheet() -> str:
    """The lines of a sheet, which are not shown while they are typed."""
    if not may_ask():
        raise KeyFileUnreadable(
            "There is no terminal to ask for the recovery key. Give the file with its letters to --recovery-key.",
            path=str(ASK),
            reason="no terminal",
        )
    letters = ""
    while len(letters) < GROUPS * GROUP_LETTERS:
        line = len(letters) * _LINES // (GROUPS * GROUP_LETTERS) + 1
        typed = getpass.getpass(f"Recovery key, line {line} of {_LINES} (not shown): ", stream=sys.stderr)
        letters += "".join(letter for letter in typed if letter.isalnum())
        if not typed.strip():
            break
    return letters


def _secret_in(path: Path) -> bytes:
    """32 bytes, or their base64 or hex. Raises KeyFileUnreadable."""
    raw = read_bytes(path)
    if len(raw) == KEY_BYTES:
        return raw
    letters = b"".join(raw.split())
    for decode in (binascii.unhexlify, lambda text: base64.b64decode(text, validate=True)):
        with suppress(binascii.Error, ValueError):
            secret = decode(letters)
            if len(secret) == KEY_BYTES:
                return secret
    raise _unreadable(path, f"it holds {len(raw)} bytes, and not a secret of {KEY_BYTES} bytes, raw, as base64 or hex")


def kms_address(path: Path) -> ServerAddress:
    """The server that a file describes; the certificates are in files of their own, found from where it stands.

    Raises KeyFileUnreadable.
    """
    said = _table(path)
    unknown = set(said) - {"kind", "name", "host", "port", "ca", "certificate", "key", "timeout_seconds"}
    missing = {"host", "ca", "certificate", "key"} - set(said)
    if unknown or missing:
        what = f"it lacks {', '.join(sorted(missing))}" if missing else f"{', '.join(sorted(unknown))} is not known"
        raise _unreadable(path, what)
    pem = {name: read_text(path.parent / str(said[name])) for name in ("ca", "certificate", "key")}
    try:
        return ServerAddress(
            kind=str(said.get("kind", "kmip")),
            host=str(said["host"]),
            port=int(said.get("port", _PORT)),
            ca_pem=pem["ca"],
            certificate_pem=pem["certificate"],
            private_key_pem=pem["key"],
            name=str(said.get("name", "")),
            timeout_seconds=float(said.get("timeout_seconds", 15.0)),
        )
    except (TypeError, ValueError):
        raise _unreadable(path, "port and timeout_seconds are numbers") from None


def _table(path: Path) -> dict[str, Any]:
    content = read_text(path)
    try:
        said = json.loads(content) if content.lstrip().startswith("{") else tomllib.loads(content)
    except ValueError as error:
        raise _unreadable(path, f"it is neither TOML nor JSON: {error}") from None
    if not isinstance(said, dict):
        raise _unreadable(path, "it holds no names and values")
    return said


def read_text(path: Path) -> str:
    """Raises KeyFileUnreadable."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _unreadable(path, "it is not text") from None


def read_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES_OF_A_FILE + 1)
    except OSError as error:
        raise _unreadable(path, error.strerror or "unknown") from error
    if len(content) > MOST_BYTES_OF_A_FILE:
        raise _unreadable(path, "it is too long for what it should hold")
    return content


def _unreadable(path: Path, reason: str) -> KeyFileUnreadable:
    return KeyFileUnreadable(f"{text(path)} cannot be used: {reason}. Check the name.", path=text(path), reason=reason)
