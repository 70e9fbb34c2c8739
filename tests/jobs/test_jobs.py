"""Saving a job against the answer that was shown, deleting it, and what becomes of an old chain."""

from datetime import UTC, datetime, time, timedelta
from threading import Event, Thread

import pytest
from django.db import connection, transaction
from django.utils import timezone

from jobs import jobs as cases
from jobs.models import DueState, Encryption, Job, JobChain, JobChainState, ScheduleKind, SessionKind, State
from jobs.planning import PlanRefused, Reason, digest
from jobs.situation import situation_of
from keys.crypto_sealed import CannotOpenSealed
from keys.models import PasswordRecord
from keys.sealing import check_vouched_row
from repositories.models import Chain, RestorePoint
from tests.factories import (
    change_password,
    make_chain,
    make_job,
    make_password,
    make_point,
    make_proxy,
    make_repository,
    make_session,
)

pytestmark = pytest.mark.django_db


def shown(job: Job) -> str:
    return digest(situation_of(job))


def save(job: Job, **changes) -> Job:
    """Save as the form does: what it shows is what is saved."""
    for name, value in changes.items():
        setattr(job, name, value)
    return cases.save_job(job, expected_version=job.version, digest=shown(job))


def written_job(**fields) -> Job:
    job = make_job(**fields)
    make_point(make_chain(job))
    return job


def new_job(**fields) -> Job:
    return Job(
        **{
            "name": "new",
            "sources": ["/srv"],
            "proxy": make_proxy(),
            "repository": make_repository(),
            "password": make_password(),
            **fields,
        }
    )


def test_a_new_job_is_saved_and_vouched_for():
    before = timezone.now()
    job = new_job()
    saved = cases.save_job(job, expected_version=None, digest=shown(job))
    saved = Job.objects.get(pk=saved.pk)
    check_vouched_row(saved, "protection_proof")
    assert (saved.version, saved.sources) == (1, ["/srv"])
    assert before <= saved.schedule_since <= timezone.now()


def test_a_save_changes_what_a_form_edits_and_nothing_else():
    job = written_job()
    form = Job.objects.get(pk=job.pk)
    Job.objects.update(paused=True)  # in another window, while the form is open
    saved = save(form, name="renamed", keep_points=5, exclude=["*.tmp"])
    saved = Job.objects.get(pk=saved.pk)
    assert (saved.name, saved.keep_points, saved.exclude, saved.version) == ("renamed", 5, ["*.tmp"], 2)
    assert saved.paused


def test_the_proof_is_of_what_was_saved():
    saved = save(written_job(), password=make_password())
    check_vouched_row(saved, "protection_proof")
    saved.password = make_password()
    with pytest.raises(CannotOpenSealed):
        check_vouched_row(saved, "protection_proof")


@pytest.mark.parametrize("expected", [None, 0, 2])
def test_a_version_that_is_not_the_rows_is_refused(expected):
    job = written_job()
    with pytest.raises(cases.EditedMeanwhile):
        cases.save_job(job, expected_version=expected, digest=shown(job))


def test_a_job_that_was_deleted_meanwhile_is_not_made_again():
    job = written_job()
    form = Job.objects.get(pk=job.pk)
    cases.delete_job(job)
    with pytest.raises(cases.EditedMeanwhile):
        cases.save_job(form, expected_version=form.version, digest="")
    assert not Job.objects.exists()


CHANGED_MEANWHILE = {
    "a session wrote a point": lambda job: make_point(job.current_chain()),
    "the chain was damaged": lambda job: Chain.objects.update(damage="point 1 is missing"),
    "the chain was detached": lambda job: JobChain.objects.update(state=JobChainState.DETACHED),
    "a full was requested": cases.request_full,
    "a new chain was requested": cases.start_new_chain,
    "the password was changed": lambda job: change_password(job.password),
}


@pytest.mark.parametrize("change", CHANGED_MEANWHILE.values(), ids=CHANGED_MEANWHILE.keys())
def test_another_answer_than_the_one_shown_is_not_saved(change):
    job = written_job()
    form = Job.objects.get(pk=job.pk)
    form.name = "renamed"
    seen = shown(form)
    change(job)
    with pytest.raises(cases.AnswerChanged) as changed:
        cases.save_job(form, expected_version=form.version, digest=seen)
    job.refresh_from_db()
    assert changed.value.plan is not None
    assert job.name != "renamed"
    assert job.version == 1
    assert str(changed.value.plan.reason) in str(changed.value)


def test_a_password_made_while_saving_has_the_answer_that_was_shown_for_it():
    job = written_job()
    job.password = PasswordRecord(name="to be made")
    seen = shown(job)
    job.password = make_password()
    saved = cases.save_job(job, expected_version=1, digest=seen)
    assert Job.objects.get().password == saved.password


def test_a_vault_refuses_plaintext_at_the_save():
    job = new_job(repository=make_repository(requires_encryption=True), encryption=Encryption.OFF, password=None)
    with pytest.raises(PlanRefused):
        cases.save_job(job, expected_version=None, digest=shown(job))
    assert not Job.objects.exists()


def test_a_repository_that_became_a_vault_meanwhile_is_another_answer():
    job = new_job(encryption=Encryption.OFF, password=None)
    seen = shown(job)
    job.repository.requires_encryption = True
    with pytest.raises(cases.AnswerChanged) as changed:
        cases.save_job(job, expected_version=None, digest=seen)
    assert changed.value.plan is None


@pytest.mark.parametrize("reason", ["", "   "])
def test_encryption_is_not_disabled_without_a_reason(reason):
    job = written_job()
    with pytest.raises(cases.ReasonNeeded):
        save(job, encryption=Encryption.OFF, password=None, encryption_off_reason=reason)
    job.refresh_from_db()
    assert job.encryption == Encryption.PASSWORD


def test_encryption_is_disabled_with_a_reason_which_goes_when_it_is_enabled():
    job = save(written_job(), encryption=Encryption.OFF, password=None, encryption_off_reason="public data")
    assert job.encryption_off_reason == "public data"
    job = save(job, encryption=Encryption.PASSWORD, password=make_password())
    assert job.encryption_off_reason == ""


def test_a_job_that_was_never_encrypted_needs_no_reason():
    job = new_job(encryption=Encryption.OFF, password=None)
    assert cases.save_job(job, expected_version=None, digest=shown(job)).encryption == Encryption.OFF
    assert save(Job.objects.get(), keep_points=3).keep_points == 3


SINCE = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "change",
    [
        {"schedule_kind": ScheduleKind.DAILY},
        {"schedule_time": time(4, 5)},
        {"time_zone": "Europe/Berlin"},
    ],
)
def test_a_changed_schedule_counts_from_now_and_what_was_due_before_is_settled(change):
    since = timezone.now() - timedelta(hours=3)
    job = make_job(schedule_kind=ScheduleKind.HOURLY, schedule_time=time(1, 30), schedule_since=since)
    before = timezone.now()
    saved = save(job, **change)
    assert before <= saved.schedule_since <= timezone.now()
    assert [row.state for row in job.due_times.order_by("due_at")] == [DueState.MISSED, DueState.DUE]


def test_an_unchanged_schedule_goes_on():
    job = make_job(
        schedule_kind=ScheduleKind.WEEKLY, schedule_weekdays=[1], schedule_time=time(1), schedule_since=SINCE
    )
    saved = save(job, name="renamed", schedule_weekdays=[1])
    assert saved.schedule_since == SINCE
    assert not job.due_times.exists()


@pytest.mark.django_db(transaction=True)
def test_a_save_waits_for_whoever_holds_the_row_and_then_sees_what_it_did():
    job = written_job()
    form, seen = Job.objects.get(pk=job.pk), shown(job)
    locked, go_on, outcome = Event(), Event(), []

    def other() -> None:
        try:
            with transaction.atomic():
                Job.objects.select_for_update().get(pk=job.pk)
                make_point(job.current_chain())
                locked.set()
                go_on.wait(timeout=30)
        finally:
            connection.close()

    def saver() -> None:
        try:
            cases.save_job(form, expected_version=1, digest=seen)
        except cases.AnswerChanged as changed:
            outcome.append(changed.plan.params["sequence"])
        finally:
            connection.close()

    holder, waiter = Thread(target=other), Thread(target=saver)
    holder.start()
    assert locked.wait(timeout=30)
    waiter.start()
    go_on.set()
    holder.join(timeout=30)
    waiter.join(timeout=30)
    assert outcome == [2]


def test_deleting_a_job_leaves_its_chains_and_points():
    job = written_job()
    session = make_session(job, state=State.SUCCEEDED)
    cases.delete_job(job)
    session.refresh_from_db()
    assert (Chain.objects.count(), RestorePoint.objects.count(), JobChain.objects.count()) == (1, 1, 0)
    assert (session.job, session.job_name) == (None, job.name)


@pytest.mark.parametrize("state", [State.WAITING, State.QUEUED, State.RUNNING])
def test_a_job_that_writes_is_not_deleted(state):
    job = written_job()
    session = make_session(job, state=state)
    with pytest.raises(cases.JobBusy) as busy:
        cases.delete_job(job)
    assert busy.value.session == session
    assert Job.objects.exists()


def test_a_restore_from_its_points_does_not_keep_a_job():
    job = written_job()
    make_session(job, kind=SessionKind.RESTORE, state=State.RUNNING)
    cases.delete_job(job)
    assert not Job.objects.exists()


def test_wishes_for_the_next_session():
    job = written_job()
    cases.request_full(job)
    assert situation_of(Job.objects.get()).full_requested
    cases.start_new_chain(job)
    assert situation_of(Job.objects.get()).new_chain_requested


@pytest.mark.parametrize(
    ("answer", "state", "delete_after_full", "reason"),
    [
        ("keep", JobChainState.CURRENT, False, Reason.ENCRYPTION_ENABLED),
        ("detach", JobChainState.DETACHED, False, Reason.NEW_CHAIN_REQUESTED),
        ("delete", JobChainState.CURRENT, True, Reason.ENCRYPTION_ENABLED),
    ],
)
def test_the_answer_about_an_unencrypted_chain(answer, state, delete_after_full, reason):
    job = written_job(encryption=Encryption.OFF)
    saved = save(job, encryption=Encryption.PASSWORD, password=make_password())
    assert cases.answer_old_chain(saved, answer, by=None) == 1
    link = JobChain.objects.get()
    assert (link.state, link.delete_after_full) == (state, delete_after_full)
    shown_now = situation_of(saved)
    assert cases.plan(shown_now).reason == reason


def test_the_answer_is_about_unencrypted_chains_under_retention_only():
    job = written_job()
    detached = make_chain(job, state=JobChainState.DETACHED, encrypted=False)
    plain = make_chain(job, state=JobChainState.PREVIOUS, encrypted=False)
    assert cases.answer_old_chain(job, "delete", by=None) == 1
    assert {link.chain for link in JobChain.objects.filter(delete_after_full=True)} == {plain}
    assert cases.answer_old_chain(job, "keep", by=None) == 1
    assert not JobChain.objects.filter(delete_after_full=True).exists()
    assert JobChain.objects.get(chain=detached).state == JobChainState.DETACHED
