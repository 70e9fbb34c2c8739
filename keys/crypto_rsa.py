"""RSA-OAEP: how a secret is encapsulated for a key pair whose private half a key management server holds.

The label is empty. SHA-1 is for servers that can do no better, and the console says so; KMS slots are not post-quantum.
Which of the three a server can open is found by a round trip when it is added (`keys.kms`).
"""

from __future__ import annotations

from enum import IntEnum

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from keys.crypto_errors import BadPublicKey, UnwrapFailed

LEAST_BITS = 3072
MOST_BITS = 4096


class Oaep(IntEnum):
    """The hash of the padding and of its mask, as numbered in a slot."""

    SHA256 = 1
    SHA256_MGF1_SHA1 = 2
    SHA1 = 3


_HASHES = {
    Oaep.SHA256: (hashes.SHA256, hashes.SHA256),
    Oaep.SHA256_MGF1_SHA1: (hashes.SHA256, hashes.SHA1),
    Oaep.SHA1: (hashes.SHA1, hashes.SHA1),
}


def padding_of(oaep: Oaep) -> padding.OAEP:
    main, mask = _HASHES[oaep]
    return padding.OAEP(mgf=padding.MGF1(mask()), algorithm=main(), label=None)


def encapsulate(secret: bytes, public: bytes, oaep: Oaep) -> bytes:
    """`secret` under the public half (DER SubjectPublicKeyInfo). Raises BadPublicKey."""
    return public_key(public).encrypt(secret, padding_of(oaep))


def decapsulate(encapsulated: bytes, private: rsa.RSAPrivateKey, oaep: Oaep) -> bytes:
    """The secret, with a private half that a server released. Raises UnwrapFailed."""
    try:
        return private.decrypt(encapsulated, padding_of(oaep))
    except ValueError:
        raise UnwrapFailed("The secret of a KMS slot does not open with this private key.") from None


def private_key(private: bytes) -> rsa.RSAPrivateKey:
    """A private half that a server released, DER PKCS#8. Raises BadPublicKey."""
    try:
        key = serialization.load_der_private_key(private, password=None)
    except (ValueError, TypeError):
        raise BadPublicKey("The private half of a KMS key cannot be read.") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise BadPublicKey("The private half of a KMS key is not an RSA key.")
    return key


def public_key(public: bytes) -> rsa.RSAPublicKey:
    """Raises BadPublicKey for what is no RSA key of 3,072 to 4,096 bits with a usual exponent."""
    try:
        key = serialization.load_der_public_key(public)
    except ValueError:
        raise BadPublicKey("The public half of a KMS key cannot be read.") from None
    if not isinstance(key, rsa.RSAPublicKey):
        raise BadPublicKey("The public half of a KMS key is not an RSA key.")
    if not LEAST_BITS <= key.key_size <= MOST_BITS or key.public_numbers().e != 65537:
        raise BadPublicKey(
            f"A KMS key has {LEAST_BITS} to {MOST_BITS} bits, not {key.key_size}, and the exponent 65537."
        )
    return key
