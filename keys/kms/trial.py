"""What a server can really do, found with a pair that is made for it and destroyed: which padding it opens.

KMIP's messages cannot name every detail of a padding, and a server's documentation may be wrong; only a round trip
tells.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from keys.crypto import random_key
from keys.crypto_errors import UnwrapFailed
from keys.crypto_rsa import Oaep, decapsulate, encapsulate
from keys.kms.interface import KeyPair, Kms, KmsError, KmsGarbage, KmsRefused


@dataclass(frozen=True, slots=True)
class Found:
    """`releases_private_keys`: it cannot decrypt, so the private half must be read. `left_over`: the id of the pair
    that was made to try, where it could not be destroyed.
    """

    oaep: Oaep
    releases_private_keys: bool
    left_over: str = ""


def try_out(kms: Kms, name: str, bits: int) -> Found:
    """Make a pair, wrap with each padding from the best to the worst, let the server decrypt; else read the private
    half. Raises KmsError, KmsRefused where nothing of it works.
    """
    pair = kms.create_key_pair(name, bits)
    try:
        oaep, releases = _best(kms, pair)
    finally:
        left_over = "" if _destroyed(kms, pair) else pair.private_id
    return Found(oaep, releases, left_over)


def open_secret(kms: Kms, private_id: str, encapsulated: bytes, oaep: Oaep, *, releases_private_keys: bool) -> bytes:
    """Return the secret: by the server, or with the private half where that is all it offers. Raises KmsError."""
    if not releases_private_keys:
        return kms.unwrap(private_id, encapsulated, oaep)
    private = serialization.load_der_private_key(kms.private_key(private_id), password=None)
    assert isinstance(private, rsa.RSAPrivateKey), "a module of keys.kms gives no other"
    try:
        return decapsulate(encapsulated, private, oaep)
    except UnwrapFailed as error:
        raise KmsRefused(str(error)) from None


def prove(kms: Kms, pair: KeyPair, oaep: Oaep, *, releases_private_keys: bool) -> None:
    """Raise KmsError unless the server opens what is sealed for the public half."""
    if not _goes_round(kms, pair, oaep, releases_private_keys=releases_private_keys):
        raise KmsGarbage(f"The key {pair.private_id} opened something else than what was sealed for its public half.")


def _goes_round(kms: Kms, pair: KeyPair, oaep: Oaep, *, releases_private_keys: bool) -> bool:
    """Tell whether what is sealed for the public half comes back: some servers answer a wrong padding with noise."""
    secret = random_key()
    sealed = encapsulate(secret, pair.public, oaep)
    opened = open_secret(kms, pair.private_id, sealed, oaep, releases_private_keys=releases_private_keys)
    return hmac.compare_digest(opened, secret)


def _best(kms: Kms, pair: KeyPair) -> tuple[Oaep, bool]:
    for oaep in Oaep:  # numbered from the best to the worst
        if _opens(kms, pair, oaep, releases_private_keys=False):
            return oaep, False
    if _opens(kms, pair, Oaep.SHA256, releases_private_keys=True):
        return Oaep.SHA256, True
    raise KmsRefused(
        "The server makes key pairs, but neither decrypts with a private key (RSA-OAEP) nor gives it out: nothing that "
        "is sealed for it could ever be opened. Give this client the right to decrypt."
    )


def _opens(kms: Kms, pair: KeyPair, oaep: Oaep, *, releases_private_keys: bool) -> bool:
    try:
        return _goes_round(kms, pair, oaep, releases_private_keys=releases_private_keys)
    except KmsRefused:
        return False


def _destroyed(kms: Kms, pair: KeyPair) -> bool:
    try:
        kms.destroy(pair)
    except KmsError:
        return False
    return True
