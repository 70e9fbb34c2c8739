"""Recipients of every kind with their private halves, for tests: a password, a KMS key, a recovery key."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from uuid import UUID, uuid4

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from keys import crypto_rsa
from keys.crypto_recipients import KmsRecipient, RecoveryRecipient
from keys.crypto_recovery import RecoveryPrivate
from keys.crypto_rsa import Oaep
from keys.crypto_slots import Slot, SlotKind
from repositories.engine.cli_keys import of_recovery_key
from repositories.engine.reader import SlotSecrets

RECOVERY_RECORD, KMS_RECORD = uuid4(), uuid4()


@functools.cache
def rsa_pair(number: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 3072)


def der(private: rsa.RSAPrivateKey) -> bytes:
    public = private.public_key()
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def kms_recipient(number: int = 1, oaep: Oaep = Oaep.SHA256) -> KmsRecipient:
    return KmsRecipient(KMS_RECORD, number, oaep, der(rsa_pair(number)), f"private-{number}", "vault in Bonn")


def recovery_private(name: str = "safe") -> RecoveryPrivate:
    return RecoveryPrivate(hashlib.sha256(name.encode()).digest())


@functools.cache
def recovery_recipient(name: str = "safe") -> RecoveryRecipient:
    record = RECOVERY_RECORD if name == "safe" else uuid4()
    return RecoveryRecipient(record, recovery_private(name).public(), name)


def by_recovery_key(name: str = "safe") -> SlotSecrets:
    return SlotSecrets(of_recovery_key(recovery_private(name)))


def by_kms(number: int = 1) -> SlotSecrets:
    """As a server with this private key opens them."""
    return SlotSecrets(_opened_by(number))


def _opened_by(number: int) -> Callable[[Slot, UUID, UUID], bytes | None]:
    def of(slot: Slot, _chain: UUID, _file: UUID) -> bytes | None:
        if slot.kind is not SlotKind.KMS or slot.oaep is None:
            return None
        return crypto_rsa.decapsulate(slot.encapsulated, rsa_pair(number), slot.oaep)

    return of
