"""The facts as they are read from real rows, and what they mean; the answers themselves are tested in test_planning."""

from datetime import timedelta

import pytest

from jobs.consequences import Effect
from jobs.models import Encryption, Job, JobChainState, State
from jobs.planning import Key, Reason, plan
from jobs.situation import consequences_of, existing_chains, situation_of
from keys.models import PasswordRecord
from repositories.models import Kind, PointState
from tests.factories import (
    FIRST_POINT_AT,
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


def reason_of(job: Job) -> Reason:
    return plan(situation_of(job)).reason


def codes_of(job: Job) -> set[Effect]:
    return {consequence.code for consequence in consequences_of(job)}


def params_of(job: Job, code: Effect) -> list[dict]:
    return [consequence.params for consequence in consequences_of(job) if consequence.code == code]


def encrypted_job(points: int = 3, **fields) -> Job:
    job = make_job(**fields)
    chain = make_chain(job)
    for _ in range(points):
        make_point(chain)
    return job


def turn_off(job: Job) -> None:
    job.encryption, job.password = Encryption.OFF, None


def turn_on(job: Job, record: PasswordRecord | None = None) -> None:
    job.encryption, job.password = Encryption.PASSWORD, record or make_password()


def test_a_job_that_is_not_saved_has_no_chain():
    job = Job(proxy=make_proxy(), repository=make_repository(), encryption=Encryption.OFF)
    assert reason_of(job) == Reason.FIRST_SESSION
    assert codes_of(job) == {Effect.NOT_ENCRYPTED, Effect.UP_TO_2N_STAY}


def test_a_form_may_ask_before_repository_and_password_are_chosen():
    situation = situation_of(Job(encryption=Encryption.PASSWORD))
    assert (situation.repository, situation.key) == ("", Key("", 0))
    assert situation_of(Job(encryption=Encryption.PASSWORD, password=PasswordRecord(name="new"))).key.name == "new"


def test_the_facts_of_a_chain():
    job = encrypted_job(4, keep_points=5)
    facts = situation_of(job)
    newest = job.current_chain().newest()
    assert (facts.chain.points, facts.chain.run_points, facts.chain.newest.sequence) == (4, 4, 4)
    assert facts.chain.newest.id == str(newest.uuid)
    assert facts.chain.newest.keys == (Key(str(job.password.uuid), 1),)
    assert facts.key == Key(str(job.password.uuid), 1)
    assert reason_of(job) == Reason.CHANGES_SINCE_PARENT


def test_the_run_is_counted_from_its_full():
    job = encrypted_job(3, keep_points=3)
    chain = job.current_chain()
    assert reason_of(job) == Reason.RUN_COMPLETE
    make_point(chain, kind=Kind.FULL)
    make_point(chain)
    assert situation_of(job).chain.run_points == 2
    assert reason_of(job) == Reason.CHANGES_SINCE_PARENT


def test_points_that_are_being_deleted_are_no_facts():
    job = encrypted_job(3)
    chain = job.current_chain()
    chain.points.filter(sequence=3).update(state=PointState.DELETING)
    assert situation_of(job).chain.newest.sequence == 2
    chain.points.update(state=PointState.DELETING)
    assert situation_of(job).chain is None
    assert reason_of(job) == Reason.FIRST_SESSION


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (turn_off, Reason.ENCRYPTION_DISABLED),
        (turn_on, Reason.KEY_CHANGED),
        (lambda job: change_password(job.password), Reason.KEY_CHANGED),
        (lambda job: setattr(job, "password", PasswordRecord(name="new")), Reason.KEY_CHANGED),
        (lambda job: setattr(job, "repository", make_repository()), Reason.REPOSITORY_CHANGED),
        (lambda job: setattr(job, "keep_points", 3), Reason.RUN_COMPLETE),
        (lambda job: setattr(job, "full_requested", True), Reason.ACTIVE_FULL),
        (lambda job: setattr(job, "new_chain_requested", True), Reason.NEW_CHAIN_REQUESTED),
        (lambda job: job.job_chains.update(state=JobChainState.DETACHED), Reason.NEW_CHAIN_REQUESTED),
        (lambda job: job.job_chains.update(state=JobChainState.PREVIOUS), Reason.NEW_CHAIN_REQUESTED),
        (lambda job: job.job_chains.all().delete(), Reason.FIRST_SESSION),
    ],
)
def test_what_a_change_of_the_job_means(change, reason):
    job = encrypted_job()
    change(job)
    assert reason_of(job) == reason


def test_damage_is_named():
    job = encrypted_job()
    chain = job.current_chain()
    chain.damage = "Point 2 is missing."
    chain.save()
    assert plan(situation_of(job)).params == {"damage": "Point 2 is missing."}


def test_enabling_names_the_plain_chain():
    job = make_job(encryption=Encryption.OFF)
    chain = make_chain(job)
    make_point(chain)
    make_point(chain)
    turn_on(job)
    assert reason_of(job) == Reason.ENCRYPTION_ENABLED
    (stays,) = params_of(job, Effect.EXISTING_CHAIN_STAYS_PLAIN)
    assert stays == {
        "chain": str(chain.uuid),
        "state": "current",
        "points": 2,
        "bytes": 1_010_000,
        "first": FIRST_POINT_AT.isoformat(),
        "last": (FIRST_POINT_AT + timedelta(days=1)).isoformat(),
    }


def test_a_previous_plain_chain_is_still_named_when_the_current_one_is_encrypted():
    job = encrypted_job()
    make_point(make_chain(job, state=JobChainState.PREVIOUS, encrypted=False), opens_with=None)
    assert [found["state"] for found in params_of(job, Effect.EXISTING_CHAIN_STAYS_PLAIN)] == ["previous"]


def test_disabling_says_so_and_what_stays_encrypted():
    job = encrypted_job()
    record = job.password
    turn_off(job)
    assert Effect.NOT_ENCRYPTED_FROM_NOW in codes_of(job)
    (stays,) = params_of(job, Effect.EXISTING_CHAIN_STAYS_ENCRYPTED)
    assert stays["points"] == 3
    assert stays["keys"] == [{"kind": "password", "record": str(record.uuid), "version": 1, "name": record.name}]


def test_a_vault_refuses_and_the_form_says_so():
    job = encrypted_job(repository=make_repository(requires_encryption=True))
    turn_off(job)
    assert params_of(job, Effect.VAULT_REFUSES_PLAIN) == [{"repository": job.repository.name}]


def test_a_changed_password_says_what_each_old_one_still_opens():
    job = encrypted_job(2)
    change_password(job.password)
    make_point(job.current_chain())
    change_password(job.password)
    old = params_of(job, Effect.OLD_POINTS_KEEP_OLD_KEY)
    assert [(found["version"], found["points"]) for found in old] == [(1, 2), (2, 1)]
    (new,) = params_of(job, Effect.NEW_KEY_OPENS_WHOLE_CHAIN)
    assert (new["version"], new["points"], new["name"]) == (3, 3, job.password.name)


def test_without_a_change_of_keys_nothing_is_said_about_them():
    assert codes_of(encrypted_job()) == {Effect.UP_TO_2N_STAY}


def test_a_chain_that_the_job_leaves_for_another_repository_stays_there():
    job = encrypted_job()
    left = job.repository.name
    job.repository = make_repository()
    assert [found["repository"] for found in params_of(job, Effect.EXISTING_CHAIN_STAYS)] == [left]


def test_two_runs_need_room():
    job = encrypted_job(3, keep_points=10)
    (found,) = params_of(job, Effect.UP_TO_2N_STAY)
    assert found == {"points": 20, "keep": 10, "bytes": 2 * (1_000_000 + 9 * 10_000)}
    (found,) = params_of(make_job(keep_points=10), Effect.UP_TO_2N_STAY)
    assert found["bytes"] is None


@pytest.mark.parametrize(("state", "said"), [(State.RUNNING, True), (State.WAITING, True), (State.SUCCEEDED, False)])
def test_a_running_session_keeps_its_settings(state, said):
    job = encrypted_job()
    session = make_session(job, state=state)
    expected = [{"session": str(session.uuid), "state": state}] if said else []
    assert params_of(job, Effect.RUNNING_SESSION_KEEPS_ITS_SETTINGS) == expected


def test_existing_chains_are_read_in_a_constant_number_of_queries(django_assert_num_queries):
    job = encrypted_job()
    for _ in range(3):
        make_point(make_chain(job, state=JobChainState.PREVIOUS))
    make_chain(job, state=JobChainState.DETACHED)
    with django_assert_num_queries(4):
        chains = existing_chains(job)
    assert [chain.points for chain in chains] == [3, 1, 1, 1, 0]
    assert [chain.state for chain in chains] == ["current", "previous", "previous", "previous", "detached"]
    assert [use.points for use in chains[0].keys] == [3]
