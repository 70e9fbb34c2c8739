"""What happens to every request: the real address behind trusted proxies, no visitor for /healthz, the sign-in of an
htmx request, the person's time zone.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable
from urllib.parse import quote, urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import resolve_url
from django.utils import timezone

Answer = Callable[[HttpRequest], HttpResponse]
HEALTH_PATH = "/healthz"


class TrustedHopsMiddleware:
    """Put the visitor's address into REMOTE_ADDR: the one that the outermost trusted proxy saw, so that nobody invents
    one.
    """

    def __init__(self, get_response: Answer) -> None:
        self.get_response = get_response
        self.hops = settings.BACKUPSITE.behind_proxy

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if self.hops:
            seen = [part.strip() for part in request.META.get("HTTP_X_FORWARDED_FOR", "").split(",") if part.strip()]
            if len(seen) >= self.hops:
                request.META["REMOTE_ADDR"] = seen[-self.hops]
        return self.get_response(request)


class HealthForNobodyMiddleware:
    """Who asks /healthz is nobody: looking up who a cookie belongs to would need the database that may be down."""

    def __init__(self, get_response: Answer) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path_info == HEALTH_PATH:
            request.COOKIES = {}
        return self.get_response(request)


class HtmxSignInMiddleware:
    """An htmx request without a sign-in would swap the sign-in page into a fragment: it gets HX-Redirect instead."""

    def __init__(self, get_response: Answer) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if request.headers.get("HX-Request") != "true" or response.status_code not in (301, 302):
            return response
        sign_in = resolve_url(settings.LOGIN_URL)
        if not response.headers.get("Location", "").startswith(sign_in):
            return response
        page = urlsplit(request.headers.get("HX-Current-URL", "/")).path or "/"
        moved = HttpResponse(status=200)
        moved["HX-Redirect"] = f"{sign_in}?next={quote(page)}"
        return moved


class TimeZoneMiddleware:
    """Show times in the zone of the person who is signed in."""

    def __init__(self, get_response: Answer) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        zone = getattr(request.user, "time_zone", "UTC")
        try:
            timezone.activate(zoneinfo.ZoneInfo(zone))
        except (zoneinfo.ZoneInfoNotFoundError, ValueError):
            timezone.activate(zoneinfo.ZoneInfo("UTC"))
        return self.get_response(request)
