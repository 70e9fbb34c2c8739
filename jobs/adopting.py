"""Before a backup is planned: the catalogue catches up with the repository.

A session can die between publishing its file and registering it; the file counts, so it is adopted here. What is
missing is noted on the chain, from where the planner reads it. How files are compared and registered is decided in
`repositories.catalogue`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.db import transaction

from jobs.custody import keeps_keys
from jobs.models import Encryption, Job, JobChain, JobChainState, Session, SessionKind, State
from jobs.outcome import SessionFailed
from jobs.session_log import SessionLog
from keys.crypto_sealed import CannotOpenSealed
from keys.kms.interface import KmsError
from keys.passwords import PasswordLost
from keys.signing import public_bytes
from repositories.catalogue import CannotAdopt, RepositoryAway, adopt, check_chain, finish_deletions
from repositories.engine.chains import adoptable_files
from repositories.engine.errors import CannotUnwrap
from repositories.models import Chain, Repository


def adopt_lost_chain(job: Job, log: SessionLog) -> None:
    """Register the first file of a new chain whose session died between publishing and registering.

    The chain's row was never made, so its folder is known only from the settings that the session claimed.
    """
    unfinished = Session.objects.filter(job=job, kind=SessionKind.BACKUP, claimed_settings__new_chain=True)
    for lost in unfinished.exclude(state__in=(State.SUCCEEDED, State.WARNING)).order_by("-pk")[:20]:
        claimed = lost.claimed_settings
        repository = Repository.objects.filter(uuid=claimed["repository_uuid"]).first()
        if repository is None or Chain.objects.filter(uuid=claimed["chain"]).exists():
            continue
        if (repository.root / claimed["chain"] / "1").exists():
            _adopt_chain(job, repository, claimed, log)


def chain_to_resume(job: Job) -> UUID | None:
    """Return the chain that an interrupted session of the job began and that has no point yet, if it can be resumed."""
    begun = Session.objects.filter(job=job, kind=SessionKind.BACKUP, claimed_settings__new_chain=True)
    for session in begun.filter(state__in=(State.INTERRUPTED, State.FAILED)).order_by("-pk")[:20]:
        claimed = session.claimed_settings
        here = claimed["repository_uuid"] == str(job.repository.uuid)
        folder = job.repository.root / claimed["chain"]
        if here and not (folder / "1").exists() and adoptable_files(folder):
            return UUID(claimed["chain"])
    return None


def bring_up_to_date(chain: Chain, log: SessionLog, *, job: Job | None = None, forgiving: bool = False) -> None:
    """Finish deletions, register sealed files without a row and note damage. Raises SessionFailed.

    `forgiving` is for a job that starts a new chain anyway: a file that can't be adopted is then a line in the log.
    """
    try:
        with keys_in_reach():
            _bring_up_to_date(chain, log, job)
    except RepositoryAway as error:
        raise repository_away(error) from error
    except CannotAdopt as error:
        if not forgiving:
            raise SessionFailed("cannot-adopt", str(error), path=str(error.path)) from error
        log.say_warning("cannot-adopt", str(error))


def _bring_up_to_date(chain: Chain, log: SessionLog, job: Job | None) -> None:
    if count := finish_deletions(chain):
        log.say("deletion-finished", f"{count} points whose deletion was interrupted were removed.")
    for point in adopt(chain, keeps_keys=keeps_keys(job)):
        log.say("adopted", f"Point {point.sequence} was sealed but not registered; it is now.")
    if damage := check_chain(chain):
        log.say_warning("chain-damaged", f"The chain {chain.uuid} is damaged: {damage}.")


def make_chain(job: Job | None, chain_id: UUID, repository: Repository, job_name: str, encrypted: bool) -> Chain:
    """Make a chain and let it be the job's current one; the chain of a job that was deleted meanwhile has no job."""
    chain = Chain.objects.create(uuid=chain_id, repository=repository, job_name=job_name, encrypted=encrypted)
    if job is not None:
        JobChain.objects.filter(job=job, state=JobChainState.CURRENT).update(state=JobChainState.PREVIOUS)
        JobChain.objects.create(job=job, chain=chain, state=JobChainState.CURRENT)
    return chain


@contextmanager
def keys_in_reach() -> Iterator[None]:
    try:
        yield
    except (CannotOpenSealed, PasswordLost) as error:
        raise _out_of_reach(error) from error
    except (KmsError, CannotUnwrap) as error:
        raise _out_of_reach(error, error.code) from error


def _out_of_reach(error: Exception, code: str = "") -> SessionFailed:
    message = f"{error} Nothing was done without its keys."
    return SessionFailed("key-out-of-reach", message, what=str(error), because=code)


def repository_away(error: RepositoryAway) -> SessionFailed:
    return SessionFailed("repository-away", str(error), path=str(error.path))


def _adopt_chain(job: Job, repository: Repository, claimed: dict[str, Any], log: SessionLog) -> None:
    encrypted = claimed["encryption"] != Encryption.OFF
    if repository.requires_encryption and not encrypted:
        folder = repository.root / claimed["chain"]
        log.say_warning(
            "cannot-adopt", f"{folder} is plain, and its repository takes encrypted files only: it is left."
        )
        return
    try:
        with transaction.atomic():
            chain = make_chain(job, UUID(claimed["chain"]), repository, job.name, encrypted)
            adopted = adopt(chain, keeps_keys=keeps_keys(job), signed_by=public_bytes())
    except (CannotAdopt, RepositoryAway, KmsError, CannotOpenSealed) as error:
        log.say_warning("cannot-adopt", str(error))
        return
    log.say("adopted", f"A new chain with {len(adopted)} points was sealed but not registered; it is now.")
