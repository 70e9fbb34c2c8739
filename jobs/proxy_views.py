"""The pages of proxies: what runs on each, when it was seen, and whether it answers now."""

from __future__ import annotations

import time
from uuid import UUID

from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.http import require_safe

from backupsite.models import User
from backupsite.responses import page_or_fragment
from backupsite.roles import Right, requires
from jobs import questions
from jobs.admission import PROXY_AWAY_AFTER
from jobs.models import Proxy, State

ANSWER_SECONDS = 5


@requires(Right.SEE)
@require_safe
def proxy_list(request: HttpRequest) -> HttpResponse:
    proxies = Proxy.objects.visible_to(request.user).annotate(
        running_count=Count("sessions", filter=Q(sessions__state=State.RUNNING)),
        waiting_count=Count("sessions", filter=Q(sessions__state__in=(State.WAITING, State.QUEUED))),
    )
    context = {"proxies": proxies.order_by("name"), "away_before": timezone.now() - PROXY_AWAY_AFTER}
    return render(request, "jobs/proxy_list.html", context)


@requires(Right.SEE)
@require_safe
def proxy_answer(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Ask the proxy something small, and say how long it took."""
    proxy = get_object_or_404(Proxy.objects.visible_to(request.user), uuid=uuid)
    assert isinstance(request.user, User)  # @requires let nobody else through
    context: dict[str, object] = {"proxy": proxy}
    began = time.monotonic()
    try:
        questions.ask(proxy, "check_repository", {"path": "/"}, request.user, ANSWER_SECONDS)
    except (questions.NoAnswer, questions.Refused) as error:
        context["problem"] = str(error)
    else:
        context["seconds"] = time.monotonic() - began
    return page_or_fragment(request, "jobs/proxy_answer.html", "jobs/_proxy_answer.html", context)
