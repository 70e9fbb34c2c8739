"""What depends on a password: the page counts key slots by version and chain, for those who keep keys; what a change
will mean; and a deletion that is refused by what depends on it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from django.db import connection
from django.urls import reverse

from backupsite.models import AuditEvent
from jobs import password_views
from jobs.models import State
from jobs.planning import plan
from jobs.situation import situation_of
from repositories.models import PointState, RestorePoint, Slot
from tests.factories import (
    change_password,
    make_chain,
    make_job,
    make_password,
    make_point,
    make_repository,
    make_session,
)
from tests.jobs.people import HTMX, alice, bob, rita, sven, text_of, vera

pytestmark = pytest.mark.django_db


def test_names_jobs_and_counts_points_by_version():
    job = make_job(name="Ledger files")
    chain = make_chain(job)
    make_point(chain), make_point(chain)
    make_point(chain, opens_with=change_password(job.password))
    make_job(name="Another")
    response = sven().get(reverse("password_usage", args=[job.password.uuid]))
    page = text_of(response)
    assert "Ledger files" in page and "Another" not in page
    use = response.context["use"]
    assert (use.job_count, use.chain_count, use.points, use.size_bytes) == (1, 1, 3, 1_020_000)
    assert [(row["version"], row["points"], row["size"]) for row in response.context["uses"]] == [
        (2, 1, 10_000),
        (1, 2, 1_010_000),
    ]
    assert [(version.number, version.points) for version in response.context["versions"]] == [(2, 1), (1, 2)]


def test_a_chain_whose_job_is_gone_is_still_counted():
    job = make_job(name="Ledger files")
    record = job.password
    make_point(make_chain(job))
    job.delete()
    response = sven().get(reverse("password_usage", args=[record.uuid]))
    assert response.context["use"].points == 1 and "No job does now." in text_of(response)


def test_an_unused_password_says_so():
    page = text_of(alice().get(reverse("password_usage", args=[make_password().uuid])))
    assert "No job does now." in page and "No restore point was sealed with it." in page


def test_asks_the_database_equally_often_for_any_number_of_points(django_assert_max_num_queries):
    job = make_job()
    chain = make_chain(job)
    make_point(chain)
    client, address = sven(), reverse("password_usage", args=[job.password.uuid])
    with django_assert_max_num_queries(20) as few:
        client.get(address)
    for _ in range(5):
        make_point(chain)
    with django_assert_max_num_queries(len(few)):
        client.get(address)


def test_is_refused_to_who_keeps_no_keys_and_to_post():
    address = reverse("password_usage", args=[make_password().uuid])
    for who in (bob, rita, vera):
        assert who().get(address).status_code == 403
    assert sven().post(address).status_code == 405


# Before a change


def outlook_of(record, client=None):
    return (client or sven()).get(reverse("password_outlook", args=[record.uuid]))


def test_says_job_by_job_what_the_next_session_will_do_before_a_change():
    record = make_password(name="finance")
    going_on, _, full = (make_job(name=name, password=record) for name in ("Going on", "First", "Full"))
    make_job(name="Another")
    for job in (going_on, full):
        make_point(make_chain(job))
    full.full_requested = True
    full.save()
    response = outlook_of(record)
    answers = {row.job.name: (row.plan.kind, row.plan.reason) for row in response.context["outlooks"]}
    assert answers == {
        "Going on": ("incremental", "key-changed"),
        "First": ("full", "first-session"),
        "Full": ("full", "active-full"),
    }
    page = text_of(response)
    assert "The password finance was changed." in page and "opens the one before it with the new password" in page
    assert record.versions.count() == 1


def test_the_outlook_is_what_the_planner_then_says():
    job = make_job()
    make_point(make_chain(job))
    before = outlook_of(job.password).context["outlooks"][0].plan
    change_password(job.password)
    assert plan(situation_of(job)) == before


def test_a_running_session_keeps_the_password_that_it_began_with():
    job = make_job()
    session = make_session(job, state=State.RUNNING)
    assert str(session.uuid) in text_of(outlook_of(job.password))


def test_the_change_page_leads_there_with_and_without_javascript():
    record = make_password()
    address = reverse("password_outlook", args=[record.uuid])
    page = text_of(sven().get(reverse("password_change", args=[record.uuid])))
    assert f'hx-get="{address}"' in page and f'href="{address}"' in page
    fragment = sven().get(address, headers=HTMX)
    assert "<html" not in text_of(fragment) and 'id="outlook"' in text_of(fragment)
    assert "No job encrypts with this password now" in text_of(fragment)


def test_many_jobs_are_not_all_asked(monkeypatch):
    monkeypatch.setattr("jobs.password_use.MOST_JOBS", 2)
    monkeypatch.setattr("jobs.password_views.MOST_JOBS", 2)
    record = make_password()
    for _ in range(3):
        make_job(password=record)
    response = outlook_of(record)
    assert len(response.context["outlooks"]) == 2 and "Shown are 2 of 3 jobs" in text_of(response)


# Deleting


def test_a_record_in_use_names_jobs_chains_and_points_without_loading_them(django_assert_max_num_queries):
    record = make_password()
    chain = make_chain(make_job(name="Ledger files", password=record), repository=make_repository(name="vault"))
    parent = make_point(chain)
    fill(chain, parent, record.newest(), 20_000)
    client, address = sven(), reverse("password_delete", args=[record.uuid])
    client.get(address)
    started, most = loaded_rows(), 20
    with django_assert_max_num_queries(20):
        page = text_of(client.post(address))
    assert loaded_rows() - started < most
    assert "20,001 restore points open with it" in page and "in 1 chain" in page
    assert "Ledger files" in page and "vault" in page and record.versions.exists()


def fill(chain, parent, version, number):
    """Add this many points with a slot each, as one statement: they are only counted."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO repositories_restorepoint (uuid, chain_id, sequence, kind, parent_id, state, started_at,"
            " sealed_at, size_bytes, source_bytes, read_bytes, files, seal_hash, head_generation)"
            " SELECT gen_random_uuid(), chain_id, sequence + n, 'incremental', id, state, started_at, sealed_at, 10,"
            " 10, 0, 1, seal_hash, 1 FROM repositories_restorepoint, generate_series(1, %s) n WHERE id = %s",
            [number, parent.pk],
        )
        cursor.execute(
            "INSERT INTO repositories_slot (point_id, kind, record_uuid, version, password_id)"
            " SELECT id, 'password', %s, %s, %s FROM repositories_restorepoint WHERE parent_id = %s",
            [version.record.uuid, version.number, version.pk, parent.pk],
        )


def loaded_rows():
    """Return how many rows of slots and points were made from the database until now in this process."""
    return LOADED["rows"]


LOADED = {"rows": 0}


@pytest.fixture(autouse=True)
def counted(monkeypatch):
    for model in (Slot, RestorePoint):
        monkeypatch.setattr(model, "from_db", classmethod(counting(model.from_db.__func__)))


def counting(real):
    def from_db(cls, *args, **kwargs):
        LOADED["rows"] += 1
        return real(cls, *args, **kwargs)

    return from_db


def test_a_point_that_is_being_deleted_still_protects():
    record = make_password()
    job = make_job(password=record)
    make_point(make_chain(job), state=PointState.DELETING)
    job.delete()
    page = text_of(sven().post(reverse("password_delete", args=[record.uuid])))
    assert "are being deleted still open with it" in page and record.versions.exists()


def test_who_begins_to_use_it_in_that_moment_is_protected(monkeypatch):
    """The count saw nobody; the database refuses."""
    record = make_password()
    job = make_job(password=record)
    real = password_views.use_of
    monkeypatch.setattr(password_views, "use_of", lambda *args: replace(real(*args), job_count=0, slots=0))
    page = text_of(sven().post(reverse("password_delete", args=[record.uuid])))
    assert "somebody began to use it a moment ago" in page
    job.refresh_from_db()
    assert job.password == record and not AuditEvent.objects.filter(action="password deleted").exists()
