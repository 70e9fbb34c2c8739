"""Adding, editing and measuring repositories: what needs an answer from the proxy that will write there.

The form is in `repositories.forms`, what is checked in `jobs.answering`; the pages that only show the catalogue are in
`repositories.views`.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from backupsite import audit
from backupsite.models import Severity, User
from backupsite.responses import page_or_fragment
from backupsite.roles import Right, requires
from jobs import questions
from jobs.models import Encryption, Job, Proxy
from repositories.forms import RepositoryForm, clean_path
from repositories.models import Chain, PointState, Repository
from repositories.views import with_figures

ROOM_SECONDS = 5
AMBER_SHARE, RED_SHARE = 0.8, 0.95


@requires(Right.ADMINISTER)
@require_http_methods(["GET", "HEAD", "POST"])
def repository_new(request: HttpRequest) -> HttpResponse:
    form = RepositoryForm(_posted(request))
    check = _check_of(request, form)
    if request.method == "POST" and check is None and form.is_valid() and _marked(request, form):
        data = form.cleaned_data
        with transaction.atomic():
            repository = Repository.objects.create(**data)
            audit.record(request, "repository created", repository, after=data, severity=Severity.NOTICE)
        messages.success(request, f"Jobs can write to {repository} now.")
        return redirect("repository_detail", repository.uuid)
    return render(request, "repositories/repository_new.html", {"form": form, "check": check})


@requires(Right.ADMINISTER)
@require_http_methods(["GET", "HEAD", "POST"])
def repository_edit(request: HttpRequest, uuid: UUID) -> HttpResponse:
    repository = get_object_or_404(Repository.objects.visible_to(request.user), uuid=uuid)
    form = RepositoryForm(_posted(request), repository=repository)
    check = _check_of(request, form)
    plain = _plain_chains(repository)
    ready = request.method == "POST" and check is None and form.is_valid() and not _plain_jobs_refuse(form)
    if ready and _plain_chains_seen(form, plain) and _marked(request, form):
        before, after = _facts(repository), form.cleaned_data
        with transaction.atomic():
            Repository.objects.filter(pk=repository.pk).update(**after)
            severity = Severity.HIGH if before["requires_encryption"] != after["requires_encryption"] else Severity.INFO
            audit.record(request, "repository changed", repository, before=before, after=after, severity=severity)
        messages.success(request, "Saved.")
        return redirect("repository_detail", repository.uuid)
    context = {"repository": repository, "form": form, "check": check, **_plain(repository, plain)}
    return render(request, "repositories/repository_edit.html", context)


@requires(Right.ADMINISTER)
@require_POST
def repository_check(request: HttpRequest) -> HttpResponse:
    """Say what the proxy thinks of the path that is being typed; changes nothing."""
    context = {"check": check_path(request, request.POST.get("path", ""))}
    return page_or_fragment(request, "repositories/repository_check.html", "repositories/_check.html", context)


@requires(Right.SEE)
@require_safe
def repository_room(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Ask how full the place is; loaded after the page, so that a slow disk does not hold it up."""
    repository = get_object_or_404(Repository.objects.visible_to(request.user), uuid=uuid)
    context = {"repository": repository, "room": room_of(repository, _user(request))}
    return page_or_fragment(request, "repositories/repository_room.html", "repositories/_room.html", context)


def room_of(repository: Repository, user: User) -> dict[str, Any]:
    """Return used, free and total bytes of the place and what is wrong with it; or why there is no answer."""
    try:
        answer = questions.ask(_proxy(), "check_repository", {"path": repository.path}, user, ROOM_SECONDS)
    except (questions.NoAnswer, questions.Refused) as error:
        return {"problems": [], "no_answer": str(error)}
    errors = [problem for problem in answer["problems"] if problem["severity"] == "error"]
    total = answer.get("total_bytes", 0)
    return {
        "problems": errors,
        "free": answer.get("free_bytes", 0),
        "used": total - answer.get("free_bytes", 0),
        "total": total,
        "amber_from": int(total * AMBER_SHARE),
        "red_from": int(total * RED_SHARE),
    }


def check_path(request: HttpRequest, typed: str) -> dict[str, Any]:
    """Return the proxy's answer about a path as the page shows it: problems, room, or why there is no answer."""
    try:
        path = clean_path(typed)
    except ValidationError as error:
        return _shown([{"severity": "error", "message": message} for message in error.messages])
    try:
        answer = questions.ask(_proxy(), "check_repository", {"path": path}, _user(request))
    except (questions.NoAnswer, questions.Refused) as error:
        return _shown([{"severity": "error", "message": str(error)}])
    return _shown(answer.pop("problems"), **answer)


def _shown(problems: list[dict[str, str]], **facts: int) -> dict[str, Any]:
    errors = [problem["message"] for problem in problems if problem["severity"] == "error"]
    return {"problems": problems, "errors": errors, **facts}


def _check_of(request: HttpRequest, form: RepositoryForm) -> dict[str, Any] | None:
    """Return what to show instead of saving: the answer to *Check*, or the problems that forbid saving; else None."""
    if request.method != "POST":
        return None
    if "check" in request.POST:
        return check_path(request, request.POST.get("path", ""))
    if not form.is_valid() or form.fields["path"].disabled:
        return None
    found = check_path(request, form.cleaned_data["path"])
    if not found["errors"]:
        return None
    form.add_error("path", found["errors"])
    return found


def _plain_jobs_refuse(form: RepositoryForm) -> bool:
    """Refuse to require encryption while jobs write plain files here, and name them."""
    if not form.cleaned_data["requires_encryption"]:
        return False
    jobs = Job.objects.filter(repository=form.repository, encryption=Encryption.OFF).values_list("name", flat=True)
    if jobs:
        names = ", ".join(jobs[:5])
        form.add_error("requires_encryption", f"Not encrypted jobs write here: {names}. Encrypt or move them first.")
    return bool(jobs)


def _plain_chains(repository: Repository) -> list[Chain]:
    """Return the chains that requiring encryption would leave as they are: nothing is added to them any more."""
    if repository.requires_encryption:
        return []
    plain = Chain.objects.filter(repository=repository, encrypted=False, points__state=PointState.SEALED)
    return list(with_figures(Chain.objects.filter(pk__in=plain.values("pk"))).order_by("-pk"))


def _plain_chains_seen(form: RepositoryForm, plain: list[Chain]) -> bool:
    """Requiring encryption is saved once the plain chains were shown: the form says how many it showed."""
    if not plain or not form.cleaned_data["requires_encryption"] or form.data.get("plain_seen") == str(len(plain)):
        return True
    form.add_error("requires_encryption", "Plain chains stand here. Look at them below, then save again.")
    return False


def _plain(repository: Repository, plain: list[Chain]) -> dict[str, Any]:
    jobs = Job.objects.filter(repository=repository, encryption=Encryption.OFF).order_by("name")
    return {"plain_chains": plain, "plain_jobs": [] if repository.requires_encryption else jobs}


def _marked(request: HttpRequest, form: RepositoryForm) -> bool:
    """Let the proxy set or take away the marker in the folder, by which the engine refuses plain files itself."""
    old, path, required = form.repository, form.cleaned_data["path"], form.cleaned_data["requires_encryption"]
    moved, was_required = old is not None and old.path != path, old is not None and old.requires_encryption
    changes = [(path, True)] if required and (moved or not was_required) else []
    if old is not None and was_required and (moved or not required):
        changes.append((old.path, False))
    is_new = old is None or not old.chains.exists()
    try:
        for folder, wanted in changes:
            params = {"path": folder, "required": wanted, "is_new": is_new}
            questions.ask(_proxy(), "require_encryption", params, _user(request))
    except (questions.NoAnswer, questions.Refused) as error:
        form.add_error("requires_encryption", str(error))
    return not form.errors


def _facts(repository: Repository) -> dict[str, Any]:
    return {name: getattr(repository, name) for name in ("name", "path", "requires_encryption")}


def _posted(request: HttpRequest) -> QueryDict | None:
    return request.POST if request.method == "POST" else None


def _proxy() -> Proxy:
    return Proxy.objects.order_by("pk")[0]


def _user(request: HttpRequest) -> User:
    assert isinstance(request.user, User)  # every view here requires a right
    return request.user
