"""Encapsulating for a KMS key: each padding is its own, and only keys that are strong enough are wrapped for."""

from __future__ import annotations

from itertools import product

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from keys.crypto_errors import BadPublicKey, UnwrapFailed
from keys.crypto_rsa import Oaep, decapsulate, encapsulate, private_key, public_key
from tests.engine.recovering import der, rsa_pair

SECRET = bytes(range(32))


def pkcs8(private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    nothing = serialization.NoEncryption()
    return private.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, nothing)


@pytest.mark.parametrize(("sealed_with", "opened_with"), list(product(Oaep, Oaep)))
def test_a_padding_opens_with_itself_only(sealed_with: Oaep, opened_with: Oaep) -> None:
    sealed = encapsulate(SECRET, der(rsa_pair(1)), sealed_with)
    assert len(sealed) == 384
    if sealed_with is opened_with:
        assert decapsulate(sealed, rsa_pair(1), opened_with) == SECRET
    else:
        with pytest.raises(UnwrapFailed):
            decapsulate(sealed, rsa_pair(1), opened_with)


def test_another_key_and_damage_open_nothing() -> None:
    sealed = encapsulate(SECRET, der(rsa_pair(1)), Oaep.SHA256)
    for given, private in (
        (sealed, rsa_pair(2)),
        (sealed[:-1], rsa_pair(1)),
        (b"", rsa_pair(1)),
        (bytes(384), rsa_pair(1)),
    ):
        with pytest.raises(UnwrapFailed):
            decapsulate(given, private, Oaep.SHA256)


def test_weak_and_foreign_keys_are_refused() -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    spki = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    small, odd = (
        rsa.generate_private_key(65537, 2048),
        rsa.RSAPublicNumbers(3, rsa_pair(1).public_key().public_numbers().n),
    )
    for public in (
        b"",
        b"no key",
        der(small),
        curve.public_key().public_bytes(*spki),
        odd.public_key().public_bytes(*spki),
    ):
        with pytest.raises(BadPublicKey):
            encapsulate(SECRET, public, Oaep.SHA256)
    assert public_key(der(rsa_pair(1))).key_size == 3072
    assert private_key(pkcs8(rsa_pair(1))).private_numbers() == rsa_pair(1).private_numbers()
    for private in (b"", b"no key", pkcs8(curve)):
        with pytest.raises(BadPublicKey):
            private_key(private)
