"""Sign-in by django-allauth, with sign-up closed: accounts are made by administrators."""

from __future__ import annotations

from allauth.account.adapter import DefaultAccountAdapter
from django.http import HttpRequest


class ClosedAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth has no types
    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    def get_client_ip(self, request: HttpRequest) -> str:
        # The middleware has already resolved trusted proxies.
        return str(request.META.get("REMOTE_ADDR", "")) or "0.0.0.0"  # noqa: S104  (an address in a counter, not a bind)
