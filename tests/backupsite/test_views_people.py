"""Users and roles: make, change, close; the last administrator stays; one's own profile."""

from __future__ import annotations

import threading
import time

import pytest
from django.db import connection, transaction
from django.test import Client

from backupsite import people
from backupsite.models import AuditEvent, Role, User
from tests import cast
from tests.factories import make_user

pytestmark = pytest.mark.django_db
GOOD = "a long enough passphrase"


def new_user(**fields: object) -> dict[str, object]:
    return {"username": "dora", "password": GOOD, "again": GOOD, "roles": ["viewer"], "time_zone": "UTC", **fields}


def test_the_list_names_people_and_roles() -> None:
    alice = cast.alice()
    make_user(Role.VIEWER, username="victor")
    page = alice.get("/users/").content.decode()
    assert "victor" in page and "Viewer" in page and "(you)" in page


def test_the_list_costs_the_same_for_many(django_assert_num_queries) -> None:
    alice = cast.alice()
    for _ in range(3):
        make_user(Role.VIEWER)
    with django_assert_num_queries(5):
        alice.get("/users/")
    for _ in range(10):
        make_user(Role.VIEWER)
    with django_assert_num_queries(5):
        alice.get("/users/")


def test_a_user_is_created_and_can_sign_in() -> None:
    response = cast.alice().post("/users/new/", new_user(roles=["operator", "restore"], time_zone="Europe/Berlin"))
    dora = User.objects.get(username="dora")
    assert response["Location"] == f"/users/{dora.pk}/"
    assert people.roles_of(dora) == ["operator", "restore"]
    assert dora.time_zone == "Europe/Berlin" and dora.check_password(GOOD)
    event = AuditEvent.objects.get(action="user created")
    assert (event.user_name, event.object_name, event.after) == ("alice", "dora", {"roles": ["operator", "restore"]})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"again": "something else!"}, "The two passwords differ."),
        ({"password": "short", "again": "short"}, "too short"),
        ({"password": "password123", "again": "password123"}, "too common"),
        ({"password": "dora-dora-d", "again": "dora-dora-d", "username": "dora-dora-d"}, "too similar"),
        ({"username": "ALICE"}, "Somebody has this name already."),
        ({"username": "no spaces"}, "Enter a valid username"),
        ({"username": ""}, "This field is required."),
        ({"roles": ["king"]}, "Select a valid choice"),
        ({"time_zone": "Mars/Olympus"}, "Select a valid choice"),
    ],
)
def test_what_is_wrong_is_said_at_the_field(change: dict[str, object], sentence: str) -> None:
    response = cast.alice().post("/users/new/", new_user(**change))
    assert response.status_code == 200
    page = response.content.decode()
    assert sentence in page
    assert GOOD not in page and "no-store" in response["Cache-Control"]
    assert User.objects.count() == 1
    assert not AuditEvent.objects.filter(action="user created").exists()


def test_roles_change_with_before_and_after() -> None:
    alice, user = cast.alice(), make_user(Role.VIEWER)
    assert alice.post(f"/users/{user.pk}/", {"roles": ["operator"]}).status_code == 302
    assert people.roles_of(user) == ["operator"]
    event = AuditEvent.objects.get(action="roles changed")
    assert (event.before, event.after, event.severity) == ({"roles": ["viewer"]}, {"roles": ["operator"]}, "high")
    assert alice.get(f"/users/{user.pk}/").status_code == 200


def test_the_last_administrator_keeps_the_role() -> None:
    alice = cast.alice()
    user = User.objects.get()
    make_user(Role.ADMINISTRATOR, is_active=False)
    page = alice.post(f"/users/{user.pk}/", {"roles": ["viewer"]})
    assert page.status_code == 200 and "last active administrator" in page.content.decode()
    assert people.roles_of(user) == ["administrator"]
    page = alice.post(f"/users/{user.pk}/deactivate/")
    assert page.status_code == 200 and "last active administrator" in page.content.decode()
    user.refresh_from_db()
    assert user.is_active
    assert not AuditEvent.objects.filter(action__in=["roles changed", "user deactivated"]).exists()


@pytest.mark.django_db(transaction=True)
def test_of_two_administrators_who_leave_at_once_one_stays() -> None:
    first, second = make_user(Role.ADMINISTRATOR), make_user(Role.ADMINISTRATOR)
    began, refused = threading.Event(), []

    def leave_too() -> None:
        began.set()
        try:
            people.change_roles(second, [])
        except people.LastAdministrator as error:
            refused.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=leave_too)
    with transaction.atomic():
        people.change_active(first, False)
        thread.start()
        began.wait()
        assert waits_for_a_lock()
    thread.join()
    assert len(refused) == 1
    assert people.roles_of(second) == ["administrator"]


def waits_for_a_lock() -> bool:
    """Wait until another connection waits for a lock; tell whether one does."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid()")
            if cursor.fetchone()[0]:
                return True
    return False


def test_one_of_two_administrators_may_leave() -> None:
    alice = cast.alice()
    other = make_user(Role.ADMINISTRATOR)
    assert alice.post(f"/users/{other.pk}/deactivate/").status_code == 302
    other.refresh_from_db()
    assert not other.is_active


def test_whoever_is_deactivated_is_signed_out_at_once_and_can_come_back() -> None:
    alice, user = cast.alice(), make_user(Role.VIEWER, password=GOOD)
    theirs = cast.browser_of(user)
    assert theirs.get("/profile/").status_code == 200
    alice.post(f"/users/{user.pk}/deactivate/")
    assert theirs.get("/profile/")["Location"].startswith("/account/login/")
    refused = Client().post("/account/login/", {"login": user.username, "password": GOOD})
    assert "_auth_user_id" not in refused.client.session
    assert alice.post(f"/users/{user.pk}/activate/").status_code == 302
    user.refresh_from_db()
    assert user.is_active
    assert set(AuditEvent.objects.values_list("action", flat=True)) >= {"user deactivated", "user activated"}


def test_a_password_set_by_an_administrator_ends_the_sign_ins() -> None:
    alice, user = cast.alice(), make_user(Role.VIEWER)
    theirs = cast.browser_of(user)
    response = alice.post(f"/users/{user.pk}/password/", {"password": GOOD, "again": GOOD})
    assert response.status_code == 302
    user.refresh_from_db()
    assert user.check_password(GOOD)
    assert theirs.get("/profile/")["Location"].startswith("/account/login/")
    assert "no-store" in alice.get(f"/users/{user.pk}/password/")["Cache-Control"]


def test_the_own_password_needs_the_current_one() -> None:
    user = make_user(None, password="the one before this")
    mine = cast.browser_of(user)
    wrong = mine.post("/profile/password/", {"current": "wrong", "password": GOOD, "again": GOOD})
    assert "This is not your current password." in wrong.content.decode()
    right = mine.post("/profile/password/", {"current": "the one before this", "password": GOOD, "again": GOOD})
    assert right["Location"] == "/profile/"
    user.refresh_from_db()
    assert user.check_password(GOOD)
    assert mine.get("/profile/").status_code == 200  # still signed in here
    assert AuditEvent.objects.filter(action="own password changed").count() == 1


def test_guessing_the_current_password_is_slowed_down() -> None:
    mine = cast.charlie()
    guess = {"current": "wrong", "password": GOOD, "again": GOOD}
    codes = [mine.post("/profile/password/", guess).status_code for _ in range(6)]
    assert codes == [200] * 5 + [429]


def test_the_profile_sets_the_time_zone_of_all_pages() -> None:
    user = make_user(None)
    mine = cast.browser_of(user)
    assert mine.post("/profile/", {"time_zone": "Asia/Tokyo"}).status_code == 302
    user.refresh_from_db()
    assert user.time_zone == "Asia/Tokyo"
    assert mine.post("/profile/", {"time_zone": "Nowhere"}).status_code == 200


def test_the_settings_page_states_facts_and_no_secrets(settings) -> None:
    page = cast.alice().get("/settings/").content.decode()
    assert str(settings.BACKUPSITE.home) in page and str(settings.BACKUPSITE.restore_roots[0]) in page
    assert settings.SECRET_KEY not in page
