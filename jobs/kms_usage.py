"""Which restore points have a slot for a pair of a key management server: what is at stake when the pair is gone.

Counted are slots. That a newer point's keyring opens older ones too, and what each key opens altogether, is the key
map's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Exists, Max, Min, OuterRef, Q

from backupsite.models import User
from jobs.models import Job
from keys.models import KmsKey, KmsKeyVersion, KmsServer
from repositories.models import RestorePoint, Slot

NAMED = 5  # jobs in a sentence


@dataclass(frozen=True)
class Stake:
    """`otherwise`: how many of the points have a slot for something else as well, a recovery key for instance;
    `unproven`: how many were sealed after the pair last opened something.
    """

    points: int
    otherwise: int
    jobs: tuple[str, ...]
    first: datetime | None
    last: datetime | None
    unproven: int = 0

    @property
    def words(self) -> str:
        if not self.points or self.first is None or self.last is None:
            return "No restore point depends on it."
        points = f"{self.points} restore point{'s' if self.points > 1 else ''}"
        jobs = ", ".join(self.jobs[:NAMED]) + (" and others" if len(self.jobs) > NAMED else "")
        span = f"{self.first:%Y-%m-%d} to {self.last:%Y-%m-%d}"
        return f"{points} of {jobs}, {span}; {self.otherwise or 'none'} of them with another key slot too."

    def facts(self) -> dict[str, object]:
        """Return it as plain JSON values, for the audit."""
        return {
            "points": self.points,
            "with_another_slot": self.otherwise,
            "jobs": list(self.jobs),
            "first": self.first.isoformat() if self.first else None,
            "last": self.last.isoformat() if self.last else None,
        }


def stake_of(version: KmsKeyVersion) -> Stake:
    points = RestorePoint.objects.sealed().filter(slots__kms=version)
    found = points.aggregate(number=Count("pk"), first=Min("started_at"), last=Max("started_at"))
    other_slot = Slot.objects.filter(point=OuterRef("pk")).exclude(kms=version)
    jobs = points.order_by().values_list("chain__job_name", flat=True).distinct()
    proven = points.filter(sealed_at__lte=version.proven_at).count() if version.proven_at else 0
    return Stake(
        points=found["number"],
        otherwise=points.filter(Exists(other_slot)).count(),
        jobs=tuple(sorted(jobs)),
        first=found["first"],
        last=found["last"],
        unproven=found["number"] - proven,
    )


def jobs_that_use(key: KmsKey, user: User) -> list[Job]:
    return list(Job.objects.visible_to(user).filter(kms_key=key))


def keys_in_use(server: KmsServer) -> list[KmsKey]:
    """Return the keys that a job seals with or a point opens with, each with `job_count` and `point_count`."""
    keys = KmsKey.objects.filter(server=server).annotate(
        job_count=Count("jobs", distinct=True), point_count=Count("versions__slots__point", distinct=True)
    )
    return list(keys.filter(Q(job_count__gt=0) | Q(point_count__gt=0)).order_by("owner_name"))
