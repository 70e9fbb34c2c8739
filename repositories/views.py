"""The pages of repositories as the catalogue knows them: list, a repository with its chains, a chain with its points.

What must be asked of a proxy (adding, checking, free space) is in `jobs`, and so is what is known of jobs.
"""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.db import transaction
from django.db.models import Count, Max, Min, ProtectedError, Q, QuerySet, Sum
from django.db.models.functions import Lower
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from backupsite import audit
from backupsite.models import Severity
from backupsite.responses import page_or_fragment
from backupsite.roles import Right, requires
from repositories.models import Chain, PointState, Repository, RestorePoint

POINTS_ON_A_PAGE = 100
CHAINS_ON_A_PAGE = 50
SEALED = Q(points__state=PointState.SEALED)


@requires(Right.SEE)
@require_safe
def repository_list(request: HttpRequest) -> HttpResponse:
    sealed = Q(chains__points__state=PointState.SEALED)
    repositories = Repository.objects.visible_to(request.user).annotate(
        chain_count=Count("chains", distinct=True),
        damaged_count=Count("chains", distinct=True, filter=~Q(chains__damage="")),
        point_count=Count("chains__points", filter=sealed),
        stored_bytes=Sum("chains__points__size_bytes", filter=sealed, default=0),
        newest_at=Max("chains__points__started_at", filter=sealed),
    )
    context = {"repositories": repositories.order_by(Lower("name"))}
    return render(request, "repositories/repository_list.html", context)


@requires(Right.SEE)
@require_safe
def repository_detail(request: HttpRequest, uuid: UUID) -> HttpResponse:
    repository = get_object_or_404(Repository.objects.visible_to(request.user), uuid=uuid)
    chains = with_figures(Chain.objects.visible_to(request.user).filter(repository=repository)).order_by("-pk")
    last = request.GET.get("before", "")
    shown = list((chains.filter(pk__lt=int(last)) if is_number(last) else chains)[: CHAINS_ON_A_PAGE + 1])
    address = reverse("repository_detail", args=[uuid])
    more = len(shown) > CHAINS_ON_A_PAGE
    context = {
        "repository": repository,
        "totals": totals_of(repository),
        "chains": shown[:CHAINS_ON_A_PAGE],
        "older_url": f"{address}?before={shown[CHAINS_ON_A_PAGE - 1].pk}" if more else "",
        "newest_url": address if last else "",
    }
    return render(request, "repositories/repository_detail.html", context)


def with_figures(chains: QuerySet[Chain]) -> QuerySet[Chain]:
    return chains.annotate(
        point_count=Count("points", filter=SEALED),
        stored_bytes=Sum("points__size_bytes", filter=SEALED, default=0),
        first_at=Min("points__started_at", filter=SEALED),
        last_at=Max("points__started_at", filter=SEALED),
        without_key=Count("points", filter=SEALED & Q(encrypted=True, points__file_key_sealed=None)),
    )


def totals_of(repository: Repository) -> dict[str, int]:
    points = RestorePoint.objects.filter(chain__repository=repository).sealed()
    return points.aggregate(points=Count("pk"), stored_bytes=Sum("size_bytes", default=0))


@requires(Right.SEE)
@require_safe
def chain_detail(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """One chain, its points newest first; paged by their sequence."""
    chains = with_figures(Chain.objects.visible_to(request.user)).select_related("repository")
    chain = get_object_or_404(chains, uuid=uuid)
    points = chain.points.prefetch_related("slots__password__record").order_by("-sequence")
    last = request.GET.get("before", "")
    shown = list((points.filter(sequence__lt=int(last)) if is_number(last) else points)[: POINTS_ON_A_PAGE + 1])
    address = reverse("chain_detail", args=[uuid])
    more = len(shown) > POINTS_ON_A_PAGE
    context = {
        "chain": chain,
        "points": shown[:POINTS_ON_A_PAGE],
        "older_url": f"{address}?before={shown[POINTS_ON_A_PAGE - 1].sequence}" if more else "",
        "newest_url": address if last else "",
    }
    return page_or_fragment(request, "repositories/chain_detail.html", "repositories/_points.html", context)


@requires(Right.ADMINISTER)
@require_http_methods(["GET", "HEAD", "POST"])
def repository_delete(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Forget a repository that nothing uses; its directory stays as it is."""
    repository = get_object_or_404(Repository.objects.visible_to(request.user), uuid=uuid)
    holders: list[str] = []
    if request.method == "POST":
        try:
            with transaction.atomic():
                before = {"path": repository.path}
                audit.record(request, "repository deleted", repository, before=before, severity=Severity.HIGH)
                repository.delete()
        except ProtectedError as error:
            holders = sorted(f"{row._meta.verbose_name} {row}" for row in error.protected_objects)
        else:
            messages.success(request, f"The repository {repository} is forgotten; its directory was not touched.")
            return redirect("repository_list")
    context = {"repository": repository, "holders": holders[:20], "more": max(0, len(holders) - 20)}
    return render(request, "repositories/repository_delete.html", context)


def is_number(typed: str) -> bool:
    return typed.isascii() and typed.isdigit() and len(typed) < 10
