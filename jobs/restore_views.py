"""Restoring: choose a point, browse its folders, download a file, restore a selection to a directory of the proxy.

Names are read from the sealed file each time and kept nowhere: the audit trail says what of which point left it, and of
encrypted points no names. What may be written where is decided in `targets`, by the proxy, when the restore is
requested and again when it runs.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.utils.text import slugify
from django.views.decorators.http import require_GET, require_http_methods, require_POST, require_safe

from backupsite import audit
from backupsite.models import AuditEvent
from backupsite.responses import go_to, no_store, page_or_fragment, wants_fragment
from backupsite.roles import Right, may, requires
from jobs import questions
from jobs.asking import asks_password
from jobs.byte_paths import crumbs, path_of, quoted
from jobs.chain_story import key_of
from jobs.download import start_download
from jobs.forms_filters import Place, place_or_none, uuid_or_none
from jobs.forms_restore import RestoreForm, selected
from jobs.job_views import signed_in
from jobs.key_map import secrets_of
from jobs.models import Job, JobChain, Pin, Proxy, Session
from jobs.secret_names import RECORDS, name_of
from jobs.session_views import page_url
from jobs.sessions import PointGone, start_restore, start_verify
from jobs.targets import TargetRefused
from keys.crypto_sealed import CannotOpenSealed
from keys.kms.interface import KmsError
from repositories.engine.entries import Entry, EntryType
from repositories.engine.errors import EngineError, text
from repositories.models import RestorePoint
from repositories.reading import open_point

PAGE = 50
SHOWN_IN_A_FOLDER = 2000
BROWSING_IS_NEW_AFTER = timedelta(hours=1)
CANNOT_READ = (EngineError, CannotOpenSealed, KmsError, OSError)


@requires(Right.RESTORE)
@require_safe
def restore_start(request: HttpRequest) -> HttpResponse:
    """Show every restore point from the newest, or those of one job."""
    job = uuid_or_none(request.GET.get("job", ""))
    after = place_or_none(request.GET.get("after", ""))
    points = RestorePoint.objects.visible_to(request.user).sealed()
    if job:
        points = points.filter(chain__job_chain__job__uuid=job)
    if after:
        points = points.filter(started_at__lte=after.at).exclude(started_at=after.at, pk__gte=after.pk)
    related = points.select_related("chain__repository").prefetch_related(*(f"slots__{record}" for record in RECORDS))
    found = list(related.order_by("-started_at", "-pk")[: PAGE + 1])
    context = {
        "points": [(point, key_of(point)) for point in found[:PAGE]],
        "jobs": Job.objects.visible_to(request.user).only("uuid", "name"),
        "job": job,
        "older_url": page_url(request, Place(found[PAGE - 1].started_at, found[PAGE - 1].pk))
        if len(found) > PAGE
        else "",
        "newest_url": page_url(request, None) if after else "",
    }
    return page_or_fragment(request, "jobs/restore_start.html", "jobs/_point_rows.html", context)


@requires(Right.SEE)
@require_safe
def point_detail(request: HttpRequest, uuid: UUID) -> HttpResponse:
    point = _point(request, uuid)
    later = point.chain.points.sealed().filter(sequence__gt=point.sequence).order_by("-sequence")
    own, through = secrets_of(point)
    context = {
        "point": point,
        "job": _job_of(point),
        "slots": [(slot, name_of(slot)) for slot in own],
        "through": [(slot, name_of(slot)) for slot in through],
        "newest": later.first(),
        "earlier": point.chain.points.sealed().filter(sequence__lt=point.sequence).count(),
        "children": point.children.count(),
        "pins": Pin.objects.filter(point=point, lease_until__gt=timezone.now()).select_related("session"),
        "sessions": Session.objects.visible_to(request.user).filter(source_point=point)[:10],
        "written_by": Session.objects.visible_to(request.user).filter(written_point=point).first(),
    }
    return render(request, "jobs/point_detail.html", context)


@requires(Right.RUN)
@require_POST
def point_verify(request: HttpRequest, uuid: UUID) -> HttpResponse:
    point = _point(request, uuid)
    depth = "full" if request.POST.get("depth") == "full" else "quick"
    try:
        session = start_verify(point, by=signed_in(request), depth=depth)
    except PointGone as error:
        return _unreadable(request, point, error)
    audit.record(request, "verify point", point, after={"session": str(session.uuid), "depth": depth})
    return go_to(request, "session_detail", session.uuid)


@requires(Right.RESTORE)
@require_safe
@asks_password
def point_browse(request: HttpRequest, uuid: UUID) -> HttpResponse:
    point = _point(request, uuid)
    folder = _path(request)
    try:
        with open_point(point) as opened:
            if folder and not opened.entry(folder).is_directory:
                raise Http404("This is not a folder of the restore point.")
            entries = opened.list_folder(folder)
            sources = [] if folder else [source.strip(b"/") for source in opened.summary.sources]
    except CANNOT_READ as error:
        return _unreadable(request, point, error)
    _note_browsing(request, point)
    start = _start(request)
    end = start + SHOWN_IN_A_FOLDER
    context = {
        "point": point,
        "job": _job_of(point),
        "here": quoted(folder),
        "crumbs": crumbs(folder),
        "sources": [{"name": text(b"/" + source), "value": quoted(source)} for source in sources if source],
        "rows": [_row(entry) for entry in sorted(entries, key=_folders_first)[start:end]],
        "entries": len(entries),
        "start": start,
        "end": min(end, len(entries)),
        "page_length": SHOWN_IN_A_FOLDER,
    }
    return no_store(page_or_fragment(request, "jobs/point_browse.html", "jobs/_folder.html", context))


@requires(Right.RESTORE)
@require_GET
@asks_password
def point_download(request: HttpRequest, uuid: UUID) -> HttpResponseBase:
    """Stream one file. Damage before the first byte is a page; later it breaks the connection, and the audit trail says
    incomplete.
    """
    point = _point(request, uuid)
    path = _path(request)
    try:
        return no_store(start_download(request, point, path))
    except CANNOT_READ as error:
        return _unreadable(request, point, error)


@requires(Right.RESTORE)
@require_http_methods(["GET", "HEAD", "POST"])
@asks_password
def point_restore(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Ask where to, for everything (GET) or a selection (POST without `into`), then start the session."""
    point = _point(request, uuid)
    try:
        paths = selected(request.POST.getlist("path"))
    except ValidationError as error:
        return _unreadable(request, point, ValueError(error.messages[0]), status=400)
    asked = "into" in request.POST
    form = RestoreForm(request.POST if asked else None, initial={"into": suggested_folder(point, timezone.now())})
    if not asked or not form.is_valid() or not _target_is_good(request, point, form):
        return _restore_page(request, point, form, paths)
    try:
        cleaned = form.cleaned_data
        session = start_restore(
            point, by=signed_in(request), paths=paths, into=cleaned["into"], existing=cleaned["existing"]
        )
    except TargetRefused as error:
        form.add_error("into", str(error))
        return _restore_page(request, point, form, paths)
    except PointGone as error:
        return _unreadable(request, point, error)
    return go_to(request, "session_detail", session.uuid)


def suggested_folder(point: RestorePoint, now: datetime) -> str:
    """Return a new folder of its own below the first restore root."""
    root = settings.BACKUPSITE.restore_roots[0]
    name = slugify(point.chain.job_name) or "restore"
    return f"{root}/{name}-{point.sequence}-{timezone.localtime(now):%Y%m%d-%H%M%S}"


def _target_is_good(request: HttpRequest, point: RestorePoint, form: RestoreForm) -> bool:
    """Ask the proxy, which alone sees its folders; its refusals stand at the field."""
    user = signed_in(request)
    params = {"path": form.cleaned_data["into"], "by_admin": may(user, Right.ADMINISTER)}
    try:
        problems = questions.ask(_proxy_of(point), "check_target", params, user)["problems"]
    except (questions.NoAnswer, questions.Refused) as error:
        form.add_error(None, str(error))
        return False
    for problem in problems:
        if problem["severity"] == "error":
            form.add_error("into", problem["message"])
    return form.is_valid()


def _restore_page(request: HttpRequest, point: RestorePoint, form: RestoreForm, paths: list[bytes]) -> HttpResponse:
    context = {
        "point": point,
        "job": _job_of(point),
        "form": form,
        "paths": [{"name": text(path), "value": quoted(path)} for path in paths],
        "roots": settings.BACKUPSITE.restore_roots,
        "anywhere": may(request.user, Right.ADMINISTER),
    }
    return no_store(render(request, "jobs/point_restore.html", context))


def _start(request: HttpRequest) -> int:
    """Return at which entry of a large folder the page begins: a whole number of pages."""
    typed = request.GET.get("start", "")
    number = int(typed) if typed.isascii() and typed.isdigit() and len(typed) < 10 else 0
    return number - number % SHOWN_IN_A_FOLDER


def _note_browsing(request: HttpRequest, point: RestorePoint) -> None:
    """Looking into a point uses its key: that is an event, once an hour for a person and a point."""
    lately = timezone.now() - BROWSING_IS_NEW_AFTER
    known = AuditEvent.objects.filter(
        user=signed_in(request), action="browse", object_id=str(point.uuid), at__gte=lately
    )
    if not known.exists():
        audit.record(request, "browse", point)


def _unreadable(request: HttpRequest, point: RestorePoint, error: Exception, *, status: int = 409) -> HttpResponse:
    """Say on a page of its own why nothing can be shown; out of a fragment the browser is sent to that page."""
    if wants_fragment(request):
        return go_to(request, request.get_full_path())
    if isinstance(error, KmsError):
        status = 503
    context = {"point": point, "job": _job_of(point), "error": str(error), "code": getattr(error, "code", "")}
    return render(request, "jobs/point_unreadable.html", context, status=status)


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "name": text(entry.name),
        "value": quoted(entry.path),
        "folder": entry.is_directory,
        "file": entry.is_file,
        "kind": entry.type.value,
        "target": text(entry.target) if entry.type is EntryType.SYMLINK else "",
        "size": entry.size if entry.is_file else None,
        "changed_at": None if entry.ancestor else _when(entry.mtime_ns),
        "torn": entry.torn,
    }


def _when(nanoseconds: int) -> datetime | None:
    """Return a file's time, or nothing for one that no calendar holds: a time in a backup is whatever a file system
    held.
    """
    try:
        return datetime.fromtimestamp(nanoseconds // 10**9, tz=timezone.get_current_timezone())
    except (OverflowError, ValueError, OSError):
        return None


def _folders_first(entry: Entry) -> tuple[bool, bytes]:
    return not entry.is_directory, entry.name.lower()


def _path(request: HttpRequest) -> bytes:
    try:
        return path_of(request)
    except ValueError as error:
        raise Http404(str(error)) from error


def _point(request: HttpRequest, uuid: UUID) -> RestorePoint:
    points = RestorePoint.objects.visible_to(request.user).sealed().select_related("chain__repository", "parent")
    return get_object_or_404(points, uuid=uuid)


def _job_of(point: RestorePoint) -> Job | None:
    link = JobChain.objects.select_related("job__proxy").filter(chain=point.chain).first()
    return link.job if link else None


def _proxy_of(point: RestorePoint) -> Proxy:
    job = _job_of(point)
    return job.proxy if job else Proxy.objects.order_by("pk")[0]
