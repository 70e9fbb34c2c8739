"""Making, changing and re-typing passwords: the use cases over the records.

The bytes of a password and the derivation are decided in `keys.crypto_password`.
"""

from __future__ import annotations

import hmac
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction

from backupsite.models import User
from keys import attempts
from keys.crypto_password import KdfParameters, derive_kek, new_salt, password_bytes
from keys.models import PasswordRecord, PasswordVersion
from keys.sealing import seal_for, unseal_for
from keys.strength import estimate


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


class CannotKeep(Exception):
    """A typed password does not become a record; str() says why."""


@transaction.atomic
def keep_version(
    uuid: UUID,
    number: int,
    *,
    name: str,
    hint: str,
    salt: bytes,
    costs: KdfParameters,
    kek: bytes,
    by: User | None,
) -> PasswordVersion:
    """Make a record with one version of a password that backup files know by this id; their salt and costs derive it.

    Raises CannotKeep for an id or a name that is taken, and for a derivation cheaper than ours: later points are sealed
    with it.
    """
    usual = KdfParameters()
    if costs.memory_kib < usual.memory_kib or costs.iterations < usual.iterations:
        cost = f"{costs.memory_kib // 1024} MiB, {costs.iterations} pass{'' if costs.iterations == 1 else 'es'}"
        raise CannotKeep(f"its derivation ({cost}) is cheaper than this console's.")
    if PasswordRecord.objects.filter(uuid=uuid).exists():
        raise CannotKeep("this console has the record, without this version of it.")
    if PasswordRecord.objects.filter(name__iexact=name).exists():
        raise CannotKeep(f"another password is called {name}.")
    record = PasswordRecord.objects.create(uuid=uuid, name=name, hint=hint, created_by=by)
    version = PasswordVersion(record=record, number=number, salt=salt, kek_sealed=b"", created_by=by)
    version.memory_kib, version.iterations, version.lanes = costs.memory_kib, costs.iterations, costs.lanes
    version.save()
    version.kek_sealed = seal_for(version, "kek_sealed", kek)
    version.save(update_fields=["kek_sealed"])
    return version


def kek_of(version: PasswordVersion) -> bytes:
    """Return the key encryption key. Raises CannotOpenSealed, also when salt or costs were changed from outside."""
    return unseal_for(version, "kek_sealed")


def verify(record: PasswordRecord, password: str) -> bool:
    """Tell whether the typed password is the newest version's. Raises attempts.TooManyAttempts without deriving."""
    return first_right([record.newest()], password) is not None


def first_right(versions: list[PasswordVersion], password: str) -> PasswordVersion | None:
    """Return the first of these versions whose password was typed; it is one attempt on each of their records.

    Raises attempts.TooManyAttempts without deriving.
    """
    begun = [attempts.begin(uuid) for uuid in sorted({version.record.uuid for version in versions})]
    for version in versions:
        typed = derive_kek(password_bytes(password), salt=bytes(version.salt), parameters=costs_of(version))
        if hmac.compare_digest(typed, kek_of(version)):
            for attempt in begun:
                attempt.delete()
            return version
    return None


class PasswordLost(Exception):
    """The password was declared lost: nothing is sealed for what nobody knows."""


def is_lost(version: PasswordVersion) -> bool:
    """Tell whether an administrator declared the password lost since: a version that came later is known again."""
    lost_at = version.record.lost_at
    return lost_at is not None and version.created_at <= lost_at


def costs_of(version: PasswordVersion) -> KdfParameters:
    return KdfParameters(memory_kib=version.memory_kib, iterations=version.iterations, lanes=version.lanes)


def ages_before(now: datetime) -> datetime:
    """Return when a version must have been made to be old now."""
    return now - timedelta(days=settings.BACKUPSITE.password_age_days)
