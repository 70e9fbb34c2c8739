"""A rewrap session: what its process is told, and how the catalogue follows it, batch by batch.

The process reports every point that is as wanted, also where it was so before: an interrupted rewrap that is started
again writes nothing twice, and brings rows up to heads that were written when nobody was left to store them. A point
whose key is out of reach, or that cannot be written, is named in the log and counted in the result, and the others are
done. Whom points are wrapped for stands in the order (`jobs.rewrap_orders`).

Results: rewrapped (written, passed, refused, closed, points), nothing-rewrapped (the same), cancelled (written, passed,
points), recipient-gone (name), order-unreadable, chain-gone, and what `jobs.adopting` raises. Codes of log lines:
rewrap-started, rewrap-closed, rewrap-refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from backupsite.audit import record_for
from backupsite.models import Severity
from jobs import pruning
from jobs.adopting import bring_up_to_date, keys_in_reach
from jobs.file_keys import FileKeys, file_keys_of
from jobs.leases import Claim, held_row
from jobs.models import Session, State
from jobs.outcome import Outcome, SessionFailed, failure, note
from jobs.protocol import End, Failed, HeadSaid, PointFile, Recipients, Request, RewrapDone, RewrapRequest
from jobs.recipients import password_version_recipient
from jobs.rewrap_orders import Order, Wanted, order_of, points_in
from jobs.session_log import SessionLog
from keys.crypto_recipients import KmsRecipient, PasswordRecipient, RecoveryRecipient
from keys.crypto_sealed import CannotOpenSealed
from keys.kms_servers import check_may_wrap
from keys.passwords import is_lost
from keys.public_recipients import kms_recipient, recovery_recipients
from repositories.catalogue import SlotFor, hint_for, kms_version_of, points_of, version_of
from repositories.heads import HeadNow, store_heads
from repositories.models import Chain, RestorePoint


def prepare(session: Session, held: Claim, log: SessionLog) -> RewrapRequest:
    """Return the files with their keys, and the recipients. Raises SessionFailed."""
    order = _order(session)
    chain = _chain(order)
    bring_up_to_date(chain, log, job=session.job, forgiving=True)
    with keys_in_reach():
        add = recipients_of(order)
        keys = file_keys_of(points_of(chain))
    points = list(points_in(order).select_related("chain__repository"))
    reached = [point for point in points if point.uuid in keys.known]
    _name_closed(points, keys, log)
    _keep_numbers(held, len(points), len(points) - len(reached))
    after = {"session": str(session.uuid), "for": "rewrap", "points": len(reached)}
    record_for(session.requested_by, "key used", chain, after=after, severity=Severity.NOTICE)
    log.say("rewrap-started", f"Rewraps {len(reached)} of {len(points)} points of {chain}.")
    return RewrapRequest(chain.uuid, tuple(_file(p, keys.known[p.uuid]) for p in reached), add, order.remove)


def storing(session: Session, held: Claim) -> Callable[[list[HeadSaid]], None]:
    """Return what brings the rows up to reported heads, while the claim holds."""

    def store(heads: list[HeadSaid]) -> None:
        chain = Chain.objects.filter(uuid=session.claimed_settings["chain"]).first()
        if chain is not None and held_row(held).exists():
            store_heads(chain, [_head_now(head) for head in heads])

    return store


def finish(session: Session, held: Claim, request: Request, end: End, log: SessionLog) -> Outcome:
    """Return the end of the session, and put it into the audit."""
    assert isinstance(request, RewrapRequest)
    numbers = held_row(held).values_list("claimed_settings", "cancel_requested_at").first()
    settings, wished_at = numbers or (session.claimed_settings, None)
    outcome = _ended_early(end) if isinstance(end, Failed) else outcome_of(end, settings, wished=wished_at is not None)
    chain = Chain.objects.filter(uuid=request.chain_id).first()
    after = {"session": str(session.uuid), "state": str(outcome.state), "result": outcome.code, **outcome.params}
    with transaction.atomic():
        note(held, outcome)
        record_for(session.requested_by, "rewrap ended", chain, after=after, severity=Severity.NOTICE)
    return outcome


def after(session: Session, log: SessionLog) -> None:
    """Nothing was pruned while this session wrote."""
    session.refresh_from_db()
    pruning.prune_after(session)


def recipients_of(order: Order) -> Recipients:
    """Return whom to wrap for.

    Raises SessionFailed for a record that is gone, retired or declared lost, CannotOpenSealed, and
    keys.kms_servers.WrapRefused.
    """
    active = {recipient.record: recipient for recipient in recovery_recipients()}
    return Recipients(
        passwords=tuple(_password(one) for one in order.add if one.kind == "password"),
        kms=tuple(_kms(one) for one in order.add if one.kind == "kms"),
        recovery=tuple(_recovery(one, active) for one in order.add if one.kind == "recovery"),
    )


def _order(session: Session) -> Order:
    try:
        return order_of(session)
    except CannotOpenSealed as error:
        raise SessionFailed("order-unreadable", f"{error} Request the rewrap again.") from error


def _chain(order: Order) -> Chain:
    chain = Chain.objects.select_related("repository").filter(uuid=order.chain, encrypted=True).first()
    if chain is None:
        raise SessionFailed("chain-gone", "The chain was deleted before this session began.")
    return chain


def _password(wanted: Wanted) -> PasswordRecipient:
    version = version_of(wanted.record, wanted.version)
    if version is None or is_lost(version):
        raise _gone(wanted)
    return password_version_recipient(version)


def _kms(wanted: Wanted) -> KmsRecipient:
    version = kms_version_of(wanted.record, wanted.version)
    if version is None:
        raise _gone(wanted)
    recipient = kms_recipient(version)
    check_may_wrap(version, timezone.now())
    return recipient


def _recovery(wanted: Wanted, active: dict[UUID, RecoveryRecipient]) -> RecoveryRecipient:
    if wanted.record not in active:
        raise _gone(wanted)
    return active[wanted.record]


def _gone(wanted: Wanted) -> SessionFailed:
    name = f"{wanted.kind} {wanted.record}, version {wanted.version}"
    return SessionFailed(
        "recipient-gone", f"The {name} is gone, retired or declared lost: request the rewrap again.", name=name
    )


def _name_closed(points: list[RestorePoint], keys: FileKeys, log: SessionLog) -> None:
    for point in points:
        if point.uuid not in keys.known:
            log.say_warning("rewrap-closed", f"Point {point.sequence} was left as it is. {keys.closed[point.uuid]}")


def _keep_numbers(held: Claim, points: int, closed: int) -> None:
    for settings in held_row(held).values_list("claimed_settings", flat=True):
        held_row(held).update(claimed_settings={**settings, "points": points, "closed": closed})


def _file(point: RestorePoint, key: bytes) -> PointFile:
    return PointFile(
        path=os.fsencode(point.path),
        file_id=point.uuid,
        head_generation=point.head_generation,
        seal_hash=bytes(point.seal_hash),
        file_key=key,
    )


def _head_now(head: HeadSaid) -> HeadNow:
    slots = tuple(SlotFor(slot.record, slot.version, slot.kind, hint_for(slot.hint)) for slot in head.slots)
    return HeadNow(head.file_id, head.generation, slots)


def _ended_early(end: Failed) -> Outcome:
    """What was rewrapped stays so, however the process ended."""
    found = failure(end)
    message = f"{found.message} Points that were rewrapped stay so; started again, it goes on with the others."
    return Outcome(found.state, found.code, {**found.params, "rewrap": True}, message)


def outcome_of(end: End, settings: dict[str, int], *, wished: bool) -> Outcome:
    """Return what a process that came to its end means; `settings` are those that the session claimed."""
    assert isinstance(end, RewrapDone)
    points, closed = settings.get("points", 0), settings.get("closed", 0)
    done = end.written + end.passed
    params = {"written": end.written, "passed": end.passed, "refused": end.refused, "closed": closed, "points": points}
    figures = {"files": done, "warnings": end.refused + closed}
    if end.stopped:
        state = State.CANCELLED if wished else State.INTERRUPTED
        code = "cancelled" if wished else "stopped-outside"
        message = f"Stopped after {done} of {points} points. Started again, it goes on with the others."
        return Outcome(state, code, {**params, "rewrap": True}, message, figures)
    left = end.refused + closed
    if left and not done:
        message = f"None of {points} points could be rewrapped: the log says why."
        return Outcome(State.FAILED, "nothing-rewrapped", params, message, figures)
    message = f"{end.written} points were rewrapped, {end.passed} were as wanted already" + (
        f", {left} could not be: the log names them." if left else "."
    )
    return Outcome(State.WARNING if left else State.SUCCEEDED, "rewrapped", params, message, figures)
