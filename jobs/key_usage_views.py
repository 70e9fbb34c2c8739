"""What depends on a key: the jobs that seal with a password and the restore points that each of its versions opens; the
restore points that have a slot for a recovery key.
"""

from __future__ import annotations

from uuid import UUID

from django.db.models import Count, Exists, Max, Min, OuterRef, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from backupsite.roles import Right, requires
from jobs.job_views import signed_in
from jobs.password_use import slots_by_version, use_of
from keys.models import PasswordRecord, RecoveryKey
from repositories.models import RestorePoint, Slot


@requires(Right.KEYS)
@require_safe
def password_usage(request: HttpRequest, uuid: UUID) -> HttpResponse:
    record = get_object_or_404(PasswordRecord.objects.visible_to(request.user), uuid=uuid)
    context = {
        "record": record,
        "versions": record.versions.annotate(points=Count("slots")).order_by("-number"),
        "use": use_of(record, signed_in(request)),
        "uses": slots_by_version(record, signed_in(request)),
    }
    return render(request, "jobs/password_usage.html", context)


@requires(Right.KEYS)
@require_safe
def recovery_usage(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """The points that have a slot for the key, by chain, beside all encrypted points of that chain."""
    key = get_object_or_404(RecoveryKey.objects.visible_to(request.user), uuid=uuid)
    points = RestorePoint.objects.visible_to(request.user).sealed().filter(chain__encrypted=True)
    names = ("chain__uuid", "chain__job_name", "chain__repository__name", "chain__job_chain__job__uuid")
    slots = Slot.objects.filter(point=OuterRef("pk"), recovery=key)
    by_chain = points.annotate(has_slot=Exists(slots)).order_by().values(*names)
    opened = Q(has_slot=True)
    uses = by_chain.annotate(
        all_points=Count("pk"),
        points=Count("pk", filter=opened),
        first=Min("started_at", filter=opened),
        last=Max("started_at", filter=opened),
    ).order_by("chain__job_name", "chain__uuid")
    context = {"key": key, "uses": uses, "total": sum(use["points"] for use in uses)}
    context["without"] = sum(use["all_points"] - use["points"] for use in uses)
    return render(request, "jobs/recovery_usage.html", context)
