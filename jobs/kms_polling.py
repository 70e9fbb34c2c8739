"""The session that polls a key management server: when it is started, what it means for restore points, how it ends.

It works inside the worker: it opens nothing, so no key leaves the server. What is asked is decided in
`keys.kms_polling`. A pair that no longer opens is told at the poll, not at the restore: the session ends badly, and the
audit gets an event of high severity, each naming the points at stake.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from backupsite.audit import record_for
from backupsite.models import Severity, User
from jobs.kms_usage import Stake, stake_of
from jobs.leases import Claim
from jobs.models import Proxy, Session, SessionKind, State
from jobs.outcome import Outcome, SessionFailed
from jobs.session_log import SessionLog
from jobs.sessions import admit_soon
from keys.kms.connecting import is_installed
from keys.kms_polling import Report, StateSeen, poll
from keys.models import KeyState, KmsServer

POLL_EVERY = timedelta(hours=24)
TRY_AGAIN_AFTER = timedelta(hours=1)  # when the last poll failed
CLOSED = (KeyState.DESTROYED, KeyState.GONE)  # of the states that a server tells: nothing opens

SENTENCES = {
    KeyState.DISABLED: "is disabled: it opens nothing until it is enabled at the server",
    KeyState.SCHEDULED: "is scheduled for deletion: after that it opens nothing any more",
    KeyState.DESTROYED: "is destroyed: nothing opens with it any more",
    KeyState.GONE: "is not known to the server: nothing opens with it, unless the server gets it back",
}


def start_poll(server: KmsServer, *, by: User | None) -> Session:
    """Insert a waiting session that polls the server, or return the one that is under way."""
    with transaction.atomic():
        KmsServer.objects.select_for_update().get(pk=server.pk)
        active = active_poll(server)
        if active is not None:
            return active
        session = Session.objects.create(
            kind=SessionKind.KMS_POLL,
            job_name=server.name,
            proxy=Proxy.objects.order_by("pk")[0],
            requested_by=by,
            claimed_settings={"server": str(server.uuid)},
        )
        admit_soon()
    return session


def active_poll(server: KmsServer) -> Session | None:
    polls = Session.objects.active().filter(kind=SessionKind.KMS_POLL)
    return polls.filter(claimed_settings__server=str(server.uuid)).first()


def start_due_polls(now: datetime) -> list[Session]:
    """Poll each server once a day; one that failed, each hour."""
    if not is_installed():
        return []
    is_due = (
        Q(polled_at=None)
        | Q(polled_at__lte=now - POLL_EVERY)
        | Q(polled_at__lte=now - TRY_AGAIN_AFTER) & ~Q(problem="")
    )
    return [start_poll(server, by=None) for server in KmsServer.objects.filter(is_due)]


def work(session: Session, held: Claim, log: SessionLog) -> Outcome:
    """Poll, and return how that went. Raises KmsError when the server does not answer."""
    server = _server_of(session)
    log.say("started", f"Asks the KMS server {server.name} about its keys.")
    stakes: list[tuple[StateSeen, Stake]] = []

    def tell(seen: StateSeen) -> None:
        stakes.append((seen, stake_of(seen.version)))
        _tell_closed(session, *stakes[-1], log)

    report = poll(server, lambda: _is_unwanted(held), tell)
    if report.stopped:
        return Outcome(State.CANCELLED, "cancelled", {}, "Stopped. What was asked by then is kept.")
    _tell(report, log)
    return _outcome(server, report, stakes)


def _server_of(session: Session) -> KmsServer:
    server = KmsServer.objects.filter(uuid=UUID(session.claimed_settings["server"])).first()
    if server is None:
        raise SessionFailed("kms-server-gone", "The KMS server was deleted before its poll began.")
    return server


def _is_unwanted(held: Claim) -> bool:
    """Tell whether somebody stopped the session, or it was taken away from this worker."""
    rows = Session.objects.filter(pk=held.session_id, fence=held.fence, cancel_requested_at=None)
    return not rows.exists()


def _tell(report: Report, log: SessionLog) -> None:
    log.say("kms-asked", f"Asked for the state of {_pairs(report)}; {report.proven} opened what was sealed.")
    for version in report.rotated:
        log.say(
            "kms-rotated",
            f"The {version.key} was rotated: version {version.number} is used from each job's next session on.",
        )
    for version in report.opened_again:
        log.say("kms-opened-again", f"The {version} is active again.")
    for problem in report.problems:
        log.say_warning("kms-problem", problem)


def _tell_closed(session: Session, seen: StateSeen, stake: Stake, log: SessionLog) -> None:
    words = f"The {seen.version} {SENTENCES[seen.now]}. At stake: {stake.words}"
    (log.say_error if seen.now in CLOSED else log.say_warning)("kms-key-closed", words)
    if seen.is_new:
        record_for(
            session.requested_by,
            "KMS key closed",
            seen.version,
            before={"state": seen.before},
            after={"state": seen.now, "session": str(session.uuid), **stake.facts()},
            severity=Severity.HIGH,
        )


def _outcome(server: KmsServer, report: Report, stakes: list[tuple[StateSeen, Stake]]) -> Outcome:
    figures = {"warnings": len(report.closed) + len(report.problems)}
    if stakes:
        state = State.FAILED if any(seen.now in CLOSED for seen, _ in stakes) else State.WARNING
        params = {
            "server": server.name,
            "keys": [{"key": str(seen.version), "state": seen.now.label, **stake.facts()} for seen, stake in stakes],
            "points": sum(stake.points for _, stake in stakes),
        }
        return Outcome(state, "kms-keys-closed", params, _closed_words(stakes), figures)
    if report.problems:
        params = {"server": server.name, "problems": report.problems}
        return Outcome(State.WARNING, "kms-doubt", params, " ".join(report.problems), figures)
    params = {"server": server.name, "keys": report.keys, "pairs": report.asked, "rotated": len(report.rotated)}
    message = f"The server {server.name} answered: {_pairs(report)} {'is' if report.asked == 1 else 'are'} active."
    return Outcome(State.SUCCEEDED, "kms-polled", params, message, figures)


def _pairs(report: Report) -> str:
    return f"{report.asked} key pair{'' if report.asked == 1 else 's'}"


def _closed_words(stakes: list[tuple[StateSeen, Stake]]) -> str:
    """Return one sentence for lists; the log has one for each key."""
    seen, stake = stakes[0]
    more = f" And {len(stakes) - 1} more: the log names them." if len(stakes) > 1 else ""
    return f"The {seen.version} is {seen.now.label}; at stake: {stake.words}{more}"
