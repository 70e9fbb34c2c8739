"""A slot opens for its recipient, in its own file, and for nobody and nowhere else."""

from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from keys import crypto
from keys.crypto_errors import BadSlot, KdfRefused, UnwrapFailed
from keys.crypto_password import KdfParameters
from keys.crypto_recipients import PasswordRecipient
from keys.crypto_slots import SLOT_BYTES, Slot, SlotKind, read_slots, unwrap, wrap

CHAIN, FILE, RECORD = UUID(int=1), UUID(int=2), UUID(int=3)
KEK, FILE_KEY = bytes(range(32)), bytes(range(32, 64))
RECIPIENT = PasswordRecipient(RECORD, 4, b"s" * 16, KdfParameters(), KEK, "my first dog’s name")


def wrapped(recipient: PasswordRecipient = RECIPIENT) -> bytes:
    return wrap(recipient, FILE_KEY, chain_id=CHAIN, file_id=FILE)


def read(raw: bytes) -> Slot:
    return read_slots(raw, 1)[0][0]


def test_a_slot_says_who_opens_it_and_opens() -> None:
    slot = read(wrapped())
    assert (slot.kind, slot.record, slot.version, slot.hint) == (SlotKind.PASSWORD, RECORD, 4, "my first dog’s name")
    assert (slot.kdf_salt, slot.kdf_parameters) == (b"s" * 16, KdfParameters())
    assert unwrap(slot, KEK, chain_id=CHAIN, file_id=FILE) == FILE_KEY


def test_a_slot_opens_nowhere_else() -> None:
    slot = read(wrapped())
    for kek, chain, file in ((bytes(32), CHAIN, FILE), (KEK, uuid4(), FILE), (KEK, CHAIN, uuid4())):
        with pytest.raises(UnwrapFailed) as caught:
            unwrap(slot, kek, chain_id=chain, file_id=file)
        assert FILE_KEY.hex() not in str(caught.value)


def test_every_byte_of_a_slot_counts() -> None:
    raw = wrapped()
    for position in range(len(raw)):
        broken = raw[:position] + bytes([raw[position] ^ 0x10]) + raw[position + 1 :]
        with pytest.raises((BadSlot, UnwrapFailed)):
            unwrap(read(broken), KEK, chain_id=CHAIN, file_id=FILE)


def test_two_wrappings_have_nothing_in_common() -> None:
    one, two = wrapped(), wrapped()
    assert one[24:56] != two[24:56] and one[-48:] != two[-48:]
    assert one[:24] == two[:24] and one[56:-48] == two[56:-48]


def test_the_layout_is_as_documented() -> None:
    raw = wrapped()
    assert len(raw) == SLOT_BYTES[SlotKind.PASSWORD] == 304
    assert raw[0:4] == b"\x01\x00" + (304).to_bytes(2, "little")
    assert raw[4:20] == RECORD.bytes and raw[20:24] == (4).to_bytes(4, "little")
    assert raw[56:64] == bytes([1, 1]) + (3).to_bytes(2, "little") + (65536).to_bytes(4, "little")
    key = crypto.hkdf(
        KEK, salt=raw[24:56], info=b"\x01" + RECORD.bytes + (4).to_bytes(4, "little") + CHAIN.bytes + FILE.bytes
    )
    assert crypto.unseal(key, raw[-48:], aad=raw[:-48]) == FILE_KEY


def test_long_hints_are_cut_at_a_character() -> None:
    assert read(wrapped(replace(RECIPIENT, hint="é" * 200))).hint == "é" * 87
    assert read(wrapped(replace(RECIPIENT, hint=""))).hint == ""


def test_parameters_outside_the_bounds_are_not_written() -> None:
    with pytest.raises(KdfRefused):
        wrapped(replace(RECIPIENT, parameters=KdfParameters(memory_kib=1024)))


def test_slots_of_kinds_that_come_later_have_their_place() -> None:
    later = [
        bytes([kind, 0]) + SLOT_BYTES[kind].to_bytes(2, "little") + bytes(SLOT_BYTES[kind] - 4)
        for kind in (SlotKind.KMS, SlotKind.RECOVERY)
    ]
    slots, used = read_slots(later[0] + wrapped() + later[1] + b"rest", 3)
    assert [slot.kind for slot in slots] == [SlotKind.KMS, SlotKind.PASSWORD, SlotKind.RECOVERY]
    assert used == 1024 + 304 + 1408


def test_malformed_slots_are_refused() -> None:
    raw = wrapped()
    for broken in (
        b"",
        raw[:55],
        raw[:-1],
        b"\x09" + raw[1:],
        raw[:1] + b"\x01" + raw[2:],
        raw[:2] + b"\xff\xff" + raw[4:],
        raw[:56] + b"\x02" + raw[57:],
        raw[:80] + b"\xff" + raw[81:],
    ):
        with pytest.raises(BadSlot):
            read(broken)


def test_no_key_shows_in_a_repr() -> None:
    shown = repr(RECIPIENT) + repr(read(wrapped()))
    assert repr(KEK)[2:-1] not in shown and KEK.hex() not in shown
