"""The map as pages and as CSV, what if, and declaring a password lost."""

from __future__ import annotations

import csv
import io

import pytest
from django.http import HttpResponse
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from backupsite.models import AuditEvent, Severity
from jobs.csv_export import shown
from jobs.models import Job
from keys.models import PasswordRecord
from repositories.models import RestorePoint, Slot
from tests.factories import (
    change_password,
    make_chain,
    make_job,
    make_kms_key,
    make_password,
    make_point,
    make_recovery_key,
    make_slot,
)
from tests.jobs.people import alice, bob, rita, sven, text_of, vera

pytestmark = pytest.mark.django_db


@pytest.fixture
def record() -> PasswordRecord:
    return make_password(name="finance")


@pytest.fixture
def job(record: PasswordRecord) -> Job:
    job = make_job(name="Ledger", password=record)
    chain = make_chain(job)
    make_point(chain)
    make_point(chain, opens_with=change_password(record))
    return job


def table(response: HttpResponse) -> list[dict[str, str]]:
    text = b"".join(response.streaming_content).decode()  # type: ignore[attr-defined]
    return list(csv.DictReader(io.StringIO(text)))


def test_the_map_names_each_secret_with_its_chains(job: Job) -> None:
    sheet = make_recovery_key(name="Blue sheet")
    newest = RestorePoint.objects.get(sequence=2)
    Slot.objects.create(point=newest, kind="recovery", record_uuid=sheet.uuid, version=1, recovery=sheet)
    response = sven().get(reverse("key_map"))
    found = [(row.secret.name, row.own.points, row.through_keyring) for row in response.context["rows"]]
    assert found == [("finance", 1, 0), ("finance, version 2", 1, 1), ("Blue sheet", 1, 1)]
    page = text_of(response)
    assert "Ledger" in page and reverse("what_if", args=["recovery", sheet.uuid]) in page


def test_an_empty_map_says_what_will_stand_there() -> None:
    assert "No encrypted restore point yet" in text_of(alice().get(reverse("key_map")))


def test_the_map_asks_equally_often_for_any_number(
    job: Job, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    client = alice()
    with django_assert_max_num_queries(20) as few:
        client.get(reverse("key_map"))
    for _ in range(3):
        make_point(make_chain(make_job()))
    with django_assert_max_num_queries(len(few)):
        client.get(reverse("key_map"))


def test_what_if_lists_what_stays_closed_and_what_the_console_opens(job: Job, record: PasswordRecord) -> None:
    RestorePoint.objects.filter(sequence=1).update(file_key_sealed=b"sealed")
    response = sven().get(reverse("what_if", args=["password", record.uuid]))
    stakes = response.context
    assert (stakes["for_good"].points, stakes["console"].points, stakes["otherwise"]) == (1, 1, 0)
    assert [point.sequence for point in stakes["for_good_points"]] == [2]
    assert [point.sequence for point in stakes["console_points"]] == [1]
    assert "Opened by this console alone" in text_of(response)
    make_slot(RestorePoint.objects.get(sequence=2), make_password().newest())
    stakes = sven().get(reverse("what_if", args=["password", record.uuid])).context
    assert (stakes["for_good"].points, stakes["console"].points, stakes["otherwise"]) == (0, 0, 2)


def test_what_if_a_server_is_gone(record: PasswordRecord) -> None:
    key = make_kms_key()
    job = make_job(encryption="kms", password=None, kms_key=key)
    make_point(make_chain(job))
    for kind, uuid in (("kms", key.server.uuid), ("kms-key", key.uuid)):
        response = alice().get(reverse("what_if", args=[kind, uuid]))
        assert response.context["for_good"].points == 1
        assert reverse("what_if_csv", args=[kind, uuid]) in text_of(response)
    assert alice().get(reverse("what_if", args=["password", key.uuid])).status_code == 404
    assert alice().get(reverse("what_if", args=["other", record.uuid])).status_code == 404


def test_exports_are_audited_and_no_cell_is_a_formula(job: Job, record: PasswordRecord) -> None:
    PasswordRecord.objects.filter(pk=record.pk).update(name='=HYPERLINK("http://x")')
    Job.objects.update(name="@SUM(1)")
    rows = table(sven().get(reverse("key_map_csv")))
    assert [row["points through keyrings"] for row in rows] == ["0", "1"]
    assert rows[0]["name"].startswith("'=HYPERLINK")
    points = table(sven().get(reverse("what_if_csv", args=["password", record.uuid])))
    assert [(row["fate"], row["number"]) for row in points] == [("closed for good", "2"), ("closed for good", "1")]
    events = AuditEvent.objects.filter(action__in=("key map exported", "what if exported"))
    assert [event.action for event in events.order_by("pk")] == ["key map exported", "what if exported"]


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\t=1", "\r=1", "\n=1"])
def test_what_a_spreadsheet_would_compute_is_text(text: str) -> None:
    assert shown(text) == f"'{text}"
    assert (shown("plain"), shown(-3), shown(None)) == ("plain", "-3", "")


def test_a_password_is_declared_lost_by_typing_its_name_and_taken_back(job: Job, record: PasswordRecord) -> None:
    client, address = sven(), reverse("password_lost", args=[record.uuid])
    assert "Nothing is deleted" in text_of(client.get(address))
    page = client.post(address, {"name": "Finance"})
    record.refresh_from_db()
    assert "This is not its name" in text_of(page) and record.lost_at is None
    client.post(address, {"name": "finance"})
    record.refresh_from_db()
    assert record.lost_at is not None and record.lost_at <= timezone.now()
    page = text_of(client.get(reverse("what_if", args=["password", record.uuid])))
    assert "It was declared lost" in page and "It was found again" in page
    assert "declared lost" in text_of(client.get(reverse("key_map")))
    client.post(reverse("password_found", args=[record.uuid]))
    record.refresh_from_db()
    assert record.lost_at is None
    events = AuditEvent.objects.filter(severity=Severity.HIGH).order_by("pk")
    assert [event.action for event in events] == ["password declared lost", "password found again"]


def test_the_point_page_says_what_opens_it(job: Job) -> None:
    page = text_of(vera().get(reverse("point_detail", args=[RestorePoint.objects.get(sequence=1).uuid])))
    assert "through the keyring of" in page and "finance, version 2" in page


@pytest.mark.parametrize("who", [bob, rita, vera])
def test_the_map_is_for_those_who_keep_keys(who: type, job: Job, record: PasswordRecord) -> None:
    client = who()
    for name, args in (
        ("key_map", []),
        ("key_map_csv", []),
        ("what_if", ["password", record.uuid]),
        ("what_if_csv", ["password", record.uuid]),
        ("password_lost", [record.uuid]),
    ):
        assert client.get(reverse(name, args=args)).status_code == 403
