"""The first administrator's link: once, for a day, while nobody has an account."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from backupsite import first_admin, people
from backupsite.models import AuditEvent, FirstAdmin, User
from backupsite.prepare import PrepareError, make_first_administrator
from tests.factories import make_user

pytestmark = pytest.mark.django_db
FIELDS = {
    "username": "alice",
    "password": "a long enough passphrase",
    "again": "a long enough passphrase",
    "time_zone": "UTC",
}


def link() -> str:
    address = first_admin.new_link("")
    assert address is not None
    return address


def test_the_link_makes_the_first_administrator_and_signs_in() -> None:
    client, address = Client(), link()
    page = client.get(address)
    assert page.status_code == 200 and "no-store" in page["Cache-Control"]
    assert client.post(address, FIELDS).status_code == 302
    alice = User.objects.get()
    assert alice.username == "alice" and people.roles_of(alice) == ["administrator"]
    assert client.get("/users/").status_code == 200
    event = AuditEvent.objects.get(action="first administrator created")
    assert event.user_name == "alice" and event.address == "127.0.0.1" and event.severity == "high"


def test_it_works_once() -> None:
    address = link()
    Client().post(address, FIELDS)
    second = Client().post(address, {**FIELDS, "username": "mallory"})
    assert second.status_code == 404
    assert User.objects.count() == 1
    assert "This link has ended" in Client().get(address).content.decode()


def test_only_the_hash_is_stored() -> None:
    token = link().rstrip("/").rpartition("/")[2]
    row = FirstAdmin.objects.get()
    assert token not in str(row.__dict__) and row.token_hash == first_admin.hash_of(token)


@pytest.mark.parametrize(("hours", "works"), [(23.9, True), (24.1, False)])
def test_it_lasts_a_day(hours: float, works: bool) -> None:
    address = link()
    FirstAdmin.objects.update(created_at=timezone.now() - timedelta(hours=hours))
    assert Client().get(address).status_code == (200 if works else 404)
    assert Client().post(address, FIELDS).status_code == (302 if works else 404)
    assert User.objects.exists() is works


def test_it_ends_when_somebody_has_an_account() -> None:
    address = link()
    make_user("viewer")
    assert Client().get(address).status_code == 404
    assert Client().post(address, FIELDS).status_code == 404
    assert User.objects.count() == 1


def test_a_wrong_token_opens_nothing() -> None:
    link()
    assert Client().get("/first-admin/guess/").status_code == 404
    assert Client().post("/first-admin/guess/", FIELDS).status_code == 404
    assert not User.objects.exists()


def test_a_new_link_ends_the_earlier_one() -> None:
    earlier = link()
    later = link()
    assert Client().get(earlier).status_code == 404
    assert Client().get(later).status_code == 200


def test_a_weak_password_is_refused_and_the_link_still_works() -> None:
    client, address = Client(), link()
    page = client.post(address, {**FIELDS, "password": "short", "again": "short"})
    assert page.status_code == 200 and "too short" in page.content.decode()
    assert client.post(address, FIELDS).status_code == 302


def test_the_second_of_two_at_once_gets_nothing() -> None:
    """Both have passed the first look at the link; the row decides."""
    token = link().rstrip("/").rpartition("/")[2]
    FirstAdmin.objects.update(used_at=timezone.now())
    with pytest.raises(people.LinkEnded):
        people.create_first_administrator(token, "mallory", "x", "UTC", timezone.now())
    assert not User.objects.exists()


@pytest.mark.parametrize("password", ["2 short", "password123"])
def test_an_unattended_start_refuses_a_weak_password(password: str) -> None:
    with pytest.raises(PrepareError) as refused:
        make_first_administrator(password, "")
    assert "BACKUPSITE_ADMIN_PASSWORD" in str(refused.value) and password not in str(refused.value)
    assert not User.objects.exists()


def test_an_unattended_start_makes_the_first_administrator() -> None:
    assert make_first_administrator("a long enough passphrase", "") is None
    assert User.objects.get().username == "admin"
    assert make_first_administrator("short", "") is None, "it does not count once there is a user"
