"""Signed-in browsers for the tests of pages: Alice administers, Bob operates, Rita restores, Vera looks, Charlie may
see nothing.
"""

from __future__ import annotations

from django.test import Client

from backupsite.models import Role
from tests.factories import make_user

HTMX = {"HX-Request": "true"}


def alice() -> Client:
    return browser(Role.ADMINISTRATOR)


def bob() -> Client:
    return browser(Role.BACKUP_OPERATOR)


def rita() -> Client:
    return browser(Role.RESTORE_OPERATOR)


def vera() -> Client:
    return browser(Role.VIEWER)


def sven() -> Client:
    return browser(Role.SECURITY_ADMINISTRATOR)


def charlie() -> Client:
    return browser(None)


def browser(role: str | None) -> Client:
    client = Client(headers={"host": "localhost"})
    client.force_login(make_user(role))
    return client


def text_of(response: object) -> str:
    """Return the page with blanks folded, so that tests ask for sentences."""
    return " ".join(response.content.decode().split())
