"""The pages of passwords: secrets are taken and never given back, changes are audited, use protects from deletion."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from backupsite.models import AuditEvent
from keys.models import PasswordRecord, PasswordVersion, VerifyAttempt
from keys.passwords import verify
from keys.sealing import ensure_ring
from tests import cast
from tests.factories import make_chain, make_job, make_password, make_point, make_user

pytestmark = pytest.mark.django_db
TYPED = "correct horse battery staple"


@pytest.fixture
def alice() -> Client:
    ensure_ring()
    return cast.alice()


def fields(**changed: str) -> dict[str, str]:
    return {"name": "finance 2026", "hint": "the green notebook", "password": TYPED, "again": TYPED, **changed}


def test_an_empty_list_says_what_to_do(alice: Client) -> None:
    page = alice.get("/keys/").content.decode()
    assert "No passwords yet" in page and 'href="/keys/new/"' in page


def test_the_list_shows_hint_version_and_age_with_one_query_for_all(alice: Client, django_assert_num_queries) -> None:
    for number in (3, 1, 0, 2):
        make_password(name=f"record {number}", hint=f"hint {number}")
    with django_assert_num_queries(5):  # the fifth: the signing key
        page = alice.get("/keys/").content.decode()
    assert "hint 3" in page and "just now" in page and "Who uses it" in page
    assert sorted(range(4), key=lambda n: page.index(f"record {n}")) == [0, 1, 2, 3]


def test_a_password_is_made_and_never_shown(alice: Client) -> None:
    form = alice.get("/keys/new/")
    assert "no-store" in form["Cache-Control"]
    response = alice.post("/keys/new/", fields(), follow=True)
    record = PasswordRecord.objects.get()
    assert response.redirect_chain == [(f"/keys/{record.uuid}/", 302)]
    assert TYPED not in response.content.decode() and "the green notebook" in response.content.decode()
    assert verify(record, TYPED)
    event = AuditEvent.objects.get(action="password created")
    assert (event.user_name, event.object_id) == ("alice", str(record.uuid))
    assert TYPED not in str(event.__dict__)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"again": "something else"}, "The two passwords differ."),
        ({"password": "seven77", "again": "seven77"}, "This password has 7 characters: take at least 8."),
        ({"hint": f"it is {TYPED.upper()}!"}, "The hint contains the password"),
        ({"name": f"my {TYPED}"}, "The name contains the password"),
        ({"name": "TAKEN"}, "Another password has this name."),
        ({"name": ""}, "This field is required."),
        ({"password": "", "again": ""}, "This field is required."),
        ({"password": "x" * 4097, "again": "x" * 4097}, "longer than 4096 bytes"),
        ({"hint": "h" * 201}, "at most 200 characters"),
    ],
)
def test_what_is_wrong_is_said_without_the_secret(alice: Client, change: dict[str, str], sentence: str) -> None:
    make_password(name="taken")
    response = alice.post("/keys/new/", fields(**change))
    page = response.content.decode()
    assert response.status_code == 200 and sentence in page
    assert "no-store" in response["Cache-Control"]
    assert f'value="{TYPED}"' not in page and "x" * 4097 not in page
    assert PasswordRecord.objects.count() == 1


def test_eight_characters_and_spaces_at_the_ends_are_kept(alice: Client) -> None:
    alice.post("/keys/new/", fields(password=" seven7 ", again=" seven7 ", weak_ok="on"))
    record = PasswordRecord.objects.get()
    assert verify(record, " seven7 ") and not verify(record, "seven7")


@pytest.mark.parametrize("weak", ["password2026", "finance 2026!", "notebook1", "alice2026", "backupsite1"])
def test_a_weak_password_is_taken_only_when_that_is_wanted(alice: Client, weak: str) -> None:
    """Weak are also the name, the hint, one's own name and the product's."""
    given = fields(password=weak, again=weak)
    page = alice.post("/keys/new/", given).content.decode()
    assert "This password is weak" in page and 'name="weak_ok"' in page and f'value="{weak}"' not in page
    assert not PasswordRecord.objects.exists()
    assert alice.post("/keys/new/", {**given, "weak_ok": "on"}).status_code == 302
    version = PasswordRecord.objects.get().newest()
    assert version.strength is not None and version.strength < 3
    event = AuditEvent.objects.get(action="password created")
    assert event.after["strength"] == version.strength and weak not in str(event.__dict__)


def test_nobody_is_asked_about_a_good_password(alice: Client) -> None:
    assert "weak_ok" not in alice.get("/keys/new/").content.decode()
    assert "weak_ok" not in alice.post("/keys/new/", fields(name="")).content.decode()
    alice.post("/keys/new/", fields())
    record = PasswordRecord.objects.get()
    assert record.newest().strength == 4
    assert all(
        "strong</span>" in alice.get(address).content.decode() for address in ("/keys/", f"/keys/{record.uuid}/")
    )


def test_a_change_is_estimated_with_the_record_and_the_new_hint(alice: Client) -> None:
    record = make_password(TYPED, name="ledgerhouse")
    given = {"password": "ledgerhouse7", "again": "ledgerhouse7", "hint": "pianostool"}
    assert "This password is weak" in alice.post(f"/keys/{record.uuid}/change/", given).content.decode()
    given |= {"password": "pianostool1", "again": "pianostool1"}
    assert "This password is weak" in alice.post(f"/keys/{record.uuid}/change/", given).content.decode()
    assert record.versions.count() == 1


def test_ageing_and_weak_passwords_are_marked(alice: Client, settings) -> None:
    record = make_password(TYPED)
    days = settings.BACKUPSITE.password_age_days
    for age, words in ((days - 1, False), (days + 1, True)):
        PasswordVersion.objects.update(created_at=timezone.now() - timedelta(days=age), strength=1)
        assert ("ageing" in alice.get("/keys/").content.decode()) == words
        assert ("This password is ageing" in alice.get(f"/keys/{record.uuid}/").content.decode()) == words
    assert "This password is weak" in alice.get(f"/keys/{record.uuid}/").content.decode()


def test_a_change_adds_a_version_and_a_hint(alice: Client) -> None:
    record = make_password(TYPED, hint="old hint")
    address = f"/keys/{record.uuid}/change/"
    assert "old hint" in alice.get(address).content.decode()
    response = alice.post(address, {"password": "a new horse", "again": "a new horse", "hint": "new hint"}, follow=True)
    assert "Version 2 is used from each job" in response.content.decode()
    record.refresh_from_db()
    assert record.hint == "new hint" and record.newest().number == 2 and verify(record, "a new horse")
    event = AuditEvent.objects.get(action="password changed")
    assert (event.before["version"], event.after["version"], event.severity) == (1, 2, "high")
    assert "a new horse" not in str(event.__dict__)


def test_a_refused_change_adds_nothing(alice: Client) -> None:
    record = make_password(TYPED)
    response = alice.post(f"/keys/{record.uuid}/change/", {"password": "a new horse", "again": "other", "hint": ""})
    assert "The two passwords differ." in response.content.decode()
    assert record.versions.count() == 1


def test_renaming_keeps_the_versions(alice: Client) -> None:
    record = make_password(TYPED, name="old", hint="h")
    assert alice.post(f"/keys/{record.uuid}/edit/", {"name": "new", "hint": ""}).status_code == 302
    record.refresh_from_db()
    assert (record.name, record.hint, record.versions.count()) == ("new", "", 1)
    event = AuditEvent.objects.get(action="password renamed")
    assert (event.before, event.after) == ({"name": "old", "hint": "h"}, {"name": "new", "hint": ""})
    make_password(name="taken")
    assert "Another password" in alice.post(f"/keys/{record.uuid}/edit/", {"name": "taken"}).content.decode()


@pytest.mark.parametrize(
    ("typed", "words", "result"), [(TYPED, "Yes: this is the password", "right"), ("wrong", "No: this is not", "wrong")]
)
def test_re_typing_says_whether_it_is_known(alice: Client, typed: str, words: str, result: str) -> None:
    record = make_password(TYPED)
    response = alice.post(f"/keys/{record.uuid}/verify/", {"password": typed})
    page = response.content.decode()
    assert words in page and "no-store" in response["Cache-Control"] and typed not in page.replace(words, "")
    assert AuditEvent.objects.get(action="password verified").after == {"result": result}


def test_re_typing_is_throttled(alice: Client) -> None:
    record = make_password(TYPED)
    VerifyAttempt.objects.bulk_create(VerifyAttempt(subject=record.uuid) for _ in range(15))
    response = alice.post(f"/keys/{record.uuid}/verify/", {"password": TYPED})
    assert response.status_code == 429 and "Too many wrong passwords" in response.content.decode()
    event = AuditEvent.objects.get(action="password verified")
    assert (event.after, event.severity) == ({"result": "blocked"}, "high")


def test_an_unused_password_is_deleted_with_its_versions(alice: Client) -> None:
    record = make_password(TYPED)
    address = f"/passwords/{record.uuid}/delete/"
    assert alice.get(address).status_code == 200 and PasswordRecord.objects.exists()
    assert alice.post(address)["Location"] == "/keys/"
    assert not PasswordRecord.objects.exists() and not PasswordVersion.objects.exists()
    assert AuditEvent.objects.get(action="password deleted").object_id == str(record.uuid)


def test_a_password_in_use_stays_and_the_page_names_what_needs_it(alice: Client) -> None:
    record = make_password(TYPED)
    job = make_job(name="Ledger files", password=record)
    chain = make_chain(job)
    for _ in range(12):
        make_point(chain)
    response = alice.post(f"/passwords/{record.uuid}/delete/")
    page = response.content.decode()
    assert response.status_code == 200
    assert "Not deleted: it is in use" in page and "Ledger files" in page
    assert "12 restore points open with it" in page and "in 1 chain" in page
    assert PasswordRecord.objects.filter(pk=record.pk).exists()
    assert not AuditEvent.objects.filter(action="password deleted").exists()


def test_versions_are_listed_newest_first(alice: Client) -> None:
    record = make_password(TYPED)
    alice.post(f"/keys/{record.uuid}/change/", {"password": "a new horse", "again": "a new horse", "hint": ""})
    page = alice.get(f"/keys/{record.uuid}/").content.decode()
    assert "64 MiB, 3 passes" in page and "8 MiB, 1 pass" in page
    assert page.index("64 MiB") < page.index("8 MiB, 1 pass")


def test_names_and_hints_are_text_not_markup(alice: Client) -> None:
    record = make_password(TYPED, name="<img src=x>", hint="<b>hint</b>")
    for address in (
        "/keys/",
        f"/keys/{record.uuid}/",
        f"/keys/{record.uuid}/verify/",
        f"/passwords/{record.uuid}/delete/",
    ):
        page = alice.get(address).content.decode()
        assert "<img src=x>" not in page and "<b>hint" not in page


def test_operators_and_strangers_see_no_keys() -> None:
    record = make_password(TYPED)
    for client in (cast.bob(), cast.charlie(), cast.with_role("viewer"), cast.with_role("restore")):
        assert client.get("/keys/").status_code == 403
        assert client.post(f"/passwords/{record.uuid}/delete/").status_code == 403
    assert cast.with_role("security").get(f"/keys/{record.uuid}/").status_code == 200
    assert PasswordRecord.objects.exists()


def test_a_version_that_was_changed_from_outside_is_said_and_no_fault_of_the_server(client):
    record = make_password("correct horse battery staple")
    PasswordVersion.objects.update(iterations=2)
    client.force_login(make_user())
    page = client.post(reverse("password_verify", args=[record.uuid]), {"password": "correct horse battery staple"})
    assert page.status_code == 200
    assert "Nothing can be compared" in page.content.decode()
    assert AuditEvent.objects.get(action="password verified").after == {"result": "changed outside"}
