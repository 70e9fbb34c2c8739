"""What depends on a password: the jobs that seal with it, and the restore points that each of its versions opens."""

from __future__ import annotations

from uuid import UUID

from django.db.models import Count, Max, Min
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from backupsite.roles import Right, requires
from jobs.models import Job
from keys.models import PasswordRecord
from repositories.models import RestorePoint


@requires(Right.KEYS)
@require_safe
def password_usage(request: HttpRequest, uuid: UUID) -> HttpResponse:
    record = get_object_or_404(PasswordRecord.objects.visible_to(request.user), uuid=uuid)
    points = RestorePoint.objects.visible_to(request.user).sealed().filter(slots__password__record=record)
    by_chain = points.order_by().values(
        "slots__version", "chain__uuid", "chain__job_name", "chain__repository__name", "chain__job_chain__job__uuid"
    )
    context = {
        "record": record,
        "versions": record.versions.annotate(points=Count("slots")).order_by("-number"),
        "jobs": Job.objects.visible_to(request.user).filter(password=record),
        "uses": by_chain.filter(slots__password__record=record)
        .annotate(points=Count("pk"), first=Min("started_at"), last=Max("started_at"))
        .order_by("-last"),
        "total": points.distinct().count(),
    }
    return render(request, "jobs/password_usage.html", context)
