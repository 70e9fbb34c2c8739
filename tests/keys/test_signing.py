"""The console's signing key: made once, sealed, and never shown."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keys.crypto_sealed import CannotOpenSealed
from keys.models import SigningKey
from keys.sealing import ensure_ring
from keys.signing import private_bytes, public_bytes

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _instance_keys() -> None:
    ensure_ring()


def test_it_is_made_once_and_fits_its_public_half() -> None:
    assert public_bytes() is None
    private = private_bytes()
    assert private_bytes() == private
    public = Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert public_bytes() == public
    assert SigningKey.objects.count() == 1


def test_the_row_does_not_hold_it() -> None:
    private = private_bytes()
    row = SigningKey.objects.get()
    assert private not in bytes(row.private_sealed)
    assert private.hex() not in repr(row) + str(row)


def test_another_public_half_in_the_row_is_noticed() -> None:
    private_bytes()
    SigningKey.objects.update(public=b"\1" * 32)
    with pytest.raises(CannotOpenSealed):
        private_bytes()
