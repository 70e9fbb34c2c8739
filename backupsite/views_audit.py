"""The audit trail as a page: newest first, filtered by what the address says, paged by key."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.views.decorators.http import require_safe

from backupsite.forms import AuditFilterForm
from backupsite.models import AuditEvent
from backupsite.responses import page_or_fragment
from backupsite.roles import Right, requires, visible

PAGE_ROWS = 50


@requires(Right.AUDIT)
@require_safe
def audit_list(request: HttpRequest) -> HttpResponse:
    events = visible(AuditEvent.objects.all(), request.user, Right.AUDIT)
    form = AuditFilterForm(request.GET)
    filters = {name: value for name, value in form.cleaned_data.items() if value} if form.is_valid() else {}
    last = request.GET.get("before", "")
    shown = list(older_than(matching(events, filters), last)[: PAGE_ROWS + 1])
    context = {
        "form": form,
        "filters": filters,
        "events": shown[:PAGE_ROWS],
        "older_url": _url(filters, shown[PAGE_ROWS - 1].pk) if len(shown) > PAGE_ROWS else "",
        "newest_url": _url(filters) if last else "",
    }
    return page_or_fragment(request, "backupsite/audit_list.html", "backupsite/_audit_events.html", context)


def matching(events: QuerySet[AuditEvent], filters: dict[str, Any]) -> QuerySet[AuditEvent]:
    if "user" in filters:
        events = events.filter(user_name__iexact=filters["user"])
    if "action" in filters:
        events = events.filter(action__icontains=filters["action"])
    if "object" in filters:
        events = events.filter(object_name__icontains=filters["object"])
    if "severity" in filters:
        events = events.filter(severity=filters["severity"])
    return events


def older_than(events: QuerySet[AuditEvent], last: str) -> QuerySet[AuditEvent]:
    """Return the events before the one with the id `last`; all of them if it is no event's id."""
    if not last.isascii() or not last.isdigit() or len(last) > 18:
        return events
    at = AuditEvent.objects.filter(pk=int(last)).values_list("at", flat=True).first()
    if at is None:
        return events
    return events.filter(Q(at__lt=at) | Q(at=at, pk__lt=int(last)))


def _url(filters: dict[str, Any], before: int | None = None) -> str:
    query = urlencode({**filters, **({"before": before} if before else {})})
    return reverse("audit_list") + (f"?{query}" if query else "")
