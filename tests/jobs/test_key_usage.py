"""What depends on a password: the page counts key slots by version and chain, for those who keep keys."""

from __future__ import annotations

import pytest
from django.urls import reverse

from tests.factories import change_password, make_chain, make_job, make_password, make_point
from tests.jobs.people import alice, bob, rita, sven, text_of, vera

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
    assert response.context["total"] == 3
    assert [(use["slots__version"], use["points"]) for use in response.context["uses"]] == [(2, 1), (1, 2)]
    assert [(version.number, version.points) for version in response.context["versions"]] == [(2, 1), (1, 2)]


def test_a_chain_whose_job_is_gone_is_still_counted():
    job = make_job(name="Ledger files")
    record = job.password
    make_point(make_chain(job))
    job.delete()
    response = sven().get(reverse("password_usage", args=[record.uuid]))
    assert response.context["total"] == 1 and "No job does now." in text_of(response)


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
