"""What becomes of the plain chain once its job is encrypted: the three answers, from the form's save to the files on
disk, through real sessions.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from django.urls import reverse
from django.utils import timezone

from backupsite.models import AuditEvent
from jobs import jobs as job_cases
from jobs.models import Encryption, Job, JobChain, JobChainState, Proxy, Session, SessionKind, State
from jobs.planning import Reason
from jobs.pruning import old_chains_waiting
from jobs.sessions import request_cancel, start_backup, start_restore
from jobs.situation import situation_of
from jobs.tasks import run_session
from jobs.ticking import tick
from keys.models import PasswordRecord
from repositories.models import Chain, Kind
from tests.factories import make_job, make_password, make_proxy, make_repository, make_user
from tests.jobs.people import alice, text_of

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def proxy(transactional_db: None) -> None:
    Proxy.objects.filter(pk=make_proxy().pk).update(seen_at=timezone.now() + timedelta(hours=1))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "ledger").write_bytes(b"all is well\n" * 100)
    return tmp_path / "source"


@pytest.fixture
def job(tmp_path: Path, source: Path) -> Job:
    """A plain job with one point."""
    repository = make_repository(tmp_path / "repository")
    job = make_job(sources=[str(source)], repository=repository, encryption=Encryption.OFF, keep_points=7)
    assert back_up(job).state == State.SUCCEEDED
    return job


@pytest.fixture
def record() -> PasswordRecord:
    return make_password()


def run(session: Session) -> Session:
    run_session(session.pk)
    session.refresh_from_db()
    return session


def back_up(job: Job, **fields: bool) -> Session:
    return run(start_backup(Job.objects.get(pk=job.pk), by=None, **fields))


def enable(job: Job, record: PasswordRecord, answer: job_cases.OldChainAnswer) -> None:
    save(job, encryption=Encryption.PASSWORD, password=record)
    job_cases.answer_old_chain(Job.objects.get(pk=job.pk), answer, by=None)


def save(job: Job, **fields: object) -> None:
    row = Job.objects.get(pk=job.pk)
    for name, value in fields.items():
        setattr(row, name, value)
    digest = job_cases.digest(situation_of(row))
    job_cases.save_job(row, expected_version=row.version, digest=digest)


def plain_chain() -> Chain:
    return Chain.objects.get(encrypted=False)


def waits_for(job: Job) -> str:
    (waiting,) = old_chains_waiting(job)
    return waiting.code


def page_of(job: Job) -> str:
    return text_of(alice().get(reverse("job_detail", args=[job.uuid])))


def verify_of_tick() -> Session:
    """Let a tick start the verification that the old chain waits for, and return it."""
    tick()
    return Session.objects.get(kind=SessionKind.VERIFY)


def test_delete_waits_for_a_clean_verified_full_and_then_the_files_are_gone(job: Job, record: PasswordRecord) -> None:
    folder = plain_chain().folder
    enable(job, record, "delete")
    assert waits_for(job) == "successor-missing"
    session = back_up(job)
    assert (session.state, session.plan_reason) == (State.SUCCEEDED, Reason.ENCRYPTION_ENABLED)
    assert (folder / "1").is_file() and waits_for(job) == "not-verified"
    assert "is about to be verified" in page_of(job)
    verify = verify_of_tick()
    assert verify.claimed_settings["depth"] == "full" and waits_for(job) == "verify-active"
    assert "is being verified" in page_of(job)
    assert run(verify).state == State.SUCCEEDED
    assert not folder.exists() and not Chain.objects.filter(encrypted=False).exists()
    assert old_chains_waiting(job) == [] and "goes when the first encrypted full" not in page_of(job)
    assert AuditEvent.objects.get(action="points pruned").after["points"] == 1
    assert back_up(job).plan_kind == Kind.INCREMENTAL


def test_a_full_with_warnings_deletes_nothing_until_a_clean_one(job: Job, record: PasswordRecord, source: Path) -> None:
    enable(job, record, "delete")
    os.utime(source / "ledger", (11_000_000_000, 11_000_000_000))  # a time that no manifest holds is a warning
    assert back_up(job).state == State.WARNING
    tick()
    assert waits_for(job) == "full-had-warnings" and "had 1 warning" in page_of(job)
    assert not Session.objects.filter(kind=SessionKind.VERIFY).exists()
    os.utime(source / "ledger")
    assert back_up(job).state == State.SUCCEEDED  # an incremental: the full is still the one with warnings
    assert waits_for(job) == "full-had-warnings" and (plain_chain().folder / "1").is_file()
    assert back_up(job, full=True).plan_kind == Kind.FULL
    assert run(verify_of_tick()).state == State.SUCCEEDED
    assert not Chain.objects.filter(encrypted=False).exists()


def test_a_damaged_full_deletes_nothing(job: Job, record: PasswordRecord) -> None:
    enable(job, record, "delete")
    point = back_up(job).written_point
    assert point
    with point.path.open("r+b") as file:
        file.seek(200_000)
        file.write(b"damage")
    assert run(verify_of_tick()).state == State.FAILED
    assert waits_for(job) == "successor-damaged"
    back_up(job)  # a new chain, whose full is clean and not verified
    assert waits_for(job) == "not-verified" and (plain_chain().folder / "1").is_file()


def test_a_stopped_verification_deletes_nothing(job: Job, record: PasswordRecord) -> None:
    enable(job, record, "delete")
    back_up(job)
    assert request_cancel(verify_of_tick())
    tick()
    back_up(job)
    assert waits_for(job) == "verify-failed" and "could not be verified" in page_of(job)
    assert (plain_chain().folder / "1").is_file()
    assert Session.objects.filter(kind=SessionKind.VERIFY).count() == 1


def test_off_and_on_again_before_a_session_changes_nothing(job: Job, record: PasswordRecord) -> None:
    enable(job, record, "delete")
    before = situation_of(Job.objects.get()), list(JobChain.objects.values())
    save(job, encryption=Encryption.OFF, password=None, encryption_off_reason="a test")
    save(job, encryption=Encryption.PASSWORD, password=record)
    assert (situation_of(Job.objects.get()), list(JobChain.objects.values())) == before
    save(job, encryption=Encryption.OFF, password=None, encryption_off_reason="a test")
    session = back_up(job)
    assert (session.plan_kind, session.plan_reason) == (Kind.INCREMENTAL, Reason.CHANGES_SINCE_PARENT)
    tick()
    assert plain_chain().points.count() == 2 and waits_for(job) == "successor-missing"


def test_detach_starts_a_separate_chain_and_the_old_one_stays_restorable(
    job: Job, record: PasswordRecord, tmp_path: Path, source: Path
) -> None:
    job_cases.Job.objects.update(keep_points=1)
    enable(job, record, "detach")
    session = back_up(job)
    assert (session.plan_kind, session.plan_reason) == (Kind.FULL, Reason.NEW_CHAIN_REQUESTED)
    back_up(job, full=True)
    back_up(job, full=True)  # retention removes what is older, but for the detached chain
    old = plain_chain()
    assert old.job_chain.state == JobChainState.DETACHED and old.points.count() == 1
    assert [chain.points.count() for chain in Chain.objects.filter(encrypted=True)] == [1]
    into = tmp_path / "into"
    restore = start_restore(old.points.get(), by=make_user(), paths=[], into=str(into), existing="skip")
    assert run(restore).state == State.SUCCEEDED
    assert (into / str(source).lstrip("/") / "ledger").read_bytes() == b"all is well\n" * 100
    assert f"/chains/{old.uuid}/" in alice().get(reverse("lone_chains")).content.decode()


def test_keep_lets_retention_remove_it(job: Job, record: PasswordRecord) -> None:
    job_cases.Job.objects.update(keep_points=2)
    enable(job, record, "keep")
    folder = plain_chain().folder
    back_up(job)
    assert (folder / "1").is_file()
    back_up(job)
    assert not folder.exists() and Chain.objects.get().points.count() == 2
