"""A backup session: what its process is told, and what becomes of the file that it wrote.

Before anything is written the repository is compared with the catalogue and the planner is asked; nothing here decides
the kind of the point. It fails closed: a setting that the console does not vouch for, or a key that is out of reach,
ends the session before its process starts, and never makes it a full or a plain backup.
"""

from __future__ import annotations

import html
import logging
import os
import time
import uuid
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.template.loader import render_to_string
from django.utils import timezone

from backupsite.audit import record_for
from jobs import pruning
from jobs.adopting import (
    adopt_lost_chain,
    bring_up_to_date,
    chain_to_resume,
    keys_in_reach,
    make_chain,
    repository_away,
)
from jobs.begun_files import proof_of, was_begun_here
from jobs.custody import drop_kept_keys
from jobs.leases import Claim, Stale, held_row, renew
from jobs.models import Encryption, Job, Session, State
from jobs.outcome import Outcome, SessionFailed, failure, note
from jobs.planning import Plan, PlanRefused, plan
from jobs.protocol import BackupRequest, End, Failed, Request, Written
from jobs.recipients import recipients_of
from jobs.session_log import SessionLog
from jobs.situation import situation_of
from jobs.targets import is_within
from keys.crypto import random_key
from keys.crypto_recipients import Recipient
from keys.crypto_sealed import CannotOpenSealed
from keys.crypto_slots import kind_of, said_of
from keys.kms.interface import KmsError
from keys.models import KmsKey, PasswordRecord
from keys.sealing import check_vouched_row
from keys.signing import private_bytes
from repositories.catalogue import RepositoryAway, SealedFile, SlotFor, holds_chains, instant, register
from repositories.engine.adoption import unfinished_key
from repositories.models import Chain, Kind, Repository, RestorePoint
from repositories.own_secrets import own_secrets
from repositories.reading import file_key_of

logger = logging.getLogger(__name__)

VIRTUAL = ("/proc", "/sys", "/dev")


def prepare(session: Session, held: Claim, log: SessionLog) -> BackupRequest:
    """Return what to write. Raises SessionFailed, and keeps the plan and the claimed settings on the session."""
    job = _job_of(session)
    _check_protection(job)
    _check_sources(job)
    _check_root(job)
    adopt_lost_chain(job, log)
    chain = job.current_chain()
    if chain is not None and chain.repository_id == job.repository_id:
        bring_up_to_date(chain, log, job=job, forgiving=job.new_chain_requested)
    planned = _plan(job)
    if not renew(held):  # comparing a large repository takes its time
        raise Stale(f"Session {session.pk} was taken away while it was planned.")
    request = _request(job, planned, None if planned.new_chain else chain)
    _keep_plan(held, job, planned, request)
    log.say("plan", _plan_words(planned, request))
    return request


def finish(session: Session, held: Claim, request: Request, end: End, log: SessionLog) -> Outcome:
    """Register what was written, and return the end of the session."""
    assert isinstance(request, BackupRequest)
    if isinstance(end, Failed):
        _note_damage(request, end)
        return failure(end)
    assert isinstance(end, Written)
    return _register(session, held, request, end)


def after(session: Session, log: SessionLog) -> None:
    session.refresh_from_db()
    drop_kept_keys(session, log)
    pruning.prune_after(session)


def _job_of(session: Session) -> Job:
    if session.job_id is None:
        raise SessionFailed("job-gone", "The job was deleted before its session began.")
    return Job.objects.select_related("repository", "password", "kms_key__server", "proxy").get(pk=session.job_id)


def _check_protection(job: Job) -> None:
    try:
        check_vouched_row(job, "protection_proof")
    except CannotOpenSealed as error:
        message = (
            f"The encryption settings of {job.name} are not the ones that were saved in this console, or the instance "
            "key changed: nothing was written. Check them, save the job again, and look into the audit."
        )
        raise SessionFailed("protection-changed", message, job=job.name) from error
    if job.encryption == Encryption.OFF and job.repository.requires_encryption:
        raise _plaintext_refused(job)


def _check_sources(job: Job) -> None:
    """A backup of a repository, or into one from within it, would grow for ever; one of the state folder holds every
    key of the console.
    """
    home = Path(os.path.realpath(settings.BACKUPSITE.home))
    repositories = [Path(os.path.realpath(path)) for path in Repository.objects.values_list("path", flat=True)]
    for source in job.sources:
        real = Path(os.path.realpath(source))
        inside = next((repository for repository in repositories if is_within(real, repository)), None)
        if inside is not None:
            message = f"The source {source} lies in the repository {inside}: take it out of the job."
            raise SessionFailed("source-in-repository", message, path=source, repository=str(inside))
        if is_within(real, home):
            message = f"The source {source} lies in the console's state folder, with its keys: take it out of the job."
            raise SessionFailed("source-in-state-folder", message, path=source)


def _check_root(job: Job) -> None:
    """A repository that holds chains must be there: where its disk is not mounted, nothing is made in its place."""
    repository = job.repository
    if not repository.root.is_dir() and repository.chains.exists():
        raise repository_away(RepositoryAway(repository.root))
    points = RestorePoint.objects.sealed().filter(chain__repository=repository).count()
    if points and not job.new_chain_requested and not holds_chains(repository.root):
        message = (
            f"The folder {repository.path} holds none of the {points} restore points that are known there: mount its "
            "disk. If they are really gone, start a new chain."
        )
        raise SessionFailed("repository-empty", message, path=repository.path, points=points)


def _plan(job: Job) -> Plan:
    try:
        return plan(situation_of(job))
    except PlanRefused as error:
        raise _plaintext_refused(job) from error


def _plaintext_refused(job: Job) -> SessionFailed:
    message = (
        f"The repository {job.repository.name} takes only encrypted backups: choose a password or a KMS for {job.name}."
    )
    return SessionFailed("plaintext-refused", message, repository=job.repository.name)


def _request(job: Job, planned: Plan, chain: Chain | None) -> BackupRequest:
    newest = chain.newest() if chain else None
    chain_id = chain.uuid if chain else chain_to_resume(job) or uuid.uuid4()
    with keys_in_reach():
        parent_key = file_key_of(newest) if newest else None
        recipients = recipients_of(job)
        signer = private_bytes()
    return BackupRequest(
        root=os.fsencode(job.repository.path),
        chain_id=chain_id,
        file_id=uuid.uuid4(),
        sequence=_next_sequence(chain),
        kind=planned.kind,
        reason=planned.reason,
        started_at_ns=time.time_ns(),
        sources=tuple(os.fsencode(source) for source in job.sources),
        include=tuple(job.include),
        exclude=tuple(job.exclude),
        never=never_walked(job.sources),
        level=job.level,
        recipients=recipients,
        parent_id=newest.uuid if newest else None,
        parent_path=os.fsencode(newest.path) if newest else None,
        parent_key=parent_key,
        job_name=job.name,
        signer=signer,
        file_key=random_key() if recipients.all() else None,
        unfinished_key=_unfinished_key(job, chain_id),
        plain_allowed=not job.repository.requires_encryption,
    )


def _unfinished_key(job: Job, chain_id: uuid.UUID) -> bytes | None:
    """Return the key of an unfinished file that no password opens, so that it can be written on.

    A KMS that does not answer costs what was written of it, and nothing else: the file is begun anew.
    """
    if job.encryption != Encryption.KMS:
        return None
    try:
        found = unfinished_key(job.repository.root / str(chain_id), own_secrets())
    except (KmsError, CannotOpenSealed) as error:
        logger.warning("The unfinished file of chain %s is not written on: %s", chain_id, error)
        return None
    return found[1] if found is not None and was_begun_here(job, *found) else None


def _next_sequence(chain: Chain | None) -> int:
    last = chain.points.order_by("-sequence").first() if chain else None
    return last.sequence + 1 if last else 1


def never_walked(sources: list[str]) -> tuple[bytes, ...]:
    """Return what no backup reads: every repository, the state folder, the kernel's own trees below a source like /."""
    places: list[str] = [str(settings.BACKUPSITE.home), *Repository.objects.values_list("path", flat=True)]
    found = {os.fsencode(form) for place in places for form in (place, os.path.realpath(place))}
    for virtual in VIRTUAL:
        if not any(is_within(Path(source), Path(virtual)) for source in sources):
            found.add(os.fsencode(virtual))
    return tuple(sorted(found))


def _plan_words(planned: Plan, request: BackupRequest) -> str:
    """Return what is written, and the sentence of the reason without an instant: a log line is read at any time."""
    params = {name: value for name, value in planned.params.items() if name != "started_at"}
    reason = render_to_string("jobs/_reason.html", {"code": planned.reason, "params": params})
    where = f"{'a new chain' if planned.new_chain else 'the chain'} {request.chain_id}"
    return f"Writes {planned.kind} {request.sequence} of {where}. {html.unescape(reason).strip()}"


def _keep_plan(held: Claim, job: Job, planned: Plan, request: BackupRequest) -> None:
    """Keep what the session was told: it goes on with these settings, whatever happens to the job."""
    password = job.password.newest() if job.password else None
    kms = job.kms_key.newest() if job.kms_key else None
    claimed: dict[str, Any] = {
        "job_version": job.version,
        "sources": job.sources,
        "include": job.include,
        "exclude": job.exclude,
        "level": job.level,
        "encryption": job.encryption,
        "password": job.password.name if job.password else None,
        "password_version": password.number if password else None,
        "kms": kms.key.server.name if kms else None,
        "kms_version": kms.number if kms else None,
        "strict_custody": job.strict_custody,
        "repository": job.repository.name,
        "repository_uuid": str(job.repository.uuid),
        "keep_points": job.keep_points,
        "chain": str(request.chain_id),
        "new_chain": planned.new_chain,
        "sequence": request.sequence,
        "file_id": str(request.file_id),
        "begun_file": proof_of(request.file_id, request.file_key) if request.file_key else "",
        "full_requested": job.full_requested,
        "new_chain_requested": job.new_chain_requested,
    }
    with transaction.atomic():
        if not held_row(held).update(
            plan_kind=planned.kind,
            plan_reason=str(planned.reason),
            plan_params=planned.params,
            claimed_settings=claimed,
            repository=job.repository,
            job_name=job.name,
        ):
            raise Stale(f"Session {held.session_id} was taken away while it was planned.")
        if password is not None:
            _audit_key_use(held, job, password.record, password.number)
        elif kms is not None:
            _audit_key_use(held, job, kms.key, kms.number)


def _audit_key_use(held: Claim, job: Job, record: PasswordRecord | KmsKey, version: int) -> None:
    session = held_row(held).select_related("requested_by").get()
    after = {"session": str(session.uuid), "job": job.name, "version": version, "for": "backup"}
    record_for(session.requested_by, "key used", record, after=after)


def _register(session: Session, held: Claim, request: BackupRequest, written: Written) -> Outcome:
    """Make point, chain and the session's figures visible together."""
    with transaction.atomic():
        session = held_row(held).select_for_update(of=("self",)).select_related("job").first() or _stale(held)
        claimed = session.claimed_settings
        chain = _chain_of(session, request, claimed)
        keeps_key = not claimed.get("strict_custody")
        point = register(chain, _sealed_file(request, written), keeps_key=keeps_key)
        _settle_requests(session.job, claimed, written_kind=request.kind)
        warnings = written.warnings
        outcome = Outcome(
            state=State.WARNING if warnings else State.SUCCEEDED,
            code="backed-up",
            params={
                "kind": request.kind,
                "sequence": request.sequence,
                "new_chain": bool(claimed["new_chain"]),
                "warnings": warnings,
            },
            message=f"Point {request.sequence} ({request.kind}) was written"
            + (f", with {warnings} warnings." if warnings else "."),
            figures={
                "written_point": point,
                "files": written.files,
                "source_bytes": written.source_bytes,
                "read_bytes": written.read_bytes,
                "written_bytes": written.written_bytes,
                "warnings": warnings,
            },
        )
        note(held, outcome)
    return outcome


def _stale(held: Claim) -> Session:
    raise Stale(f"Session {held.session_id} was taken away; its file is adopted by the next one.")


def _chain_of(session: Session, request: BackupRequest, claimed: dict[str, Any]) -> Chain:
    chain = Chain.objects.filter(uuid=request.chain_id).first()
    if chain is None:
        repository = Repository.objects.get(uuid=claimed["repository_uuid"])
        chain = make_chain(session.job, request.chain_id, repository, session.job_name, bool(request.recipients.all()))
    return chain


def _sealed_file(request: BackupRequest, written: Written) -> SealedFile:
    return SealedFile(
        file_id=written.file_id,
        sequence=request.sequence,
        kind=request.kind,
        parent_id=request.parent_id if request.kind == Kind.INCREMENTAL else None,
        started_at=instant(request.started_at_ns),
        sealed_at=timezone.now(),
        length=written.length,
        source_bytes=written.source_bytes,
        read_bytes=written.read_bytes,
        files=written.files,
        seal_hash=written.seal_hash,
        head_generation=written.head_generation,
        recipients=tuple(_slot_for(recipient) for recipient in request.recipients.all()),
        file_key=written.file_key,
    )


def _slot_for(recipient: Recipient) -> SlotFor:
    return SlotFor(recipient.record, recipient.version, kind_of(recipient).name.lower(), said_of(recipient))


def _settle_requests(job: Job | None, claimed: dict[str, Any], *, written_kind: str) -> None:
    """Clear what was asked for and is done; a wish that came later than the plan stays."""
    if job is None:
        return
    rows = Job.objects.filter(pk=job.pk)
    if claimed["new_chain_requested"] and claimed["new_chain"]:
        rows.filter(new_chain_requested=True).update(new_chain_requested=False)
    if claimed["full_requested"] and written_kind == Kind.FULL:
        rows.filter(full_requested=True).update(full_requested=False)


def _note_damage(request: BackupRequest, failed: Failed) -> None:
    """A parent that can't be read makes its chain damaged: the next session starts a new one, and says why."""
    if failed.code in ("corrupt-file", "missing-file") and request.parent_path is not None:
        Chain.objects.filter(uuid=request.chain_id, damage="").update(damage=failed.message)
