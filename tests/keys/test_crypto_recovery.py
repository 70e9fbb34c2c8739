"""Recovery keys: what is sealed opens with its key, for its purpose, in its place, and in no other way."""

from __future__ import annotations

from itertools import permutations

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from keys.crypto_armor import armor
from keys.crypto_errors import BadPublicKey, BadText, OpenFailed
from keys.crypto_recovery import (
    ANSWER,
    CUSTODY,
    PUBLIC_BYTES,
    PUBLIC_NAME,
    SLOT,
    RecoveryPrivate,
    check_public,
    fingerprint,
    fingerprint_text,
    new_private,
    open_sealed,
    public_text,
    read_public,
    seal_to,
)

KEY, OTHER = RecoveryPrivate(bytes(range(32))), RecoveryPrivate(bytes(32))
PURPOSES = (SLOT, CUSTODY, ANSWER)
PLACE = b"a place"


def test_the_pair_of_a_seed_stays_the_same() -> None:
    """Frozen: a sheet printed today gives the same public half in ten years."""
    public = KEY.public()
    assert len(public) == PUBLIC_BYTES
    assert fingerprint(public).hex() == "c9a3565ffde4f72b51661be391ee13e46378d7f06dd5c8bf5af9d2cfb5b8336b"
    assert fingerprint_text(public) == " ".join(fingerprint(public).hex()[at : at + 4] for at in range(0, 64, 4))
    assert new_private().public() != new_private().public()


@pytest.mark.parametrize("purpose", PURPOSES)
def test_what_is_sealed_opens(purpose: bytes) -> None:
    first, second = (seal_to(KEY.public(), b"secret", purpose=purpose, bound=PLACE) for _ in range(2))
    assert first != second
    assert {open_sealed(KEY, sealed, purpose=purpose, bound=PLACE) for sealed in (first, second)} == {b"secret"}


@pytest.mark.parametrize(("sealed_for", "opened_as"), list(permutations(PURPOSES, 2)))
def test_what_is_sealed_for_one_purpose_opens_for_no_other(sealed_for: bytes, opened_as: bytes) -> None:
    sealed = seal_to(KEY.public(), b"secret", purpose=sealed_for, bound=PLACE)
    with pytest.raises(OpenFailed):
        open_sealed(KEY, sealed, purpose=opened_as, bound=PLACE)


def test_another_key_place_or_length_opens_nothing() -> None:
    sealed = seal_to(KEY.public(), b"secret", purpose=SLOT, bound=PLACE)
    attempts = [(OTHER, sealed, PLACE), (KEY, sealed, b"another"), (KEY, sealed[:-1], PLACE), (KEY, b"", PLACE)]
    for private, given, place in attempts:
        with pytest.raises(OpenFailed):
            open_sealed(private, given, purpose=SLOT, bound=place)


def test_a_public_half_that_cannot_be_is_refused() -> None:
    public, another_kind = KEY.public(), X25519PrivateKey.generate().public_key().public_bytes_raw()
    for broken in (b"", public[:-1], public + b"\0", b"\xff" * PUBLIC_BYTES, another_kind):
        with pytest.raises(BadPublicKey):
            check_public(broken)
        with pytest.raises(BadPublicKey):
            seal_to(broken, b"secret", purpose=SLOT, bound=PLACE)
    with pytest.raises(BadPublicKey):
        RecoveryPrivate(bytes(31)).public()


def test_the_public_half_as_text() -> None:
    text = public_text(KEY.public())
    assert text.startswith("-----BEGIN BACKUPSITE RECOVERY KEY PUBLIC HALF-----\n")
    letters = "".join(text.splitlines()[1:-1])
    for given in (
        text,
        f"Hello,\n> {text}\nBye",
        text.replace("\n", "\r\n"),
        letters,
        f"  {letters[:9]} \n{letters[9:]}",
    ):
        assert read_public(given) == KEY.public()


def test_a_public_half_that_lost_a_letter_is_not_taken_for_another_key() -> None:
    text = public_text(KEY.public())
    lines = text.splitlines()
    changed = [text.replace(lines[4], lines[4].swapcase()), "\n".join(lines[:3] + lines[4:]), text[:400], "", "no key"]
    changed += [armor(PUBLIC_NAME, KEY.public()).replace("PUBLIC HALF", "SOMETHING"), "A" * 20_000, "é"]
    for given in changed:
        with pytest.raises(BadText):
            read_public(given)
    with pytest.raises(BadPublicKey):
        read_public(armor(PUBLIC_NAME, b"\xff" * PUBLIC_BYTES))


def test_no_seed_shows_in_a_repr() -> None:
    assert repr(KEY) == "RecoveryPrivate()"
