"""Recovery keys and real sessions: an active key gets a slot, and its sheet opens the points without the console."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from jobs.models import Job, Proxy, Session, State
from jobs.sessions import start_backup
from jobs.tasks import run_session
from keys import recovery
from keys.crypto_recovery import RecoveryPrivate, new_private
from keys.crypto_sheet import whole_sheet
from keys.models import RecoveryKey
from repositories.engine import cli
from tests.factories import make_job, make_proxy, make_recovery_key, make_repository

pytestmark = pytest.mark.django_db(transaction=True)
PRIVATE = RecoveryPrivate(bytes(range(32)))


@pytest.fixture
def job(transactional_db: None, tmp_path: Path) -> Job:
    proxy = make_proxy()
    Proxy.objects.filter(pk=proxy.pk).update(seen_at=timezone.now() + timedelta(hours=1))
    (tmp_path / "source").mkdir()
    return make_job(sources=[str(tmp_path / "source")], repository=make_repository(tmp_path / "repository"))


def back_up(job: Job, name: str) -> Session:
    (Path(job.sources[0]) / name).write_text(name)
    job.refresh_from_db()
    session = start_backup(job, by=None)
    run_session(session.pk)
    session.refresh_from_db()
    return session


def slots_of(session: Session) -> list[tuple[str, RecoveryKey | None]]:
    assert session.state == State.SUCCEEDED and session.written_point, session.result_message
    return [(slot.kind, slot.recovery) for slot in session.written_point.slots.order_by("pk")]


def test_active_keys_get_slots_and_a_sheet_opens_them(job: Job, tmp_path: Path) -> None:
    make_recovery_key(retired_at=timezone.now())
    assert slots_of(back_up(job, "before")) == [("password", None)]
    key = make_recovery_key(PRIVATE, name="safe")
    second = back_up(job, "while")
    assert slots_of(second) == [("password", None), ("recovery", key)]
    assert second.plan_reason == "changes-since-parent", "a recovery key more begins nothing anew"

    (tmp_path / "sheet").write_text(whole_sheet(PRIVATE, name="safe", made="today"))
    arguments = ["recover", str(job.repository.path), "--into", str(tmp_path / "into")]
    assert cli.main([*arguments, "--recovery-key", str(tmp_path / "sheet")]) == 0
    found = tmp_path / "into" / Path(job.sources[0]).relative_to("/")
    assert {path.name for path in found.iterdir()} == {"before", "while"}

    recovery.retire(key)
    assert slots_of(back_up(job, "after")) == [("password", None)]


def test_a_public_half_from_outside_gets_no_slot_and_no_file(job: Job) -> None:
    make_recovery_key(PRIVATE)
    RecoveryKey.objects.update(public=new_private().public())
    session = back_up(job, "one")
    assert session.state == State.FAILED and "keys_recoverykey" in str(session.result_params) + session.result_message
    assert not [path for path in job.repository.root.rglob("*") if path.is_file()]
