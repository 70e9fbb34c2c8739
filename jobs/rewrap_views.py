"""Rewrapping existing points: what it would mean, starting it, stopping it.

The page shows the preview of what is chosen and starts only what was shown; a preview changes nothing. Whom points can
be wrapped for is decided in `rewrap_scope`, what it means in `rewrap_preview`, how it is done in `rewrapping`.
"""

from __future__ import annotations

from urllib.parse import urlencode
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST

from backupsite import audit
from backupsite.responses import go_to, page_or_fragment
from backupsite.roles import Right, requires
from jobs import rewrap_scope
from jobs.forms_rewrap import RewrapForm
from jobs.job_views import signed_in
from jobs.key_map import uses
from jobs.models import Job, Session, SessionKind
from jobs.rewrap_orders import start_rewrap
from jobs.rewrap_preview import Preview, preview
from jobs.rewrap_scope import Planned, Scope, planned
from jobs.sessions import AlreadyActive, request_cancel
from keys.models import KmsKey, KmsServer, PasswordRecord, RecoveryKey
from repositories.models import Chain


@requires(Right.KEYS)
@require_http_methods(["GET", "HEAD", "POST"])
def rewrap_chain(request: HttpRequest, uuid: UUID) -> HttpResponse:
    chains = Chain.objects.visible_to(request.user).filter(encrypted=True).select_related("repository")
    chain = get_object_or_404(chains, uuid=uuid)
    return _page(request, rewrap_scope.of_chain(chain), reverse("chain_detail", args=[chain.uuid]))


@requires(Right.KEYS)
@require_http_methods(["GET", "HEAD", "POST"])
def rewrap_for_password(request: HttpRequest, uuid: UUID) -> HttpResponse:
    record = get_object_or_404(PasswordRecord.objects.visible_to(request.user), uuid=uuid)
    scope = rewrap_scope.of_password(record, Chain.objects.visible_to(request.user))
    return _page(request, scope, reverse("what_if", args=["password", record.uuid]))


@requires(Right.KEYS)
@require_http_methods(["GET", "HEAD", "POST"])
def rewrap_for_kms_key(request: HttpRequest, uuid: UUID) -> HttpResponse:
    keys = KmsKey.objects.filter(server__in=KmsServer.objects.visible_to(request.user)).select_related("server")
    key = get_object_or_404(keys, uuid=uuid)
    scope = rewrap_scope.of_kms_key(key, Chain.objects.visible_to(request.user))
    return _page(request, scope, reverse("what_if", args=["kms-key", key.uuid]))


@requires(Right.KEYS)
@require_http_methods(["GET", "HEAD", "POST"])
def rewrap_for_recovery_key(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Add the key to the points that have no slot of it yet; take it away from those that have, once it is retired."""
    key = get_object_or_404(RecoveryKey.objects.visible_to(request.user), uuid=uuid)
    scope = rewrap_scope.of_recovery_key(key, Chain.objects.visible_to(request.user))
    return _page(request, scope, reverse("what_if", args=["recovery", key.uuid]))


@requires(Right.KEYS)
@require_POST
def rewrap_stop(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Who may start a rewrap may stop it, whoever may not stop backups."""
    sessions = Session.objects.visible_to(request.user).filter(kind=SessionKind.REWRAP)
    session = get_object_or_404(sessions.defer("order_sealed"), uuid=uuid)
    if request_cancel(session):
        audit.record(request, "stop session", session)
        messages.info(request, "Stopping within two seconds. Points that were rewrapped stay so.")
    return go_to(request, "session_detail", session.uuid)


def _page(request: HttpRequest, scope: Scope, back: str) -> HttpResponse:
    """Show what the choice means, and start it where it was shown like that."""
    form = RewrapForm(request.POST if request.method == "POST" else None, scope=scope, uses=uses())
    valid = not form.is_bound or form.is_valid()
    plans = planned(scope, form.chosen())
    shown = preview(scope, plans)
    changed = "start" in request.POST and valid and form.cleaned_data["digest"] != shown.digest
    if "start" in request.POST and valid and not changed and shown.to_write:
        return _start(request, plans, shown)
    context = {
        "scope": scope,
        "form": form,
        "preview": shown,
        "changed": changed,
        "nothing": "start" in request.POST and valid and not changed,
        "back": back,
        "job": Job.objects.visible_to(request.user).filter(job_chains__chain__in=scope.chains).first()
        if len(scope.chains) == 1
        else None,
    }
    return page_or_fragment(request, "jobs/rewrap_page.html", "jobs/_rewrap_preview.html", context)


def _start(request: HttpRequest, plans: list[Planned], shown: Preview) -> HttpResponse:
    """Start a session for each chain that has something to be written."""
    to_write = {row.chain.pk for row in shown.chains if row.to_write}
    sessions, busy = [], 0
    for plan in plans:
        if plan.order is None or plan.chain.pk not in to_write:
            continue
        try:
            sessions.append(start_rewrap(plan.chain, plan.order, by=signed_in(request)))
        except AlreadyActive:
            busy += 1
    if busy:
        messages.warning(request, f"{busy} of the chains are being rewrapped already: look at them after that.")
    if len(sessions) == 1:
        return go_to(request, "session_detail", sessions[0].uuid)
    messages.success(request, f"{len(sessions)} sessions were started, one for each chain.")
    return go_to(request, reverse("session_list") + "?" + urlencode({"kind": SessionKind.REWRAP.value}))
