"""The pages of a rewrap: what is shown before it starts, and that only what was shown is started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from backupsite.models import AuditEvent
from jobs.models import Job, Session, SessionKind, State
from jobs.rewrap_orders import order_of
from keys.models import PasswordRecord, RecoveryKey
from repositories.models import Chain, RestorePoint, Slot
from tests.factories import (
    add_kms_version,
    change_password,
    make_chain,
    make_job,
    make_kms_key,
    make_password,
    make_point,
    make_recovery_key,
    make_repository,
    make_session,
    make_slot,
)
from tests.jobs.people import HTMX, alice, bob, rita, sven, text_of, vera

pytestmark = pytest.mark.django_db


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return make_job(name="Ledger", password=make_password(name="finance"), repository=make_repository(tmp_path))


def chain_of(job: Job, points: int) -> Chain:
    """A chain whose files are there, empty: the page looks only whether they can be written."""
    chain = make_chain(job)
    chain.folder.mkdir()
    for _ in range(points):
        make_point(chain).path.touch()
    return chain


def show(client: Client, address: str, **chosen: Any) -> HttpResponse:
    return client.post(address, {"preview": "1", **chosen}) if chosen else client.get(address)


def start(client: Client, address: str, **chosen: Any) -> HttpResponse:
    shown = show(client, address, **chosen)
    return client.post(address, {"start": "1", "digest": shown.context["preview"].digest, **chosen})


def rows(response: HttpResponse) -> dict[str, tuple[int, int, int, int]]:
    return {
        row.secret.name: (row.slots_before, row.slots_after, row.opens_before, row.opens_after)
        for row in response.context["preview"].secrets
    }


def test_a_chain_is_shown_and_started_for_what_its_job_uses_now(job: Job) -> None:
    chain = chain_of(job, 3)
    sheet = make_recovery_key(name="Blue sheet")
    assert job.password
    old, new = job.password.newest(), change_password(job.password)
    address, client = reverse("rewrap_chain", args=[chain.uuid]), sven()
    chosen = {"to": "job", "remove": [f"{old.record.uuid}:1"], "sure": "on"}
    page = show(client, address, **chosen)
    assert rows(page) == {"finance": (3, 0, 3, 0), "finance, version 2": (0, 3, 0, 3), "Blue sheet": (0, 3, 0, 3)}
    assert "The head of <b>3 restore points</b> is written anew" in text_of(page)
    assert "will open none of these chains any more" in text_of(page)
    assert not Session.objects.exists()
    response = start(client, address, **chosen)
    session = Session.objects.get()
    assert response.url == reverse("session_detail", args=[session.uuid])
    order = order_of(session)
    assert [(one.kind, one.record, one.version) for one in order.add] == [
        ("password", new.record.uuid, 2),
        ("recovery", sheet.uuid, 1),
    ]
    assert (order.chain, order.remove, order.having) == (chain.uuid, ((old.record.uuid, 1),), None)
    assert AuditEvent.objects.filter(action="rewrap requested").count() == 1
    assert "Stop" in text_of(client.get(response.url))


def test_only_what_was_shown_is_started(job: Job) -> None:
    chain = chain_of(job, 1)
    assert job.password
    change_password(job.password)
    address, client = reverse("rewrap_chain", args=[chain.uuid]), alice()
    digest = client.get(address).context["preview"].digest
    other = make_password()
    page = client.post(address, {"start": "1", "digest": digest, "to": f"password:{other.uuid}"})
    assert "Nothing was started yet" in text_of(page)
    make_point(chain).path.touch()
    page = client.post(address, {"start": "1", "digest": digest, "to": "job"})
    assert "Nothing was started yet" in text_of(page)
    place = f"{job.password.uuid}:1"
    page = start(client, address, to="job", remove=[place])
    assert "Look at what will no longer open, then tick this." in text_of(page)
    assert not Session.objects.exists()


def test_nothing_to_do_starts_nothing(job: Job) -> None:
    chain = chain_of(job, 1)
    address, client = reverse("rewrap_chain", args=[chain.uuid]), alice()
    assert "is as wanted already" in text_of(client.get(address))
    assert "There is nothing to be written" in text_of(start(client, address, to="job"))
    assert not Session.objects.exists()
    chain.points.get().path.unlink()
    assert "none of 1 restore point can be rewritten" in text_of(client.get(address))


def test_the_old_secret_in_the_newest_point_still_opens_the_chain(job: Job) -> None:
    """Only the points of one record are done; the newest one, of another, keeps its slot and its keyring."""
    chain = chain_of(job, 2)
    shared = make_password(name="shared")
    assert job.password
    newest = make_point(chain, opens_with=shared.newest())
    newest.path.touch()
    for point in chain.points.order_by("sequence")[:2]:
        make_slot(point, shared.newest())
    address = reverse("rewrap_for_password", args=[job.password.uuid])
    page = show(alice(), address, to="job", remove=[f"{shared.uuid}:1"])
    assert rows(page) == {"finance": (2, 2, 2, 2), "shared": (3, 1, 3, 3)}
    assert "the keyring of the newest of these opens every earlier point" in text_of(page)
    assert "“shared” still opens 3 points" in text_of(page)


def test_what_cannot_be_rewritten_is_listed_with_its_reason(job: Job) -> None:
    chain = chain_of(job, 2)
    first = chain.points.get(sequence=1)
    first.path.unlink()
    assert job.password
    change_password(job.password)
    page = alice().get(reverse("rewrap_chain", args=[chain.uuid]))
    assert [(one.chain, one.code, one.numbers) for one in page.context["preview"].obstacles] == [
        (chain, "missing", "1")
    ]
    assert page.context["preview"].to_write == 1
    assert "1 point cannot be rewritten" in text_of(page) and "the file is missing" in text_of(page)


def test_an_attribute_of_the_file_system_is_listed(job: Job) -> None:
    chain = chain_of(job, 1)
    path, other = chain.points.get().path, make_password()
    if os.system(f"chattr +i {path} 2>/dev/null"):
        pytest.skip("this file system, or this user, cannot set the attribute")
    try:
        assert "the file is immutable" in text_of(alice().get(reverse("rewrap_chain", args=[chain.uuid])))
        place = f"{chain.points.get().slots.get().record_uuid}:1"
        page = show(alice(), reverse("rewrap_chain", args=[chain.uuid]), to=f"password:{other.uuid}", remove=[place])
        assert rows(page)["finance"] == (1, 1, 1, 1), "what cannot be taken away is not said to go"
    finally:
        os.system(f"chattr -i {path}")


def test_the_points_of_a_password_are_sessions_chain_by_chain(job: Job) -> None:
    record = job.password
    assert record
    first = chain_of(job, 1)
    other = make_job(name="Other", password=record, repository=job.repository)
    second = chain_of(other, 1)
    orphan_job = make_job(name="Gone", password=record, repository=job.repository)
    orphan = chain_of(orphan_job, 1)
    orphan_job.delete()
    change_password(record)
    address, client = reverse("rewrap_for_password", args=[record.uuid]), alice()
    assert "its job is gone: choose a password or a KMS key for it" in text_of(client.get(address))
    response = start(client, address, to="job")
    assert response.url == reverse("session_list") + "?kind=rewrap"
    assert {order_of(session).chain for session in Session.objects.all()} == {first.uuid, second.uuid}
    page = show(client, address, to=f"password:{record.uuid}")
    assert [row.why_not for row in page.context["preview"].chains] == ["", "", ""]
    start(client, address, to=f"password:{record.uuid}")
    assert Session.objects.count() == 3, "the two that wait already are not started twice"
    assert order_of(Session.objects.get(job=None)).chain == orphan.uuid


def test_a_new_recovery_key_is_added_where_it_is_not_yet(job: Job) -> None:
    chain = chain_of(job, 2)
    sheet = make_recovery_key(name="Blue sheet")
    point = chain.points.get(sequence=1)
    Slot.objects.create(point=point, kind="recovery", record_uuid=sheet.uuid, version=1, recovery=sheet)
    make_point(make_chain(make_job(encryption="off")))
    address, client = reverse("rewrap_for_recovery_key", args=[sheet.uuid]), sven()
    page = client.get(address)
    assert page.context["form"].chosen().to == "recovery"
    assert rows(page)["Blue sheet"] == (1, 2, 1, 2) and page.context["preview"].to_write == 1
    start(client, address, to="recovery")
    assert [one.kind for one in order_of(Session.objects.get()).add] == ["recovery"]


def test_a_retired_one_is_taken_away(job: Job) -> None:
    chain = chain_of(job, 1)
    sheet = make_recovery_key(name="Stolen", retired_at=timezone.now())
    point = chain.points.get()
    Slot.objects.create(point=point, kind="recovery", record_uuid=sheet.uuid, version=1, recovery=sheet)
    page = alice().get(reverse("rewrap_for_recovery_key", args=[sheet.uuid]))
    assert rows(page) == {"finance": (1, 1, 1, 1), "Stolen": (1, 0, 1, 0)}


def test_the_points_of_a_kms_key_after_its_rotation(job: Job) -> None:
    key = make_kms_key()
    ledger = make_job(name="Vault", encryption="kms", password=None, kms_key=key, repository=job.repository)
    chain_of(ledger, 1)
    add_kms_version(key)
    address = reverse("rewrap_for_kms_key", args=[key.uuid])
    page = alice().get(address)
    name = f"{key.server.name} / {key.owner_name}"
    assert rows(page) == {name: (1, 1, 1, 1), f"{name}, version 2": (0, 1, 0, 1)}
    Job.objects.filter(pk=ledger.pk).update(strict_custody=True)
    page = show(alice(), address, to=f"password:{make_password().uuid}")
    assert [row.why_not for row in page.context["preview"].chains] == ["strict-custody"]
    assert "would undo that" in text_of(page)


def test_only_recovery_keys_left_is_said(job: Job) -> None:
    chain = chain_of(job, 1)
    make_recovery_key()
    assert job.password
    address = reverse("rewrap_chain", args=[chain.uuid])
    page = show(alice(), address, to="recovery", remove=[f"{job.password.uuid}:1"])
    assert "Only recovery keys will open these points" in text_of(page)


def test_a_lost_password_cannot_be_wrapped_for(job: Job) -> None:
    chain = chain_of(job, 1)
    assert job.password
    job.password.lost_at = timezone.now()
    job.password.save()
    page = alice().get(reverse("rewrap_chain", args=[chain.uuid]))
    assert "the key of its job is gone or declared lost" in text_of(page)
    assert f"password:{job.password.uuid}" not in dict(page.context["form"].fields["to"].choices)


def test_a_lost_password_that_was_changed_since_can_be_wrapped_for(job: Job) -> None:
    chain = chain_of(job, 1)
    assert job.password
    PasswordRecord.objects.filter(pk=job.password.pk).update(lost_at=timezone.now())
    change_password(job.password, "known again")
    page = alice().get(reverse("rewrap_chain", args=[chain.uuid]))
    assert [row.why_not for row in page.context["preview"].chains] == [""]
    assert f"password:{job.password.uuid}" in dict(page.context["form"].fields["to"].choices)


def test_htmx_gets_the_preview_alone(job: Job) -> None:
    address = reverse("rewrap_chain", args=[chain_of(job, 1).uuid])
    fragment = alice().post(address, {"to": "job", "preview": "1"}, headers=HTMX)
    assert fragment.content.decode().lstrip().startswith('<div id="rewrap-preview"')
    assert not Session.objects.exists()


def test_a_stop_is_for_those_who_keep_keys(job: Job) -> None:
    session = make_session(job, kind=SessionKind.REWRAP, state=State.RUNNING)
    address = reverse("rewrap_stop", args=[session.uuid])
    assert [who().post(address).status_code for who in (bob, rita, vera)] == [403] * 3
    sven().post(address)
    session.refresh_from_db()
    assert session.cancel_requested_at is not None
    backup = make_session(job, state=State.RUNNING)
    assert sven().post(reverse("rewrap_stop", args=[backup.uuid])).status_code == 404


def test_the_session_page_says_what_came_of_it(job: Job) -> None:
    chain = chain_of(job, 1)
    fields = {"kind": SessionKind.REWRAP, "claimed_settings": {"chain": str(chain.uuid)}, "ended_at": timezone.now()}
    params = {"written": 7, "passed": 2, "refused": 1, "closed": 1, "points": 11}
    done = make_session(job, state=State.WARNING, result_code="rewrapped", result_params=params, **fields)
    page = text_of(vera().get(reverse("session_detail", args=[done.uuid])))
    assert "7 restore points were rewrapped; 2 were as wanted already; 2 points could not be" in page
    assert "See the chain" in page and "Rewrap this chain" not in page
    params = {"rewrap": True, "written": 3, "passed": 1, "points": 9}
    stopped = make_session(job, state=State.CANCELLED, result_code="cancelled", result_params=params, **fields)
    page = text_of(sven().get(reverse("session_detail", args=[stopped.uuid])))
    assert "Stopped after 4 of 9 restore points." in page and "Rewrap this chain" in page


def test_nothing_is_shown_of_a_plain_chain() -> None:
    chain = make_chain(make_job(encryption="off"))
    assert alice().get(reverse("rewrap_chain", args=[chain.uuid])).status_code == 404
    assert RestorePoint.objects.count() == RecoveryKey.objects.count() == 0
