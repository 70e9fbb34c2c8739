"""The page that asks for the password again, before somebody looks into a point.

When it is asked for, and what a right answer holds for, is decided in `asking`.
"""

from __future__ import annotations

from uuid import UUID

from django.forms import Form
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from backupsite import audit
from backupsite.models import Severity
from backupsite.responses import no_store
from backupsite.roles import Right, requires
from jobs import asking
from keys import attempts
from keys.crypto_sealed import CannotOpenSealed
from keys.forms import TypedPasswordField
from repositories.models import RestorePoint

SEVERITIES = {
    "right": Severity.INFO,
    "wrong": Severity.NOTICE,
    "nothing": Severity.NOTICE,
    "blocked": Severity.HIGH,
    "changed outside": Severity.HIGH,
}


class AnswerForm(Form):
    password = TypedPasswordField("Password", autocomplete="off")


@requires(Right.RESTORE)
@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def point_password(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Ask for the password of a point, and go on where the person came from."""
    points = RestorePoint.objects.visible_to(request.user).sealed().select_related("chain__repository")
    point = get_object_or_404(points, uuid=uuid)
    back = _back(request, point)
    if not asking.must_ask(request, point):
        return redirect(back)
    form = AnswerForm(request.POST if request.method == "POST" else None)
    result = _result(request, point, form) if form.is_valid() else ""
    if result == "right":
        return redirect(back)
    records = {version.record for version in asking.versions_that_open(point)}
    context = {"point": point, "form": form, "result": result, "back": back, "records": records}
    return no_store(render(request, "jobs/point_password.html", context, status=429 if result == "blocked" else 200))


def _result(request: HttpRequest, point: RestorePoint, form: AnswerForm) -> str:
    try:
        result = "right" if asking.answer(request, point, form.cleaned_data["password"]) else "wrong"
    except attempts.TooManyAttempts:
        result = "blocked"
    except asking.NothingToCompare:
        result = "nothing"
    except CannotOpenSealed as error:
        result = "changed outside"
        form.add_error(None, f"Nothing can be compared: {error}")
    audit.record(request, "password asked", point, after={"result": result}, severity=SEVERITIES[result])
    return result


def _back(request: HttpRequest, point: RestorePoint) -> str:
    """Return where to go on: a page of this console only."""
    wanted = request.POST.get("next", "") or request.GET.get("next", "")
    if wanted.startswith("/") and url_has_allowed_host_and_scheme(wanted, allowed_hosts=None):
        return wanted
    return reverse("point_browse", args=[point.uuid])
