"""Where the planner's facts come from: a job as it stands (or as a form would save it), its chains, and its catalogue.

Nothing is decided here. `situation_of` reads encryption, password, repository and the number of points from the
instance that it is given, saved or not, and the rest from the database.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db.models import Count, Max, Min, Q, Sum

from jobs.consequences import ActiveSession, Consequence, ExistingChain, KeyUse, consequences
from jobs.models import Encryption, Job, JobChain, SessionKind
from jobs.planning import CurrentChain, Key, Newest, Situation
from repositories.models import Chain, Kind, RestorePoint, Slot

RECIPIENTS = ("password",)  # the slots that a job chooses; recovery keys are on every point and change nothing


def situation_of(job: Job) -> Situation:
    """Return the facts about a job; of a new one there is no chain."""
    repository = getattr(job, "repository", None)  # a form may ask before one is chosen
    chain = job.current_chain() if job.pk else None
    return Situation(
        key=wanted_key(job),
        repository=str(repository.uuid) if repository else "",
        repository_name=repository.name if repository else "",
        requires_encryption=repository is not None and repository.requires_encryption,
        keep_points=job.keep_points,
        full_requested=job.full_requested,
        new_chain_requested=job.new_chain_requested,
        had_chain=bool(job.pk) and _has_points(job),
        chain=_current(chain) if chain else None,
    )


def wanted_key(job: Job) -> Key | None:
    """Return what the next point is sealed for; None is unencrypted. A password not made yet has no record id."""
    if job.encryption == Encryption.OFF:
        return None
    if job.password is None or not job.password.pk:
        return Key("", 0, job.password.name if job.password else "")
    return Key(str(job.password.uuid), job.password.newest().number, job.password.name)


def _has_points(job: Job) -> bool:
    return RestorePoint.objects.sealed().filter(chain__job_chain__job=job).exists()


def _current(chain: Chain) -> CurrentChain | None:
    newest = chain.newest()
    if newest is None:
        return None
    points = chain.points.sealed()
    last_full = points.filter(kind=Kind.FULL).aggregate(last=Max("sequence"))["last"] or 0
    return CurrentChain(
        id=str(chain.uuid),
        repository=str(chain.repository.uuid),
        repository_name=chain.repository.name,
        encrypted=chain.encrypted,
        damage=chain.damage,
        points=points.count(),
        run_points=points.filter(sequence__gte=last_full).count(),
        newest=Newest(str(newest.uuid), newest.sequence, newest.started_at, _keys_of(newest)),
    )


def _keys_of(point: RestorePoint) -> tuple[Key, ...]:
    slots = point.slots.filter(kind__in=RECIPIENTS).select_related("password__record").order_by("pk")
    return tuple(
        Key(str(slot.record_uuid), slot.version, slot.password.record.name if slot.password else "") for slot in slots
    )


def consequences_of(job: Job) -> list[Consequence]:
    """Return what saving the job as it is now would mean."""
    if not job.pk:
        return consequences(situation_of(job), (), None)
    return consequences(situation_of(job), existing_chains(job), active_backup(job))


def active_backup(job: Job) -> ActiveSession | None:
    session = job.sessions.active().filter(kind=SessionKind.BACKUP).first()
    return ActiveSession(str(session.uuid), session.state) if session else None


def existing_chains(job: Job) -> tuple[ExistingChain, ...]:
    """Return the job's chains, oldest first, in a constant number of queries."""
    links = list(job.job_chains.select_related("chain__repository").order_by("chain__created_at", "chain__pk"))
    sums = _sums(links)
    keys = _key_uses(links)
    return tuple(_existing(link, sums.get(link.chain_id, {}), keys.get(link.chain_id, ())) for link in links)


def _existing(link: JobChain, sums: dict[str, Any], keys: tuple[KeyUse, ...]) -> ExistingChain:
    chain = link.chain
    increments = sums.get("increments", 0)
    first: datetime | None = sums.get("first")
    return ExistingChain(
        id=str(chain.uuid),
        state=link.state,
        encrypted=chain.encrypted,
        repository_name=chain.repository.name,
        points=sums.get("points", 0),
        size_bytes=sums.get("stored", 0),
        first=first,
        last=sums.get("last"),
        newest_full_bytes=sums.get("newest_full_bytes", 0),
        average_incremental_bytes=round((sums.get("increments_bytes") or 0) / increments) if increments else 0,
        keys=keys,
        damage=chain.damage,
        delete_after_full=link.delete_after_full,
    )


def _sums(links: list[JobChain]) -> dict[int, dict[str, Any]]:
    points = RestorePoint.objects.sealed().filter(chain__in=[link.chain_id for link in links]).order_by()
    is_increment = Q(kind=Kind.INCREMENTAL)
    rows = points.values("chain").annotate(
        points=Count("pk"),
        stored=Sum("size_bytes"),
        first=Min("started_at"),
        last=Max("started_at"),
        increments=Count("pk", filter=is_increment),
        increments_bytes=Sum("size_bytes", filter=is_increment),
    )
    found: dict[int, dict[str, Any]] = {row["chain"]: dict(row) for row in rows}
    fulls = points.filter(kind=Kind.FULL).order_by("chain", "-sequence").distinct("chain")
    for chain, size_bytes in fulls.values_list("chain", "size_bytes"):
        found[chain]["newest_full_bytes"] = size_bytes
    return found


def _key_uses(links: list[JobChain]) -> dict[int, tuple[KeyUse, ...]]:
    slots = Slot.objects.filter(
        point__in=RestorePoint.objects.sealed().filter(chain__in=[link.chain_id for link in links]),
        kind__in=RECIPIENTS,
    )
    rows = slots.values_list("point__chain", "record_uuid", "version", "password__record__name")
    found: dict[int, tuple[KeyUse, ...]] = {}
    for chain, record, version, name, points in rows.annotate(points=Count("point")).order_by("version", "record_uuid"):
        found[chain] = (*found.get(chain, ()), KeyUse(Key(str(record), version, name or ""), points))
    return found
