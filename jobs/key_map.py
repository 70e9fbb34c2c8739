"""The map: which points each secret opens, by a slot of their own and through the keyring of a newer point, and which
points nothing else opens.

A keyring holds the keys of everything before its point, so a secret opens every point of a chain up to the newest one
that has a slot for it. If that newest point is lost, only slots count: the two are therefore counted apart. What the
console itself still opens, from the file keys that it keeps, is told separately: that ends with the console.

As opening count passwords that were not declared lost, KMS keys that are not destroyed or declared lost, and recovery
keys in use; slots without a record here, and those of retired recovery keys, whose sheets may be gone, do not count.

All of it is aggregated in the database, in a number of queries that grows with nothing. No file is opened, and no name
of a file is known here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Count, Max, Min, Sum
from django.db.models.expressions import RawSQL

from jobs.secret_names import RECORDS, name_of, stranger, versioned
from keys.models import KmsKeyVersion, PasswordRecord, PasswordVersion, RecoveryKey
from keys.models.kms import CLOSED_FOR_GOOD
from keys.passwords import is_lost
from repositories.models import PointState, RestorePoint, RestorePointQuerySet, Slot


@dataclass(frozen=True)
class Secret:
    """One version of a key record. `owner` is the id in the address of its page: of a KMS key that of its server."""

    kind: str  # password, kms, recovery
    record: UUID
    version: int
    name: str
    owner: UUID | None = None  # none: a stranger's
    state: str = ""  # why it may not open any more: lost, destroyed, retired ...


@dataclass(frozen=True)
class Span:
    """Some points: how many, how large, from when to when."""

    points: int = 0
    size_bytes: int = 0
    first: datetime | None = None
    last: datetime | None = None

    def __add__(self, other: Span) -> Span:
        firsts = [at for at in (self.first, other.first) if at]
        lasts = [at for at in (self.last, other.last) if at]
        return Span(
            self.points + other.points,
            self.size_bytes + other.size_bytes,
            min(firsts, default=None),
            max(lasts, default=None),
        )


@dataclass(frozen=True)
class Use:
    """One secret on one chain: the points with a slot of it (`newest` is the last), and all that it opens."""

    kind: str
    record: UUID
    version: int
    hint: str
    chain: int
    own: Span
    opens: Span
    newest: int

    @property
    def place(self) -> tuple[UUID, int]:
        return self.record, self.version

    @property
    def through_keyring(self) -> int:
        return self.opens.points - self.own.points


@dataclass(frozen=True)
class Lost:
    """What is supposed to be gone: every version of these records, or one version."""

    records: tuple[UUID, ...]
    version: int | None = None


POINTS, SLOTS = RestorePoint._meta.db_table, Slot._meta.db_table

_USES = f"""
    WITH own AS (
        SELECT p.chain_id, s.kind, s.record_uuid, s.version, max(s.hint) AS hint, count(*) AS points,
               sum(p.size_bytes) AS bytes, min(p.started_at) AS first, max(p.started_at) AS last,
               max(p.sequence) AS newest
        FROM {SLOTS} s JOIN {POINTS} p ON p.id = s.point_id
        WHERE p.state = %(sealed)s AND (%(records)s::uuid[] IS NULL OR s.record_uuid = ANY(%(records)s::uuid[]))
        GROUP BY p.chain_id, s.kind, s.record_uuid, s.version
    )
    SELECT own.kind, own.record_uuid, own.version, own.hint, own.chain_id,
           own.points, own.bytes::bigint, own.first, own.last,
           opened.points, opened.bytes::bigint, opened.first, opened.last, own.newest
    FROM own CROSS JOIN LATERAL (
        SELECT count(*) AS points, sum(p.size_bytes) AS bytes, min(p.started_at) AS first, max(p.started_at) AS last
        FROM {POINTS} p WHERE p.chain_id = own.chain_id AND p.sequence <= own.newest AND p.state = %(sealed)s
    ) opened
    ORDER BY own.kind, own.record_uuid, own.version, own.chain_id
"""  # noqa: S608 - names of tables; values are parameters

# Up to which point of each chain something opens: what is lost, what else opens, and what the console keeps a key of.
_BOUNDS = f"""
    WITH bound AS (
        SELECT p.chain_id,
               max(p.sequence) FILTER (WHERE lost.it) AS lost_to,
               max(p.sequence) FILTER (WHERE NOT lost.it AND (
                   (pr.id IS NOT NULL AND (pr.lost_at IS NULL OR pv.created_at > pr.lost_at))
                   OR (kv.id IS NOT NULL AND NOT kv.state = ANY(%s))
                   OR (rk.id IS NOT NULL AND rk.retired_at IS NULL))) AS open_to
        FROM {SLOTS} s JOIN {POINTS} p ON p.id = s.point_id
            LEFT JOIN {PasswordVersion._meta.db_table} pv ON pv.id = s.password_id
            LEFT JOIN {PasswordRecord._meta.db_table} pr ON pr.id = pv.record_id
            LEFT JOIN {KmsKeyVersion._meta.db_table} kv ON kv.id = s.kms_id
            LEFT JOIN {RecoveryKey._meta.db_table} rk ON rk.id = s.recovery_id
            CROSS JOIN LATERAL (
                SELECT s.record_uuid = ANY(%s::uuid[]) AND (%s::int IS NULL OR s.version = %s) AS it) lost
        WHERE p.state = %s GROUP BY p.chain_id
    ), cached AS (
        SELECT chain_id, max(sequence) AS cached_to FROM {POINTS}
        WHERE state = %s AND file_key_sealed IS NOT NULL GROUP BY chain_id
    )
    SELECT p.id FROM {POINTS} p JOIN bound ON bound.chain_id = p.chain_id
        LEFT JOIN cached ON cached.chain_id = p.chain_id
    WHERE p.state = %s AND p.sequence <= bound.lost_to AND p.sequence > COALESCE(bound.open_to, 0)
        AND (p.sequence <= COALESCE(cached.cached_to, 0)) = %s
"""  # noqa: S608


def uses(records: Iterable[UUID] | None = None) -> list[Use]:
    """Return one row for each secret and chain, of these records or of all."""
    wanted = None if records is None else list(records)
    with connection.cursor() as cursor:
        cursor.execute(_USES, {"sealed": PointState.SEALED.value, "records": wanted})
        return [_use(*row) for row in cursor.fetchall()]


def only_opened_by(lost: Lost, *, console: bool) -> RestorePointQuerySet:
    """Return the points that nothing else opens: with `console` those that the console's own key still opens, without
    it those that stay closed for good. Together they are all; no point is in both.
    """
    sealed = PointState.SEALED.value
    closed_states = [state.value for state in CLOSED_FOR_GOOD]
    parameters = (closed_states, list(lost.records), lost.version, lost.version, sealed, sealed, sealed, console)
    return RestorePoint.objects.sealed().filter(pk__in=RawSQL(_BOUNDS, parameters))  # noqa: S611 - parameters only


def span_of(points: RestorePointQuerySet) -> Span:
    found = points.order_by().aggregate(
        points=Count("pk"), size=Sum("size_bytes"), first=Min("started_at"), last=Max("started_at")
    )
    return Span(found["points"], found["size"] or 0, found["first"], found["last"])


def secrets(found: Iterable[Use]) -> dict[tuple[UUID, int], Secret]:
    """Return the names of what is used, by record and version: three queries, whatever their number."""
    by_place = {use.place: use for use in found}
    known = named({record for record, _ in by_place})
    return {place: known.get(place) or _stranger(use) for place, use in by_place.items()}


def named(records: set[UUID]) -> dict[tuple[UUID, int], Secret]:
    """Return every version of these records by record and version; a stranger's is not there."""
    found = (*_passwords(records), *_kms_keys(records), *_recovery(records))
    return {(secret.record, secret.version): secret for secret in found}


def secrets_of(point: RestorePoint) -> tuple[list[Slot], list[Slot]]:
    """Return the slots of a point, and one of each further secret that opens it through a newer point's keyring."""
    own = list(point.slots.select_related(*RECORDS).order_by("kind", "pk"))
    places = {(slot.record_uuid, slot.version) for slot in own}
    later = Slot.objects.filter(
        point__chain=point.chain_id, point__state=PointState.SEALED, point__sequence__gt=point.sequence
    )
    newest = later.order_by("record_uuid", "version", "-point__sequence").distinct("record_uuid", "version")
    through = [s for s in newest.select_related("point", *RECORDS) if (s.record_uuid, s.version) not in places]
    return own, sorted(through, key=lambda slot: (slot.kind, name_of(slot)))


def _use(*row: Any) -> Use:  # noqa: ANN401 - columns as the database gives them
    kind, record, version, hint, chain = row[:5]
    return Use(kind, record, version, hint, chain, Span(*row[5:9]), Span(*row[9:13]), row[13])


def _passwords(records: set[UUID]) -> Iterable[Secret]:
    rows = PasswordVersion.objects.filter(record__uuid__in=records).select_related("record")
    for row in rows.only("number", "created_at", "record__uuid", "record__name", "record__lost_at"):
        record = row.record
        state = "declared lost" if is_lost(row) else ""
        name = versioned(record.name, row.number)
        yield Secret("password", record.uuid, row.number, name, record.uuid, state)


def _kms_keys(records: set[UUID]) -> Iterable[Secret]:
    for row in KmsKeyVersion.objects.filter(key__uuid__in=records).select_related("key__server"):
        key = row.key
        name = versioned(f"{key.server.name} / {key.owner_name}", row.number)
        state = "" if row.state == "active" else row.get_state_display()
        yield Secret("kms", key.uuid, row.number, name, key.server.uuid, state)


def _recovery(records: set[UUID]) -> Iterable[Secret]:
    for key in RecoveryKey.objects.filter(uuid__in=records).only("uuid", "name", "retired_at"):
        state = "retired" if key.retired_at else ""
        yield Secret("recovery", key.uuid, 1, key.name, key.uuid, state)


def _stranger(use: Use) -> Secret:
    name = stranger(use.kind, str(use.record), use.version, use.hint)
    return Secret(use.kind, use.record, use.version, name, state="no record here")
