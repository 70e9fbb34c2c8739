"""What a rewrap is told: which points of a chain, who shall open them, and who no longer.

The order is sealed with its session: whoever has the database alone adds no recipient and takes none away. A rewrap
writes to one chain; for a record that opens points of many chains there is an order, and a session, for each, so that
no backup of another job waits. What is done with an order is decided in `jobs.rewrapping`, who may give one in the
views.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from backupsite.audit import record_for
from backupsite.models import Severity, User
from jobs.admission import admit
from jobs.models import Job, Proxy, Session, SessionKind, SessionQuerySet
from jobs.sessions import AlreadyActive
from keys.sealing import seal_for, unseal_for
from repositories.models import Chain, RestorePoint

RecordVersion = tuple[UUID, int]


@dataclass(frozen=True)
class Wanted:
    """Somebody who shall open the points; `kind` is password, kms or recovery."""

    kind: str
    record: UUID
    version: int

    @property
    def place(self) -> RecordVersion:
        return self.record, self.version


@dataclass(frozen=True)
class Order:
    """`having`: only the points with a slot of this record."""

    chain: UUID
    add: tuple[Wanted, ...]
    remove: tuple[RecordVersion, ...] = ()
    having: UUID | None = None


def points_in(order: Order) -> QuerySet[RestorePoint]:
    """Return the points that the order is about, oldest first."""
    points = RestorePoint.objects.sealed().filter(chain__uuid=order.chain)
    if order.having is not None:
        points = points.filter(slots__record_uuid=order.having).distinct()
    return points.order_by("sequence")


def start_rewrap(chain: Chain, order: Order, *, by: User | None) -> Session:
    """Insert a waiting session. Raises jobs.sessions.AlreadyActive where this chain is being rewrapped already."""
    with transaction.atomic():
        Chain.objects.select_for_update().get(pk=chain.pk)
        active = rewraps_of(chain).active().first()
        if active is not None:
            raise AlreadyActive(active)
        job = Job.objects.filter(job_chains__chain=chain).select_related("proxy").first()
        session = Session.objects.create(
            kind=SessionKind.REWRAP,
            job=job,
            job_name=chain.job_name,
            proxy=job.proxy if job else Proxy.objects.order_by("pk")[0],
            repository=chain.repository,
            requested_by=by,
            claimed_settings={"chain": str(chain.uuid), "removes": len(order.remove)},
        )
        session.order_sealed = seal_for(session, "order_sealed", _packed(order))
        session.save(update_fields=["order_sealed"])
        record_for(by, "rewrap requested", chain, after=_audited(order, session), severity=Severity.HIGH)
        transaction.on_commit(_admit, robust=True)
    return session


def rewraps_of(chain: Chain) -> SessionQuerySet:
    return Session.objects.filter(kind=SessionKind.REWRAP, claimed_settings__chain=str(chain.uuid))


def order_of(session: Session) -> Order:
    """Open the sealed order of a session. Raises keys.crypto_sealed.CannotOpenSealed."""
    order = json.loads(unseal_for(session, "order_sealed"))
    return Order(
        chain=UUID(order["chain"]),
        add=tuple(Wanted(kind, UUID(record), version) for kind, record, version in order["add"]),
        remove=tuple((UUID(record), version) for record, version in order["remove"]),
        having=UUID(order["having"]) if order["having"] else None,
    )


def _packed(order: Order) -> bytes:
    return json.dumps(
        {
            "chain": str(order.chain),
            "add": [(one.kind, str(one.record), one.version) for one in order.add],
            "remove": [(str(record), version) for record, version in order.remove],
            "having": str(order.having) if order.having else None,
        }
    ).encode()


def _audited(order: Order, session: Session) -> dict[str, object]:
    return {
        "session": str(session.uuid),
        "points": points_in(order).count(),
        "adds": [f"{one.kind} {one.record}, version {one.version}" for one in order.add],
        "takes away": [f"{record}, version {version}" for record, version in order.remove],
    }


def _admit() -> None:
    admit()
