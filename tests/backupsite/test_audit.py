"""The audit trail: what a row holds, and the page that filters it and pages it by key."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client, RequestFactory
from django.utils import timezone

from backupsite import audit
from backupsite.models import AuditEvent, Role
from backupsite.views_audit import PAGE_ROWS
from tests import cast
from tests.factories import make_user

pytestmark = pytest.mark.django_db
GOOD = "a long enough passphrase"


def test_an_event_keeps_who_whence_what_and_before_and_after() -> None:
    user = make_user(Role.ADMINISTRATOR, username="alice")
    request = RequestFactory().post("/", REMOTE_ADDR="192.0.2.7")
    request.user = user
    event = audit.record(request, "tried", user, before={"a": 1}, after={"a": 2}, severity="high")
    assert (event.user, event.user_name, event.address, event.action) == (user, "alice", "192.0.2.7", "tried")
    assert (event.object_type, event.object_id, event.object_name) == ("user", str(user.pk), "alice")
    assert (event.before, event.after, event.severity) == ({"a": 1}, {"a": 2}, "high")


def test_events_outlive_their_user() -> None:
    user = make_user(Role.VIEWER, username="gone")
    audit.record_for(user, "tried")
    user.delete()
    event = AuditEvent.objects.get()
    assert event.user is None and event.user_name == "gone"


def test_sign_ins_are_events() -> None:
    make_user(None, username="dora", password=GOOD)
    client = Client()
    client.post("/account/login/", {"login": "dora", "password": "wrong"})
    client.post("/account/login/", {"login": "typed-a-secret", "password": "wrong"})
    client.post("/account/login/", {"login": "dora", "password": GOOD})
    client.post("/account/logout/")
    events = list(AuditEvent.objects.order_by("pk").values_list("action", "after__name"))
    assert events == [("sign-in refused", "dora"), ("sign-in refused", ""), ("sign-in", None), ("sign-out", None)]


def rows(client: Client, query: str = "", **headers: str) -> str:
    return client.get(f"/audit/{query}", headers=headers).content.decode()


def test_the_page_shows_events_newest_first_and_the_fragment_only_them() -> None:
    alice = cast.alice()
    audit.record_for(None, "older")
    audit.record_for(None, "newer", after={"roles": ["viewer"]})
    page = rows(alice)
    assert page.index("newer") < page.index("older") and "roles: viewer" in page and "<html" in page
    fragment = rows(alice, **{"HX-Request": "true"})
    assert fragment.startswith('<section class="card scroll" id="audit-events"') and "newer" in fragment


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("?user=ALICE", {"one"}),
        ("?action=tw", {"two"}),
        ("?object=bo", {"two"}),
        ("?severity=high", {"three"}),
        ("?severity=unheard", {"one", "two", "three"}),
        ("?user=alice&severity=high", set()),
        ("?before=no-number", {"one", "two", "three"}),
        ("?before=999999999999999999", {"one", "two", "three"}),
    ],
)
def test_filters_are_in_the_address(query: str, found: set[str]) -> None:
    alice, bob = cast.alice(), make_user(Role.BACKUP_OPERATOR, username="bob")
    AuditEvent.objects.all().delete()
    AuditEvent.objects.create(action="one", user_name="alice")
    AuditEvent.objects.create(action="two", object_name=bob.username)
    AuditEvent.objects.create(action="three", severity="high")
    page = rows(alice, query, **{"HX-Request": "true"})
    assert {name for name in ("one", "two", "three") if f"<td>{name}" in page} == found


def test_pages_follow_by_key_also_within_one_instant() -> None:
    alice = cast.alice()
    AuditEvent.objects.all().delete()
    total = PAGE_ROWS * 2 + 5
    AuditEvent.objects.bulk_create(AuditEvent(action=f"event-{number:03}.") for number in range(total))
    now = timezone.now()
    AuditEvent.objects.update(at=now)
    AuditEvent.objects.filter(action="event-000.").update(at=now + timedelta(seconds=1))  # newest, with the smallest id
    seen: list[str] = []
    address = "/audit/?action=event"
    while address:
        response = alice.get(address)
        seen += [event.action for event in response.context["events"]]
        address = response.context["older_url"]
    assert seen == ["event-000.", *(f"event-{number:03}." for number in range(total - 1, 0, -1))]
    assert "action=event" in alice.get("/audit/?action=event").context["older_url"]


def test_names_of_objects_are_text_not_markup() -> None:
    alice = cast.alice()
    AuditEvent.objects.create(action="x", object_name="<script>alert(1)</script>", after={"<b>": "<i>"})
    page = rows(alice)
    assert "<script>alert" not in page and "<b>" not in page and "<i>" not in page
