"""Signed-in browsers for the tests of pages: Alice administers, Bob operates, Rita restores, Vera looks.

Sven keeps the keys, Charlie may see nothing. Each call is a new person with that role, so that a test can have two of
them.
"""

from __future__ import annotations

from django.http import HttpResponse
from django.test import Client

from backupsite.models import Role
from tests.cast import with_role

HTMX = {"HX-Request": "true"}


def alice() -> Client:
    return with_role(Role.ADMINISTRATOR)


def bob() -> Client:
    return with_role(Role.BACKUP_OPERATOR)


def rita() -> Client:
    return with_role(Role.RESTORE_OPERATOR)


def vera() -> Client:
    return with_role(Role.VIEWER)


def sven() -> Client:
    return with_role(Role.SECURITY_ADMINISTRATOR)


def charlie() -> Client:
    return with_role(None)


def text_of(response: HttpResponse) -> str:
    """Return the page with blanks folded, so that tests ask for sentences."""
    return " ".join(response.content.decode().split())
