"""What looks from a key management server at jobs and restore points, or starts a session: polling it now, who uses a
key, declaring a pair lost, and deleting the server when nothing uses it.

The server's own pages are in `keys.views_kms`.
"""

from __future__ import annotations

from uuid import UUID

from django import forms
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import ProtectedError
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from backupsite import audit
from backupsite.models import Severity
from backupsite.responses import go_to
from backupsite.roles import Right, requires
from jobs.job_views import signed_in
from jobs.kms_polling import start_poll
from jobs.kms_usage import jobs_that_use, keys_in_use, stake_of
from keys.kms_servers import declare_lost
from keys.models import KeyState, KmsKey, KmsKeyVersion, KmsServer


class TypedNameForm(forms.Form):
    """What cannot be taken back is confirmed by typing a name."""

    typed = forms.CharField(max_length=100, widget=forms.TextInput(attrs={"autocomplete": "off"}))

    def __init__(self, data: QueryDict | None = None, *, name: str) -> None:
        super().__init__(data)
        self.name = name
        self.fields["typed"].label = f"Type “{name}” to go on"

    def clean_typed(self) -> str:
        typed: str = self.cleaned_data["typed"]
        if typed != self.name:
            raise ValidationError(f"This is not the name. Type {self.name} to go on.")
        return typed


@requires(Right.KEYS)
@require_POST
def kms_poll(request: HttpRequest, uuid: UUID) -> HttpResponse:
    server = get_object_or_404(KmsServer.objects.visible_to(request.user), uuid=uuid)
    session = start_poll(server, by=signed_in(request))
    audit.record(request, "KMS poll requested", server, after={"session": str(session.uuid)})
    return go_to(request, "session_detail", session.uuid)


@requires(Right.KEYS)
@require_http_methods(["GET", "HEAD", "POST"])
def kms_delete(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Forget a server and its keys when nothing depends on them; else say what does. It keeps its pairs itself."""
    server = get_object_or_404(KmsServer.objects.visible_to(request.user), uuid=uuid)
    used, posted = keys_in_use(server), request.method == "POST"
    if posted and not used and _deleted(request, server):
        messages.success(request, f"The KMS server “{server}” is deleted here. What it holds is untouched.")
        return redirect("kms_list")
    return render(request, "jobs/kms_delete.html", {"server": server, "used": used, "refused": posted})


def _deleted(request: HttpRequest, server: KmsServer) -> bool:
    """False where somebody began to use it between the look and the deletion."""
    try:
        with transaction.atomic():
            before = {"name": server.name, "host": server.host, "port": server.port, "keys": server.keys.count()}
            audit.record(request, "KMS server deleted", server, before=before, severity=Severity.HIGH)
            server.keys.all().delete()
            server.delete()
    except ProtectedError:
        return False
    return True


@requires(Right.KEYS)
@require_safe
def kms_usage(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Show the jobs that seal for a key, and the points that have a slot for each of its versions."""
    key = _key(request, uuid)
    versions = [(version, stake_of(version)) for version in key.versions.order_by("-number")]
    return render(
        request,
        "jobs/kms_usage.html",
        {"key": key, "versions": versions, "jobs": jobs_that_use(key, signed_in(request))},
    )


@requires(Right.KEYS)
@require_http_methods(["GET", "HEAD", "POST"])
def kms_lost(request: HttpRequest, uuid: UUID, number: int) -> HttpResponse:
    """Declare a pair lost: what opens with it alone stays closed, and its job starts a new chain."""
    key = _key(request, uuid)
    version = get_object_or_404(key.versions.exclude(state=KeyState.LOST), number=number)
    form = TypedNameForm(request.POST if request.method == "POST" else None, name=key.owner_name)
    if request.method == "POST" and form.is_valid():
        _declare(request, version)
        return redirect("kms_detail", key.server.uuid)
    context = {
        "key": key,
        "version": version,
        "form": form,
        "stake": stake_of(version),
        "jobs": jobs_that_use(key, signed_in(request)),
        "is_newest": version == key.newest(),
    }
    return render(request, "jobs/kms_lost.html", context)


def _declare(request: HttpRequest, version: KmsKeyVersion) -> None:
    with transaction.atomic():
        declare_lost(version)
        audit.record(
            request,
            "KMS key declared lost",
            version,
            before={"state": version.state},
            after={"state": KeyState.LOST, **stake_of(version).facts()},
            severity=Severity.HIGH,
        )
    messages.success(request, f"The {version} counts as lost from now on.")


def _key(request: HttpRequest, uuid: UUID) -> KmsKey:
    servers = KmsServer.objects.visible_to(request.user)
    return get_object_or_404(KmsKey.objects.filter(server__in=servers).select_related("server"), uuid=uuid)
