"""Whether a request gets the whole page or a fragment of it, and what caches may keep.

Holds the one choice between page and fragment, the redirect that works for both, and the mark of pages with a secret.
Which fragment belongs to which page is decided by the views.
"""

from __future__ import annotations

from typing import Any, TypeVar

from django.db import models
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import render, resolve_url
from django.utils.cache import patch_vary_headers

Response = TypeVar("Response", bound=HttpResponseBase)


def wants_fragment(request: HttpRequest) -> bool:
    """Tell whether htmx swaps the answer into a page; to restore history or follow a boosted link, it can't."""
    headers = request.headers
    return (
        headers.get("HX-Request") == "true"
        and headers.get("HX-History-Restore-Request") != "true"
        and headers.get("HX-Boosted") != "true"
    )


def page_or_fragment(
    request: HttpRequest, page: str, fragment: str, context: dict[str, Any] | None = None, *, status: int = 200
) -> HttpResponse:
    """Render the template `fragment` for htmx and `page` for everybody else, and tell caches that the two differ."""
    response = render(request, fragment if wants_fragment(request) else page, context, status=status)
    return vary_on_htmx(response)


def vary_on_htmx(response: Response) -> Response:
    patch_vary_headers(response, ("HX-Request", "HX-History-Restore-Request", "HX-Boosted"))
    return response


def no_store(response: Response) -> Response:
    """Mark a page that takes or shows a secret: no cache and no back button keeps it."""
    response["Cache-Control"] = "no-store, private"
    return response


def go_to(request: HttpRequest, to: str | models.Model, *args: object, **kwargs: object) -> HttpResponse:
    """Send the browser to another page (`to` as for `redirect`), also out of an htmx request."""
    url = resolve_url(to, *args, **kwargs)
    if request.headers.get("HX-Request") != "true":
        return HttpResponseRedirect(url)
    response = HttpResponse(status=200)
    response["HX-Redirect"] = url
    return response
