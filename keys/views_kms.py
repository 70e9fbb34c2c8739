"""The pages of key management servers: list, add, change, test, replace the certificate, rotate a key.

A server is saved only after it did what it is needed for. Where the packages for it are not installed, the pages say
so and offer nothing that cannot work. Polls, deletion, and what depends on a key are in `jobs.kms_views`.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.db.models import Count, Q
from django.db.models.functions import Lower
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from backupsite import audit
from backupsite.models import Severity, User
from backupsite.responses import no_store
from backupsite.roles import Right, requires
from keys import kms_records
from keys.crypto_rsa import Oaep
from keys.forms_kms import NewServerForm, ServerForm, TrustForm
from keys.kms.certificates import ends_at, name_of
from keys.kms.connecting import HOW_TO_INSTALL, is_installed
from keys.kms.interface import KmsError
from keys.kms.trial import Found
from keys.kms_servers import CACHED_FOR, rotate
from keys.models import KeyState, KmsKey, KmsKeyVersion, KmsServer

ALARMING = (KeyState.DISABLED, KeyState.SCHEDULED, KeyState.DESTROYED, KeyState.GONE)


@requires(Right.KEYS)
@require_safe
def kms_list(request: HttpRequest) -> HttpResponse:
    servers = KmsServer.objects.visible_to(request.user).order_by(Lower("name"))
    servers = servers.annotate(
        key_count=Count("keys", distinct=True),
        closed_count=Count("keys__versions", filter=Q(keys__versions__state__in=ALARMING), distinct=True),
    )
    return render(request, "keys/kms_list.html", {"servers": servers, **_packages()})


@requires(Right.KEYS)
@sensitive_post_parameters("private_key")
@require_http_methods(["GET", "HEAD", "POST"])
def kms_new(request: HttpRequest) -> HttpResponse:
    form = NewServerForm(request)
    if request.method == "POST" and form.is_valid():
        try:
            server, found = kms_records.add_server(form.settings(), form.trust(), _by(request))
        except KmsError as error:
            form.add_error(None, str(error))
        else:
            after = {**_facts(server), "client": name_of(server.certificate)}
            audit.record(request, "KMS server added", server, after=after, severity=Severity.HIGH)
            _say_found(request, found, f"{server} can be chosen in jobs now: it made a key pair and opened with it.")
            return redirect("kms_detail", server.uuid)
    return no_store(render(request, "keys/kms_new.html", {"form": form, **_packages()}))


@requires(Right.KEYS)
@require_safe
def kms_detail(request: HttpRequest, uuid: UUID) -> HttpResponse:
    server = _server(request, uuid)
    context = {
        "server": server,
        "keys": server.keys.prefetch_related("versions").order_by(Lower("owner_name")),
        "closed": KmsKeyVersion.objects.filter(key__server=server, state__in=ALARMING).select_related("key"),
        "weaknesses": kms_records.weaknesses_of(server),
        "client": name_of(server.certificate),
        "client_until": ends_at(server.certificate),
        "padding": PADDINGS[Oaep(server.oaep)],
        "cached_days": CACHED_FOR.days,
        **_packages(),
    }
    return render(request, "keys/kms_detail.html", context)


PADDINGS = {
    Oaep.SHA256: "RSA-OAEP with SHA-256",
    Oaep.SHA256_MGF1_SHA1: "RSA-OAEP with SHA-256, mask with SHA-1",
    Oaep.SHA1: "RSA-OAEP with SHA-1",
}


@requires(Right.KEYS)
@require_http_methods(["GET", "HEAD", "POST"])
def kms_edit(request: HttpRequest, uuid: UUID) -> HttpResponse:
    server = _server(request, uuid)
    form = ServerForm(request, server=server)
    if request.method == "POST" and form.is_valid():
        old = _facts(server)
        try:
            found = kms_records.change_server(server, form.settings(), form.cleaned_data["ca"])
        except KmsError as error:
            form.add_error(None, str(error))
            server.refresh_from_db()
        else:
            before, after = _differing(old, _facts(server))
            audit.record(request, "KMS server changed", server, before=before, after=after, severity=Severity.HIGH)
            _say_found(request, found, "Saved.")
            return redirect("kms_detail", server.uuid)
    return render(request, "keys/kms_edit.html", {"server": server, "form": form, **_packages()})


@requires(Right.KEYS)
@sensitive_post_parameters("private_key")
@require_http_methods(["GET", "HEAD", "POST"])
def kms_certificate(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Replace our certificate and its key, before the old one expires."""
    server = _server(request, uuid)
    form = TrustForm(request.POST, request.FILES) if request.method == "POST" else TrustForm()
    if request.method == "POST" and form.is_valid():
        before = {"client": name_of(server.certificate), "until": ends_at(server.certificate).isoformat()}
        data = form.cleaned_data
        try:
            found = kms_records.replace_certificate(server, data["certificate"], data["private_key"])
        except KmsError as error:
            form.add_error(None, str(error))
            server.refresh_from_db()
        else:
            after = {"client": name_of(server.certificate), "until": ends_at(server.certificate).isoformat()}
            audit.record(
                request, "KMS certificate replaced", server, before=before, after=after, severity=Severity.HIGH
            )
            _say_found(request, found, "The new certificate is used from now on.")
            return redirect("kms_detail", server.uuid)
    context = {"server": server, "form": form, "until": ends_at(server.certificate), **_packages()}
    return no_store(render(request, "keys/kms_certificate.html", context))


@requires(Right.KEYS)
@require_POST
def kms_test(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Try the connection and a round trip now, and keep what was found."""
    server = _server(request, uuid)
    old = _facts(server)
    try:
        found = kms_records.try_again(server)
    except KmsError as error:
        messages.error(request, str(error))
        audit.record(request, "KMS server tested", server, after={"result": error.code})
    else:
        before, after = _differing(old, _facts(server))
        severity = Severity.HIGH if after else Severity.INFO
        audit.record(
            request, "KMS server tested", server, before=before, after={"result": "works", **after}, severity=severity
        )
        _say_found(request, found, "It works: the server made a key pair, and opened what was sealed for it.")
    return redirect("kms_detail", server.uuid)


@requires(Right.KEYS)
@require_http_methods(["GET", "HEAD", "POST"])
def kms_rotate(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Let the server make the next pair of a key."""
    servers = KmsServer.objects.visible_to(request.user)
    key = get_object_or_404(KmsKey.objects.filter(server__in=servers).select_related("server"), uuid=uuid)
    problem = ""
    if request.method == "POST":
        try:
            version = rotate(key, _by(request))
        except KmsError as error:
            problem = str(error)
        else:
            after = {"version": version.number, "private_id": version.private_id}
            audit.record(request, "KMS key rotated", key, after=after, severity=Severity.HIGH)
            messages.success(request, f"Version {version.number} is used from the job's next session on.")
            return redirect("kms_detail", key.server.uuid)
    context = {"key": key, "newest": key.newest(), "problem": problem, **_packages()}
    return render(request, "keys/kms_rotate.html", context)


def _server(request: HttpRequest, uuid: UUID) -> KmsServer:
    return get_object_or_404(KmsServer.objects.visible_to(request.user), uuid=uuid)


def _packages() -> dict[str, Any]:
    return {"is_installed": is_installed(), "how_to_install": HOW_TO_INSTALL}


def _facts(server: KmsServer) -> dict[str, Any]:
    names = ("name", "host", "port", "key_bits", "outage", "releases_private_keys")
    return {**{name: getattr(server, name) for name in names}, "padding": PADDINGS[Oaep(server.oaep)]}


def _differing(old: dict[str, Any], new: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    changed = [name for name in old if old[name] != new[name]]
    return {name: old[name] for name in changed}, {name: new[name] for name in changed}


def _say_found(request: HttpRequest, found: Found | None, words: str) -> None:
    messages.success(request, words)
    if found is not None and found.left_over:
        messages.warning(
            request,
            f"The key pair that was made to try it (its id is {found.left_over}) could not be destroyed: this client "
            "may not destroy keys. Remove it at the server.",
        )


def _by(request: HttpRequest) -> User | None:
    return request.user if isinstance(request.user, User) else None
