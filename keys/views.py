"""The pages of password records: list, make, change, rename, verify by typing again.

Pages that take a secret are never stored and never swapped into another page. Which jobs and restore points use a
record, and so what a change means and whether it may be deleted, is known and shown in `jobs` (the pages named
password_usage, password_outlook and password_delete).
"""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.db import transaction
from django.db.models import Max, OuterRef, Subquery
from django.db.models.functions import Lower
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_safe

from backupsite import audit
from backupsite.models import Severity, User
from backupsite.responses import no_store
from backupsite.roles import Right, requires
from keys import attempts, passwords
from keys.crypto_sealed import CannotOpenSealed
from keys.forms import ChangePasswordForm, NameForm, NewPasswordForm, VerifyForm
from keys.models import PasswordRecord, PasswordVersion
from keys.signing import public_bytes


@requires(Right.KEYS)
@require_safe
def password_list(request: HttpRequest) -> HttpResponse:
    newest = PasswordVersion.objects.filter(record=OuterRef("pk")).order_by("-number")
    records = PasswordRecord.objects.visible_to(request.user).annotate(
        newest_number=Max("versions__number"),
        changed_at=Max("versions__created_at"),
        strength=Subquery(newest.values("strength")[:1]),
    )
    signer = public_bytes()
    context = {
        "records": records.order_by(Lower("name")),
        "ages_before": passwords.ages_before(timezone.now()),
        "signer": signer.hex() if signer else "",
    }
    return render(request, "keys/password_list.html", context)


@requires(Right.KEYS)
@sensitive_post_parameters("password", "again")
@require_http_methods(["GET", "HEAD", "POST"])
def password_new(request: HttpRequest) -> HttpResponse:
    form = NewPasswordForm(_posted(request), known=_known(request))
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        with transaction.atomic():
            record = passwords.create_record(data["name"], data["hint"], data["password"], _by(request))
            after = {"name": record.name, "hint": record.hint, "strength": record.newest().strength}
            audit.record(request, "password created", record, after=after, severity=Severity.NOTICE)
        messages.success(request, f"The password “{record}” can be chosen in jobs now. Keep it where you can find it.")
        return redirect("password_detail", record.uuid)
    return no_store(render(request, "keys/password_new.html", {"form": form}))


@requires(Right.KEYS)
@require_safe
def password_detail(request: HttpRequest, uuid: UUID) -> HttpResponse:
    record = get_object_or_404(PasswordRecord.objects.visible_to(request.user), uuid=uuid)
    versions = record.versions.select_related("created_by").order_by("-number")
    context = {"record": record, "versions": versions, "ages_before": passwords.ages_before(timezone.now())}
    return render(request, "keys/password_detail.html", context)


@requires(Right.KEYS)
@require_http_methods(["GET", "HEAD", "POST"])
def password_edit(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Change the name or the hint; backup files that exist keep the hint they were written with."""
    record = get_object_or_404(PasswordRecord.objects.visible_to(request.user), uuid=uuid)
    form = NameForm(_posted(request), record=record)
    if request.method == "POST" and form.is_valid():
        before = {"name": record.name, "hint": record.hint}
        with transaction.atomic():
            PasswordRecord.objects.filter(pk=record.pk).update(**form.cleaned_data)
            audit.record(request, "password renamed", record, before=before, after=form.cleaned_data)
        messages.success(request, "Saved.")
        return redirect("password_detail", record.uuid)
    return render(request, "keys/password_edit.html", {"record": record, "form": form})


@requires(Right.KEYS)
@sensitive_post_parameters("password", "again")
@require_http_methods(["GET", "HEAD", "POST"])
def password_change(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Add the next version; the earlier ones stay for the points that were written with them."""
    record = get_object_or_404(PasswordRecord.objects.visible_to(request.user), uuid=uuid)
    form = ChangePasswordForm(_posted(request), initial={"hint": record.hint}, known=(record.name, *_known(request)))
    if request.method == "POST" and form.is_valid():
        _change(request, record, form.cleaned_data["password"], form.cleaned_data["hint"])
        return redirect("password_detail", record.uuid)
    return no_store(render(request, "keys/password_change.html", {"record": record, "form": form}))


def _change(request: HttpRequest, record: PasswordRecord, password: str, hint: str) -> None:
    before = {"version": record.newest().number, "hint": record.hint}
    with transaction.atomic():
        record.hint = hint
        record.save(update_fields=["hint"])
        version = passwords.add_version(record, password, _by(request))
        after = {"version": version.number, "hint": hint, "strength": version.strength}
        audit.record(request, "password changed", record, before=before, after=after, severity=Severity.HIGH)
    messages.success(
        request,
        f"Version {version.number} is used from each job's next session on. "
        f"Points that exist keep opening with the password they were written with.",
    )


@requires(Right.KEYS)
@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def password_verify(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Tell whether somebody still knows the password; wrong ones are counted and stopped in `passwords`."""
    record = get_object_or_404(PasswordRecord.objects.visible_to(request.user), uuid=uuid)
    form = VerifyForm(_posted(request))
    result, status = "", 200
    if request.method == "POST" and form.is_valid():
        try:
            result = "right" if passwords.verify(record, form.cleaned_data["password"]) else "wrong"
        except attempts.TooManyAttempts:
            result, status = "blocked", 429
        except CannotOpenSealed as error:
            result = "changed outside"
            form.add_error(None, f"Nothing can be compared: {error}")
        audit.record(request, "password verified", record, after={"result": result}, severity=SEVERITIES[result])
    context = {"record": record, "form": form, "result": result, "newest": record.newest()}
    return no_store(render(request, "keys/password_verify.html", context, status=status))


SEVERITIES = {
    "right": Severity.INFO,
    "wrong": Severity.NOTICE,
    "blocked": Severity.HIGH,
    "changed outside": Severity.HIGH,
}


def _posted(request: HttpRequest) -> QueryDict | None:
    return request.POST if request.method == "POST" else None


def _known(request: HttpRequest) -> tuple[str, ...]:
    by = _by(request)
    return (by.username,) if by else ()


def _by(request: HttpRequest) -> User | None:
    return request.user if isinstance(request.user, User) else None
