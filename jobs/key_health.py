"""What the dashboard says about keys: rules over facts, the gravest first.

Each rule names the objects that it is about; templates/jobs/_key_health.html makes the sentences. Where the facts come
from is decided in `jobs.key_facts`; which point opens with what, in the key map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

CLOSED = ("destroyed", "gone", "lost")
CLOSING = ("disabled", "scheduled")

Tone = Literal["bad", "warn"]


class Concern(StrEnum):
    """What is wrong, and what `Subject` holds of it besides name and id."""

    KMS_KEY_CLOSED = "kms-key-closed"  # detail: the state, at: since when, points and only
    KMS_KEY_CLOSING = "kms-key-closing"  # the same
    KMS_SILENT = "kms-silent"  # detail: the problem, at: the last answer
    KMS_WITHOUT_RECOVERY = "kms-without-recovery"  # jobs
    NO_RECOVERY_KEY = "no-recovery-key"  # encrypted jobs
    KMS_NOT_PROVEN = "kms-not-proven"  # at: the last proof, points
    CUSTODY_DUE = "custody-due"  # at: the last proof, or else the making; detail: "proven" or "made"
    PASSWORD_WEAK = "password-weak"  # noqa: S105 - a code; points: how many jobs
    PASSWORD_AGEING = "password-ageing"  # noqa: S105 - at: when it was set
    NOT_ENCRYPTED = "not-encrypted"  # jobs


@dataclass(frozen=True)
class Subject:
    """What a concern is about; `only` are the points that nothing else opens."""

    name: str
    id: str = ""
    at: datetime | None = None
    points: int = 0
    only: int = 0
    detail: str = ""


@dataclass(frozen=True)
class Password:
    """A record that was not declared lost, by its newest version; `strength` is None where it was never estimated."""

    name: str
    id: str
    set_at: datetime
    strength: int | None


@dataclass(frozen=True)
class Server:
    name: str
    id: str
    problem: str = ""  # of the last poll
    answered_at: datetime | None = None


@dataclass(frozen=True)
class KmsVersion:
    """A key pair on a server, and the restore points that have a slot of it; `unproven` are those after its proof."""

    name: str
    server_id: str
    state: str
    state_since: datetime
    proven_at: datetime | None
    points: int = 0
    only: int = 0
    unproven: int = 0


@dataclass(frozen=True)
class Recovery:
    """An active recovery key."""

    name: str
    id: str
    made_at: datetime
    proven_at: datetime | None = None

    @property
    def held_at(self) -> datetime:
        """Return when somebody last had the private half for certain."""
        return self.proven_at or self.made_at


@dataclass(frozen=True)
class NamedJob:
    name: str
    id: str


@dataclass(frozen=True)
class Facts:
    ages_before: datetime  # a password that was set before is old
    proofs_before: datetime  # a KMS key that last opened something before has missed a poll
    held_before: datetime  # a recovery key that was last known to be held before waits for a proof
    weak_below: int
    passwords: tuple[Password, ...] = ()
    servers: tuple[Server, ...] = ()
    versions: tuple[KmsVersion, ...] = ()
    recovery: tuple[Recovery, ...] = ()
    kms_jobs: tuple[NamedJob, ...] = ()
    password_jobs: tuple[NamedJob, ...] = ()
    plain_jobs: tuple[NamedJob, ...] = ()


@dataclass(frozen=True)
class Finding:
    concern: Concern
    tone: Tone
    subjects: tuple[Subject, ...]

    @property
    def points(self) -> int:
        return sum(subject.points for subject in self.subjects)

    @property
    def only(self) -> int:
        return sum(subject.only for subject in self.subjects)


@dataclass(frozen=True)
class _Rule:
    concern: Concern
    tone: Tone
    subjects: Callable[[Facts], list[Subject]]


RULES = (
    _Rule(Concern.KMS_KEY_CLOSED, "bad", lambda f: _stakes(f, CLOSED)),
    _Rule(Concern.KMS_KEY_CLOSING, "bad", lambda f: _stakes(f, CLOSING)),
    _Rule(
        Concern.KMS_SILENT,
        "bad",
        lambda f: [Subject(s.name, s.id, at=s.answered_at, detail=s.problem) for s in f.servers if s.problem],
    ),
    _Rule(Concern.KMS_WITHOUT_RECOVERY, "bad", lambda f: [] if f.recovery else _jobs(f.kms_jobs)),
    _Rule(Concern.NO_RECOVERY_KEY, "warn", lambda f: [] if f.recovery or f.kms_jobs else _jobs(f.password_jobs)),
    _Rule(
        Concern.KMS_NOT_PROVEN,
        "warn",
        lambda f: [
            Subject(v.name, v.server_id, at=v.proven_at, points=v.unproven)
            for v in f.versions
            if v.unproven and v.state not in (*CLOSED, *CLOSING) and proof_is_late(v.proven_at, f.proofs_before)
        ],
    ),
    _Rule(
        Concern.CUSTODY_DUE,
        "warn",
        lambda f: [
            Subject(r.name, r.id, at=r.held_at, detail="proven" if r.proven_at else "made")
            for r in f.recovery
            if r.held_at <= f.held_before
        ],
    ),
    _Rule(
        Concern.PASSWORD_WEAK,
        "warn",
        lambda f: [Subject(p.name, p.id) for p in f.passwords if p.strength is not None and p.strength < f.weak_below],
    ),
    _Rule(
        Concern.PASSWORD_AGEING,
        "warn",
        lambda f: [Subject(p.name, p.id, at=p.set_at) for p in f.passwords if p.set_at < f.ages_before],
    ),
    _Rule(Concern.NOT_ENCRYPTED, "warn", lambda f: _jobs(f.plain_jobs)),
)


def health(facts: Facts) -> list[Finding]:
    """Return what somebody should do something about, the gravest first; nothing where all is well."""
    found = [Finding(rule.concern, rule.tone, tuple(rule.subjects(facts))) for rule in RULES]
    return [finding for finding in found if finding.subjects]


def proof_is_late(proven_at: datetime | None, proofs_before: datetime) -> bool:
    return proven_at is None or proven_at < proofs_before


def _stakes(facts: Facts, states: tuple[str, ...]) -> list[Subject]:
    """Return the keys in these states that restore points need, most points first."""
    closed = [v for v in facts.versions if v.state in states and v.points]
    closed.sort(key=lambda v: (-v.only, -v.points, v.name))
    return [Subject(v.name, v.server_id, v.state_since, v.points, v.only, v.state) for v in closed]


def _jobs(jobs: tuple[NamedJob, ...]) -> list[Subject]:
    return [Subject(job.name, job.id) for job in jobs]
