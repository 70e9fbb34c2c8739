"""Starting, stopping and repeating sessions: the rows, and what they are told.

A start inserts a waiting session and lets `jobs.admission` decide when it runs; stopping is a wish that the session's
supervisor fulfils. What a session then does is decided in `jobs.running`; who may start one is decided in the views.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models.functions import Now

from backupsite.audit import record_for
from backupsite.models import User
from backupsite.roles import Right, may
from jobs.admission import admit
from jobs.models import (
    DueState,
    DueTime,
    Job,
    Pin,
    Proxy,
    Session,
    SessionKind,
    State,
)
from jobs.targets import check_target, target_rules
from keys.sealing import seal_for, unseal_for
from repositories.models import PointState, RestorePoint

EXISTING = ("skip", "overwrite", "rename")
DEPTHS = ("quick", "full")
WAITING_PIN = timedelta(hours=1)  # renewed by every admission while its session waits


class AlreadyActive(Exception):
    """The job has a session that waits or runs: `session` is that one."""

    def __init__(self, session: Session) -> None:
        super().__init__(f"{session} is already {session.state}.")
        self.session = session


class PointGone(Exception):
    """The restore point is being deleted: nothing can be read from it any more."""


class NotRepeatable(Exception):
    """The session can't be repeated: it is still active, or what it worked on is gone."""


@dataclass(frozen=True)
class Selection:
    """What a restore is told: paths without a leading slash (none: everything), the folder, and what happens to
    existing files.
    """

    paths: tuple[bytes, ...]
    into: str
    existing: str


def start_backup(job: Job, *, by: User | None, due_time: DueTime | None = None, full: bool = False) -> Session:
    """Insert a waiting backup session. Raises AlreadyActive, naming the session, when the job has one."""
    with transaction.atomic():
        Job.objects.select_for_update().get(pk=job.pk)  # two starts at once: the second one sees the first one's row
        active = Session.objects.active().filter(job=job, kind=SessionKind.BACKUP).first()
        if active is not None:
            raise AlreadyActive(active)
        if full:
            Job.objects.filter(pk=job.pk).update(full_requested=True)
        if due_time is not None:
            DueTime.objects.filter(pk=due_time.pk, state=DueState.DUE).update(state=DueState.STARTED)
        session = Session.objects.create(
            kind=SessionKind.BACKUP,
            job=job,
            job_name=job.name,
            proxy=job.proxy,
            repository=job.repository,
            due_time=due_time,
            requested_by=by,
        )
        admit_soon()
    return session


def start_restore(point: RestorePoint, *, by: User | None, paths: list[bytes], into: str, existing: str) -> Session:
    """Insert a waiting restore session that holds its point from now on.

    `paths` have no leading slash; none means everything. Raises jobs.targets.TargetRefused when this user may not
    restore into that folder, PointGone when the point is being deleted, ValueError for an unknown choice in `existing`.
    """
    if existing not in EXISTING:
        raise ValueError(f"Existing files can be {', '.join(EXISTING)}; not {existing!r}.")
    check_target(into, target_rules(anywhere=by is not None and may(by, Right.ADMINISTER)))
    with transaction.atomic():
        session = _start_reader(point, SessionKind.RESTORE, by, {"existing": existing, "paths": len(paths)})
        order = {"paths": [base64.b64encode(p).decode() for p in paths], "into": into, "existing": existing}
        session.order_sealed = seal_for(session, "order_sealed", json.dumps(order).encode())
        session.save(update_fields=["order_sealed"])
        record_for(
            by, "restore requested", point, after={"session": str(session.uuid), "paths": len(paths), "into": into}
        )
        admit_soon()
    return session


def start_verify(point: RestorePoint, *, by: User | None, depth: str = "quick") -> Session:
    """Insert a waiting verify session that holds its point from now on; `depth` is quick or full."""
    if depth not in DEPTHS:
        raise ValueError(f"A verify is {' or '.join(DEPTHS)}; not {depth!r}.")
    with transaction.atomic():
        session = _start_reader(point, SessionKind.VERIFY, by, {"depth": depth})
        admit_soon()
    return session


def selection_of(session: Session) -> Selection:
    """Open the sealed order of a restore session. Raises keys.crypto_sealed.CannotOpenSealed."""
    order = json.loads(unseal_for(session, "order_sealed"))
    return Selection(tuple(base64.b64decode(p) for p in order["paths"]), order["into"], order["existing"])


def request_cancel(session: Session) -> bool:
    """Stop a session; return whether there was anything to stop.

    One that has not begun ends here; one that runs is told by its supervisor, which looks twice a second.
    """
    not_begun = Session.objects.filter(pk=session.pk, state__in=(State.WAITING, State.QUEUED))
    with transaction.atomic():
        if not_begun.update(
            state=State.CANCELLED,
            cancel_requested_at=Now(),
            ended_at=Now(),
            result_code="cancelled",
            result_params={"before_start": True},
            result_message="Stopped before it began.",
        ):
            Pin.objects.filter(session=session).delete()
            admit_soon()
            return True
    running = Session.objects.filter(pk=session.pk, state=State.RUNNING, cancel_requested_at=None)
    return running.update(cancel_requested_at=Now()) == 1


def retry(session: Session, *, by: User | None) -> Session:
    """Start the same again. Raises NotRepeatable, and what the start itself raises."""
    if session.is_active:
        raise NotRepeatable(f"{session} is still {session.state}.")
    if session.kind == SessionKind.BACKUP and session.job is not None:
        return start_backup(session.job, by=by)
    if session.source_point is None or session.kind not in (SessionKind.RESTORE, SessionKind.VERIFY):
        raise NotRepeatable(f"What {session} worked on is gone.")
    if session.kind == SessionKind.VERIFY:
        return start_verify(session.source_point, by=by, depth=session.claimed_settings.get("depth", "quick"))
    chosen = selection_of(session)
    return start_restore(
        session.source_point, by=by, paths=list(chosen.paths), into=chosen.into, existing=chosen.existing
    )


def _start_reader(point: RestorePoint, kind: SessionKind, by: User | None, settings: dict[str, Any]) -> Session:
    """Insert the session and pin its point in one transaction: from here on a prune passes the point over."""
    held = (
        RestorePoint.objects.select_for_update()
        .select_related(None)
        .filter(pk=point.pk, state=PointState.SEALED)
        .first()
    )
    if held is None:
        raise PointGone(f"{point} is being deleted.")
    job = Job.objects.filter(job_chains__chain=point.chain_id).select_related("proxy").first()
    session = Session.objects.create(
        kind=kind,
        job=job,
        job_name=point.chain.job_name,
        proxy=job.proxy if job else Proxy.objects.order_by("pk")[0],
        repository=point.chain.repository,
        requested_by=by,
        source_point=point,
        claimed_settings=settings,
    )
    Pin.objects.create(point=point, session=session, lease_until=Now() + WAITING_PIN)
    return session


def admit_soon() -> None:
    transaction.on_commit(
        _admit, robust=True
    )  # a failed admission is repeated by the next tick and must not undo the start


def _admit() -> None:
    admit()
