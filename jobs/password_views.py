"""What a change of a password will mean for each job, shown before it; and the deletion of a record, which is refused
while anything depends on it.
"""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.db import transaction
from django.db.models import ProtectedError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from backupsite import audit
from backupsite.models import Severity
from backupsite.responses import page_or_fragment
from backupsite.roles import Right, requires
from jobs.job_views import signed_in
from jobs.password_use import MOST_JOBS, MOST_NAMED, outlooks, use_of
from keys.models import PasswordRecord


@requires(Right.KEYS)
@require_safe
def password_outlook(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Show, before the next version is saved, what it will mean for each job; no secret is needed for that."""
    record = get_object_or_404(PasswordRecord.objects.visible_to(request.user), uuid=uuid)
    user = signed_in(request)
    context = {"record": record, "outlooks": outlooks(record, user), "most": MOST_JOBS, "use": use_of(record, user)}
    return page_or_fragment(request, "jobs/password_outlook.html", "jobs/_password_outlook.html", context)


@requires(Right.KEYS)
@require_http_methods(["GET", "HEAD", "POST"])
def password_delete(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Delete a record that nothing depends on; else say what does."""
    record = get_object_or_404(PasswordRecord.objects.visible_to(request.user), uuid=uuid)
    use = use_of(record, signed_in(request))
    posted = request.method == "POST"
    if posted and not use.is_used and _deleted(request, record):
        messages.success(request, f"The password “{record}” is deleted.")
        return redirect("password_list")
    context = {"record": record, "use": use, "refused": posted, "jobs": use.jobs[:MOST_NAMED]}
    return render(request, "jobs/password_delete.html", context)


def _deleted(request: HttpRequest, record: PasswordRecord) -> bool:
    """Delete it unless somebody began to use it a moment ago."""
    try:
        with transaction.atomic():
            before = {"name": record.name, "hint": record.hint, "versions": record.versions.count()}
            audit.record(request, "password deleted", record, before=before, severity=Severity.HIGH)
            record.delete()
    except ProtectedError:
        return False
    return True
