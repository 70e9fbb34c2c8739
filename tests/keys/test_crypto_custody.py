"""Custody: only the holder answers, only challenges are opened, and what was opened never leaves."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys import crypto_recovery
from keys.crypto_armor import armor, unarmor
from keys.crypto_custody import NAME, answer_text, new_challenge, prove, read_answer, read_challenge
from keys.crypto_errors import BadText, CryptoError, NotForThisKey
from keys.crypto_recipients import RecoveryRecipient
from keys.crypto_recovery import RecoveryPrivate, seal_to
from keys.crypto_slots import read_slots, wrap
from tests.engine.recovering import RECOVERY_RECORD

KEY, OTHER = RecoveryPrivate(bytes(range(32))), RecoveryPrivate(bytes(32))
CONSOLE, ANOTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
AT = 1_790_000_000
FACTS, SIGNED = 89, 89 + 1168


def challenge(public: bytes = KEY.public(), console: Ed25519PrivateKey = CONSOLE) -> tuple[str, bytes]:
    return new_challenge(public, console, AT)


def forged(body: bytes, console: Ed25519PrivateKey = CONSOLE) -> str:
    """As somebody makes it who has a console's key: everything is signed."""
    return armor(NAME, body + console.sign(body))


def test_the_holder_answers() -> None:
    text, expected = challenge()
    read = read_challenge(text)
    assert (read.console, read.at_seconds) == (CONSOLE.public_key().public_bytes_raw(), AT)
    assert prove(read, KEY) == expected == read_answer(answer_text(expected))
    assert challenge()[1] != expected


def test_another_key_does_not() -> None:
    with pytest.raises(NotForThisKey):
        prove(read_challenge(challenge()[0]), OTHER)
    body = unarmor(NAME, challenge(OTHER.public())[0])[:SIGNED]
    mine = body[:1] + crypto_recovery.fingerprint(KEY.public()) + body[33:]
    with pytest.raises(NotForThisKey):
        prove(read_challenge(forged(mine)), KEY)


def test_the_answer_is_a_hash_bound_to_console_date_and_nonce() -> None:
    text, expected = challenge()
    raw = unarmor(NAME, text)
    facts = raw[:FACTS]
    token = crypto_recovery.open_sealed(KEY, raw[FACTS:SIGNED], purpose=crypto_recovery.CUSTODY, bound=facts)
    assert hashlib.sha256(b"backupsite custody answer 1|" + token + facts).digest()[:20] == expected
    assert token not in expected + text.encode()
    for at in (1, 33, 65, 73):  # the key's fingerprint, the console, the date, the nonce
        changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 : SIGNED]
        with pytest.raises(CryptoError):
            prove(read_challenge(forged(changed)), KEY)


def test_the_secret_of_a_slot_and_a_recovery_answer_are_not_opened_as_challenges() -> None:
    """Not by this tool: who has a signing key may call anything a challenge."""
    facts = unarmor(NAME, challenge()[0])[:FACTS]
    recipient = RecoveryRecipient(RECOVERY_RECORD, KEY.public())
    slot = read_slots(wrap(recipient, bytes(32), chain_id=RECOVERY_RECORD, file_id=RECOVERY_RECORD), 1)[0][0]
    secret = bytes(range(32))
    answer = seal_to(KEY.public(), secret, purpose=crypto_recovery.ANSWER, bound=facts)
    as_slot = seal_to(KEY.public(), secret, purpose=crypto_recovery.SLOT, bound=facts)
    for sealed in (slot.encapsulated, answer, as_slot):
        with pytest.raises(NotForThisKey, match="not sealed as a challenge"):
            prove(read_challenge(forged(facts + sealed)), KEY)
    good = seal_to(KEY.public(), secret, purpose=crypto_recovery.CUSTODY, bound=facts)
    assert prove(read_challenge(forged(facts + good)), KEY), "the forgery itself is well made"


def test_only_the_console_that_is_named_makes_it() -> None:
    body = unarmor(NAME, challenge()[0])[:SIGNED]
    with pytest.raises(BadText, match="not made by the console"):
        read_challenge(forged(body, ANOTHER))


def test_every_flipped_bit_is_found() -> None:
    raw = unarmor(NAME, challenge()[0])
    for at in range(len(raw)):
        with pytest.raises(BadText):
            read_challenge(armor(NAME, raw[:at] + bytes([raw[at] ^ (1 << at % 8)]) + raw[at + 1 :]))


def test_what_is_no_challenge_is_refused() -> None:
    raw = unarmor(NAME, challenge()[0])
    body = raw[:SIGNED]
    others = ["", "text", armor("ANYTHING", raw), armor(NAME, raw[:-1]), armor(NAME, b""), forged(b"\2" + body[1:])]
    for text in [*others, forged(body + b"\0"), challenge()[0][:900]]:
        with pytest.raises(BadText):
            read_challenge(text)


def test_answers_are_read_as_people_type_them() -> None:
    answer = base64.b32decode("OIB7" * 8)
    assert answer_text(answer) == " ".join(["OIB7"] * 8)
    for typed in ("oib7" * 8, "0187-" * 8, f" {answer_text(answer)}\n"):
        assert read_answer(typed) == answer
    for typed in ("", "OIB7" * 7, "OIB7" * 9, "OIB9" * 8, "é" * 32):
        with pytest.raises(BadText):
            read_answer(typed)


def test_nothing_of_it_shows_in_a_repr() -> None:
    read = read_challenge(challenge()[0])
    assert repr(read.sealed)[2:40] not in repr(read)
