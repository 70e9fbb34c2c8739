"""Sign-ins in the database open nothing: only the cookie does."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.conf import settings
from django.contrib.sessions.models import Session
from django.test import Client

from backupsite.sign_in_sessions import SessionStore, stored_key
from tests.cast import alice

pytestmark = pytest.mark.django_db


def cookie(client: Client) -> str:
    value: str = client.cookies[settings.SESSION_COOKIE_NAME].value
    return value


def with_cookie(value: str) -> Client:
    client = Client()
    client.cookies[settings.SESSION_COOKIE_NAME] = value
    return client


def test_what_stands_in_the_table_is_no_cookie():
    client = alice()
    row = Session.objects.get()
    assert cookie(client) not in (row.session_key, row.session_data)
    assert with_cookie(cookie(client)).get("/").status_code == 200
    assert with_cookie(row.session_key).get("/").status_code == 302


def test_signing_out_removes_the_row():
    client = alice()
    value = cookie(client)
    client.post("/account/logout/")
    assert not Session.objects.filter(session_key=stored_key(value)).exists()
    assert with_cookie(value).get("/").status_code == 302


def test_a_session_is_kept_changed_and_deleted_by_its_own_key():
    store = SessionStore()
    store["a"] = 1
    store.save()
    again = SessionStore(store.session_key)
    assert again["a"] == 1 and again.exists(store.session_key)
    again["a"] = 2
    again.save()
    assert SessionStore(store.session_key)["a"] == 2 and Session.objects.count() == 1
    again.cycle_key()
    assert SessionStore(again.session_key)["a"] == 2 and not SessionStore(store.session_key).load()
    again.delete()
    assert not Session.objects.exists()


def test_an_expired_session_is_none():
    store = SessionStore()
    store["a"] = 1
    store.set_expiry(-1)
    store.save()
    assert SessionStore(store.session_key).load() == {}


def test_whoever_adds_second_factors_seals_their_secrets():
    """allauth keeps TOTP secrets and recovery codes as they are, unless an adapter encrypts them."""
    assert not apps.is_installed("allauth.mfa"), "seal what it stores: MFA_ADAPTER with encrypt and decrypt"
