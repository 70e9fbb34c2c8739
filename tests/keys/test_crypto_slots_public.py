"""Slots of KMS and recovery keys: they open in their place only, damage is found, strangers are passed over."""

from __future__ import annotations

import functools
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from keys import crypto_rsa
from keys.crypto_errors import BadPublicKey, BadSlot, UnwrapFailed
from keys.crypto_recipients import KmsRecipient, Recipient, RecoveryRecipient
from keys.crypto_rsa import Oaep
from keys.crypto_slots import SLOT_BYTES, Slot, SlotKind, is_for, read_slots, secret_of, unwrap, wrap
from tests.engine.lab import recipient
from tests.engine.recovering import (
    kms_recipient,
    recovery_private,
    recovery_recipient,
    rsa_pair,
)

CHAIN, FILE = uuid4(), uuid4()
FILE_KEY = bytes(range(32))
KMS, RECOVERY = kms_recipient(), recovery_recipient()
BOTH = pytest.mark.parametrize("recipient_of", [KMS, RECOVERY], ids=["kms", "recovery"])


def wrapped(for_whom: Recipient, chain_id: UUID = CHAIN, file_id: UUID = FILE) -> bytes:
    return wrap(for_whom, FILE_KEY, chain_id=chain_id, file_id=file_id)


def read(raw: bytes) -> Slot:
    return read_slots(raw, 1)[0][0]


@functools.cache
def decapsulated(encapsulated: bytes, oaep: Oaep, pair: int) -> bytes:
    return crypto_rsa.decapsulate(encapsulated, rsa_pair(pair), oaep)


def opened(slot: Slot, chain_id: UUID = CHAIN, file_id: UUID = FILE, *, pair: int = 1, sheet: str = "safe") -> bytes:
    """What the holder of the private half gets. Raises UnwrapFailed, also where the slot is of a later protocol."""
    if not slot.encapsulated:
        raise UnwrapFailed("passed over")
    if slot.oaep is not None:
        secret = decapsulated(slot.encapsulated, slot.oaep, pair)
    else:
        secret = secret_of(slot, recovery_private(sheet), chain_id=chain_id, file_id=file_id)
    return unwrap(slot, secret, chain_id=chain_id, file_id=file_id)


@BOTH
def test_a_slot_opens_and_is_another_each_time(recipient_of: Recipient) -> None:
    first, second = wrapped(recipient_of), wrapped(recipient_of)
    assert len(first) == SLOT_BYTES[read(first).kind]
    assert first[24:56] != second[24:56] and first[-48:] != second[-48:]
    assert read(first).encapsulated != read(second).encapsulated
    assert opened(read(first)) == opened(read(second)) == FILE_KEY


def test_what_can_be_read_without_a_secret() -> None:
    slot = read(wrapped(KMS))
    assert (slot.kind, slot.record, slot.version) == (SlotKind.KMS, KMS.record, 1)
    assert (slot.key_id, slot.hint, slot.oaep, len(slot.encapsulated)) == (
        "private-1",
        "vault in Bonn",
        Oaep.SHA256,
        384,
    )
    slot = read(wrapped(RECOVERY))
    assert (slot.kind, slot.record, slot.version, slot.hint) == (SlotKind.RECOVERY, RECOVERY.record, 1, "safe")
    assert (slot.key_id, slot.oaep, len(slot.encapsulated)) == ("", None, 1168)


@BOTH
def test_it_opens_in_its_own_file_only(recipient_of: Recipient) -> None:
    slot = read(wrapped(recipient_of))
    for chain_id, file_id in ((uuid4(), FILE), (CHAIN, uuid4()), (FILE, CHAIN)):
        with pytest.raises(UnwrapFailed):
            opened(slot, chain_id, file_id)


def test_another_private_half_does_not_open_it() -> None:
    with pytest.raises(UnwrapFailed):
        opened(read(wrapped(KMS)), pair=2)
    with pytest.raises(UnwrapFailed):
        opened(read(wrapped(RECOVERY)), sheet="another")
    for slot in (read(wrapped(KMS)), read(wrapped(RECOVERY))):
        with pytest.raises(UnwrapFailed):
            unwrap(slot, bytes(32), chain_id=CHAIN, file_id=FILE)


@BOTH
def test_the_secret_of_one_slot_opens_no_other(recipient_of: Recipient) -> None:
    first, second = (read(wrapped(recipient_of)) for _ in range(2))
    exchanged = replace(second, encapsulated=first.encapsulated)
    with pytest.raises(UnwrapFailed):
        opened(exchanged)


@BOTH
def test_a_flipped_bit_of_every_byte_is_found(recipient_of: Recipient) -> None:
    raw = wrapped(recipient_of)
    for at in range(len(raw)):
        changed = raw[:at] + bytes([raw[at] ^ (1 << at % 8)]) + raw[at + 1 :]
        with pytest.raises((BadSlot, UnwrapFailed)):
            opened(read(changed))


CHANGES: list[tuple[Recipient, Recipient, bool]] = [
    (KMS, KMS, True),
    (KMS, replace(KMS, server="renamed"), True),
    (KMS, replace(KMS, record=uuid4()), False),
    (KMS, replace(KMS, version=2), False),
    (KMS, replace(KMS, oaep=Oaep.SHA1), False),
    (KMS, replace(KMS, key_id="another"), False),
    (KMS, replace(kms_recipient(2), version=1, key_id="private-1"), False),
    (RECOVERY, RECOVERY, True),
    (RECOVERY, replace(RECOVERY, name="renamed"), True),
    (RECOVERY, replace(RECOVERY, record=uuid4()), False),
    (RECOVERY, replace(RECOVERY, public=recovery_private("another").public()), False),
    (RECOVERY, RecoveryRecipient(RECOVERY.record, RECOVERY.public, version=2), False),
    (KMS, replace(RECOVERY, record=KMS.record), False),
    (RECOVERY, replace(recipient("password"), record=RECOVERY.record), False),
]


@pytest.mark.parametrize(("written_for", "asked_for", "same"), CHANGES)
def test_whose_slot_it_is_can_be_told(written_for: Recipient, asked_for: Recipient, same: bool) -> None:
    assert is_for(read(wrapped(written_for)), asked_for) is same


@BOTH
def test_a_later_protocol_is_passed_over(recipient_of: Recipient) -> None:
    raw = wrapped(recipient_of)
    later = raw[:56] + b"\x02" + bytes(range(200)) + raw[257:]
    slots, used = read_slots(later + raw, 2)
    assert used == 2 * len(raw) and slots[0].raw == later
    assert (slots[0].encapsulated, slots[0].hint, slots[0].fingerprint) == (b"", "", b"")
    assert opened(slots[1]) == FILE_KEY
    assert not is_for(slots[0], recipient_of)


def test_a_padding_that_is_not_known_is_passed_over() -> None:
    raw = wrapped(KMS)
    assert read(raw[:57] + b"\x09" + raw[58:]).encapsulated == b""


@pytest.mark.parametrize("broken", [replace(KMS, key_id=""), replace(KMS, key_id="x" * 186)])
def test_what_no_slot_can_hold_is_refused(broken: KmsRecipient) -> None:
    with pytest.raises(BadSlot):
        wrapped(broken)


def test_a_public_half_that_cannot_be_is_refused() -> None:
    for broken in (replace(KMS, public=b"no key"), replace(RECOVERY, public=RECOVERY.public[:-1])):
        with pytest.raises(BadPublicKey):
            wrapped(broken)


def test_long_names_are_cut_at_a_character() -> None:
    assert read(wrapped(replace(KMS, server="é" * 200))).hint == "é" * 92
    assert read(wrapped(replace(RECOVERY, name="é" * 200))).hint == "é" * 49
    slot = read(wrapped(replace(KMS, key_id="x" * 185)))
    assert slot.key_id == "x" * 185 and opened(slot) == FILE_KEY


@BOTH
def test_a_malformed_slot_is_refused(recipient_of: Recipient) -> None:
    raw = wrapped(recipient_of)
    length_of_name = 278 if recipient_of is KMS else 92
    for at, value in ((58, b"\xff\xff"), (length_of_name, b"\xff"), (length_of_name, b"\x01"), (2, b"\x00\x00")):
        with pytest.raises(BadSlot):
            read(raw[:at] + value + raw[at + len(value) :])


@BOTH
def test_no_secret_shows_in_a_repr(recipient_of: Recipient) -> None:
    slot = read(wrapped(recipient_of))
    assert repr(slot.encapsulated)[2:40] not in repr(slot) and repr(slot.raw)[2:40] not in repr(slot)
