"""/healthz: open to everybody, and it names what is down."""

import dataclasses

import pytest
from django.db import OperationalError, connection

from backupsite import health, processes
from backupsite.models import User

PARTS = (*health.CLUSTERS, health.WATCHDOG)


@pytest.fixture
def run_folder(tmp_path, settings):
    settings.BACKUPSITE = dataclasses.replace(settings.BACKUPSITE, home=tmp_path)
    folder = settings.BACKUPSITE.run_folder
    folder.mkdir()
    for name in PARTS:
        processes.write_pid_file(folder / f"{name}.pid", processes.this_process())
    return folder


@pytest.mark.django_db
def test_everything_works(client, run_folder):
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert "no-store" in answer["Cache-Control"]


@pytest.mark.django_db
@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_is_gone_is_named(client, run_folder, name):
    mine = processes.this_process()
    shown = name if name == "watchdog" else f"cluster {name}"
    processes.write_pid_file(run_folder / f"{name}.pid", processes.Process(mine.pid, mine.start - 1))
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()["down"]) == (503, [shown])
    (run_folder / f"{name}.pid").unlink()
    assert client.get("/healthz").json()["down"] == [shown]


@pytest.mark.django_db
def test_a_database_that_is_gone_is_named(client, run_folder, monkeypatch):
    def refuse():
        raise OperationalError("gone")

    monkeypatch.setattr(connection, "cursor", refuse)
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()["down"]) == (503, ["database"])


@pytest.mark.django_db
def test_a_database_that_is_gone_is_named_to_who_is_signed_in_too(client, run_folder, monkeypatch):
    client.force_login(User.objects.create_user("alice"))

    def refuse(*_):
        raise OperationalError("gone")

    for name in ("cursor", "ensure_connection", "_cursor"):
        monkeypatch.setattr(connection, name, refuse)
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()["down"]) == (503, ["database"])


@pytest.mark.django_db
def test_it_only_answers(client, run_folder):
    assert client.post("/healthz").status_code == 405
