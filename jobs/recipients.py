"""Whom the next point of a job is sealed for: its password or KMS key, and every active recovery key.

It fails closed: a row that the console does not vouch for, a key out of reach (CannotOpenSealed), a KMS whose outage
policy forbids it or strict custody without a way back (KmsError) raises, and nothing is written. What a change of these
means for the chain is decided in `jobs.planning`.
"""

from __future__ import annotations

from django.utils import timezone

from jobs.custody import has_a_way_back
from jobs.models import Encryption, Job
from jobs.protocol import Recipients
from keys.crypto_recipients import PasswordRecipient
from keys.kms_servers import WrapRefused, check_may_wrap
from keys.models import KmsServer, PasswordRecord, PasswordVersion
from keys.passwords import PasswordLost, costs_of, is_lost, kek_of
from keys.public_recipients import kms_recipient, recovery_recipients


def recipients_of(job: Job) -> Recipients:
    """Return whom a file of the job is wrapped for; nobody where it is not to be encrypted.

    Raises CannotOpenSealed, KmsError, PasswordLost.
    """
    if job.encryption == Encryption.OFF:
        return Recipients()
    recovery = recovery_recipients()
    if job.kms_key is not None:
        version = job.kms_key.newest()
        recipient = kms_recipient(version)
        _check_way_back(job, version.key.server)
        check_may_wrap(version, timezone.now())
        return Recipients(kms=(recipient,), recovery=recovery)
    assert job.password is not None, "an encrypted job has a password or a KMS key"
    if is_lost(job.password.newest()):
        raise PasswordLost(
            f"The password {job.password.name} was declared lost: nothing is sealed for it. Choose another for "
            f"{job.name}, or change this one."
        )
    return Recipients(passwords=(password_recipient(job.password),), recovery=recovery)


def _check_way_back(job: Job, server: KmsServer) -> None:
    """The last recovery key may have been retired, or the outage policy changed, since the job was saved."""
    if job.strict_custody and not has_a_way_back(server):
        raise WrapRefused(
            f"{job.name} is under strict custody, and nothing but “{server.name}” would open its next point: add a "
            "recovery key, or let sessions fail while the server does not answer (its outage policy)."
        )


def password_recipient(record: PasswordRecord) -> PasswordRecipient:
    """Return the newest version of a password as a recipient. Raises CannotOpenSealed."""
    return password_version_recipient(record.newest())


def password_version_recipient(version: PasswordVersion) -> PasswordRecipient:
    """Raises CannotOpenSealed."""
    record = version.record
    return PasswordRecipient(
        record=record.uuid,
        version=version.number,
        salt=bytes(version.salt),
        parameters=costs_of(version),
        kek=kek_of(version),
        hint=record.hint,
    )
