"""Strict custody: of a KMS job no file key is kept in the console, so whoever reads asks the KMS.

A session of such a job stores none for its point. The keys that earlier sessions of the chain stored go only when the
KMS was seen to open the new point, whose keyring has the keys of all before it: nothing is closed by a setting. What
a password of earlier points opens is untouched by this; a rewrap takes its slots away.
"""

from __future__ import annotations

from backupsite.audit import record_for
from backupsite.models import Severity
from jobs.models import Job, Session
from jobs.session_log import SessionLog
from keys.kms.interface import KmsError
from repositories.engine.errors import EngineError
from repositories.models import Chain, RestorePoint
from repositories.reading import file_key_of


def keeps_keys(job: Job | None) -> bool:
    """Tell whether the file keys of what the job writes are kept; of a job that is gone they are."""
    return job is None or not job.strict_custody


def drop_kept_keys(session: Session, log: SessionLog) -> int:
    """Forget the file keys of the chain that a session of strict custody wrote to; return how many there were.

    Nothing is forgotten unless the KMS opens the point that was just written.
    """
    point = session.written_point
    if point is None or keeps_keys(session.job) or not session.claimed_settings.get("strict_custody"):
        return 0
    kept = RestorePoint.objects.filter(chain=point.chain_id, file_key_sealed__isnull=False)
    if not kept.exists():
        return 0
    try:
        file_key_of(point)
    except (KmsError, EngineError) as error:
        log.say_warning("custody-not-strict", f"File keys of earlier points are still kept in the console: {error}")
        return 0
    return _forget(session, point.chain, log)


def _forget(session: Session, chain: Chain, log: SessionLog) -> int:
    count = RestorePoint.objects.filter(chain=chain, file_key_sealed__isnull=False).update(file_key_sealed=None)
    record_for(
        session.requested_by,
        "file keys forgotten",
        session.job,
        after={"session": str(session.uuid), "chain": str(chain.uuid), "points": count},
        severity=Severity.HIGH,
    )
    log.say("custody-strict", f"The file keys of {count} earlier points are no longer kept in the console.")
    return count
