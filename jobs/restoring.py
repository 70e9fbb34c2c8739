"""A restore session: what its process is told, and what becomes of it.

The order was sealed when the restore was requested; where it may write is asked again here, with the rights that the
user has now. How files are written safely is the engine's rule.
"""

from __future__ import annotations

import os

from django.db import transaction

from backupsite.audit import record_for
from backupsite.models import Severity
from backupsite.roles import Right, may
from jobs.adopting import keys_in_reach
from jobs.leases import Claim
from jobs.models import Session, State
from jobs.outcome import Outcome, SessionFailed, failure, note
from jobs.protocol import End, Failed, PointFile, Request, Restored, RestoreRequest
from jobs.session_log import SessionLog
from jobs.sessions import selection_of
from jobs.targets import TargetRules, check_target, root_of, target_rules
from keys.crypto_sealed import CannotOpenSealed
from repositories.models import PointState, RestorePoint
from repositories.reading import file_key_of


def prepare(session: Session, held: Claim, log: SessionLog) -> RestoreRequest:
    """Return what to restore and where. Raises SessionFailed, and jobs.targets.TargetRefused."""
    point = point_of(session)
    try:
        selection = selection_of(session)
    except CannotOpenSealed as error:
        raise SessionFailed("order-unreadable", f"{error} Request the restore again.") from error
    rules = rules_of(session)
    real = check_target(selection.into, rules)
    below = root_of(real, rules)
    if below is not None:
        below.mkdir(mode=0o755, parents=True, exist_ok=True)
    audit_key_use(session, point, "restore")
    record_for(session.requested_by, "restore started", point, after={"session": str(session.uuid)})
    log.say("started", f"Restores from {point}.")
    return RestoreRequest(
        point=point_file(point),
        paths=selection.paths,
        into=os.fsencode(real),
        below=os.fsencode(below) if below is not None else None,
        existing=selection.existing,
        kept_out=tuple(os.fsencode(folder) for folder in rules.kept_out()),
    )


def finish(session: Session, held: Claim, request: Request, end: End, log: SessionLog) -> Outcome:
    """Return the end of the session, and put it into the audit."""
    outcome = failure(end) if isinstance(end, Failed) else _outcome(end)
    after = {"session": str(session.uuid), "state": str(outcome.state), "result": outcome.code}
    with transaction.atomic():
        note(held, outcome)
        record_for(session.requested_by, "restore ended", session.source_point, after=after)
    return outcome


def after(session: Session, log: SessionLog) -> None:
    """Nothing follows a restore."""


def point_of(session: Session) -> RestorePoint:
    """Return the session's point. Raises SessionFailed when it is gone or going."""
    point = session.source_point
    if point is None or point.state != PointState.SEALED:
        raise SessionFailed("point-gone", "The restore point was deleted before this session began.")
    return point


def point_file(point: RestorePoint) -> PointFile:
    """Return what a process needs to open exactly this file. Raises SessionFailed when its key is out of reach."""
    with keys_in_reach():
        key = file_key_of(point)
    return PointFile(
        path=os.fsencode(point.path),
        file_id=point.uuid,
        head_generation=point.head_generation,
        seal_hash=bytes(point.seal_hash),
        file_key=key,
    )


def rules_of(session: Session) -> TargetRules:
    user = session.requested_by
    return target_rules(anywhere=user is not None and may(user, Right.ADMINISTER))


def audit_key_use(session: Session, point: RestorePoint, purpose: str) -> None:
    if point.chain.encrypted:
        after = {"session": str(session.uuid), "for": purpose}
        record_for(session.requested_by, "key used", point, after=after, severity=Severity.NOTICE)


def _outcome(end: End) -> Outcome:
    assert isinstance(end, Restored)
    if end.failed:
        message = f"{end.files} files were restored, {end.failed} could not be: the log names them."
    else:
        message = f"{end.files} files were restored" + (
            f", {end.skipped} were left as they are." if end.skipped else "."
        )
    return Outcome(
        state=State.WARNING if end.warnings else State.SUCCEEDED,
        code="restored",
        params={"skipped": end.skipped, "failed": end.failed, "warnings": end.warnings},
        message=message,
        figures={"files": end.files, "written_bytes": end.bytes_written, "warnings": end.warnings},
    )
