"""Which points of a job are removed now: retention as far as nobody holds them, and old chains that were to go.

`jobs.retention` says what may go. Here whole leading runs are marked and removed, unless a reader has pinned one of
their points: then that run and the later ones of its chain stay until the next time, and the log says who holds them.
Files and rows are removed by `repositories.catalogue`; what is marked is finished by whoever comes next.

An unencrypted chain that an administrator asked to delete goes once its successor has a full that succeeded without
warnings and was verified in full. Until then it waits, and `old_chains_waiting` says for what:

    successor-missing      (none)              no encrypted chain was begun
    successor-damaged      damage
    full-missing           (none)              no full of the successor is known to have succeeded
    full-had-warnings      session, warnings   the newest full was written with warnings
    not-verified           sequence            its full is going to be verified
    verify-active          session, sequence   it is being verified, or the verification waits
    verify-failed          session, sequence   damage was found, or the verification ended without a result
    ready                  (none)              it goes after the next session

Codes of log lines: pruned, prune-held, prune-away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from django.db import transaction
from django.db.models.functions import Now

from backupsite.audit import record_for
from jobs.admission import WRITERS
from jobs.models import Job, JobChain, JobChainState, LogLevel, LogLine, Pin, Session, SessionKind, State
from jobs.retention import Point, decide
from repositories.catalogue import delete_chain, delete_points
from repositories.models import Chain, Kind, PointState, RestorePoint

UNDER_RETENTION = (JobChainState.CURRENT, JobChainState.PREVIOUS)


@dataclass(frozen=True)
class Held:
    """Points of a chain that could go, but for these sessions, which read from them."""

    chain: Chain
    points: int
    sessions: tuple[Session, ...]


@dataclass(frozen=True)
class Pruned:
    """What was removed, and what had to stay until the next time."""

    points: int = 0
    held: tuple[Held, ...] = ()
    away: tuple[Chain, ...] = ()  # their repository is not there


@dataclass(frozen=True)
class Waiting:
    """Why an old chain that is to be deleted is still there."""

    chain: Chain
    code: str
    params: dict[str, Any]


def prune_after(session: Session) -> Pruned:
    """Prune what belongs to the session's job, and say so in the session's log.

    Called at the end of a session, which is still running then: it doesn't count as another writer, and what it found
    out counts.
    """
    job = session.job
    if job is None:
        return Pruned()
    done = prune(job, during=session)
    for level, code, message in _sayings(done):
        LogLine.objects.create(session=session, level=level, code=code, message=message)
    return done


def prune(job: Job, *, during: Session | None = None) -> Pruned:
    """Remove what may go. Nothing goes while another session writes to the job's chains: that one prunes at its end."""
    with transaction.atomic():
        Job.objects.select_for_update().filter(pk=job.pk).first()
        if _other_writer(job, during):
            return Pruned()
        held, away = _mark(job, during)
    return Pruned(_remove_marked(job), held, away)


def _other_writer(job: Job, during: Session | None) -> bool:
    running = Session.objects.filter(job=job, kind__in=WRITERS, state=State.RUNNING)
    return any(session != during for session in running)


def _mark(job: Job, during: Session | None) -> tuple[tuple[Held, ...], tuple[Chain, ...]]:
    """Mark whole runs from the head of each chain, up to the first that stays or is held."""
    held: list[Held] = []
    away: list[Chain] = []
    going = _going(job, during)
    for link in _links(job):
        runs = _doomed_runs(link.chain, going)
        if runs and not link.chain.repository.root.is_dir():
            away.append(link.chain)
            continue
        for run in runs:
            readers = _readers(run)
            if readers:
                held.append(Held(link.chain, sum(len(later) for later in runs[runs.index(run) :]), readers))
                break
            _mark_run(run)
    return tuple(held), tuple(away)


def _links(job: Job) -> list[JobChain]:
    links = job.job_chains.filter(state__in=UNDER_RETENTION).select_related("chain__repository")
    return list(links.order_by("chain__created_at", "chain__pk"))


def _going(job: Job, during: Session | None) -> set[int]:
    """Return the points that retention, or an answer about an old chain, lets go."""
    going = {verdict.point for verdict in decide(_points(job), job.keep_points) if not verdict.stays}
    for link in _links(job):
        if link.delete_after_full and _why_wait(job, link, during).code == "ready":
            going.update(link.chain.points.sealed().values_list("pk", flat=True))
    return going


def _points(job: Job) -> list[Point]:
    points: list[Point] = []
    for link in _links(job):
        chain = link.chain
        for number, run in enumerate(_runs(chain)):
            points += [Point(point.pk, chain.pk, number, damaged=bool(chain.damage)) for point in run]
    return points


def _runs(chain: Chain) -> list[list[RestorePoint]]:
    """Return the sealed points of a chain, oldest first, run by run."""
    run = 0

    def number(point: RestorePoint) -> int:
        nonlocal run
        run += point.kind == Kind.FULL
        return run

    return [list(points) for _, points in groupby(chain.points.sealed().order_by("sequence"), key=number)]


def _doomed_runs(chain: Chain, going: set[int]) -> list[list[RestorePoint]]:
    """Return the leading runs of which every point may go."""
    doomed = []
    for run in _runs(chain):
        if any(point.pk not in going for point in run):
            break
        doomed.append(run)
    return doomed


def _readers(run: list[RestorePoint]) -> tuple[Session, ...]:
    """Lock the points, so that nobody pins one from now on, and return who reads from them already."""
    keys = [point.pk for point in run]
    list(RestorePoint.objects.select_for_update().filter(pk__in=keys))
    pins = Pin.objects.filter(point__in=keys)
    pins.filter(lease_until__lt=Now()).delete()
    return tuple(Session.objects.filter(pins__in=pins).distinct().order_by("pk"))


def _mark_run(run: list[RestorePoint]) -> None:
    RestorePoint.objects.filter(pk__in=[point.pk for point in run]).update(state=PointState.DELETING)


def _remove_marked(job: Job) -> int:
    """Remove every marked point of the job's chains, and a previous chain that nothing is left of."""
    removed = 0
    for link in _links(job):
        chain = link.chain
        if not chain.repository.root.is_dir():
            continue
        if link.state == JobChainState.PREVIOUS and not chain.points.sealed().exists():
            count = delete_chain(chain)
        else:
            count = delete_points(chain.points.filter(state=PointState.DELETING))
        if count:
            _audit(job, chain, count)
        removed += count
    return removed


def _audit(job: Job, chain: Chain, count: int) -> None:
    after = {"chain": str(chain.uuid), "repository": chain.repository.name, "points": count}
    record_for(None, "points pruned", job, after=after)


def _sayings(done: Pruned) -> Iterator[tuple[str, str, str]]:
    if done.points:
        yield LogLevel.INFO, "pruned", f"{done.points} restore points that retention no longer needs were removed."
    for held in done.held:
        sessions = ", ".join(f"{session} ({session.uuid})" for session in held.sessions)
        message = f"{held.points} restore points of {held.chain} stay for now: {sessions} reads from them."
        yield LogLevel.INFO, "prune-held", message
    for chain in done.away:
        path = chain.repository.root
        message = f"Points of {chain} could go, but their repository {path} is not there: they go when it is back."
        yield LogLevel.WARNING, "prune-away", message


def old_chains_waiting(job: Job) -> list[Waiting]:
    """Return for each old chain that is to be deleted what it waits for."""
    return [_why_wait(job, link, None) for link in _links(job) if link.delete_after_full]


def fulls_to_verify() -> list[RestorePoint]:
    """Return the fulls that must be verified before an old chain goes, where no verification is under way or failed."""
    links = JobChain.objects.filter(delete_after_full=True, state=JobChainState.PREVIOUS).select_related("job", "chain")
    waiting = ((link.job, _why_wait(link.job, link, None)) for link in links)
    fulls = [
        _clean_full(chain) for job, wait in waiting if wait.code == "not-verified" and (chain := job.current_chain())
    ]
    return [full for full in fulls if full is not None]


def _why_wait(job: Job, link: JobChain, during: Session | None) -> Waiting:
    successor = job.current_chain()
    if successor is None or successor.pk == link.chain_id or not (successor.encrypted or link.chain.encrypted):
        return Waiting(link.chain, "successor-missing", {})
    return Waiting(link.chain, *_about_successor(successor, during))


def _about_successor(successor: Chain, during: Session | None) -> tuple[str, dict[str, Any]]:
    if successor.damage:
        return "successor-damaged", {"damage": successor.damage}
    full = _clean_full(successor)
    if full is None:
        return _about_unclean(successor)
    verifies = Session.objects.filter(kind=SessionKind.VERIFY, source_point=full, claimed_settings__depth="full")
    if any(_has_passed(session, during) for session in verifies):
        return "ready", {}
    last = verifies.exclude(state=State.INTERRUPTED).order_by("-created_at", "-pk").first()
    if last is None:
        return "not-verified", {"sequence": full.sequence}
    code = "verify-active" if last.is_active else "verify-failed"
    return code, {"session": str(last.uuid), "sequence": full.sequence}


def _has_passed(verify: Session, during: Session | None) -> bool:
    """Tell whether a verification found all whole; one that is ending now has a result, but no state yet."""
    if verify == during:
        return verify.result_code == "verified" and verify.warnings == 0
    return verify.state == State.SUCCEEDED


def _clean_full(chain: Chain) -> RestorePoint | None:
    """Return the newest full of the chain that a session wrote without warnings."""
    clean = Session.objects.filter(kind=SessionKind.BACKUP, state=State.SUCCEEDED, warnings=0)
    fulls = chain.points.sealed().filter(kind=Kind.FULL, pk__in=clean.values("written_point"))
    return fulls.order_by("-sequence").first()


def _about_unclean(chain: Chain) -> tuple[str, dict[str, Any]]:
    written = Session.objects.filter(kind=SessionKind.BACKUP, written_point__chain=chain, warnings__gt=0)
    last = written.filter(written_point__kind=Kind.FULL).order_by("-created_at", "-pk").first()
    if last is None:
        return "full-missing", {}
    return "full-had-warnings", {"session": str(last.uuid), "warnings": last.warnings}
