"""Where the facts about keys come from: records, servers, slots and jobs, in a constant number of queries.

Nothing is decided here but which versions of KMS keys are counted at all: those that a rule of `jobs.key_health` may
speak of, so that a dashboard which asks again every few seconds does not count every slot.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Exists, F, OuterRef, Q

from backupsite.models import User
from jobs.key_health import (
    CLOSED,
    CLOSING,
    Facts,
    KmsVersion,
    NamedJob,
    Password,
    Recovery,
    Server,
    proof_is_late,
)
from jobs.models import Encryption, Job
from keys.models import KmsKeyVersion, KmsServer, PasswordVersion, RecoveryKey
from keys.passwords import ages_before
from keys.recovery import CUSTODY_EVERY
from keys.strength import WEAK_BELOW
from repositories.models import PointState, Slot

PROOF_LATE = timedelta(hours=25)  # a KMS is polled every 24 hours, and what it opens then proves its key


def facts_for(user: User, now: datetime) -> Facts:
    """Return what there is; which of it is shown to whom is decided in the template."""
    jobs: dict[str, list[NamedJob]] = {kind: [] for kind in Encryption.values}
    for name, uuid, kind in Job.objects.visible_to(user).values_list("name", "uuid", "encryption"):
        jobs[kind].append(NamedJob(name, str(uuid)))
    return Facts(
        ages_before=ages_before(now),
        proofs_before=now - PROOF_LATE,
        held_before=now - CUSTODY_EVERY,
        weak_below=WEAK_BELOW,
        passwords=_passwords(),
        servers=tuple(
            Server(s.name, str(s.uuid), s.problem, s.answered_at)
            for s in KmsServer.objects.only("name", "uuid", "problem", "answered_at")
        ),
        versions=_versions(now - PROOF_LATE),
        recovery=tuple(Recovery(k.name, str(k.uuid), k.created_at, k.proven_at) for k in RecoveryKey.objects.active()),
        kms_jobs=tuple(jobs[Encryption.KMS]),
        password_jobs=tuple(jobs[Encryption.PASSWORD]),
        plain_jobs=tuple(jobs[Encryption.OFF]),
    )


def _passwords() -> tuple[Password, ...]:
    """Of a password that was declared lost there is nothing more to say, until it is changed."""
    versions = PasswordVersion.objects.order_by("record_id", "-number").distinct("record_id")
    lost = Q(record__lost_at__gte=F("created_at"))
    newest = PasswordVersion.objects.filter(pk__in=versions.values("pk")).exclude(lost)
    rows = newest.values_list("record__name", "record__uuid", "created_at", "strength")
    found = [Password(name, str(uuid), set_at, strength) for name, uuid, set_at, strength in rows]
    return tuple(sorted(found, key=lambda password: password.name))


def _versions(proofs_before: datetime) -> tuple[KmsVersion, ...]:
    rows = KmsKeyVersion.objects.defer("public", "proof").select_related("key__server").order_by("key", "number")
    counted = [row for row in rows if row.state in (*CLOSED, *CLOSING) or proof_is_late(row.proven_at, proofs_before)]
    sums = _sums([row.pk for row in counted])
    return tuple(_version(row, sums.get(row.pk, {})) for row in counted)


def _version(row: KmsKeyVersion, sums: dict[str, Any]) -> KmsVersion:
    return KmsVersion(
        name=str(row),
        server_id=str(row.key.server.uuid),
        state=row.state,
        state_since=row.state_since,
        proven_at=row.proven_at,
        points=sums.get("points", 0),
        only=sums.get("only", 0),
        unproven=sums.get("unproven", 0),
    )


def _sums(versions: list[int]) -> dict[int, dict[str, Any]]:
    """Count the points of each version: all, those that no other record opens, and those newer than its proof."""
    another = Slot.objects.filter(point=OuterRef("point")).exclude(record_uuid=OuterRef("record_uuid"))
    slots = Slot.objects.filter(kms__in=versions, point__state=PointState.SEALED).annotate(alone=~Exists(another))
    unproven = Q(kms__proven_at=None) | Q(point__sealed_at__gt=F("kms__proven_at"))
    rows = slots.values("kms").annotate(
        points=Count("pk"), only=Count("pk", filter=Q(alone=True)), unproven=Count("pk", filter=unproven)
    )
    return {row["kms"]: dict(row) for row in rows}
