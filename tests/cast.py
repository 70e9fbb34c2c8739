"""The cast of the tests: Alice administers, Bob operates, Charlie may see nothing; each has a browser, signed in."""

from __future__ import annotations

from django.test import Client

from backupsite.models import Role, User
from tests.factories import make_user


def browser_of(user: User) -> Client:
    client = Client()
    client.force_login(user, backend="allauth.account.auth_backends.AuthenticationBackend")
    return client


def alice() -> Client:
    return browser_of(make_user(Role.ADMINISTRATOR, username="alice"))


def bob() -> Client:
    return browser_of(make_user(Role.BACKUP_OPERATOR, username="bob"))


def charlie() -> Client:
    return browser_of(make_user(None, username="charlie"))


def with_role(role: str | None) -> Client:
    return browser_of(make_user(role))
