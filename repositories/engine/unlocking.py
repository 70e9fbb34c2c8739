"""Which file key a secret gives for a file: a slot that it opens, then commitment and HMAC of the head.

Everything is hostile until the head is authenticated. How a slot is made and opened is left to keys/crypto_slots.py,
how a key is derived within the bounds for files to keys/crypto_argon2.py, and what is read with the key to reader.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from keys.crypto_argon2 import derive_kek_for_file
from keys.crypto_errors import KdfRefused, UnwrapFailed
from keys.crypto_password import MAX_DERIVATIONS_AN_ATTEMPT
from keys.crypto_slots import Slot, SlotKind, unwrap
from repositories.engine.errors import CannotUnwrap, PlainRefused, damaged, text
from repositories.engine.head import Head, authenticates


@dataclass(frozen=True, slots=True)
class Password:
    """The bytes of keys.crypto_password.password_bytes(); derived here, within the bounds for files to be opened."""

    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Kek:
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class FileKey:
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SlotSecrets:
    """The secrets that KMS and recovery slots encapsulate: `of(slot, chain id, file id)` gives that of a slot, or None
    where it has none. It is asked for what was not authenticated yet. What it raises, opening raises.
    """

    of: Callable[[Slot, UUID, UUID], bytes | None]


Secret = Password | Kek | FileKey | SlotSecrets


def unlock(path: Path, heads: list[Head], secret: Secret | None) -> tuple[Head, bytes | None]:
    """The head that authenticates, and the file key. Copies that differ are tried one after the other."""
    if secret is None:
        return _plain_head(path, heads), None
    if not any(head.encrypted for head in heads):
        raise PlainRefused(
            f"{text(path)} is not encrypted, though a key was given for it. Open it without a key only if you expect "
            "plain files here: somebody may have put it in the place of an encrypted one.",
            path=text(path),
        )
    opened = False
    keks: dict[object, bytes] = {}
    for head in heads:
        for file_key in _candidates(head, secret, keks):
            opened = True
            if authenticates(head, file_key):
                return head, file_key
    if opened and not isinstance(secret, FileKey):
        raise damaged(path, "head", "a key slot opens, but the head was changed")
    raise CannotUnwrap(
        f"The backup file {text(path)} does not open with what was given: wrong secret, or no slot for it. "
        "Use the password that its hint names, or a newer file of the chain.",
        path=text(path),
    )


def _plain_head(path: Path, heads: list[Head]) -> Head:
    for head in heads:
        if not head.encrypted and authenticates(head, None):
            return head
    if any(head.encrypted for head in heads):
        raise CannotUnwrap(f"The backup file {text(path)} is encrypted; it needs a password or a key.", path=text(path))
    raise damaged(path, "head")


def _candidates(head: Head, secret: Secret, keks: dict[object, bytes]) -> Iterator[bytes]:
    """File keys that the secret gives: itself, or what the slots hold that it opens."""
    if isinstance(secret, FileKey):
        yield secret.value
        return
    for slot in head.slots:
        opens = _slot_secret(head, slot, secret, keks)
        if opens is None:
            continue
        try:
            yield unwrap(slot, opens, chain_id=head.chain_id, file_id=head.file_id)
        except UnwrapFailed:
            continue


def _slot_secret(
    head: Head, slot: Slot, secret: Password | Kek | SlotSecrets, keks: dict[object, bytes]
) -> bytes | None:
    """What may open a slot; None where the secret is not for slots of its kind."""
    if isinstance(secret, SlotSecrets):
        return secret.of(slot, head.chain_id, head.file_id)
    if slot.kind is not SlotKind.PASSWORD:
        return None
    return secret.value if isinstance(secret, Kek) else _derived(slot, secret, keks)


def _derived(slot: Slot, secret: Password, keks: dict[object, bytes]) -> bytes | None:
    """The KEK for a slot's salt and parameters; None if they are outside the bounds, or too many were tried."""
    if slot.kdf_parameters is None:
        return None
    place = (slot.kdf_salt, slot.kdf_parameters)
    if place not in keks:
        if len(keks) >= MAX_DERIVATIONS_AN_ATTEMPT:
            return None
        try:
            keks[place] = derive_kek_for_file(secret.value, salt=slot.kdf_salt, parameters=slot.kdf_parameters)
        except KdfRefused:
            return None
    return keks[place]
