"""Who a backup file is wrapped for: one of these for each key slot. What a slot is made of is crypto_slots.py's.

Nothing here opens a file but the KEK of a password; of a KMS key and of a recovery key there is the public half only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from keys.crypto_password import KdfParameters
from keys.crypto_rsa import Oaep


@dataclass(frozen=True, slots=True)
class PasswordRecipient:
    """A password version that a file is to be opened with. The password itself is not here."""

    record: UUID
    version: int
    salt: bytes
    parameters: KdfParameters
    kek: bytes = field(repr=False)
    hint: str = ""


@dataclass(frozen=True, slots=True)
class KmsRecipient:
    """A key pair of a key management server: `public` is its DER SubjectPublicKeyInfo, `key_id` what the server calls
    the private half, `server` the name that a person knows it by.
    """

    record: UUID
    version: int
    oaep: Oaep
    public: bytes
    key_id: str
    server: str = ""


@dataclass(frozen=True, slots=True)
class RecoveryRecipient:
    """The raw public half (1,216 bytes) of a recovery key. It has one version: another pair is another key."""

    record: UUID
    public: bytes
    name: str = ""
    version: int = 1


Recipient = PasswordRecipient | KmsRecipient | RecoveryRecipient
