"""The job form: made, previewed, browsed and saved at one address, so that it is the same with and without JavaScript.

What a button does is its `action`: preview, check (the directories), open (a folder of the proxy), add (a folder to the
sources) or save. Only save writes, and only when the answer that it shows is still the answer.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.db import IntegrityError, transaction
from django.forms import Form
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from backupsite import audit
from backupsite.models import Severity
from backupsite.responses import go_to, no_store, page_or_fragment, wants_fragment
from backupsite.roles import Right, requires
from jobs import jobs as job_cases
from jobs.folder_picker import folder_at, folders_of
from jobs.forms import JobForm, OldChain, lines_of
from jobs.job_preview import Preview, digest_of, preview_of
from jobs.job_views import signed_in
from jobs.models import Encryption, Job, Proxy
from jobs.planning import PlanRefused
from jobs.source_check import Answer, check_sources
from keys.kms.interface import KmsError
from keys.kms_servers import key_for
from keys.models import KmsKey, PasswordRecord
from keys.passwords import create_record

CHECK_SECONDS = 10
LOOK_SECONDS = 3
FRAGMENTS = {
    "preview": "jobs/_job_preview.html",
    "check": "jobs/_source_notes.html",
    "open": "jobs/_job_sources.html",
    "add": "jobs/_job_sources.html",
}


@requires(Right.EDIT)
@sensitive_post_parameters("new_password", "new_password_again")
@require_http_methods(["GET", "HEAD", "POST"])
def job_new(request: HttpRequest) -> HttpResponse:
    return _form_page(request, Job(proxy=Proxy.objects.order_by("pk")[0]))


@requires(Right.EDIT)
@sensitive_post_parameters("new_password", "new_password_again")
@require_http_methods(["GET", "HEAD", "POST"])
def job_edit(request: HttpRequest, uuid: UUID) -> HttpResponse:
    jobs = Job.objects.visible_to(request.user).select_related("repository", "password", "kms_key__server", "proxy")
    return _form_page(request, get_object_or_404(jobs, uuid=uuid))


def _form_page(request: HttpRequest, job: Job) -> HttpResponse:
    if request.method != "POST":
        form = JobForm(job=job, user=signed_in(request))
        form.show_on(job)
        return _shown(request, form, job)
    form = JobForm(request.POST, job=job, user=signed_in(request))
    valid = form.is_valid()
    form.put_on(job)
    action = request.POST.get("action", "save").partition(":")[0]
    if action in ("open", "add"):
        return _browsed(request, form, job)
    if action == "check" or (action == "preview" and not wants_fragment(request)):
        return _shown(request, form, job, {"said": _checked(request, form, job, LOOK_SECONDS)})
    if action != "save":
        return _shown(request, form, job)
    skip = not valid or form.cleaned_data["unchecked"]
    answer = Answer() if skip else _checked(request, form, job, CHECK_SECONDS)
    for error in answer.errors:
        form.add_error("sources", error)
    if not form.is_valid() or answer.silent:
        return _shown(request, form, job, {"answer": answer})
    return _saved(request, form, job, answer)


def _shown(request: HttpRequest, form: JobForm, job: Job, more: dict[str, Any] | None = None) -> HttpResponse:
    """Answer with the form, or with the fragment that the button asks for; what was typed stays, but for secrets."""
    fragment = FRAGMENTS.get(request.POST.get("action", "").partition(":")[0], "jobs/_job_form.html")
    context = {"form": form, "job": job, "preview": _preview(form, job), **(more or {})}
    return no_store(page_or_fragment(request, "jobs/job_form.html", fragment, context))


def _preview(form: JobForm, job: Job) -> Preview | None:
    """Return what the next session would do, if enough is known: a repository, and what protects the files."""
    missing = {Encryption.PASSWORD: job.password is None, Encryption.KMS: job.kms_key is None}
    if getattr(job, "repository", None) is None or missing.get(Encryption(job.encryption), False):
        return None
    return preview_of(job, detach=form.is_bound and form.cleaned_data.get("old_chain") == OldChain.DETACH)


def _checked(request: HttpRequest, form: JobForm, job: Job, timeout_seconds: float) -> Answer:
    """Ask the proxy about the directories, if they and the repository are known."""
    known = "sources" in form.cleaned_data and form.cleaned_data.get("repository") is not None
    return check_sources(job, signed_in(request), timeout_seconds) if known else Answer()


def _saved(request: HttpRequest, form: JobForm, job: Job, answer: Answer) -> HttpResponse:
    before = Job.objects.select_related("repository", "password", "kms_key__server").filter(pk=job.pk).first()
    try:
        made = _make_kms_key(request, form, job)
        with transaction.atomic():
            saved = _save(request, form, job, made)
            _record(request, before, saved)
    except job_cases.AnswerChanged:
        return _again(request, form, before or job, {"changed": True})
    except KmsError as error:
        form.add_error("kms_server", f"Nothing was saved: {error}")
        return _shown(request, form, job)
    except job_cases.EditedMeanwhile:
        return _again(request, form, before or job, {"edited": True})
    except (job_cases.ReasonNeeded, PlanRefused, IntegrityError):  # or a name was taken meanwhile: the form finds it
        return _again(request, form, before or job, {"changed": True})
    for note in answer.notes:
        messages.info(request, note)
    messages.success(request, f"Saved: {saved.name}.")
    return go_to(request, "job_detail", saved.uuid)


def _save(request: HttpRequest, form: JobForm, job: Job, made: KmsKey | None) -> Job:
    """Save within the caller's transaction.

    A password made in this form gets its id only here, and `made` got its own while the server was asked: so the answer
    that was shown is compared before either is put on the job.
    """
    cleaned = form.cleaned_data
    digest = cleaned["digest"]
    if form.wants_new_password or made is not None:
        Job.objects.select_for_update().filter(pk=job.pk).first()
        _check_shown(job, digest)
        if made is not None:
            job.kms_key = made
        else:
            job.password = _make_record(request, form)
        digest = digest_of(job)
    enabling = preview_of(job).asks_about_old_chain
    saved = job_cases.save_job(job, expected_version=cleaned["version"], digest=digest)
    if enabling and cleaned["old_chain"]:
        job_cases.answer_old_chain(saved, cleaned["old_chain"], by=signed_in(request))
    return saved


def _make_kms_key(request: HttpRequest, form: JobForm, job: Job) -> KmsKey | None:
    """Let the server make the key pair that the job is to be saved with, before any row is locked. Raises KmsError.

    A pair that was made for a save which then is refused stays, and is the job's when it is saved again.
    """
    key = job.kms_key
    if key is None or key.pk:
        return None
    _check_shown(job, form.cleaned_data["digest"])
    made = key_for(key.server, owner=job.uuid, owner_name=job.name, by=signed_in(request))
    after = {"server": key.server.name, "job": job.name, "version": made.newest().number}
    audit.record(request, "KMS key created", made, after=after, severity=Severity.NOTICE)
    return made


def _check_shown(job: Job, digest: str) -> None:
    if digest != digest_of(job):
        raise job_cases.AnswerChanged(preview_of(job).plan)


def _make_record(request: HttpRequest, form: JobForm) -> PasswordRecord:
    cleaned = form.cleaned_data
    record = create_record(cleaned["new_name"], cleaned["new_hint"], cleaned["new_password"], signed_in(request))
    after = {"name": record.name, "hint": record.hint, "strength": record.newest().strength}
    audit.record(request, "password created", record, after=after, severity=Severity.NOTICE)
    return record


def _again(request: HttpRequest, form: JobForm, job: Job, more: dict[str, Any]) -> HttpResponse:
    """Show the form once more with the answer of now, which the next save is compared with, as with the version."""
    data = request.POST.copy()
    data["version"] = str(job.version)
    again = JobForm(data, job=job, user=signed_in(request))
    again.is_valid()
    return _shown(request, again, again.put_on(job), more)


def _record(request: HttpRequest, before: Job | None, saved: Job) -> None:
    new = _facts(saved)
    old = _facts(before) if before else {}
    changed = {name for name in new if old.get(name) != new[name]}
    disabled = before is not None and before.encryption != saved.encryption == Encryption.OFF
    tampered = before is not None and not job_cases.is_vouched_for(before)
    audit.record(
        request,
        "disable encryption" if disabled else "edit job" if before else "create job",
        saved,
        before={name: old[name] for name in changed if name in old},
        after={name: new[name] for name in changed} | ({"was": "changed outside this console"} if tampered else {}),
        severity=Severity.HIGH if disabled or tampered else Severity.INFO,
    )
    if tampered:
        messages.warning(
            request, f"The settings of {saved.name} had been changed outside this console: look into the audit."
        )


def _facts(job: Job) -> dict[str, Any]:
    return {
        "name": job.name,
        "sources": job.sources,
        "include": job.include,
        "exclude": job.exclude,
        "repository": job.repository.name,
        "level": job.level,
        "encryption": job.encryption,
        "password": job.password.name if job.password else None,
        "kms": job.kms_key.server.name if job.kms_key else None,
        "strict_custody": job.strict_custody,
        "ask_password": job.ask_password,
        "reason": job.encryption_off_reason,
        "schedule": job.schedule_kind,
        "time": job.schedule_time.isoformat() if job.schedule_time else None,
        "weekdays": job.schedule_weekdays,
        "minutes": job.schedule_minutes,
        "days": job.schedule_days or [],
        "cron": job.schedule_cron,
        "misfire": job.misfire,
        "misfire_hours": job.misfire_hours,
        "time_zone": job.time_zone,
        "keep_points": job.keep_points,
    }


def _browsed(request: HttpRequest, form: JobForm, job: Job) -> HttpResponse:
    """Open a folder of the proxy below the sources, or add it to them."""
    action, _, value = request.POST.get("action", "").partition(":")
    folder = folder_at(value)
    more: dict[str, Any] = {"picker": folders_of(job.proxy, folder, signed_in(request))}
    if action == "add":
        data = request.POST.copy()
        data["sources"] = "\n".join(
            dict.fromkeys([*lines_of(data.get("sources", "")), folder.decode(errors="replace")])
        )
        form = JobForm(data, job=job, user=signed_in(request))
        form.is_valid()
        more["said"] = _checked(request, form, form.put_on(job), LOOK_SECONDS)
    forgiving(form)
    return _shown(request, form, job, more)


def forgiving(form: Form) -> None:
    """Browsing is not saving: nobody is told about fields that are not filled in yet."""
    form.errors.clear()
