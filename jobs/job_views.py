"""The pages of jobs: the list, one job with its chain as a picture, and what can be done with it.

The form is in `job_form_views`, what is done with one chain in `chain_views`.
"""

from __future__ import annotations

from urllib.parse import urlencode
from uuid import UUID

from django.contrib import messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from django_htmx.http import retarget

from backupsite import audit
from backupsite.models import Severity, User
from backupsite.responses import go_to, page_or_fragment, vary_on_htmx, wants_fragment
from backupsite.roles import Right, requires
from jobs import jobs as job_cases
from jobs.chain_story import has_active_backup, story_of
from jobs.job_rows import PAGE, next_run, rows_of, with_latest
from jobs.models import ACTIVE, Encryption, Job, Session, SessionKind, State
from jobs.pausing import pause, resume
from jobs.sessions import AlreadyActive, start_backup

SESSIONS_SHOWN = 10
LAST_RESULTS = (
    *((state.value, state.label) for state in State if state not in ACTIVE),
    ("paused", "paused"),
)


def signed_in(request: HttpRequest) -> User:
    assert isinstance(request.user, User)  # every view is behind @requires
    return request.user


@requires(Right.SEE)
@require_safe
def job_list(request: HttpRequest) -> HttpResponse:
    jobs = with_latest(Job.objects.visible_to(request.user))
    found = _narrowed(jobs, request)
    page = list(found.filter(name__gt=request.GET.get("after", ""))[: PAGE + 1])
    context = {
        "rows": rows_of(page[:PAGE], timezone.now()),
        "older_url": _next_url(request, page[PAGE - 1].name) if len(page) > PAGE else "",
        "newest_url": _next_url(request, "") if request.GET.get("after") else "",
        "query": request.GET.get("q", ""),
        "encryption": request.GET.get("encryption", ""),
        "state": request.GET.get("state", ""),
        "states": LAST_RESULTS,
        "narrowed": any(request.GET.get(name) for name in ("q", "encryption", "state")),
    }
    return page_or_fragment(request, "jobs/job_list.html", "jobs/_job_rows.html", context)


def _narrowed(jobs: QuerySet[Job], request: HttpRequest) -> QuerySet[Job]:
    if query := request.GET.get("q", ""):
        jobs = jobs.filter(name__icontains=query)
    if request.GET.get("encryption") in Encryption.values:
        jobs = jobs.filter(encryption=request.GET["encryption"])
    if request.GET.get("state") in State.values:
        jobs = jobs.filter(last_state=request.GET["state"])  # type: ignore[misc]  # annotated
    if request.GET.get("state") == "paused":
        jobs = jobs.filter(paused=True)
    return jobs.order_by("name")


def _next_url(request: HttpRequest, after: str) -> str:
    fields = {name: value for name, value in request.GET.items() if name != "after" and value}
    return "?" + urlencode({**fields, **({"after": after} if after else {})})


@requires(Right.SEE)
@require_safe
def job_detail(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Show a job. While a session is active only its card asks for itself; its end brings the chain as it is then."""
    job = _job(request, uuid)
    sessions = Session.objects.visible_to(request.user).filter(job=job)
    active = sessions.active().filter(kind=SessionKind.BACKUP).select_related("progress").first()
    if active is not None and wants_fragment(request):
        return vary_on_htmx(render(request, "jobs/_job_now.html", {"job": job, "active": active}))
    now = timezone.now()
    next_at = next_run(job, now)
    context = {
        "job": job,
        "next_at": next_at,
        "story": story_of(job, next_at, now),
        "sessions": list(sessions[:SESSIONS_SHOWN]),
        "active": active,
        "last": sessions.filter(kind=SessionKind.BACKUP).exclude(ended_at=None).first(),
    }
    return retarget(page_or_fragment(request, "jobs/job_detail.html", "jobs/_job_live.html", context), "#job-live")


@requires(Right.RUN)
@require_POST
def job_run(request: HttpRequest, uuid: UUID) -> HttpResponse:
    job = _job(request, uuid)
    try:
        session = start_backup(job, by=signed_in(request))
    except AlreadyActive as error:
        messages.info(request, "This job has a session already: here it is.")
        return go_to(request, "session_detail", error.session.uuid)
    audit.record(request, "run job", job, after={"session": str(session.uuid)})
    return go_to(request, "session_detail", session.uuid)


@requires(Right.RUN)
@require_POST
def job_full(request: HttpRequest, uuid: UUID) -> HttpResponse:
    job = _job(request, uuid)
    try:
        session = start_backup(job, by=signed_in(request), full=True)
    except AlreadyActive as error:
        messages.info(request, "This job has a session already. Ask for the full again when it has ended.")
        return go_to(request, "session_detail", error.session.uuid)
    audit.record(request, "run full", job, after={"session": str(session.uuid)})
    return go_to(request, "session_detail", session.uuid)


@requires(Right.EDIT)
@require_POST
def job_pause(request: HttpRequest, uuid: UUID) -> HttpResponse:
    job = _job(request, uuid)
    if pause(job):
        audit.record(request, "pause job", job, before={"paused": False}, after={"paused": True})
        messages.success(request, "Paused: its schedule starts nothing until you resume it.")
    return go_to(request, "job_detail", job.uuid)


@requires(Right.EDIT)
@require_POST
def job_resume(request: HttpRequest, uuid: UUID) -> HttpResponse:
    job = _job(request, uuid)
    if resume(job):
        audit.record(request, "resume job", job, before={"paused": True}, after={"paused": False})
        messages.success(request, "Resumed: its schedule runs again from now on.")
    return go_to(request, "job_detail", job.uuid)


@requires(Right.EDIT)
@require_http_methods(["GET", "HEAD", "POST"])
def job_new_chain(request: HttpRequest, uuid: UUID) -> HttpResponse:
    job = _job(request, uuid)
    if request.method != "POST":
        return render(request, "jobs/job_new_chain.html", {"job": job, "story": story_of(job, None, timezone.now())})
    job_cases.start_new_chain(job)
    audit.record(request, "start new chain", job, severity=Severity.NOTICE)
    messages.success(request, "The next session writes a full and starts a new chain.")
    return go_to(request, "job_detail", job.uuid)


@requires(Right.ADMINISTER)
@require_http_methods(["GET", "HEAD", "POST"])
def job_delete(request: HttpRequest, uuid: UUID) -> HttpResponse:
    job = _job(request, uuid)
    context = {"job": job, "story": story_of(job, None, timezone.now()), "active": has_active_backup(job)}
    if request.method != "POST":
        return render(request, "jobs/job_delete.html", context)
    if request.POST.get("name") != job.name:
        return render(request, "jobs/job_delete.html", {**context, "error": "Type the job's name exactly as it is."})
    try:
        _delete(request, job)
    except job_cases.JobBusy as error:
        return render(request, "jobs/job_delete.html", {**context, "error": str(error)})
    messages.success(
        request, f"The job {job.name} is gone. Its restore points stay in the repository and can be restored."
    )
    return go_to(request, "job_list")


@transaction.atomic
def _delete(request: HttpRequest, job: Job) -> None:
    audit.record(request, "delete job", job, before={"name": job.name, "sources": job.sources}, severity=Severity.HIGH)
    job_cases.delete_job(job)


def _job(request: HttpRequest, uuid: UUID) -> Job:
    jobs = Job.objects.visible_to(request.user).select_related("repository", "password", "kms_key__server", "proxy")
    return get_object_or_404(jobs, uuid=uuid)
