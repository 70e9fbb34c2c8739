"""Chains that no job goes on with: when they go, what holds them, and what never goes this way."""

import shutil
from datetime import date, timedelta
from threading import Thread

import pytest
from django.db import connection, transaction
from django.utils import timezone

from backupsite.models import AuditEvent, Severity
from jobs import expiring
from jobs import jobs as job_cases
from jobs.expiring import GoingAlready, InUse, NotThere, OwnedByJob, delete_expired, delete_now, end_of, set_expiry
from jobs.jobs import JobBusy, delete_job
from jobs.models import JobChain, JobChainState, Pin, SessionKind, State
from jobs.ticking import tick
from repositories.engine.errors import RepositoryUnwritable
from repositories.models import Chain, PointState, RestorePoint
from tests.factories import make_chain, make_job, make_pin, make_point, make_repository, make_session, make_user
from tests.jobs.test_pruning import somebody_waits_for_a_lock

pytestmark = pytest.mark.django_db
PAST = timedelta(seconds=-1)


@pytest.fixture
def repository(tmp_path):
    return make_repository(tmp_path)


@pytest.fixture
def job(repository):
    return make_job(repository=repository)


def filled(job, *, state=JobChainState.DETACHED, points=3, **fields):
    """Make a chain of the job with a file for each point."""
    chain = make_chain(job, state=state, **fields)
    chain.folder.mkdir()
    for _ in range(points):
        make_point(chain).path.write_bytes(b"sealed")
    return chain


def over(job, **fields):
    """Make a detached chain whose time is over."""
    return filled(job, expires_at=timezone.now() + PAST, **fields)


def files(chain):
    return sorted(path.name for path in chain.folder.iterdir()) if chain.folder.is_dir() else []


def actions():
    return list(AuditEvent.objects.order_by("pk").values_list("action", "user_name", "severity"))


class TestExpiry:
    def test_an_expired_chain_goes_whole_and_is_in_the_audit(self, job):
        chain, other = over(job), filled(job)
        swept = delete_expired()
        assert (swept.points, swept.chains, swept.kept) == (3, 1, ())
        assert not chain.folder.exists()
        assert list(Chain.objects.all()) == [other]
        assert files(other) == ["1", "2", "3"]
        assert actions() == [("chain expired", "", Severity.HIGH), ("chain deleted", "", Severity.INFO)]
        before = AuditEvent.objects.get(action="chain expired").before
        assert (before["points"], before["size_bytes"], before["chain"]) == (3, 1_020_000, str(chain.uuid))

    def test_the_tick_does_it(self, job):
        chain = over(job)
        tick()
        assert not chain.folder.exists()
        assert not Chain.objects.exists()

    def test_before_its_instant_nothing_goes(self, job):
        chain = filled(job, expires_at=timezone.now() + timedelta(minutes=1))
        assert delete_expired().points == 0
        assert files(chain) == ["1", "2", "3"]

    @pytest.mark.parametrize("state", [JobChainState.CURRENT, JobChainState.PREVIOUS])
    def test_a_chain_that_a_job_owns_never_goes_whatever_its_row_says(self, job, state):
        chain = over(job, state=state)
        assert delete_expired().points == 0
        assert files(chain) == ["1", "2", "3"]
        with pytest.raises(OwnedByJob):
            delete_now(chain, by=None)
        with pytest.raises(OwnedByJob):
            set_expiry(chain, None, by=None)
        assert RestorePoint.objects.sealed().count() == 3

    def test_a_chain_of_a_deleted_job_and_an_imported_one_go_too(self, job, repository):
        mine = over(job, state=JobChainState.CURRENT)
        delete_job(job)
        imported = filled(make_job(repository=repository), expires_at=timezone.now() + PAST, imported_at=timezone.now())
        JobChain.objects.filter(chain=imported).delete()
        assert delete_expired().chains == 2
        assert files(mine) == files(imported) == []

    def test_a_pinned_chain_waits_and_goes_when_its_reader_is_done(self, job):
        chain = over(job)
        pin = make_pin(chain.points.get(sequence=2))
        ((kept, error),) = delete_expired().kept
        assert kept == chain
        assert isinstance(error, InUse) and error.sessions == (pin.session,)
        assert RestorePoint.objects.sealed().count() == 3
        Pin.objects.update(lease_until=timezone.now() + PAST)
        assert delete_expired().chains == 1

    def test_a_chain_that_is_rewrapped_waits(self, job):
        chain = over(job)
        make_session(job, kind=SessionKind.REWRAP, claimed_settings={"chain": str(chain.uuid)})
        assert isinstance(delete_expired().kept[0][1], InUse)
        assert files(chain) == ["1", "2", "3"]

    @pytest.mark.parametrize("claimed", [True, False])
    def test_a_backup_that_may_write_to_it_holds_it(self, job, claimed):
        chain = over(job)
        make_session(job, state=State.RUNNING, claimed_settings={"chain": str(chain.uuid)} if claimed else {})
        assert isinstance(delete_expired().kept[0][1], InUse)

    def test_a_backup_into_another_chain_does_not(self, job):
        over(job)
        make_session(job, state=State.RUNNING, claimed_settings={"chain": str(filled(job).uuid)})
        assert delete_expired().chains == 1

    @pytest.mark.parametrize("hollow", [True, False])
    def test_a_repository_that_is_not_there_loses_no_row(self, job, repository, hollow):
        """Also where only the empty folder stands on which its disk is not mounted."""
        chain = over(job)
        shutil.rmtree(repository.path)
        if hollow:
            repository.root.mkdir()
        assert isinstance(delete_expired().kept[0][1], NotThere)
        with pytest.raises(NotThere):
            delete_now(chain, by=None)
        assert RestorePoint.objects.sealed().count() == 3

    def test_a_long_chain_goes_in_several_ticks_newest_first(self, job, monkeypatch):
        monkeypatch.setattr(expiring, "POINTS_A_TICK", 2)
        chain = over(job, points=5)
        assert delete_expired().points == 2
        assert files(chain) == ["1", "2", "3"]
        assert RestorePoint.objects.filter(state=PointState.DELETING).count() == 3
        assert [delete_expired().points for _ in range(3)] == [2, 1, 0]
        assert not Chain.objects.exists()
        assert [action for action, *_ in actions()] == ["chain expired", "chain deleted"]

    def test_one_that_cannot_be_deleted_does_not_stop_the_next(self, job, monkeypatch):
        stuck, fine = over(job), over(job)
        delete = expiring.delete_points

        def fault(points):
            points = list(points)
            if points[0].chain_id == stuck.pk:
                raise RepositoryUnwritable("read-only", path="x", reason="EROFS")
            return delete(points)

        monkeypatch.setattr(expiring, "delete_points", fault)
        with pytest.raises(ExceptionGroup):
            delete_expired()
        assert list(Chain.objects.all()) == [stuck]
        assert files(fine) == []
        monkeypatch.undo()
        assert delete_expired().chains == 1


class TestDeleteNow:
    def test_marks_at_once_and_the_ticks_remove(self, job):
        chain, alice = filled(job), make_user(username="alice")
        delete_now(chain, by=alice)
        assert not chain.points.sealed().exists()
        assert files(chain) == ["1", "2", "3"]
        with pytest.raises(GoingAlready):
            set_expiry(chain, None, by=alice)
        delete_expired()
        assert not chain.folder.exists()
        assert actions() == [("delete chain", "alice", Severity.HIGH), ("chain deleted", "", Severity.INFO)]

    def test_is_refused_while_a_session_reads_and_names_it(self, job):
        chain = filled(job)
        pin = make_pin(chain.points.first())
        with pytest.raises(InUse, match="restore") as refused:
            delete_now(chain, by=None)
        assert refused.value.sessions == (pin.session,)
        assert chain.points.sealed().count() == 3
        chain.refresh_from_db()
        assert chain.expires_at is None

    def test_an_empty_chain_goes(self, job):
        chain = make_chain(job, state=JobChainState.DETACHED)
        delete_now(chain, by=make_user())
        assert delete_expired().chains == 1


@pytest.mark.django_db(transaction=True)
def test_a_reader_that_comes_while_a_deletion_decides_is_seen(job):
    """The reader has locked its point, and pinned it, but has not committed: the deletion waits for it."""
    chain = filled(job)
    refused: list[InUse] = []

    def deleter() -> None:
        try:
            delete_now(chain, by=None)
        except InUse as error:
            refused.append(error)
        finally:
            connection.close()

    thread = Thread(target=deleter)
    with transaction.atomic():
        pin = make_pin(RestorePoint.objects.select_for_update().get(chain=chain, sequence=2))
        thread.start()
        while thread.is_alive() and not somebody_waits_for_a_lock():
            thread.join(timeout=0.01)
    thread.join(timeout=30)
    assert refused[0].sessions == (pin.session,)
    assert chain.points.sealed().count() == 3


class TestSetting:
    def test_is_changed_and_taken_away_with_an_event_each(self, job):
        chain, at = filled(job), timezone.now() + timedelta(days=3)
        assert set_expiry(chain, at, by=None)
        assert not set_expiry(chain, at, by=None)
        assert set_expiry(chain, None, by=None)
        events = AuditEvent.objects.filter(action="chain expiry changed").order_by("pk")
        assert [(event.before["expires_at"], event.after["expires_at"]) for event in events] == [
            (None, at.isoformat()),
            (at.isoformat(), None),
        ]

    def test_the_last_day_counts_whole_in_local_time(self):
        with timezone.override("Pacific/Auckland"):
            assert end_of(date(2026, 12, 24)).isoformat() == "2026-12-25T00:00:00+13:00"


class TestDetaching:
    def test_gives_the_expiry_with_it(self, job):
        link, at = filled(job, state=JobChainState.CURRENT).job_chain, timezone.now() + timedelta(days=3)
        assert job_cases.detach_chain(link, expires_at=at)
        assert not job_cases.detach_chain(link, expires_at=None)
        link.refresh_from_db()
        assert (link.state, Chain.objects.get().expires_at) == (JobChainState.DETACHED, at)

    @pytest.mark.parametrize("kind", [SessionKind.BACKUP, SessionKind.REWRAP])
    def test_waits_for_a_writer(self, job, kind):
        link = filled(job, state=JobChainState.CURRENT).job_chain
        make_session(job, kind=kind, state=State.WAITING)
        with pytest.raises(JobBusy):
            job_cases.detach_chain(link, expires_at=None)
