"""The pages of chains that no job goes on with: the list, how long one is kept, its deletion; and detaching one.

Which chains these are is decided in `lone_chains`, when one goes in `expiring`. What stands in a chain is shown by
`repositories.views`.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.db.models import Count, Q, QuerySet, Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from backupsite import audit
from backupsite.models import Severity
from backupsite.responses import go_to
from backupsite.roles import Right, requires
from jobs import expiring
from jobs import jobs as job_cases
from jobs.chain_story import has_active_backup
from jobs.forms_expiry import ExpiryForm
from jobs.job_views import signed_in
from jobs.lone_chains import LONE, SEALED, SOON, LoneChain, described, is_lone, with_figures
from jobs.models import Job, JobChain
from repositories.models import Chain
from repositories.views import is_number

PAGE = 50


@requires(Right.SEE)
@require_safe
def lone_chains(request: HttpRequest) -> HttpResponse:
    """Show the chains that no job goes on with, the newest first."""
    lone = Chain.objects.visible_to(request.user).filter(LONE)
    last = request.GET.get("before", "")
    narrowed = lone.filter(pk__lt=int(last)) if is_number(last) else lone
    found = list(with_figures(narrowed).order_by("-pk")[: PAGE + 1])
    address = reverse("lone_chains")
    context = {
        "chains": described(found[:PAGE], timezone.now()),
        "totals": _totals(lone),
        "older_url": f"{address}?before={found[PAGE - 1].pk}" if len(found) > PAGE else "",
        "newest_url": address if last else "",
    }
    return render(request, "jobs/lone_chains.html", context)


def _totals(lone: QuerySet[Chain]) -> dict[str, Any]:
    """Count what stands alone, and what of it goes within a week."""
    now = timezone.now()
    soon = Q(expires_at__gt=now, expires_at__lte=now + SOON)
    return lone.aggregate(
        chains=Count("pk", distinct=True),
        point_count=Count("points", filter=SEALED),
        stored_bytes=Sum("points__size_bytes", filter=SEALED, default=0),
        soon=Count("pk", filter=soon, distinct=True),
        soon_point_count=Count("points", filter=SEALED & soon),
        soon_bytes=Sum("points__size_bytes", filter=SEALED & soon, default=0),
    )


@requires(Right.ADMINISTER)
@require_http_methods(["GET", "HEAD", "POST"])
def chain_expiry(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Let a chain go after a day, or keep it for ever."""
    chain, lone = _chain(request, uuid)
    form = ExpiryForm(request.POST if request.method == "POST" else None, expires_at=chain.expires_at)
    if request.method == "POST" and form.is_valid():
        try:
            changed = expiring.set_expiry(chain, form.expires_at(), by=signed_in(request))
        except (expiring.OwnedByJob, expiring.GoingAlready) as error:
            form.add_error(None, str(error))
        else:
            if changed:
                messages.success(request, _said(chain, form))
            return go_to(request, "lone_chains")
    return render(request, "jobs/chain_expiry.html", {"chain": chain, "lone": lone, "form": form})


def _said(chain: Chain, form: ExpiryForm) -> str:
    until = form.cleaned_data["until"]
    return f"The {chain} goes after {until:%-d %B %Y}." if until else f"The {chain} is kept for ever."


@requires(Right.ADMINISTER)
@require_http_methods(["GET", "HEAD", "POST"])
def chain_delete(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Delete a chain that no job goes on with, once its name was typed."""
    chain, lone = _chain(request, uuid)
    context = {"chain": chain, "lone": lone, "words": str(chain.uuid)[:8]}
    if request.method == "POST" and lone is not None:
        if request.POST.get("name", "").strip() != context["words"]:
            return render(request, "jobs/chain_delete.html", {**context, "error": "Type the id exactly as it is."})
        try:
            expiring.delete_now(chain, by=signed_in(request))
        except (expiring.InUse, expiring.NotThere, expiring.OwnedByJob) as error:
            return render(request, "jobs/chain_delete.html", {**context, "error": str(error)})
        messages.success(request, f"The {chain} is being deleted: its files go within the next seconds.")
        return go_to(request, "lone_chains")
    return render(request, "jobs/chain_delete.html", context)


def _chain(request: HttpRequest, uuid: UUID) -> tuple[Chain, LoneChain | None]:
    """Return a chain, and what is known of it where no job goes on with it."""
    chain = get_object_or_404(with_figures(Chain.objects.visible_to(request.user)), uuid=uuid)
    return chain, described([chain], timezone.now())[0] if is_lone(chain) else None


@requires(Right.ADMINISTER)
@require_http_methods(["GET", "HEAD", "POST"])
def chain_detach(request: HttpRequest, uuid: UUID, chain: UUID) -> HttpResponse:
    """Take a chain out of the job's retention: it stays restorable, for ever or until it expires."""
    job = get_object_or_404(Job.objects.visible_to(request.user), uuid=uuid)
    link = get_object_or_404(JobChain.objects.select_related("chain__repository"), job=job, chain__uuid=chain)
    form = ExpiryForm(request.POST if request.method == "POST" else None, expires_at=link.chain.expires_at)
    if request.method == "POST" and form.is_valid():
        try:
            if job_cases.detach_chain(link, expires_at=form.expires_at()):
                _note_detached(request, link, form)
            return go_to(request, "job_detail", job.uuid)
        except job_cases.JobBusy as error:
            form.add_error(None, f"{error} Then detach the chain.")
    context = {"job": job, "link": link, "active": has_active_backup(job), "form": form}
    return render(request, "jobs/chain_detach.html", context)


def _note_detached(request: HttpRequest, link: JobChain, form: ExpiryForm) -> None:
    until = form.cleaned_data["until"]
    after = {"state": "detached", "kept until": until.isoformat() if until else "for ever"}
    audit.record(
        request, "detach chain", link.chain, before={"state": link.state}, after=after, severity=Severity.NOTICE
    )
    stays = f"go after {until:%-d %B %Y}" if until else "stay until somebody deletes them"
    messages.success(request, f"Detached: these restore points {stays}.")
