"""How a session ended: every end is a stored state with a code, its parameters and a sentence.

An end is stored only by whoever holds the session's claim; a session whose supervisor fell silent is ended by
`jobs.leases.expire`. The pages make their own sentences from code and parameters; `result_message` is the sentence for
everything that has no template.

Result codes (`result_code`, `result_params`):

    succeeded, warning
        backed-up            kind, sequence, new_chain, warnings
        restored             skipped, failed, warnings
        verified             depth, notes
        damaged              damages, damaged_files (0: everything can still be restored)
        rewrapped            written, passed, refused, closed, points
        kms-polled           server, keys, pairs, rotated
        kms-doubt            server, problems (sentences)
        kms-keys-closed      server, points, keys (each: key, state, points, with_another_slot, jobs, first, last)
    failed
        damaged              damages, damaged_files
        kms-keys-closed      as above: destroyed, or gone
        kms-away, kms-untrusted, kms-refused, kms-key-gone, kms-garbage, kms-missing, kms-wrap-refused, kms-server-gone
        protection-changed   job
        plaintext-refused    repository
        key-out-of-reach     what, because (a code of keys.kms.interface or of the engine, or empty)
        job-gone, point-gone, order-unreadable
        source-in-repository path, repository
        source-in-state-folder path
        repository-away      path
        repository-empty     path, points
        cannot-adopt         path
        state-disk-full      path, free_bytes, needed_bytes
        not-absolute, outside-roots, in-repository, in-state-folder    path (of the restore's target; roots, repository)
        process-ended        signal or exit_code
        system-error         path, reason
        database-away        type
        internal-error       type
        unknown-kind         kind
        nothing-rewrapped    written, passed, refused, closed, points
        recipient-gone       name
        chain-gone
        and those of the engine with their fields: cannot-unwrap, corrupt-file (path, part), missing-file,
        unknown-version, plain-refused, fenced, interrupted, out-of-space (path, free_bytes, needed_bytes),
        repository-unwritable (path, reason), source-missing (path), source-unreadable (path, reason),
        source-refused (path), bad-pattern (pattern), bad-order, already-exists (path, sequence),
        forked-chain (path, file_id), unknown-point (path, sequence), another-writer (path),
        nothing-to-restore (path), bad-target (path, reason)
    cancelled
        cancelled            before_start: true when it had not begun; of a rewrap what `jobs.rewrapping` names
    interrupted
        lease-lost           (nothing)
        stopped-outside      (nothing): the console was stopped

Codes of log lines: plan, adopted, leftover-removed, resumed, unfinished-held, sockets-skipped, chain-damaged,
deletion-finished, pruned, tidy-up-failed, custody-strict, custody-not-strict, log-rest, protocol, damaged-part,
damaged-file, verify-note, kms-asked, kms-rotated, kms-opened-again, kms-problem, kms-key-closed, rewrap-started,
rewrap-closed, rewrap-refused, done, stopped, failed, and the codes of the engine's warnings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from django.db import transaction
from django.db.models.functions import Now

from jobs.leases import Claim, Stale, held_row
from jobs.models import Pin, SessionProgress, State
from jobs.protocol import Failed

STATES = {"cancelled": State.CANCELLED, "stopped-outside": State.INTERRUPTED}  # every other code is a failure


class SessionFailed(Exception):
    """A session can't go on: `code` and `params` say why, str() is the whole sentence. Nothing was written."""

    def __init__(self, code: str, message: str, **params: Any) -> None:  # noqa: ANN401 - plain JSON values
        super().__init__(message)
        self.code = code
        self.params = params


@dataclass(frozen=True)
class Outcome:
    """How a session ended.

    `figures` are columns of the session: files, source_bytes, read_bytes, written_bytes, warnings ...
    """

    state: State
    code: str
    params: dict[str, Any]
    message: str
    figures: dict[str, Any] = field(default_factory=dict)


def failure(failed: Failed) -> Outcome:
    """The end that a process, or its supervisor, tells."""
    state = STATES.get(failed.code, State.FAILED)
    return Outcome(state, failed.code[:60], failed.params, failed.message)


def failure_of(error: Exception) -> Outcome:
    """The end that an exception in the worker means; one without a code of its own is named by its type alone."""
    code, params = getattr(error, "code", None), getattr(error, "params", None) or getattr(error, "fields", None)
    if isinstance(code, str):
        return Outcome(State.FAILED, code[:60], params if isinstance(params, dict) else {}, str(error))
    message = f"The worker met a fault of its own ({type(error).__name__}); the log file of the session says where."
    return Outcome(State.FAILED, "internal-error", {"type": type(error).__name__}, message)


def note(held: Claim, outcome: Outcome) -> None:
    """Store everything about the end but the end itself, in the caller's transaction; raises Stale.

    A point that is registered together with this counts even if the worker is killed right after it.
    """
    changed = held_row(held).update(
        result_code=outcome.code,
        result_params=outcome.params,
        result_message=outcome.message,
        **outcome.figures,
    )
    if not changed:
        raise Stale(f"Session {held.session_id} was taken away before its end could be stored.")


def store(held: Claim, outcome: Outcome) -> None:
    """End the session. Raises Stale when it is somebody else's by now."""
    with transaction.atomic():
        note(held, outcome)
        Pin.objects.filter(session=held.session_id).delete()
        SessionProgress.objects.filter(session=held.session_id).update(current_path="")  # only a running one shows it
        held_row(held).update(state=outcome.state, ended_at=Now(), lease_until=None)
