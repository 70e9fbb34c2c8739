"""The recipients of KMS keys and recovery keys: rows that this console vouches for, as the engine wraps for them.

A row that does not verify gets no slot and raises: nobody with the database alone adds a recipient.
"""

from __future__ import annotations

from keys.crypto_recipients import KmsRecipient, RecoveryRecipient
from keys.crypto_rsa import Oaep
from keys.models import KmsKeyVersion, RecoveryKey
from keys.sealing import check_vouched_row


def kms_recipient(version: KmsKeyVersion) -> KmsRecipient:
    """Raises CannotOpenSealed for a public half, or a server, that was changed outside this console."""
    server = version.key.server
    check_vouched_row(version, "proof")
    check_vouched_row(server, "proof")
    return KmsRecipient(
        record=version.key.uuid,
        version=version.number,
        oaep=Oaep(server.oaep),
        public=bytes(version.public),
        key_id=version.private_id,
        server=server.name,
    )


def recovery_recipients() -> tuple[RecoveryRecipient, ...]:
    """Return those of all active recovery keys, the oldest first. Raises CannotOpenSealed if any row was changed.

    Every row is looked at, retired ones too: one that was retired from outside would otherwise lose its slot silently.
    """
    keys = list(RecoveryKey.objects.order_by("pk"))
    for key in keys:
        check_vouched_row(key, "proof")
    return tuple(RecoveryRecipient(key.uuid, bytes(key.public), key.name) for key in keys if key.retired_at is None)
