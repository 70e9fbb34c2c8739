"""What a worker does with one session, from the claim to the stored end.

Each kind of session has a module that says what its process is told and what becomes of the answer: `backing_up`,
`restoring`, `verifying`; or that does its work here, without a process: `kms_polling`. Delivery is at
least once, so a worker that can't claim leaves without a word.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from django.db import Error as DatabaseError
from django.db import connection

from jobs import backing_up, kms_polling, restoring, rewrapping, verifying
from jobs.admission import admit
from jobs.leases import Claim, Stale, claim, kept, renew
from jobs.models import DONE_WELL, Session, SessionKind, State
from jobs.outcome import Outcome, SessionFailed, failure, failure_of, store
from jobs.protocol import End, HeadSaid, Request
from jobs.session_log import SessionLog
from jobs.supervising import DATABASE_ERRORS, Supervisor, state_disk_full

STORE_FOR_SECONDS = 600
STORE_AGAIN_SECONDS = 1.0

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """`prepare` returns what the process is told; `finish` registers what came of it and returns the end; `after`
    tidies up. `storing` returns what brings the catalogue up to what the process reports on its way.
    """

    prepare: Callable[[Session, Claim, SessionLog], Request]
    finish: Callable[[Session, Claim, Request, End, SessionLog], Outcome]
    after: Callable[[Session, SessionLog], None]
    storing: Callable[[Session, Claim], Callable[[list[HeadSaid]], None]] | None = None


@dataclass(frozen=True)
class InWorker:
    """A kind that needs no process: it reads no source and no repository, and ends within a bounded time. `work` looks
    for the wish to stop by itself.
    """

    work: Callable[[Session, Claim, SessionLog], Outcome]


KINDS: dict[str, Kind | InWorker] = {
    SessionKind.BACKUP: Kind(backing_up.prepare, backing_up.finish, backing_up.after),
    SessionKind.RESTORE: Kind(restoring.prepare, restoring.finish, restoring.after),
    SessionKind.VERIFY: Kind(verifying.prepare, verifying.finish, verifying.after),
    SessionKind.REWRAP: Kind(rewrapping.prepare, rewrapping.finish, rewrapping.after, rewrapping.storing),
    SessionKind.KMS_POLL: InWorker(kms_polling.work),
}


def run(session_id: int) -> None:
    """Run a queued session to its stored end; leave at once when it isn't queued."""
    held = claim(session_id)
    if held is None:
        return
    session = Session.objects.select_related("job", "proxy", "repository", "source_point__chain__repository").get(
        pk=session_id
    )
    log = SessionLog(session)
    try:
        _run(session, held, log)
    except Stale as stale:
        logger.warning("%s", stale)
    finally:
        log.close_file()
    with suppress(DatabaseError):
        admit()  # the next tick does it otherwise


def _run(session: Session, held: Claim, log: SessionLog) -> None:
    try:
        outcome = _outcome(session, held, log)
    except Stale:
        raise
    except DATABASE_ERRORS as error:
        connection.close()
        log.raw(traceback.format_exc())
        outcome = failure_of(_database_away(error))
    except Exception as error:  # noqa: BLE001 - stored as the session's result
        log.raw(traceback.format_exc())
        outcome = failure_of(error)
    _say_end(outcome, log)
    _persist(lambda: _end(held, outcome, log))


def _database_away(error: Exception) -> SessionFailed:
    message = "The database went away while the session was prepared or ended; nothing is lost. Start it again."
    return SessionFailed("database-away", message, type=type(error).__name__)


def _outcome(session: Session, held: Claim, log: SessionLog) -> Outcome:
    kind = KINDS.get(session.kind)
    if kind is None:
        raise SessionFailed("unknown-kind", f"There is no session of kind {session.kind}.", kind=session.kind)
    if isinstance(kind, InWorker):
        with kept(held):
            return kind.work(session, held, log)
    full = state_disk_full()
    if full is not None:
        return failure(full)
    with kept(held):
        request = kind.prepare(session, held, log)
    supervisor = Supervisor(held, log, kind.storing(session, held) if kind.storing else None)
    end = supervisor.run(request)
    _persist(supervisor.store_heads)
    outcome = _persist(lambda: kind.finish(session, held, request, end, log))
    if outcome.state in DONE_WELL:
        _tidy_up(kind, session, held, log)
    return outcome


def _tidy_up(kind: Kind, session: Session, held: Claim, log: SessionLog) -> None:
    """What follows a success must not undo it: a fault here is a line in the log."""
    if not renew(held):
        raise Stale(f"Session {session.pk} was taken away when its work was done.")
    try:
        with kept(held):
            kind.after(session, log)
    except Exception as error:  # noqa: BLE001 - stored in the log of the session, which has succeeded
        if isinstance(error, DATABASE_ERRORS):
            connection.close()
        log.raw(traceback.format_exc())
        log.say_error("tidy-up-failed", f"The backup is safe, but tidying up after it failed: {error}")


def _end(held: Claim, outcome: Outcome, log: SessionLog) -> None:
    log.close()
    store(held, outcome)


def _say_end(outcome: Outcome, log: SessionLog) -> None:
    if outcome.state in DONE_WELL:
        log.say("done", outcome.message)
    elif outcome.state == State.CANCELLED:
        log.say("stopped", outcome.message)  # somebody's wish, no error
    else:
        log.say_error("failed", outcome.message)


def _persist(action: Callable[[], Result]) -> Result:
    """Do what has to be stored; without a database try again each second, for as long as it makes sense."""
    give_up_at = time.monotonic() + STORE_FOR_SECONDS
    while True:
        try:
            return action()
        except DATABASE_ERRORS:
            connection.close()
            if time.monotonic() > give_up_at:
                raise
            time.sleep(STORE_AGAIN_SECONDS)
