"""The choice between page and fragment, redirects out of htmx, and the mark of pages with a secret."""

from __future__ import annotations

import pytest
from django.http import HttpResponse
from django.test import RequestFactory
from django.test.utils import override_settings
from django.views.defaults import server_error

from backupsite.responses import go_to, no_store, page_or_fragment, wants_fragment

HTMX = {"HX-Request": "true"}
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "OPTIONS": {
            "loaders": [
                ("django.template.loaders.locmem.Loader", {"page.html": "page {{ x }}", "_part.html": "part {{ x }}"})
            ]
        },
    }
]


@pytest.mark.parametrize(
    ("headers", "fragment"),
    [
        ({}, False),
        (HTMX, True),
        ({**HTMX, "HX-History-Restore-Request": "true"}, False),
        ({**HTMX, "HX-Boosted": "true"}, False),
        ({"HX-Request": "false"}, False),
    ],
)
def test_a_fragment_is_for_swaps_only(headers: dict[str, str], fragment: bool) -> None:
    request = RequestFactory().get("/", headers=headers)
    assert wants_fragment(request) is fragment
    with override_settings(TEMPLATES=TEMPLATES):
        response = page_or_fragment(request, "page.html", "_part.html", {"x": 1}, status=202)
    assert response.content == (b"part 1" if fragment else b"page 1")
    assert response.status_code == 202
    assert "HX-Request" in response["Vary"] and "HX-History-Restore-Request" in response["Vary"]


def test_a_page_with_a_secret_is_never_stored() -> None:
    assert "no-store" in no_store(HttpResponse())["Cache-Control"]


def test_htmx_is_sent_on_with_a_header_and_a_browser_with_a_redirect() -> None:
    plain = go_to(RequestFactory().post("/"), "user_detail", 7)
    assert (plain.status_code, plain["Location"]) == (302, "/users/7/")
    swapped = go_to(RequestFactory().post("/", headers=HTMX), "user_detail", 7)
    assert (swapped.status_code, swapped["HX-Redirect"]) == (200, "/users/7/")
    assert "Location" not in swapped


def test_the_page_of_a_broken_console_needs_nothing_of_the_console() -> None:
    response = server_error(RequestFactory().get("/"))
    assert response.status_code == 500 and b"Something broke in the console" in response.content
