"""The first page: how the last day went, what runs, what comes next, what is wrong with keys; and, before there is a
job, the way to the first backup.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from backupsite.models import User
from backupsite.responses import page_or_fragment, vary_on_htmx
from backupsite.roles import Right, requires
from jobs import dashboard as figures
from jobs import questions
from jobs.job_views import signed_in
from jobs.key_facts import facts_for
from jobs.key_health import health
from jobs.models import Proxy
from repositories.models import Repository

FILL_SECONDS = 3


@requires(Right.SEE)
@require_safe
def dashboard(request: HttpRequest) -> HttpResponse:
    user, now = signed_in(request), timezone.now()
    protected = figures.protected(user)
    if not protected.jobs:
        steps = figures.first_steps()
        following = next((step for step in steps if not step.done), None)
        return render(request, "jobs/dashboard_empty.html", {"steps": steps, "next_step": following})
    context = {
        "day": figures.last_day(user, now),
        "running": figures.running(user),
        "attention": figures.attention(user, now),
        "missed": figures.missed(user)
        .select_related("job")
        .filter(due_at__gte=now - figures.LAST)[: figures.MOST_ATTENTION],
        "next_runs": figures.next_runs(user, now),
        "protected": protected,
        "repositories": figures.repositories(user),
        "findings": health(facts_for(user, now)),
        "password_age_days": settings.BACKUPSITE.password_age_days,
    }
    return vary_on_htmx(page_or_fragment(request, "jobs/dashboard.html", "jobs/_dashboard_live.html", context))


@requires(Right.SEE)
@require_safe
def repository_fill(request: HttpRequest) -> HttpResponse:
    """Ask the proxy how full each repository is; loaded after the page, so that a slow disk does not hold the dashboard
    up.
    """
    user = signed_in(request)
    proxy = Proxy.objects.order_by("pk")[0]
    rows = [(repository, fill_of(repository, proxy, user)) for repository in figures.repositories(user)]
    return page_or_fragment(request, "jobs/repository_fill.html", "jobs/_repository_fill.html", {"rows": rows})


def fill_of(repository: Repository, proxy: Proxy, user: User) -> dict[str, Any]:
    """Return used, free and total bytes of the file system, or why they are not known."""
    try:
        said = questions.ask(proxy, "check_repository", {"path": repository.path}, user, FILL_SECONDS)
    except (questions.NoAnswer, questions.Refused) as error:
        return {"error": str(error)}
    total = said.get("total_bytes")
    if not total:
        return {"error": said["problems"][0]["message"] if said["problems"] else "Not known."}
    used = total - said["free_bytes"]
    return {
        "used": used,
        "free": said["free_bytes"],
        "total": total,
        "high": total * 80 // 100,
        "critical": total * 95 // 100,
    }
