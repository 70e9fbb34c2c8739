"""Asking for the password again before somebody looks into the points of a job that wants that (`Job.ask_password`).

Whose points are asked for is the job's present setting, also for chains that were detached from it; a chain without a
job is not asked for, nor one without encryption. A right answer holds for 15 minutes, in the sign-in session of whoever
gave it, as a time, the chain's id and the newest point that the typed password opens: an older password opens older
points and no newer ones. Wrong answers are counted with those of the record (`keys.attempts`). The file key still comes
from the console: this asks the person, it is no further encryption.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import wraps
from typing import Any, TypeVar
from urllib.parse import urlencode
from uuid import UUID

from django.db.models import Max
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone

from backupsite.responses import go_to
from jobs.jobs import is_vouched_for
from jobs.models import Job
from keys import passwords
from keys.models import PasswordVersion
from repositories.models import RestorePoint, Slot

HOLDS_FOR = timedelta(minutes=15)
MOST_VERSIONS = 4  # each costs a derivation
ANSWERED = "password_answered"  # in the sign-in session: {chain id: [time, newest point]}

View = TypeVar("View", bound=Callable[..., HttpResponseBase])


class NothingToCompare(Exception):
    """No password of this console opens the point: nobody can answer."""


def asks_password(view: View) -> View:
    """Send whoever has to answer first to the page that asks; stands below `requires` on views of one point."""

    @wraps(view)
    def guarded(request: HttpRequest, uuid: UUID) -> HttpResponseBase:
        points = RestorePoint.objects.visible_to(request.user).sealed().select_related("chain")
        point = get_object_or_404(points, uuid=uuid)
        return _sent_to_ask(request, point) if must_ask(request, point) else view(request, uuid)

    return guarded  # type: ignore[return-value]


def must_ask(request: HttpRequest, point: RestorePoint) -> bool:
    if not is_asked_for(point):
        return False
    at, newest = _answered(request).get(str(point.chain.uuid), ("", 0))
    return not at or point.sequence > newest or not _holds(datetime.fromisoformat(at), timezone.now())


def is_asked_for(point: RestorePoint) -> bool:
    """A job whose row was changed outside this console is taken for one that wants it, where somebody can answer."""
    if not point.chain.encrypted:
        return False
    jobs = list(Job.objects.filter(job_chains__chain=point.chain_id).select_related("password", "kms_key"))
    if any(job.ask_password for job in jobs):
        return True
    return not all(map(is_vouched_for, jobs)) and bool(versions_that_open(point))


def answer(request: HttpRequest, point: RestorePoint, typed: str) -> bool:
    """Compare what was typed with the passwords that open the point, and remember when it was right.

    Raises NothingToCompare, and keys.attempts.TooManyAttempts without comparing.
    """
    reach = versions_that_open(point)
    if not reach:
        raise NothingToCompare
    right = passwords.first_right(list(reach), typed)
    if right is None:
        return False
    now = timezone.now()
    kept = {chain: said for chain, said in _answered(request).items() if _holds(datetime.fromisoformat(said[0]), now)}
    request.session[ANSWERED] = {**kept, str(point.chain.uuid): [now.isoformat(), reach[right]]}
    return True


def versions_that_open(point: RestorePoint) -> dict[PasswordVersion, int]:
    """Return the password versions that open the point, by a slot of its own or of a later point of its chain, each
    with the newest point that it opens: those that open most first.
    """
    slots = Slot.objects.filter(point__chain=point.chain_id, point__state="sealed", point__sequence__gte=point.sequence)
    reach = slots.exclude(password=None).values("password").annotate(newest=Max("point__sequence"))
    found = {row["password"]: row["newest"] for row in reach.order_by("-newest", "-password")}
    own = set(point.slots.exclude(password=None).values_list("password", flat=True))
    chosen = sorted(found, key=lambda pk: (pk not in own, -found[pk]))[:MOST_VERSIONS]
    rows = PasswordVersion.objects.select_related("record").in_bulk(chosen)
    return {rows[pk]: found[pk] for pk in sorted(chosen, key=lambda pk: -found[pk])}


def _answered(request: HttpRequest) -> dict[str, Any]:
    return dict(request.session.get(ANSWERED, {}))


def _holds(at: datetime, now: datetime) -> bool:
    return timedelta() <= now - at < HOLDS_FOR


def _sent_to_ask(request: HttpRequest, point: RestorePoint) -> HttpResponse:
    """Ask, and go on where the browser was; a selection that was posted is made again."""
    address = reverse("point_password", args=[point.uuid])
    back = request.get_full_path() if request.method in ("GET", "HEAD") else reverse("point_browse", args=[point.uuid])
    return go_to(request, f"{address}?{urlencode({'next': back})}")
