"""Making, changing and re-typing passwords: the use cases over the records.

The bytes of a password and the derivation are decided in `keys.crypto_password`.
"""

from __future__ import annotations

import hmac
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from backupsite.models import User
from keys.crypto_password import KdfParameters, derive_kek, new_salt, password_bytes
from keys.models import PasswordRecord, PasswordVersion, VerifyAttempt
from keys.sealing import seal_for, unseal_for
from keys.strength import estimate

WRONG_IN_A_MINUTE = 15
BLOCKED_FOR = timedelta(minutes=5)


class TooManyAttempts(Exception):
    """15 wrong passwords within a minute: the record is blocked for 5 minutes."""


@transaction.atomic
def create_record(name: str, hint: str, password: str, by: User | None) -> PasswordRecord:
    record = PasswordRecord.objects.create(name=name, hint=hint, created_by=by)
    add_version(record, password, by)
    return record


@transaction.atomic
def add_version(record: PasswordRecord, password: str, by: User | None) -> PasswordVersion:
    """Add the next version of a record; earlier ones stay for the points that need them."""
    PasswordRecord.objects.select_for_update().get(pk=record.pk)
    last = record.versions.order_by("-number").first()
    salt, costs = new_salt(), KdfParameters()
    version = PasswordVersion(
        record=record,
        number=last.number + 1 if last else 1,
        salt=salt,
        memory_kib=costs.memory_kib,
        iterations=costs.iterations,
        lanes=costs.lanes,
        kek_sealed=b"",
        created_by=by,
        strength=estimate(password, known_words(record.name, record.hint, by)).score if password else None,
    )
    version.save()
    kek = derive_kek(password_bytes(password), salt=salt, parameters=costs)
    version.kek_sealed = seal_for(version, "kek_sealed", kek)
    version.save(update_fields=["kek_sealed"])
    return version


def known_words(name: str, hint: str, by: User | None) -> tuple[str, ...]:
    """Return what makes a password easy to guess when it stands in it."""
    return (name, hint, by.username if by else "")


def kek_of(version: PasswordVersion) -> bytes:
    """Return the key encryption key. Raises CannotOpenSealed, also when salt or costs were changed from outside."""
    return unseal_for(version, "kek_sealed")


def verify(record: PasswordRecord, password: str) -> bool:
    """Tell whether the typed password is the newest version's. Raises TooManyAttempts without deriving."""
    now = timezone.now()
    with transaction.atomic():
        PasswordRecord.objects.select_for_update().get(pk=record.pk)
        if _is_blocked(record, now):
            raise TooManyAttempts
        attempt = VerifyAttempt.objects.create(record=record)  # counted first: parallel guesses don't slip through
    version = record.newest()
    typed = derive_kek(password_bytes(password), salt=bytes(version.salt), parameters=costs_of(version))
    if not hmac.compare_digest(typed, kek_of(version)):
        return False
    attempt.delete()
    return True


def costs_of(version: PasswordVersion) -> KdfParameters:
    return KdfParameters(memory_kib=version.memory_kib, iterations=version.iterations, lanes=version.lanes)


def ages_before(now: datetime) -> datetime:
    """Return when a version must have been made to be old now."""
    return now - timedelta(days=settings.BACKUPSITE.password_age_days)


def _is_blocked(record: PasswordRecord, now: datetime) -> bool:
    """Blocked while the newest attempts show 15 within one minute, the last of them less than 5 minutes ago."""
    times = list(record.attempts.order_by("-at").values_list("at", flat=True)[:WRONG_IN_A_MINUTE])
    if len(times) < WRONG_IN_A_MINUTE:
        return False
    return times[0] - times[-1] <= timedelta(minutes=1) and now - times[0] < BLOCKED_FOR
