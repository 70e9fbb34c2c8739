"""Recovery requests and their answers: who may read what, and that nothing changed passes."""

from __future__ import annotations

import base64
import os
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys import crypto_recovery
from keys.crypto_armor import armor, unarmor
from keys.crypto_custody import new_challenge
from keys.crypto_errors import BadText, CryptoError, ForgedRequest, NotForThisKey, OpenFailed, RequestExpired
from keys.crypto_recipients import RecoveryRecipient
from keys.crypto_recovery import RecoveryPrivate, new_private
from keys.crypto_recovery_request import (
    ANSWER_NAME,
    REQUEST_NAME,
    AskedFile,
    AskedSlot,
    Request,
    answer,
    check_current,
    read_answer,
    read_request,
    request_text,
)
from keys.crypto_slots import Slot, read_slots, unwrap, wrap

SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
CHAIN, FILE = uuid4(), uuid4()
FILE_KEY = os.urandom(32)
HOLDER, STRANGER, ONE_TIME = new_private(), new_private(), new_private()


def slot_of(private: RecoveryPrivate, name: str = "safe", file: UUID = FILE) -> Slot:
    recipient = RecoveryRecipient(uuid4(), private.public(), name)
    return read_slots(wrap(recipient, FILE_KEY, chain_id=CHAIN, file_id=file), 1)[0][0]


SLOT = slot_of(HOLDER)


def asked(slot: Slot, file: UUID = FILE) -> AskedFile:
    one = AskedSlot(slot.record.bytes, slot.version, slot.fingerprint, slot.hint, slot.encapsulated)
    return AskedFile(file.bytes, 7, 1_790_000_000, 1234, [one])


def wanted(*files: AskedFile) -> Request:
    return Request(
        console=b"",
        request=uuid4(),
        one_time=ONE_TIME.public(),
        made_at=1_790_000_000,
        expires_at=1_790_600_000,
        asked_by="alice",
        place="Vault (/srv/vault)",
        job_name="Ledger",
        chain=CHAIN,
        points=7,
        first_at=1_780_000_000,
        files=files or (asked(SLOT),),
    )


def test_the_round() -> None:
    text = request_text(wanted(), SIGNER)
    request = read_request(text)
    assert (request.console, request.job_name, request.points) == (SIGNER.public_key().public_bytes_raw(), "Ledger", 7)
    answered = answer(request, HOLDER)
    assert ([file.sequence for file in answered.files], answered.refused) == ([7], ())
    (secret,) = read_answer(answered.text, read_request(text), ONE_TIME)
    assert (secret.file_id, secret.record, secret.version) == (FILE, SLOT.record, SLOT.version)
    assert unwrap(SLOT, secret.secret, chain_id=CHAIN, file_id=FILE) == FILE_KEY
    assert repr(secret.secret) not in repr(secret)


def test_an_answer_holds_neither_file_key_nor_secret_in_the_open() -> None:
    request = read_request(request_text(wanted(), SIGNER))
    raw = unarmor(ANSWER_NAME, answer(request, HOLDER).text)
    secret = read_answer(armor(ANSWER_NAME, raw), request, ONE_TIME)[0].secret
    assert FILE_KEY not in raw and secret not in raw


def test_a_request_that_was_changed_anywhere_is_not_answered() -> None:
    raw = unarmor(REQUEST_NAME, request_text(wanted(), SIGNER))
    for place in range(0, len(raw), 97):
        forged = bytearray(raw)
        forged[place] ^= 1
        with pytest.raises((ForgedRequest, BadText)):
            read_request(armor(REQUEST_NAME, bytes(forged)))
    with pytest.raises(ForgedRequest, match="Do not answer"):
        read_request(armor(REQUEST_NAME, raw[:-1] + bytes([raw[-1] ^ 1])))
    for length in (0, 1, 64, 65, len(raw) - 1):
        with pytest.raises((ForgedRequest, BadText)):
            read_request(armor(REQUEST_NAME, raw[:length]))


def test_it_expires() -> None:
    request = wanted()
    check_current(request, datetime.fromtimestamp(request.expires_at - 1, UTC))
    with pytest.raises(RequestExpired, match="new one"):
        check_current(request, datetime.fromtimestamp(request.expires_at, UTC))


def test_another_recovery_key_has_no_answer() -> None:
    request = read_request(request_text(wanted(), SIGNER))
    with pytest.raises(NotForThisKey, match=r"other recovery keys \(safe\)"):
        answer(request, STRANGER)


def test_what_is_no_slot_of_that_point_is_not_opened() -> None:
    """A challenge of custody, or another file's slot, called a slot by a console that is not to be trusted."""
    challenge = unarmor("BACKUPSITE CUSTODY CHALLENGE", new_challenge(HOLDER.public(), SIGNER, 1)[0])
    disguised = replace(SLOT, encapsulated=challenge[89 : 89 + len(SLOT.encapsulated)])
    for file in (asked(disguised), asked(SLOT, uuid4()), asked(slot_of(HOLDER, file=uuid4()))):
        with pytest.raises(NotForThisKey, match="Nothing in this request was sealed for this key"):
            answer(read_request(request_text(wanted(file), SIGNER)), HOLDER)
    planted = read_request(request_text(wanted(asked(disguised, uuid4()), asked(SLOT)), SIGNER))
    answered = answer(planted, HOLDER)  # a planted file keeps nobody from the others
    assert (answered.files, answered.refused) == (planted.files[1:], planted.files[:1])
    assert len(read_answer(answered.text, planted, ONE_TIME)) == 1


def test_an_answer_is_for_its_request_only() -> None:
    first, second = (read_request(request_text(wanted(), SIGNER)) for _ in range(2))
    text = answer(first, HOLDER).text
    with pytest.raises(OpenFailed, match="another request"):
        read_answer(text, second, ONE_TIME)
    with pytest.raises(OpenFailed):
        read_answer(text, first, new_private())
    raw = unarmor(ANSWER_NAME, text)
    for place in (1, 500, 1130, len(raw) - 1):
        with pytest.raises((OpenFailed, BadText)):
            read_answer(armor(ANSWER_NAME, raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]), first, ONE_TIME)


def test_the_secret_of_a_slot_is_no_answer() -> None:
    """HPKE's info differs: what was sealed for one purpose does not open as another."""
    request = read_request(request_text(wanted(), SIGNER))
    as_slot = crypto_recovery.seal_to(ONE_TIME.public(), b"\x90", purpose=crypto_recovery.SLOT, bound=b"")
    with pytest.raises(OpenFailed):
        read_answer(armor(ANSWER_NAME, b"\x01" + as_slot), request, ONE_TIME)


@pytest.mark.parametrize("text", ["", "hello", "-----BEGIN BACKUPSITE RECOVERY REQUEST-----", "ä" * 70_000, "\ud800"])
def test_what_is_no_text_of_ours(text: str) -> None:
    with pytest.raises(BadText):
        read_request(text)
    with pytest.raises(CryptoError):
        read_answer(text, wanted(), ONE_TIME)


def test_later_versions_are_named() -> None:
    with pytest.raises(BadText, match="another version"):
        read_request(armor(REQUEST_NAME, b"\x02" + bytes(200)))


def test_a_request_for_many_keys_is_short_enough_to_be_read() -> None:
    slots = [AskedSlot(SLOT.record.bytes, 1, SLOT.fingerprint, "n" * 99, SLOT.encapsulated) for _ in range(32)]
    text = request_text(wanted(AskedFile(FILE.bytes, 1, 0, 0, slots)), SIGNER)
    assert len(text) < 65_536 and len(read_request(text).files[0].slots) == 32
    assert base64.b64encode(FILE_KEY).decode() not in text
