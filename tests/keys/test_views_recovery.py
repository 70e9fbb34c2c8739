"""The pages of recovery keys: the private half is shown once and kept nowhere, changes are audited, use protects."""

from __future__ import annotations

import re
from html import unescape

import pytest
from django.contrib.sessions.models import Session as BrowserSession
from django.db import connection
from django.test import Client
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from backupsite.models import AuditEvent, Role
from keys import recovery
from keys.crypto_custody import answer_text, prove, read_challenge
from keys.crypto_recovery import RecoveryPrivate, fingerprint_text, new_private, public_text
from keys.crypto_sheet import read_sheet, sheet_text, whole_sheet
from keys.models import CustodyChallenge, RecoveryKey
from keys.sealing import ensure_ring
from repositories.models import Slot
from tests import cast
from tests.factories import make_chain, make_job, make_point, make_recovery_key

pytestmark = pytest.mark.django_db
PRIVATE = RecoveryPrivate(bytes(range(32)))
TEXT = public_text(PRIVATE.public())


@pytest.fixture
def alice() -> Client:
    ensure_ring()
    return cast.alice()


@pytest.fixture
def key() -> RecoveryKey:
    return make_recovery_key(PRIVATE, name="safe in Bonn")


def page(client: Client, path: str) -> str:
    response = client.get(path)
    assert response.status_code == 200
    return unescape(response.content.decode())


def give_slot(key: RecoveryKey) -> None:
    point = make_point(make_chain(make_job(name="ledger")))
    Slot.objects.create(point=point, kind="recovery", record_uuid=key.uuid, version=1, recovery=key)


def events() -> list[tuple[str, str, str]]:
    return list(AuditEvent.objects.exclude(action="sign-in").values_list("action", "severity", "object_name"))


def test_an_empty_list_says_what_to_do(alice: Client) -> None:
    text = page(alice, "/keys/recovery/")
    assert (
        "No recovery keys yet" in text
        and 'href="/keys/recovery/add/"' in text
        and 'href="/keys/recovery/make/"' in text
    )


def test_the_list_tells_what_needs_somebody(alice: Client, django_assert_num_queries) -> None:
    make_recovery_key(name="never"), make_recovery_key(name="good", proven_at=timezone.now())
    make_recovery_key(name="old", proven_at=timezone.now() - recovery.CUSTODY_EVERY, made_by="console")
    make_recovery_key(name="gone", retired_at=timezone.now())
    with django_assert_num_queries(4):
        text = page(alice, "/keys/recovery/")
    rows = {row.split("</a>")[0].split(">")[-1]: row for row in text.split("<tr>")[1:] if "/keys/recovery/" in row}
    assert "never proven" in rows["never"] and "offline" in rows["never"]
    assert "proof is due" in rows["old"] and "by this console" in rows["old"]
    assert "proven" in rows["good"] and "just now" in rows["good"]
    assert "pill warn" not in rows["gone"], "of a retired key no proof is wanted"
    assert text.index("In use") < text.index("Retired") < text.index(">gone<")


def test_no_key_in_use_is_said(alice: Client) -> None:
    make_recovery_key(retired_at=timezone.now())
    assert "No recovery key is in use" in page(alice, "/keys/recovery/")


def test_a_public_half_is_pasted(alice: Client) -> None:
    assert "no-store" in alice.get("/keys/recovery/add/")["Cache-Control"]
    response = alice.post(
        "/keys/recovery/add/", {"name": " safe  in Bonn ", "public": f"from: me\n{TEXT}"}, follow=True
    )
    key = RecoveryKey.objects.get()
    assert response.redirect_chain == [(f"/keys/recovery/{key.uuid}/", 302)]
    assert (key.name, bytes(key.public), key.made_by) == ("safe in Bonn", PRIVATE.public(), "offline")
    assert fingerprint_text(PRIVATE.public()) in response.content.decode()
    assert events() == [("recovery key added", "high", "safe in Bonn")]
    assert AuditEvent.objects.get(action="recovery key added").after["fingerprint"] == fingerprint_text(
        PRIVATE.public()
    )


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"name": "SAFE in bonn"}, "Another recovery key has this name."),
        ({"public": TEXT}, "This key is here already: it is called “safe in Bonn”."),
        ({"public": TEXT.replace("J", "K")}, "was changed on the way"),
        ({"public": "x"}, "This is no recovery key public half"),
        ({"public": ""}, "This field is required."),
    ],
)
def test_what_cannot_be_added_comes_back(
    alice: Client, key: RecoveryKey, fields: dict[str, str], sentence: str
) -> None:
    other = public_text(new_private().public())
    text = unescape(alice.post("/keys/recovery/add/", {"name": "new", "public": other, **fields}).content.decode())
    assert sentence in text and RecoveryKey.objects.count() == 1
    if fields.get("public", other):
        assert fields.get("public", other).splitlines()[0] in text, "what was pasted comes back"


@pytest.mark.parametrize(
    "mistake", [sheet_text(PRIVATE), whole_sheet(PRIVATE, name="a", made="b")], ids=["key", "sheet"]
)
@pytest.mark.parametrize("field", ["public", "answer"])
def test_a_private_half_that_is_typed_is_refused_and_not_given_back(
    alice: Client, key: RecoveryKey, mistake: str, field: str
) -> None:
    recovery.challenge(key, None)
    path = {"public": "/keys/recovery/add/", "answer": f"/keys/recovery/{key.uuid}/custody/"}[field]
    text = alice.post(path, {"name": "new", field: mistake}).content.decode()
    assert "it was on its way" in text
    assert not [group for group in sheet_text(PRIVATE).split() if group in text]
    assert RecoveryKey.objects.count() == 1
    assert [(action, severity) for action, severity, _ in events()] == [("private half typed", "high")]


def test_a_pair_made_here_is_shown_once(alice: Client) -> None:
    response = alice.post("/keys/recovery/make/", {"name": "printed"})
    assert response.status_code == 200 and "no-store" in response["Cache-Control"]
    text = unescape(response.content.decode())
    groups = re.findall(r"<td>([A-Z2-7]{4})</td>", text)
    private = read_sheet(" ".join(groups))
    key = RecoveryKey.objects.get()
    assert private.public() == bytes(key.public) and key.made_by == "console"
    for shown in ("printed", fingerprint_text(private.public()), recovery.console_id().hex(), "<svg", "<title>QR code"):
        assert shown in text
    assert "style=" not in text and "<style" not in text and "<script>" not in text
    assert events() == [("recovery key made here", "high", "printed")]
    again = alice.get(f"/keys/recovery/{key.uuid}/").content.decode()
    assert not [group for group in groups if f">{group}<" in again] and "showed the private half once" in again
    assert not [place for place in everything_in_the_database() if has_private(place, private)]


def everything_in_the_database() -> list[str]:
    """Every table as text, and the session as Django reads it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'")
        tables = [name for (name,) in cursor.fetchall()]
        rows = []
        for table in tables:
            cursor.execute(f"SELECT {table}::text FROM {table}")
            rows += [text for (text,) in cursor.fetchall()]
    assert len(rows) > 20
    return rows + [str(session.get_decoded()) for session in BrowserSession.objects.all()]


def has_private(text: str, private: RecoveryPrivate) -> bool:
    letters = sheet_text(private)
    return any(secret in text for secret in (private.seed.hex(), letters, "".join(letters.split()), letters.split()[2]))


def test_the_qr_code_holds_the_letters() -> None:
    from keys.views_recovery import _qr

    svg = _qr(PRIVATE)
    assert svg.startswith("<svg") and "style" not in svg and svg == _qr(PRIVATE) != _qr(new_private())


def test_custody_is_proven_on_paper(alice: Client, key: RecoveryKey) -> None:
    base = f"/keys/recovery/{key.uuid}/"
    assert "Make a challenge" in page(alice, f"{base}custody/") and alice.get(f"{base}challenge.txt").status_code == 404
    alice.post(f"{base}challenge/")
    challenge = CustodyChallenge.objects.get()
    assert challenge.text in page(alice, f"{base}custody/")
    file = alice.get(f"{base}challenge.txt")
    assert file.content.decode() == challenge.text and "attachment" in file["Content-Disposition"]
    answer = answer_text(prove(read_challenge(challenge.text), PRIVATE))
    wrong = alice.post(f"{base}custody/", {"answer": "A" * 32})
    assert "this is not the answer" in wrong.content.decode() and "no-store" in wrong["Cache-Control"]
    right = alice.post(f"{base}custody/", {"answer": answer.lower()}, follow=True)
    assert "custody proven" in right.content.decode()
    key.refresh_from_db()
    assert key.proven_at is not None
    assert [(action, severity) for action, severity, _ in events()] == [
        ("custody answered", "high"),
        ("custody answered", "notice"),
        ("custody challenge made", "notice"),
    ]
    results = AuditEvent.objects.filter(action="custody answered").values_list("after", flat=True)
    assert list(results) == [{"result": "proven"}, {"result": "wrong"}]


def test_too_many_wrong_answers_are_said(alice: Client, key: RecoveryKey) -> None:
    for _ in range(15):
        recovery.answer(key, bytes(20))
    blocked = alice.post(f"/keys/recovery/{key.uuid}/custody/", {"answer": "A" * 32})
    assert blocked.status_code == 429 and "Wait five minutes" in blocked.content.decode()


def test_retired_and_taken_back(alice: Client, key: RecoveryKey) -> None:
    base = f"/keys/recovery/{key.uuid}/"
    assert "It is the last recovery key in use" in page(alice, f"{base}retire/")
    alice.post(f"{base}retire/")
    key.refresh_from_db()
    assert key.retired_at is not None and "Take back into use" in page(alice, base)
    alice.post(f"{base}take-back/")
    key.refresh_from_db()
    assert key.retired_at is None
    event = AuditEvent.objects.get(action="recovery key retired")
    assert (event.severity, event.before, event.after) == ("high", {"retired": False}, {"retired": True})
    assert AuditEvent.objects.get(action="recovery key taken back into use").severity == "high"
    make_recovery_key()
    assert "It is the last recovery key" not in page(alice, f"{base}retire/")


def test_a_row_changed_from_outside_is_shown_and_left(alice: Client, key: RecoveryKey) -> None:
    RecoveryKey.objects.update(public=new_private().public())
    base = f"/keys/recovery/{key.uuid}/"
    assert "changed outside this console" in page(alice, "/keys/recovery/") and "no encrypted session runs" in page(
        alice, base
    )
    for verb in ("retire/", "challenge/"):
        assert "Nothing was done" in unescape(alice.post(base + verb, follow=True).content.decode())
    assert events() == [] and RecoveryKey.objects.active().exists() and not CustodyChallenge.objects.exists()


def test_deleting_is_refused_while_points_have_a_slot(alice: Client, key: RecoveryKey) -> None:
    give_slot(key)
    path = f"/keys/recovery/{key.uuid}/delete/"
    refused = alice.post(path).content.decode()
    assert "Not deleted: it is in use" in refused and "point 1 of ledger" in refused and events() == []
    Slot.objects.all().delete()
    assert alice.post(path, follow=True).redirect_chain == [("/keys/recovery/", 302)]
    assert not RecoveryKey.objects.exists() and events() == [("recovery key deleted", "high", "safe in Bonn")]


def test_what_it_opens(alice: Client, key: RecoveryKey) -> None:
    give_slot(key)
    retired = make_recovery_key(retired_at=timezone.now())
    make_point(make_chain(make_job(name="older")))
    make_point(make_chain(make_job(name="open", encryption="off"), encrypted=False))
    text = page(alice, f"/recovery-keys/{key.uuid}/usage/")
    assert "1 restore point with a slot for it, 1 encrypted point without" in text
    assert "ledger" in text and "older" in text and ">open<" not in text
    assert ("Also add it to existing points" in text) is is_there("rewrap_for_recovery_key", key.uuid)
    assert "Also add it" not in page(alice, f"/recovery-keys/{retired.uuid}/usage/")


def is_there(name: str, *args: object) -> bool:
    try:
        return bool(reverse(name, args=args))
    except NoReverseMatch:
        return False


def test_whoever_may_not_gets_nothing(key: RecoveryKey) -> None:
    for role in (Role.BACKUP_OPERATOR, Role.RESTORE_OPERATOR, Role.VIEWER):
        assert cast.with_role(role).get(f"/keys/recovery/{key.uuid}/").status_code == 403
    assert cast.with_role(Role.SECURITY_ADMINISTRATOR).get(f"/keys/recovery/{key.uuid}/").status_code == 200
