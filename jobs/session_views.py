"""The pages of sessions: the list, one session live, stopping it and trying again; and the due times that nobody was
there for.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import messages
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from backupsite import audit
from backupsite.responses import go_to, page_or_fragment, wants_fragment
from backupsite.roles import Right, may, requires
from jobs.asking import must_ask
from jobs.dashboard import missed
from jobs.forms_filters import KINDS, SINCE, STATES, Place, SessionFilter
from jobs.job_views import signed_in
from jobs.models import ACTIVE, DueTime, Job, LogLevel, LogLine, Session, SessionKind, SessionProgress
from jobs.session_figures import Measured, figures, graph
from jobs.sessions import AlreadyActive, NotRepeatable, PointGone, Selection, request_cancel, retry, selection_of
from keys.crypto_sealed import CannotOpenSealed

PAGE = 50
LOG_SHOWN = 200
# What says nothing of a file: see the list of codes in `outcome`. Everything else is for those who may browse.
LINES_WITHOUT_NAMES = (
    "plan",
    "adopted",
    "leftover-removed",
    "resumed",
    "unfinished-held",
    "sockets-skipped",
    "deletion-finished",
    "pruned",
    "rewrap-started",
    "rewrap-closed",
    "rewrap-refused",
    "tidy-up-failed",
    "log-rest",
    "done",
)
WITHOUT_NAMES = (SessionKind.KMS_POLL,)  # kinds that read no file: whoever sees them sees all of them
SAYS_NO_NAME = (
    "",
    "restored",
    "verified",
    "damaged",
    "cancelled",
    "lease-lost",
    "stopped-outside",
    "point-gone",
    "process-ended",
    "job-gone",
)


@requires(Right.SEE)
@require_safe
def session_list(request: HttpRequest) -> HttpResponse:
    narrowed = SessionFilter.of(request.GET)
    rows = list(filtered(Session.objects.visible_to(request.user), narrowed, timezone.now())[: PAGE + 1])
    context = {
        "sessions": rows[:PAGE],
        "filter": narrowed,
        "states": STATES.items(),
        "kinds": KINDS.items(),
        "since": SINCE,
        "jobs": Job.objects.visible_to(request.user).only("uuid", "name"),
        "older_url": page_url(request, Place(rows[PAGE - 1].created_at, rows[PAGE - 1].pk)) if len(rows) > PAGE else "",
        "newest_url": page_url(request, None) if narrowed.after else "",
    }
    return page_or_fragment(request, "jobs/session_list.html", "jobs/_session_rows.html", context)


def filtered(sessions: QuerySet[Session], narrowed: SessionFilter, now: datetime) -> QuerySet[Session]:
    """Return sessions from the newest; pages go on behind (created_at, id), never by offset."""
    if narrowed.state == "active":
        sessions = sessions.filter(state__in=ACTIVE)
    elif narrowed.state:
        sessions = sessions.filter(state=narrowed.state)
    if narrowed.kind:
        sessions = sessions.filter(kind=narrowed.kind)
    if narrowed.job:
        sessions = sessions.filter(job__uuid=narrowed.job)
    if narrowed.since_hours:
        sessions = sessions.filter(created_at__gte=now - timedelta(hours=narrowed.since_hours))
    if narrowed.after:
        place = narrowed.after
        sessions = sessions.filter(created_at__lte=place.at).exclude(created_at=place.at, pk__gte=place.pk)
    return sessions.select_related("job", "requested_by").defer("order_sealed").order_by("-created_at", "-pk")


def page_url(request: HttpRequest, after: Place | None) -> str:
    fields = {name: value for name, value in request.GET.items() if name != "after" and value}
    return "?" + urlencode({**fields, **({"after": str(after)} if after else {})})


@requires(Right.SEE)
@require_safe
def missed_list(request: HttpRequest) -> HttpResponse:
    """Due times that passed without a session; a page by their time."""
    after = SessionFilter.of(request.GET).after
    rows = missed(signed_in(request)).select_related("job").order_by("-due_at", "-pk")
    if after:
        rows = rows.filter(due_at__lte=after.at).exclude(due_at=after.at, pk__gte=after.pk)
    found: list[DueTime] = list(rows[: PAGE + 1])
    context = {
        "due_times": found[:PAGE],
        "older_url": page_url(request, Place(found[PAGE - 1].due_at, found[PAGE - 1].pk)) if len(found) > PAGE else "",
        "newest_url": page_url(request, None) if after else "",
    }
    return page_or_fragment(request, "jobs/missed_list.html", "jobs/_missed_rows.html", context)


@requires(Right.SEE)
@require_safe
def session_detail(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Show a session; while it is active, its fragment asks for itself every second."""
    session = _session(request, uuid)
    read_from = session.source_point
    may_see = may(request.user, Right.RESTORE) and not (read_from and must_ask(request, read_from))
    names = may_see or session.kind in WITHOUT_NAMES
    level = request.GET.get("level", "")
    context = {
        "session": session,
        "names": names,
        "result_is_private": not names
        and session.kind not in (SessionKind.BACKUP, SessionKind.REWRAP)
        and session.result_code not in SAYS_NO_NAME,
        "selection": chosen(session) if names else None,
        "finished_now": not session.is_active and wants_fragment(request),
        "level": level if level in LogLevel.values else "",
        **live(session, timezone.now()),
        **log_of(session, level, names=names),
    }
    return page_or_fragment(request, "jobs/session_detail.html", "jobs/_session_live.html", context)


def chosen(session: Session) -> Selection | None:
    """Return what a restore was told; it is sealed, and nothing is said if it no longer opens."""
    if session.kind != SessionKind.RESTORE or not session.order_sealed:
        return None
    try:
        return selection_of(session)
    except CannotOpenSealed:
        return None


def live(session: Session, now: datetime) -> dict[str, Any]:
    """Return what the numbers of a session say, while it runs and after."""
    progress = SessionProgress.objects.filter(session=session).first()
    seconds = ((session.ended_at or now) - session.started_at).total_seconds() if session.started_at else None
    if progress is None or seconds is None:
        return {"progress": progress, "figures": None, "graph": None, "seconds": seconds}
    measured = Measured(
        seconds=seconds,
        bytes_processed=progress.bytes_processed,
        bytes_total=progress.bytes_total,
        bytes_read=session.read_bytes or progress.bytes_read,  # the last report comes before the end
        bytes_written=session.written_bytes or progress.bytes_written,
        samples=progress.samples,
        busy_seconds=progress.busy_seconds,
    )
    return {"progress": progress, "figures": figures(measured), "graph": graph(progress.samples), "seconds": seconds}


def log_of(session: Session, level: str, *, names: bool) -> dict[str, Any]:
    """Return the newest lines of a log, and how many there are of each level. Lines about files are for those who may
    see names.
    """
    lines = LogLine.objects.filter(session=session)
    counts = dict(lines.order_by().values_list("level").annotate(Count("pk")))
    about_files = lines.exclude(code__in=LINES_WITHOUT_NAMES)
    hidden = 0 if names else about_files.count()
    shown = lines if names else lines.filter(code__in=LINES_WITHOUT_NAMES)
    if level in LogLevel.values:
        shown = shown.filter(level=level)
    return {
        "log": list(shown.order_by("-pk")[:LOG_SHOWN]),
        "levels": [(value, label, counts.get(value, 0)) for value, label in LogLevel.choices],
        "log_hidden": hidden,
    }


@requires(Right.RUN)
@require_POST
def session_stop(request: HttpRequest, uuid: UUID) -> HttpResponse:
    return _stop(request, _session(request, uuid))


@requires(Right.RESTORE)
@require_POST
def restore_stop(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Who may restore may stop a restore, whoever may not stop backups."""
    restores = Session.objects.visible_to(request.user).filter(kind=SessionKind.RESTORE)
    return _stop(request, get_object_or_404(restores, uuid=uuid))


def _stop(request: HttpRequest, session: Session) -> HttpResponse:
    if request_cancel(session):
        audit.record(request, "stop session", session)
        messages.info(request, "Stopping: within two seconds, and nothing is left half registered.")
    return go_to(request, "session_detail", session.uuid)


@requires(Right.RUN)
@require_POST
def session_retry(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Start a backup or a verify again. A restore is started from its point, by who may restore."""
    sessions = Session.objects.visible_to(request.user).filter(kind__in=(SessionKind.BACKUP, SessionKind.VERIFY))
    session = get_object_or_404(sessions.select_related("job", "source_point"), uuid=uuid)
    try:
        again = retry(session, by=signed_in(request))
    except AlreadyActive as error:
        messages.info(request, "This job has a session already: here it is.")
        return go_to(request, "session_detail", error.session.uuid)
    except (NotRepeatable, PointGone) as error:
        messages.error(request, str(error))
        return go_to(request, "session_detail", session.uuid)
    audit.record(request, "retry session", session, after={"session": str(again.uuid)})
    return go_to(request, "session_detail", again.uuid)


def _session(request: HttpRequest, uuid: UUID) -> Session:
    rows = Session.objects.visible_to(request.user).defer("order_sealed")
    related = ("job", "proxy", "repository", "requested_by", "source_point__chain", "written_point", "due_time")
    return get_object_or_404(rows.select_related(*related), uuid=uuid)
