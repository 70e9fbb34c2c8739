"""Which unfinished files of KMS jobs this console began: their file keys are made here, and remembered by a proof.

A password slot shows that whoever wrote it knew the password. A KMS slot does not: its public half is enough to wrap a
key of one's own, and a first file that somebody else began would go on under a key that he knows. So a session keeps a
proof of the key that its file begins with, not the key, and an unfinished file is written on only if it fits.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any
from uuid import UUID

from jobs.models import Job, Session, SessionKind
from keys.crypto_sealed import CannotOpenSealed
from keys.sealing import check_vouched_fact, vouch_for_fact

PLACE = "begun file"


def proof_of(file_id: UUID, file_key: bytes) -> str:
    """Return what a session keeps among its claimed settings, as `begun_file`."""
    return base64.b64encode(vouch_for_fact(_fact(file_id, file_key), PLACE)).decode()


def was_begun_here(job: Job, file_id: UUID, file_key: bytes) -> bool:
    """Tell whether a session of the job began this file with this key."""
    sessions = Session.objects.filter(job=job, kind=SessionKind.BACKUP, claimed_settings__file_id=str(file_id))
    return any(_fits(session.claimed_settings, _fact(file_id, file_key)) for session in sessions)


def _fits(claimed: dict[str, Any], fact: dict[str, str]) -> bool:
    try:
        check_vouched_fact(base64.b64decode(claimed.get("begun_file", "")), fact, PLACE)
    except (CannotOpenSealed, ValueError):
        return False
    return True


def _fact(file_id: UUID, file_key: bytes) -> dict[str, str]:
    return {"file": str(file_id), "key": hashlib.sha256(file_key).hexdigest()}
