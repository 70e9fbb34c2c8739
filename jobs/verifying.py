"""A verify session: what its process is told, and what its findings mean.

Damage that touches a file fails the session and is kept on the chain, from where the planner reads it; damage that
everything survives (one of two copies of a head) is a warning. What is checked is decided in the engine.
"""

from __future__ import annotations

from django.db import transaction

from jobs import pruning
from jobs.leases import Claim
from jobs.models import Session, State
from jobs.outcome import Outcome, failure, note
from jobs.protocol import End, Failed, Request, Verified, VerifyRequest
from jobs.restoring import audit_key_use, point_file, point_of
from jobs.session_log import SessionLog
from repositories.models import Chain, RestorePoint


def prepare(session: Session, held: Claim, log: SessionLog) -> VerifyRequest:
    point = point_of(session)
    depth = session.claimed_settings.get("depth", "quick")
    audit_key_use(session, point, "verify")
    log.say("started", f"Verifies {point} ({depth}).")
    return VerifyRequest(point=point_file(point), depth=depth)


def finish(session: Session, held: Claim, request: Request, end: End, log: SessionLog) -> Outcome:
    """Return the end of the session; what is damaged is kept on the chain."""
    assert isinstance(request, VerifyRequest)
    outcome = failure(end) if isinstance(end, Failed) else _outcome(end, request.depth)
    with transaction.atomic():
        note(held, outcome)
        damage = _damage(end)
        if damage and session.source_point is not None:
            keep_damage(session.source_point, damage)
    return outcome


def after(session: Session, log: SessionLog) -> None:
    """An old chain may have waited for this verification before it goes."""
    session.refresh_from_db()
    pruning.prune_after(session)


def keep_damage(point: RestorePoint, damage: str) -> None:
    """Note what a verify found, unless the chain is known to be damaged already."""
    Chain.objects.filter(pk=point.chain_id, damage="").update(damage=f"point {point.sequence}: {damage}"[:2000])


def _damage(end: End) -> str:
    if isinstance(end, Failed):
        return end.message if end.code in ("corrupt-file", "missing-file") else ""
    return end.damage if isinstance(end, Verified) and end.damaged_files else ""


def _outcome(end: End, depth: str) -> Outcome:
    assert isinstance(end, Verified)
    figures = {"read_bytes": end.bytes_checked, "warnings": end.damages}
    if end.damages:
        params = {"damages": end.damages, "damaged_files": end.damaged_files}
        state = State.FAILED if end.damaged_files else State.WARNING
        return Outcome(state, "damaged", params, end.damage, figures)
    message = "Everything that was checked is whole" + (f"; {end.notes} notes are in the log." if end.notes else ".")
    return Outcome(State.SUCCEEDED, "verified", {"depth": depth, "notes": end.notes}, message, figures)
