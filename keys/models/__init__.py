"""Key records: who can open what.

What a job or a restore point does with a record is known in `jobs` and `repositories`, which refer to it and so protect
it from deletion.
"""

from keys.models.kms import KeyState, KmsKey, KmsKeyVersion, KmsServer, Outage
from keys.models.passwords import PasswordRecord, PasswordVersion, VerifyAttempt
from keys.models.recovery import CustodyChallenge, MadeBy, RecoveryKey
from keys.models.signing import SigningKey

__all__ = [
    "CustodyChallenge",
    "KeyState",
    "KmsKey",
    "KmsKeyVersion",
    "KmsServer",
    "MadeBy",
    "Outage",
    "PasswordRecord",
    "PasswordVersion",
    "RecoveryKey",
    "SigningKey",
    "VerifyAttempt",
]
