"""What an administrator does with a job: save it, delete it, ask for a full or a new chain, decide about an old chain.

Saving computes the planner's answer again with the row locked and refuses if it is not the one that was shown. Who may
do this, and what the audit says of it, is decided in the views (only an answer about an old chain is put into the audit
here); what the next session writes, in `jobs.planning`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from django.db import transaction
from django.db.models import QuerySet

from backupsite.audit import record_for
from backupsite.models import Severity, User
from jobs.admission import WRITERS, database_now
from jobs.due import record_due_times, schedule_of
from jobs.models import Encryption, Job, JobChain, JobChainState, Session
from jobs.planning import Plan, digest, plan, refused
from jobs.situation import situation_of
from keys.crypto_sealed import CannotOpenSealed
from keys.sealing import check_vouched_row, vouch_for
from repositories.models import Chain

OldChainAnswer = Literal["keep", "detach", "delete"]

# What a form saves; everything else on the row belongs to the sessions and to the schedule.
EDITED = (
    "name",
    "proxy",
    "sources",
    "include",
    "exclude",
    "repository",
    "level",
    "encryption",
    "password",
    "kms_key",
    "strict_custody",
    "ask_password",
    "encryption_off_reason",
    "schedule_kind",
    "schedule_time",
    "schedule_weekdays",
    "schedule_minutes",
    "schedule_days",
    "schedule_cron",
    "misfire",
    "misfire_hours",
    "time_zone",
    "keep_points",
)


class AnswerChanged(Exception):
    """What the next session would write is not what the form showed: `plan` is the answer now, None a refusal."""

    def __init__(self, plan: Plan | None) -> None:
        now = f"{plan.kind}, {plan.reason}" if plan else "nothing, with these settings"
        super().__init__(f"The next session would now write: {now}. Look at it, then save again.")
        self.plan = plan


class EditedMeanwhile(Exception):
    """Somebody else saved or deleted the job since the form was opened."""


class ReasonNeeded(Exception):
    """Encryption is not disabled without a reason."""


class JobBusy(Exception):
    """The job has a session that waits to write, or writes: stop it first."""

    def __init__(self, session: Session) -> None:
        super().__init__(f"{session} is {session.state}: stop it first.")
        self.session = session


@transaction.atomic
def save_job(job: Job, *, expected_version: int | None, digest: str) -> Job:
    """Save what a form put on `job`, new or not; return the row as it stands then.

    `digest` is that of the answer that was shown. Raises EditedMeanwhile (also when `expected_version` is not the
    row's), AnswerChanged, ReasonNeeded, and PlanRefused where a repository takes encrypted backups only.
    """
    row = _locked(job, expected_version) if job.pk else Job(uuid=job.uuid)
    before = (schedule_of(row), row.encryption) if job.pk else None
    now = database_now()
    if before and schedule_of(job) != before[0]:
        record_due_times(row, now)  # what was due under the old schedule is settled by it
    for name in EDITED:
        setattr(row, name, getattr(job, name))
    _check_answer(row, digest)
    _check_reason(row, was_encrypted=before is not None and before[1] != Encryption.OFF)
    if before is None or schedule_of(row) != before[0]:
        row.schedule_since = now
    row.version += 1 if job.pk else 0
    row.save()
    row.protection_proof = vouch_for(row, "protection_proof")
    row.save(update_fields=["protection_proof"])
    return row


def is_vouched_for(job: Job) -> bool:
    """Tell whether the row says of its protection what was last saved in this console."""
    try:
        check_vouched_row(job, "protection_proof")
    except CannotOpenSealed:
        return False
    return True


def _locked(job: Job, expected_version: int | None) -> Job:
    row = Job.objects.select_for_update().filter(pk=job.pk).first()
    if row is None or row.version != expected_version:
        raise EditedMeanwhile(f"{job.name} was changed or deleted by somebody else.")
    return row


def _check_answer(row: Job, shown: str) -> None:
    situation = situation_of(row)
    if digest(situation) != shown:
        raise AnswerChanged(None if refused(situation) else plan(situation))
    plan(situation)  # raises PlanRefused


def _check_reason(row: Job, *, was_encrypted: bool) -> None:
    if row.encryption != Encryption.OFF:
        row.encryption_off_reason = ""
    elif was_encrypted and not row.encryption_off_reason.strip():
        raise ReasonNeeded(f"Say why {row.name} is no longer to be encrypted.")


@transaction.atomic
def delete_job(job: Job) -> None:
    """Delete a job; its chains stay in the catalogue and can be restored. Raises JobBusy."""
    Job.objects.select_for_update().filter(pk=job.pk).first()
    active = Session.objects.active().filter(job=job, kind__in=WRITERS).first()
    if active is not None:
        raise JobBusy(active)
    Job.objects.filter(pk=job.pk).delete()


@transaction.atomic
def detach_chain(link: JobChain, *, expires_at: datetime | None) -> bool:
    """Take a chain out of its job's retention: it is kept for ever, or goes at that instant (`jobs.expiring`).

    False when it was detached already. Raises JobBusy while a session of the job waits to write, or writes.
    """
    Job.objects.select_for_update().filter(pk=link.job_id).first()
    active = Session.objects.active().filter(job=link.job_id, kind__in=WRITERS).first()
    if active is not None:
        raise JobBusy(active)
    rows = JobChain.objects.filter(pk=link.pk).exclude(state=JobChainState.DETACHED)
    if not rows.update(state=JobChainState.DETACHED, delete_after_full=False):
        return False
    Chain.objects.filter(pk=link.chain_id).update(expires_at=expires_at)
    return True


def request_full(job: Job) -> None:
    """Let the next session write an active full."""
    Job.objects.filter(pk=job.pk).update(full_requested=True)


def start_new_chain(job: Job) -> None:
    """Let the next session start a new chain; the one until now stays under the job's retention."""
    Job.objects.filter(pk=job.pk).update(new_chain_requested=True)


def old_chain_answer(job: Job) -> OldChainAnswer:
    """Return what was answered about the job's plain chains that are still under its retention."""
    return "delete" if _plain_links(job).filter(delete_after_full=True).exists() else "keep"


@transaction.atomic
def answer_old_chain(job: Job, answer: OldChainAnswer, *, by: User | None) -> int:
    """Settle what becomes of the job's unencrypted chains once it is encrypted; return how many there are.

    keep: retention removes them. detach: they leave the job's retention now. delete: they go once an encrypted full of
    their successor succeeded without warnings and was verified (see `jobs.pruning`).
    """
    links = _plain_links(job)
    before = old_chain_answer(job)
    after = {"answer": answer, "chains": [str(link.chain.uuid) for link in links.select_related("chain")]}
    if answer == "detach":
        count = links.update(state=JobChainState.DETACHED, delete_after_full=False)
    else:
        count = links.update(delete_after_full=answer == "delete")
    if count and answer != before:
        severity = Severity.HIGH if answer == "delete" else Severity.NOTICE
        record_for(by, "old chain answered", job, before={"answer": before}, after=after, severity=severity)
    return count


def _plain_links(job: Job) -> QuerySet[JobChain]:
    return job.job_chains.filter(chain__encrypted=False).exclude(state=JobChainState.DETACHED)
