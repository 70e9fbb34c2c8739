"""What a rewrap can be about (a chain, or all points of a key record), whom its points can be wrapped for, and the
order for each chain that follows from what was chosen.

Every point also gets a slot for each active recovery key. What an order then means is shown by `jobs.rewrap_preview`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db.models import Exists, OuterRef

from jobs.models import Encryption, Job
from jobs.rewrap_orders import Order, RecordVersion, Wanted
from keys.models import KmsKey, PasswordRecord, RecoveryKey
from keys.models.kms import CLOSED_FOR_GOOD
from keys.passwords import is_lost
from repositories.models import Chain, ChainQuerySet, RestorePoint, Slot

JOB, ONLY_RECOVERY = "job", "recovery"


@dataclass(frozen=True)
class Scope:
    """`having`: only the points with a slot of this record. `remove` is what is to be taken away unless one chooses
    otherwise.
    """

    name: str
    chains: tuple[Chain, ...]
    having: UUID | None = None
    to: str = JOB
    remove: tuple[RecordVersion, ...] = ()

    @property
    def title(self) -> str:
        return (
            f"Add {self.name} to existing points" if self.to == ONLY_RECOVERY else f"Rewrap the points of {self.name}"
        )


@dataclass(frozen=True)
class Chosen:
    """`to` is `job` (what the job of each chain uses now), `recovery` (recovery keys alone), or the kind and id of a
    record: `password:<uuid>`, `kms:<uuid>`.
    """

    to: str
    remove: tuple[RecordVersion, ...] = ()


@dataclass(frozen=True)
class Planned:
    """The order for one chain, or why there is none: a code, `no-job`, `job-plain`, `key-lost`, `no-recovery` or
    `strict-custody` (a password would open what the console is not to open by itself).
    """

    chain: Chain
    order: Order | None
    why_not: str = ""


def of_chain(chain: Chain) -> Scope:
    return Scope(str(chain), (chain,))


def of_password(record: PasswordRecord, chains: ChainQuerySet) -> Scope:
    return Scope(f"the password “{record}”", _with_slot(chains, record.uuid), record.uuid)


def of_kms_key(key: KmsKey, chains: ChainQuerySet) -> Scope:
    return Scope(f"the {key}", _with_slot(chains, key.uuid), key.uuid)


def of_recovery_key(key: RecoveryKey, chains: ChainQuerySet) -> Scope:
    """One that is in use is added where it is not yet; a retired one is taken away where it is."""
    name = f"the recovery key “{key}”"
    if key.retired_at:
        return Scope(name, _with_slot(chains, key.uuid), key.uuid, remove=((key.uuid, 1),))
    lacking = RestorePoint.objects.sealed().filter(
        ~Exists(Slot.objects.filter(point=OuterRef("pk"), record_uuid=key.uuid)), chain=OuterRef("pk")
    )
    return Scope(name, _ordered(chains.filter(Exists(lacking), encrypted=True)), to=ONLY_RECOVERY)


def choices(scope: Scope) -> list[tuple[str, str]]:
    """Return what `Chosen.to` can be, with its words."""
    passwords = [record for record in PasswordRecord.objects.all() if not is_lost(record.newest())]
    found = [(JOB, "What each job uses now" if len(scope.chains) > 1 else "What its job uses now")]
    if RecoveryKey.objects.active().exists():
        found.append((ONLY_RECOVERY, "The active recovery keys alone"))
    found += [(f"password:{record.uuid}", f"The password {record.name}") for record in passwords]
    keys = KmsKey.objects.select_related("server").order_by("server__name", "owner_name")
    return found + [(f"kms:{key.uuid}", f"The {key}") for key in keys if not _is_gone(key)]


def planned(scope: Scope, chosen: Chosen) -> list[Planned]:
    """Return the order of each chain, in a constant number of queries a chain."""
    recovery = [Wanted("recovery", key.uuid, 1) for key in RecoveryKey.objects.active().order_by("pk")]
    chosen_record = None if chosen.to in (JOB, ONLY_RECOVERY) else _record(chosen.to)
    found = []
    for chain in scope.chains:
        record, why_not = _for(chain) if chosen.to == JOB else (chosen_record, "")
        if chosen.to == ONLY_RECOVERY and not recovery:
            why_not = "no-recovery"
        if record is not None and record.kind == "password" and _is_strict(chain):
            why_not = "strict-custody"
        add = (*([record] if record else []), *recovery)
        found.append(Planned(chain, None if why_not else _order(scope, chosen, chain, add), why_not))
    return found


def _order(scope: Scope, chosen: Chosen, chain: Chain, add: tuple[Wanted, ...]) -> Order:
    wanted = {one.place for one in add}
    remove = tuple(place for place in chosen.remove if place not in wanted)
    return Order(chain.uuid, add, remove, scope.having)


def _for(chain: Chain) -> tuple[Wanted | None, str]:
    """Return what the job of the chain uses now, or why that cannot be."""
    job = Job.objects.filter(job_chains__chain=chain).select_related("password", "kms_key__server").first()
    if job is None:
        return None, "no-job"
    if job.encryption == Encryption.OFF:
        return None, "job-plain"
    if job.kms_key is not None:
        return (None, "key-lost") if _is_gone(job.kms_key) else (_kms(job.kms_key), "")
    assert job.password is not None, "an encrypted job has a password or a KMS key"
    return (None, "key-lost") if is_lost(job.password.newest()) else (_password(job.password), "")


def _is_strict(chain: Chain) -> bool:
    return Job.objects.filter(job_chains__chain=chain, strict_custody=True).exists()


def _record(to: str) -> Wanted:
    kind, _, uuid = to.partition(":")
    if kind == "kms":
        return _kms(KmsKey.objects.get(uuid=uuid))
    return _password(PasswordRecord.objects.get(uuid=uuid))


def _password(record: PasswordRecord) -> Wanted:
    return Wanted("password", record.uuid, record.newest().number)


def _kms(key: KmsKey) -> Wanted:
    return Wanted("kms", key.uuid, key.newest().number)


def _is_gone(key: KmsKey) -> bool:
    return key.newest().state in CLOSED_FOR_GOOD


def _with_slot(chains: ChainQuerySet, record: UUID) -> tuple[Chain, ...]:
    points = RestorePoint.objects.sealed().filter(slots__record_uuid=record)
    return _ordered(chains.filter(pk__in=points.values("chain")))


def _ordered(chains: ChainQuerySet) -> tuple[Chain, ...]:
    return tuple(chains.select_related("repository").order_by("job_name", "created_at", "pk"))


def places(texts: Sequence[str]) -> tuple[RecordVersion, ...]:
    """Return what checkboxes name: `<record>:<version>`. Raises ValueError."""
    pairs = (text.rpartition(":") for text in texts)
    return tuple((UUID(record), int(version)) for record, _, version in pairs)
