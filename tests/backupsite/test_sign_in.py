"""Signing in: throttled over all web processes, sign-up closed, htmx sent to the sign-in page; the policy of pages."""

from __future__ import annotations

import pytest
from django.core.cache import cache
from django.core.cache.backends.db import DatabaseCache
from django.db import connection
from django.test import Client
from django.urls import NoReverseMatch, reverse

from backupsite.models import User
from tests import cast
from tests.factories import make_user

pytestmark = pytest.mark.django_db
GOOD = "a long enough passphrase"


def sign_in(client: Client, name: str, password: str, address: str = "192.0.2.1") -> bool:
    client.post("/account/login/", {"login": name, "password": password}, REMOTE_ADDR=address)
    return "_auth_user_id" in client.session


def test_the_right_password_signs_in_and_renews_the_session() -> None:
    make_user(None, username="dora", password=GOOD)
    client = Client()
    client.get("/account/login/")
    before = client.session.session_key
    assert sign_in(client, "dora", GOOD)
    assert client.session.session_key != before
    assert not sign_in(Client(), "dora", "wrong")


def test_an_account_is_blocked_after_five_wrong_passwords_from_anywhere() -> None:
    make_user(None, username="dora", password=GOOD)
    for number in range(5):
        assert not sign_in(Client(), "dora", "wrong", f"192.0.2.{number}")
    assert not sign_in(Client(), "dora", GOOD, "192.0.2.99")
    page = Client().post("/account/login/", {"login": "dora", "password": GOOD}, REMOTE_ADDR="192.0.2.98")
    assert "Too many failed login attempts" in page.content.decode()


def test_an_address_is_blocked_after_ten_wrong_passwords_of_anybody() -> None:
    make_user(None, username="dora", password=GOOD)
    for number in range(10):
        assert not sign_in(Client(), f"user-{number}", "wrong")
    assert not sign_in(Client(), "dora", GOOD)
    assert sign_in(Client(), "dora", GOOD, "192.0.2.2")


def test_a_flood_of_sign_ins_gets_a_page_that_says_so() -> None:
    client = Client()
    codes = {client.post("/account/login/", {}, REMOTE_ADDR="192.0.2.3").status_code for _ in range(30)}
    assert codes == {200}
    last = client.post("/account/login/", {}, REMOTE_ADDR="192.0.2.3")
    assert last.status_code == 429 and "Too many attempts" in last.content.decode()


def test_the_counters_are_rows_in_postgres() -> None:
    sign_in(Client(), "dora", "wrong")
    assert isinstance(cache._connections["default"], DatabaseCache)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM backupsite_cache WHERE cache_key LIKE '%%login_failed%%'")
        assert cursor.fetchone()[0] >= 2


def test_sign_up_and_reset_do_not_exist() -> None:
    for name in ("account_signup", "account_reset_password", "account_email", "account_set_password"):
        with pytest.raises(NoReverseMatch):
            reverse(name)
    assert Client().post("/account/signup/", {"username": "mallory", "password1": GOOD}).status_code == 404
    assert not User.objects.exists()
    assert "sign up" not in Client().get("/account/login/").content.decode().lower()


def test_a_visitor_is_sent_to_the_sign_in_and_back() -> None:
    make_user("administrator", username="dora", password=GOOD)
    client = Client()
    assert client.get("/users/?x=1")["Location"] == "/account/login/?next=/users/%3Fx%3D1"
    response = client.post("/account/login/", {"login": "dora", "password": GOOD, "next": "/users/"})
    assert response["Location"] == "/users/"


def test_no_sign_in_leads_to_another_site() -> None:
    make_user(None, username="dora", password=GOOD)
    response = Client().post("/account/login/", {"login": "dora", "password": GOOD, "next": "https://evil.example/"})
    assert response.status_code == 302 and "evil" not in response["Location"]


def test_htmx_without_a_sign_in_is_sent_to_the_whole_page() -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": "http://testserver/audit/?x=1"}
    response = Client().get("/audit/", headers=headers)
    assert (response.status_code, response["HX-Redirect"]) == (200, "/account/login/?next=/audit/")
    assert response.content == b""


def test_signing_out_needs_a_post() -> None:
    client = cast.charlie()
    assert client.get("/account/logout/").status_code == 200
    assert "_auth_user_id" in client.session
    client.post("/account/logout/")
    assert "_auth_user_id" not in client.session


def test_forms_without_the_token_are_refused() -> None:
    make_user(None, username="dora", password=GOOD)
    client = Client(enforce_csrf_checks=True)
    response = client.post("/account/login/", {"login": "dora", "password": GOOD})
    assert response.status_code == 403 and "The form was too old" in response.content.decode()


def test_every_page_carries_the_policy_and_no_inline_style_or_script() -> None:
    for client, address in (
        (Client(), "/account/login/"),
        (cast.charlie(), "/profile/"),
        (cast.alice(), "/users/new/"),
    ):
        response = client.get(address)
        page = response.content.decode()
        policy = response["Content-Security-Policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert response["X-Frame-Options"] == "DENY"
        assert " style=" not in page and "<style" not in page and "<script>" not in page and "javascript:" not in page
        assert "hx-on" not in page and '"allowEval":false' in page


@pytest.mark.parametrize("client", [Client, cast.charlie], ids=["visitor", "charlie"])
def test_unknown_addresses_have_a_page(client) -> None:
    response = client().get("/no/such/page/")
    assert response.status_code == 404 and "This page does not exist" in response.content.decode()


def test_whoever_has_no_role_is_told_so() -> None:
    response = cast.charlie().get("/users/")
    assert response.status_code == 403 and "no role yet" in response.content.decode()
    assert "do not allow" in cast.bob().get("/users/").content.decode()
