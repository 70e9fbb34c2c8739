"""The primitives against published vectors, and what they refuse."""

import pytest

from keys import crypto
from keys.crypto_errors import OpenFailed


def test_hkdf_gives_the_vectors_of_rfc_5869() -> None:
    secret = bytes.fromhex("0b" * 22)
    salt, info = bytes(range(13)), bytes(range(0xF0, 0xFA))
    expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    assert crypto.hkdf(secret, salt=salt, info=info, length=42).hex() == expected
    without = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    assert crypto.hkdf(secret, salt=b"", info=b"", length=42).hex() == without


def test_hmac_gives_the_vector_of_rfc_4231() -> None:
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert crypto.hmac_sha256(b"Jefe", b"what do ya want for nothing?").hex() == expected


def test_seal_gives_the_gcm_vector_of_its_specification() -> None:
    sealed = crypto.seal(bytes(32), bytes(16), aad=b"")
    assert sealed.hex() == "cea7403d4d606b6e074ec5d3baf39d18" + "d0d1c8a799996bf0265b98b5d48ab919"


def test_unseal_gives_back_and_refuses_everything_else() -> None:
    key, nonce = crypto.random_key(), crypto.counter_nonce(7)
    sealed = crypto.seal(key, b"value", aad=b"place", nonce=nonce)
    assert crypto.unseal(key, sealed, aad=b"place", nonce=nonce) == b"value"
    broken = bytes([sealed[0] ^ 1]) + sealed[1:]
    for case in (
        {"key": crypto.random_key(), "sealed": sealed, "aad": b"place", "nonce": nonce},
        {"key": key, "sealed": broken, "aad": b"place", "nonce": nonce},
        {"key": key, "sealed": sealed[:-1], "aad": b"place", "nonce": nonce},
        {"key": key, "sealed": b"", "aad": b"place", "nonce": nonce},
        {"key": key, "sealed": sealed, "aad": b"other", "nonce": nonce},
        {"key": key, "sealed": sealed, "aad": b"place", "nonce": crypto.counter_nonce(8)},
    ):
        with pytest.raises(OpenFailed) as caught:
            crypto.unseal(case["key"], case["sealed"], aad=case["aad"], nonce=case["nonce"])
        assert key.hex() not in str(caught.value)


def test_nonces_count() -> None:
    assert crypto.counter_nonce(0) == bytes(12)
    assert crypto.counter_nonce(258) == bytes(10) + b"\x01\x02"


def test_keys_are_fresh() -> None:
    assert len({crypto.random_key() for _ in range(100)}) == 100
    assert len(crypto.random_key()) == 32
