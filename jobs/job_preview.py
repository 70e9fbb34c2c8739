"""What the job form says before anything is saved: what the next session writes, why, and what that means for what
exists.

The answer is `planning`'s and the meaning is that of `consequences`; this module asks both about the job as it would be
saved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from jobs.consequences import Consequence, ExistingChain, consequences
from jobs.models import Encryption, Job, JobChainState
from jobs.planning import Plan, PlanRefused, digest, plan
from jobs.situation import active_backup, existing_chains, situation_of


@dataclass(frozen=True)
class Preview:
    plan: Plan | None  # None: nothing may be written with these settings; the consequences say why
    digest: str
    consequences: list[Consequence]
    plain: list[ExistingChain]  # the unencrypted chains that the job's retention holds
    asks_about_old_chain: bool

    @property
    def plain_points(self) -> int:
        return sum(chain.points for chain in self.plain)


def preview_of(job: Job, *, detach: bool = False) -> Preview:
    """Return the preview of a job as it would be saved. Its password may be a record that saving would make.

    `detach` shows the answer after the unencrypted chains were detached; the digest is of the facts as they are.
    """
    situation = situation_of(job)
    chains = existing_chains(job) if job.pk else ()
    active = active_backup(job) if job.pk else None
    plain = [c for c in chains if c.points and not c.encrypted and c.state != JobChainState.DETACHED]
    asks = job.encryption != Encryption.OFF and bool(plain)
    leaves = detach and asks and situation.chain is not None and not situation.chain.encrypted
    try:
        answer = plan(replace(situation, chain=None) if leaves else situation)
    except PlanRefused:
        answer = None
    return Preview(
        plan=answer,
        digest=digest(situation),
        consequences=consequences(situation, chains, active),
        plain=plain,
        asks_about_old_chain=asks,
    )


def digest_of(job: Job) -> str:
    return digest(situation_of(job))
