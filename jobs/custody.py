"""Strict custody: of a KMS job no file key is kept in the console, so whoever reads asks the KMS.

A session of such a job stores none for its point. The keys that earlier sessions stored go only when the KMS was seen
to open the newest point of their chain, whose keyring has the keys of all before it: nothing is closed by a setting.
What a password of earlier points opens is untouched by this; a rewrap takes its slots away.
"""

from __future__ import annotations

from uuid import UUID

from backupsite.audit import record_for
from backupsite.models import Severity
from jobs.models import Job, Session
from jobs.session_log import SessionLog
from keys.crypto_sealed import CannotOpenSealed
from keys.kms.interface import KmsError
from keys.kms_servers import slot_secrets
from keys.models import KmsServer, Outage, RecoveryKey
from repositories.engine.errors import EngineError
from repositories.engine.reader import SlotSecrets, open_point
from repositories.models import Chain, RestorePoint
from repositories.reading import check_is


def keeps_keys(job: Job | None) -> bool:
    """Tell whether the file keys of what the job writes are kept; of a job that is gone they are."""
    return job is None or not job.strict_custody


def has_a_way_back(server: KmsServer) -> bool:
    """Tell whether strict custody can be had with a server: points open without it, or none is written without it."""
    return RecoveryKey.objects.active().exists() or server.outage == Outage.FAIL


def drop_kept_keys(session: Session, log: SessionLog) -> int:
    """Forget the file keys of a job under strict custody; return how many there were. Called when a point is written.

    Of each chain only those that the KMS was seen to give: the key of its newest point, and what the keyring of that
    point has. A chain that still opens with a password alone keeps its keys: the key of that password is here as well.
    """
    job = session.job
    if job is None or keeps_keys(job) or not session.claimed_settings.get("strict_custody"):
        return 0
    kept = RestorePoint.objects.filter(chain__job_chain__job=job, file_key_sealed__isnull=False)
    chains = Chain.objects.select_related("repository").filter(points__in=kept).distinct().order_by("pk")
    return sum(_forget(session, chain, given, log) for chain in chains if (given := _given_by_the_server(chain, log)))


def _given_by_the_server(chain: Chain, log: SessionLog) -> set[UUID]:
    """Return the ids of the files whose keys the KMS gives through the chain's newest point, which is whole and the one
    that the catalogue knows.
    """
    newest = chain.newest()
    if newest is None or not newest.slots.filter(kind="kms").exists():
        return set()
    try:
        with open_point(newest.path, SlotSecrets(slot_secrets())) as opened:
            check_is(opened, newest)
            return {newest.uuid, *opened.earlier_file_keys}
    except (KmsError, EngineError, CannotOpenSealed) as error:
        log.say_warning("custody-not-strict", f"File keys of {chain} are still kept in the console: {error}")
        return set()


def _forget(session: Session, chain: Chain, given: set[UUID], log: SessionLog) -> int:
    kept = RestorePoint.objects.filter(chain=chain, file_key_sealed__isnull=False)
    count = kept.filter(uuid__in=given).update(file_key_sealed=None)
    if others := kept.count():
        log.say_warning("custody-not-strict", f"The KMS gives no key of {others} points of {chain}: theirs are kept.")
    if not count:
        return 0
    after = {"session": str(session.uuid), "chain": str(chain.uuid), "points": count}
    record_for(session.requested_by, "file keys forgotten", session.job, after=after, severity=Severity.HIGH)
    log.say("custody-strict", f"The file keys of {count} points of {chain} are no longer kept in the console.")
    return count
