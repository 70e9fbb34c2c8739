"""The console's signature: which key this console signs backup files with.

Whoever holds a chain's newest secret can write files that open; only this console can sign them. What is signed, and
what a reader makes of it, is decided in `repositories.engine.seal`.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.db import transaction

from keys.models import SigningKey
from keys.sealing import seal_for, unseal_for


def private_bytes() -> bytes:
    """Return the raw private key, made at the first use. Raises CannotOpenSealed when no instance key opens it."""
    row = SigningKey.objects.first() or _make()
    return unseal_for(row, "private_sealed")


def public_bytes() -> bytes | None:
    """Return the raw public key, or None before the first use."""
    row = SigningKey.objects.first()
    return bytes(row.public) if row else None


@transaction.atomic
def _make() -> SigningKey:
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    row, made = SigningKey.objects.select_for_update().get_or_create(
        only=True, defaults={"public": public, "private_sealed": b""}
    )
    if made:
        row.private_sealed = seal_for(row, "private_sealed", private.private_bytes_raw())
        row.save(update_fields=["private_sealed"])
    return row
