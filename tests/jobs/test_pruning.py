"""Retention in the database and on disk: what goes, who holds what, and when an old chain that was to go may go."""

import shutil
from datetime import timedelta
from threading import Thread

import pytest
from django.db import connection, transaction
from django.utils import timezone

from backupsite.models import AuditEvent
from jobs.models import Job, JobChain, JobChainState, LogLine, Pin, Session, SessionKind, State
from jobs.pruning import Pruned, fulls_to_verify, old_chains_waiting, prune, prune_after
from repositories.models import Chain, Kind, PointState, RestorePoint
from tests.factories import make_chain, make_job, make_pin, make_point, make_repository, make_session

pytestmark = pytest.mark.django_db


@pytest.fixture
def repository(tmp_path):
    return make_repository(tmp_path)


def fill(chain: Chain, picture: str) -> list[RestorePoint]:
    """Add points (`F` a full, `i` an incremental) and a file for each."""
    points = [make_point(chain, kind=Kind.FULL if sign == "F" else Kind.INCREMENTAL) for sign in picture]
    chain.folder.mkdir(exist_ok=True)
    for point in points:
        point.path.write_bytes(b"sealed")
    return points


def make_filled(repository, *pictures: str, keep: int = 3) -> Job:
    """Make a job with a chain for each picture, the last one current."""
    job = make_job(repository=repository, keep_points=keep)
    for picture in pictures[:-1]:
        fill(make_chain(job, state=JobChainState.PREVIOUS), picture)
    fill(make_chain(job), pictures[-1])
    return job


def left(job: Job) -> list[list[int]]:
    """Return the sequences of each chain's points that are in the catalogue, having checked that the files agree."""
    found = []
    for link in job.job_chains.select_related("chain__repository").order_by("chain__created_at"):
        sequences = list(link.chain.points.sealed().order_by("sequence").values_list("sequence", flat=True))
        names = sorted(path.name for path in link.chain.folder.iterdir()) if link.chain.folder.is_dir() else []
        assert names == sorted(str(sequence) for sequence in sequences)
        found.append(sequences)
    return found


def test_nothing_goes_while_the_newer_run_does_not_suffice(repository):
    job = make_filled(repository, "FiiFi")
    assert prune(job).points == 0
    assert left(job) == [[1, 2, 3, 4, 5]]


def test_the_older_run_goes_whole(repository):
    job = make_filled(repository, "FiiFii")
    assert prune(job).points == 3
    assert left(job) == [[4, 5, 6]]
    assert prune(job).points == 0


def test_a_previous_chain_goes_with_its_folder_and_row(repository):
    job = make_filled(repository, "Fii", "Fii")
    folder = job.job_chains.get(state=JobChainState.PREVIOUS).chain.folder
    assert prune(job).points == 3
    assert left(job) == [[1, 2, 3]]
    assert not folder.exists()
    assert Chain.objects.count() == 1


def test_a_detached_chain_stays(repository):
    job = make_filled(repository, "Fii", "Fii")
    job.job_chains.filter(state=JobChainState.PREVIOUS).update(state=JobChainState.DETACHED)
    assert prune(job).points == 0
    assert left(job) == [[1, 2, 3], [1, 2, 3]]


def test_a_damaged_chain_lets_nothing_go(repository):
    job = make_filled(repository, "Fii", "Fii")
    Chain.objects.filter(job_chain__state=JobChainState.CURRENT).update(damage="point 2 is missing")
    assert prune(job).points == 0


def test_what_is_removed_is_in_the_audit(repository):
    job = make_filled(repository, "FiiFii")
    chain = job.current_chain()
    prune(job)
    event = AuditEvent.objects.get(action="points pruned")
    assert (event.user, event.object_name) == (None, job.name)
    assert event.after == {"chain": str(chain.uuid), "repository": repository.name, "points": 3}


@pytest.mark.parametrize("sequence", [1, 2, 3])
def test_a_run_of_which_a_point_is_read_stays_whole_and_says_who_reads(repository, sequence):
    job = make_filled(repository, "FiiFii")
    pin = make_pin(job.current_chain().points.get(sequence=sequence))
    (held,) = prune(job).held
    assert (held.points, held.sessions) == (3, (pin.session,))
    assert left(job) == [[1, 2, 3, 4, 5, 6]]
    pin.delete()
    assert prune(job).points == 3


def test_only_leading_runs_go_before_a_pinned_one(repository):
    job = make_filled(repository, "FFFFF", keep=1)
    make_pin(job.current_chain().points.get(sequence=3))
    done = prune(job)
    assert (done.points, done.held[0].points) == (2, 2)
    assert left(job) == [[3, 4, 5]]


def test_a_pinned_chain_does_not_hold_another(repository):
    job = make_filled(repository, "Fii", "FiiFii")
    make_pin(job.job_chains.get(state=JobChainState.PREVIOUS).chain.points.get(sequence=2))
    assert prune(job).points == 3
    assert left(job) == [[1, 2, 3], [4, 5, 6]]


def test_a_pin_whose_lease_ran_out_holds_nothing(repository):
    job = make_filled(repository, "FiiFii")
    make_pin(job.current_chain().points.get(sequence=2), lease_until=timezone.now() - timedelta(seconds=1))
    assert prune(job).points == 3
    assert not Pin.objects.exists()


def test_a_repository_that_is_not_there_loses_no_row(repository):
    job = make_filled(repository, "FiiFii")
    shutil.rmtree(repository.path)
    assert prune(job).away == (job.current_chain(),)
    assert RestorePoint.objects.sealed().count() == 6


def test_what_a_crash_left_marked_is_finished(repository):
    job = make_filled(repository, "Fii")
    job.current_chain().points.filter(sequence=3).update(state=PointState.DELETING)
    assert prune(job).points == 1
    assert left(job) == [[1, 2]]


@pytest.mark.parametrize(("state", "pruned"), [(State.RUNNING, 0), (State.WAITING, 3), (State.SUCCEEDED, 3)])
def test_nothing_goes_while_another_session_writes(repository, state, pruned):
    job = make_filled(repository, "FiiFii")
    make_session(job, state=state)
    assert prune(job).points == pruned


def test_the_session_that_prunes_at_its_end_is_no_other_and_its_log_says_what_went(repository):
    job = make_filled(repository, "FiiFiiFii")
    session = make_session(job, state=State.RUNNING)
    pin = make_pin(job.current_chain().points.get(sequence=4))
    assert prune_after(session).points == 3
    lines = list(LogLine.objects.filter(session=session))
    assert [line.code for line in lines] == ["pruned", "prune-held"]
    assert str(pin.session.uuid) in lines[1].message


def test_an_absent_repository_is_a_warning_in_the_log(repository):
    job = make_filled(repository, "FiiFii")
    shutil.rmtree(repository.path)
    session = make_session(job, state=State.RUNNING)
    prune_after(session)
    line = LogLine.objects.get(session=session)
    assert (line.level, line.code) == ("warning", "prune-away")
    assert repository.path in line.message


def test_the_session_of_a_job_that_was_deleted_prunes_nothing():
    session = make_session()
    Job.objects.all().delete()
    session.refresh_from_db()
    assert prune_after(session).points == 0


@pytest.mark.django_db(transaction=True)
def test_a_reader_that_comes_while_a_prune_decides_is_seen(repository):
    """The reader has locked its point, and pinned it, but has not committed: the prune waits for it."""
    job = make_filled(repository, "FiiFii")
    done: list[Pruned] = []

    def pruner() -> None:
        try:
            done.append(prune(job))
        finally:
            connection.close()

    thread = Thread(target=pruner)
    with transaction.atomic():
        point = RestorePoint.objects.select_for_update().get(chain=job.current_chain(), sequence=2)
        make_pin(point)
        thread.start()
        while thread.is_alive() and not somebody_waits_for_a_lock():
            thread.join(timeout=0.01)
    thread.join(timeout=30)
    assert done[0].points == 0
    assert done[0].held[0].points == 3


def somebody_waits_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_locks WHERE NOT granted")
        return cursor.fetchone() is not None


# The old chain that goes after the first encrypted full


@pytest.fixture
def job(repository) -> Job:
    """A job whose unencrypted chain is to go, and whose first encrypted full was just written."""
    job = make_job(repository=repository, keep_points=14)
    old = make_chain(job, state=JobChainState.PREVIOUS, encrypted=False, delete_after_full=True)
    fill(old, "Fii")
    fill(make_chain(job), "F")
    return job


def wrote_full(job: Job, **fields) -> Session:
    full = job.current_chain().points.filter(kind=Kind.FULL).latest("sequence")
    return make_session(job, **{"state": State.SUCCEEDED, "written_point": full, **fields})


def verified(job: Job, **fields) -> Session:
    full = job.current_chain().points.filter(kind=Kind.FULL).latest("sequence")
    settings = {"depth": "full"}
    defaults = {
        "kind": SessionKind.VERIFY,
        "state": State.SUCCEEDED,
        "source_point": full,
        "claimed_settings": settings,
    }
    return make_session(job, **{**defaults, **fields})


def waits_for(job: Job) -> str:
    (waiting,) = old_chains_waiting(job)
    prune(job)
    gone = not JobChain.objects.filter(delete_after_full=True).exists()
    assert gone == (waiting.code == "ready"), "what the page says is what happens"
    return waiting.code


def test_it_goes_after_a_clean_and_verified_full(job):
    wrote_full(job)
    verified(job)
    assert waits_for(job) == "ready"
    assert left(job) == [[1]]


def test_it_waits_for_a_full_that_is_known_to_have_succeeded(job):
    assert waits_for(job) == "full-missing"


def test_it_waits_when_the_full_had_warnings(job):
    session = wrote_full(job, state=State.WARNING, warnings=2)
    verified(job)
    (waiting,) = old_chains_waiting(job)
    assert waiting.params == {"session": str(session.uuid), "warnings": 2}
    assert waits_for(job) == "full-had-warnings"


def test_a_later_clean_full_will_do(job):
    wrote_full(job, state=State.WARNING, warnings=2)
    fill(job.current_chain(), "F")
    wrote_full(job)
    assert waits_for(job) == "not-verified"
    verified(job)
    assert waits_for(job) == "ready"


def test_it_waits_for_the_verification(job):
    wrote_full(job)
    assert [point.sequence for point in fulls_to_verify()] == [1]
    assert waits_for(job) == "not-verified"


@pytest.mark.parametrize(
    ("fields", "code", "asked_again"),
    [
        ({"state": State.WAITING}, "verify-active", False),
        ({"state": State.RUNNING}, "verify-active", False),
        ({"state": State.FAILED}, "verify-failed", False),
        ({"state": State.WARNING}, "verify-failed", False),
        ({"state": State.CANCELLED}, "verify-failed", False),
        ({"state": State.INTERRUPTED}, "not-verified", True),
        ({"claimed_settings": {"depth": "quick"}}, "not-verified", True),
    ],
)
def test_a_verification_that_does_not_tell(job, fields, code, asked_again):
    wrote_full(job)
    verified(job, **fields)
    assert bool(fulls_to_verify()) == asked_again
    assert waits_for(job) == code


def test_a_verification_that_is_ending_counts_by_its_result(job):
    wrote_full(job)
    verify = verified(job, state=State.RUNNING, result_code="verified")
    assert prune_after(verify).points == 3
    assert left(job) == [[1]]


@pytest.mark.parametrize("fields", [{"result_code": "damaged"}, {"result_code": "verified", "warnings": 1}, {}])
def test_a_verification_that_is_ending_badly_does_not(job, fields):
    wrote_full(job)
    verify = verified(job, state=State.RUNNING, **fields)
    assert prune_after(verify).points == 0


def test_it_waits_while_the_successor_is_damaged(job):
    wrote_full(job)
    verified(job)
    Chain.objects.filter(job_chain__state=JobChainState.CURRENT).update(damage="point 1: broken")
    assert waits_for(job) == "successor-damaged"


def test_it_waits_until_there_is_an_encrypted_successor(repository):
    job = make_job(repository=repository)
    fill(make_chain(job, encrypted=False, delete_after_full=True), "Fii")
    assert waits_for(job) == "successor-missing"
    JobChain.objects.update(state=JobChainState.PREVIOUS)
    assert waits_for(job) == "successor-missing"
    fill(make_chain(job, encrypted=False), "F")
    wrote_full(job)
    verified(job)
    assert waits_for(job) == "successor-missing"


def test_a_reader_holds_it_too(job):
    wrote_full(job)
    verified(job)
    old = job.job_chains.get(state=JobChainState.PREVIOUS).chain
    make_pin(old.points.get(sequence=1))
    assert prune(job).held[0].chain == old
    assert left(job) == [[1, 2, 3], [1]]


def test_without_the_wish_it_stays_under_retention(job):
    JobChain.objects.update(delete_after_full=False)
    wrote_full(job)
    verified(job)
    assert prune(job).points == 0
    assert fulls_to_verify() == []
    assert old_chains_waiting(job) == []
