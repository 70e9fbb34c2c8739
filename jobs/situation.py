"""Where the planner's facts come from: a job as it stands (or as a form would save it), its chains, and its catalogue.

A key is gone for good when its server destroyed the pair, or when an administrator declared it lost; that the console
may still have a file key in its cache changes nothing: it would be the only one that opens what follows. A server that
does not answer, or a key that is disabled, is out of reach, which is never a reason for a full.

Nothing is decided here. `situation_of` reads encryption, password, repository and the number of points from the
instance that it is given, saved or not, and the rest from the database.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db.models import Count, Max, Min, Q, Sum

from jobs.consequences import ActiveSession, Consequence, ExistingChain, KeyUse, consequences
from jobs.models import Encryption, Job, JobChain, SessionKind
from jobs.planning import CurrentChain, Custody, Key, Newest, Situation
from keys.models import RecoveryKey
from keys.models.kms import CLOSED_FOR_GOOD
from keys.passwords import is_lost
from repositories.models import Chain, Kind, RestorePoint, Slot

RECIPIENTS = ("password", "kms")  # the slots that a job chooses; recovery keys are on every point and change nothing
NAMES = ("password__record__name", "kms__key__owner_name", "kms__key__server__name")


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
        key_is_gone=_wanted_is_gone(job),
        custody=_custody(job),
        recovery_keys=RecoveryKey.objects.active().count(),
    )


def wanted_key(job: Job) -> Key | None:
    """Return what the next point is sealed for; None is unencrypted. A password not made yet has no record id."""
    if job.encryption == Encryption.OFF:
        return None
    if job.encryption == Encryption.KMS:
        return _wanted_kms_key(job)
    if job.password is None or not job.password.pk:
        return Key("", 0, job.password.name if job.password else "")
    return Key(str(job.password.uuid), job.password.newest().number, job.password.name)


def _wanted_kms_key(job: Job) -> Key:
    """Of a server that has no key for the job yet, the one that saving would have made."""
    key = job.kms_key
    if key is None:
        return Key("", 0, "a new key", "kms")
    if not key.pk:
        return Key("", 0, f"a new key on {key.server.name}", "kms")
    return Key(str(key.uuid), key.newest().number, str(key), "kms")


def _wanted_is_gone(job: Job) -> bool:
    if job.encryption == Encryption.KMS:
        return job.kms_key is not None and bool(job.kms_key.pk) and job.kms_key.newest().state in CLOSED_FOR_GOOD
    if job.encryption == Encryption.PASSWORD:
        return job.password is not None and bool(job.password.pk) and is_lost(job.password.newest())
    return False


def _custody(job: Job) -> Custody | None:
    if job.encryption != Encryption.KMS or job.kms_key is None:
        return None
    server = job.kms_key.server
    return Custody(server.name, server.outage, server.releases_private_keys, job.strict_custody)


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
        newest=_newest(newest),
    )


def _newest(point: RestorePoint) -> Newest:
    """Return the newest point; its key is gone only if every password and KMS slot of it is."""
    related = point.slots.filter(kind__in=RECIPIENTS).select_related("password__record", "kms__key__server")
    slots = list(related.order_by("pk"))
    keys = tuple(_key_of(slot) for slot in slots)
    gone = keys[0] if slots and all(_is_gone(slot) for slot in slots) else None
    return Newest(str(point.uuid), point.sequence, point.started_at, keys, gone)


def _key_of(slot: Slot) -> Key:
    name = slot.password.record.name if slot.password else str(slot.kms.key) if slot.kms else slot.hint
    return Key(str(slot.record_uuid), slot.version, name, slot.kind)


def _is_gone(slot: Slot) -> bool:
    """Tell whether nobody will open the slot again. A slot of a stranger's record counts as there: nothing is known."""
    if slot.kms is not None:
        return slot.kms.state in CLOSED_FOR_GOOD
    return slot.password is not None and is_lost(slot.password)


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
    rows = slots.values_list("point__chain", "kind", "record_uuid", "version", *NAMES)
    found: dict[int, tuple[KeyUse, ...]] = {}
    for chain, kind, record, version, name, owner, server, points in rows.annotate(points=Count("point")).order_by(
        "version", "record_uuid"
    ):
        named = name or (f"key of {owner} on {server}" if server else "")
        found[chain] = (*found.get(chain, ()), KeyUse(Key(str(record), version, named, kind), points))
    return found
