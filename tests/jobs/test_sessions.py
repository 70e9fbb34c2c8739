"""Sessions from start to stored end: real processes, real files, a real queue."""

from __future__ import annotations

import base64
import gzip
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.db import connection
from django.db.models.functions import Now
from django.utils import timezone

from backupsite.models import AuditEvent, Role, User
from jobs import supervising
from jobs.admission import admit
from jobs.leases import expire
from jobs.models import DueState, Encryption, Job, JobChain, JobChainState, LogLine, Pin, Proxy, Session, State
from jobs.protocol import BackupRequest, request_line
from jobs.session_log import log_path
from jobs.sessions import (
    AlreadyActive,
    NotRepeatable,
    PointGone,
    request_cancel,
    retry,
    selection_of,
    start_backup,
    start_restore,
    start_verify,
)
from jobs.targets import TargetRefused
from jobs.tasks import run_session
from keys.passwords import kek_of
from keys.sealing import vouch_for
from keys.signing import public_bytes
from repositories import reading
from repositories.engine.encrypted_only import is_marked
from repositories.engine.reader import Password, open_point
from repositories.models import Chain, Kind, PointState, Repository, RestorePoint
from repositories.reading import file_key_of
from tests.factories import (
    change_password,
    make_chain,
    make_due_time,
    make_job,
    make_password,
    make_point,
    make_proxy,
    make_repository,
    make_user,
)
from tests.jobs.trees import make_slow_source
from tests.jobs.unfinished import leave_unfinished

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def proxy(transactional_db: None) -> Proxy:
    proxy = make_proxy()
    Proxy.objects.filter(pk=proxy.pk).update(seen_at=timezone.now() + timedelta(hours=1))
    return proxy


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "one").write_bytes(b"one\n" * 1000)
    (folder / "sub" / "two").write_bytes(os.urandom(5000))
    return folder


@pytest.fixture
def job(tmp_path: Path, source: Path) -> Job:
    return make_job(sources=[str(source)], repository=make_repository(tmp_path / "repository"))


def run(session: Session) -> Session:
    """Do what a worker does with the task that the admission queued."""
    run_session(session.pk)
    session.refresh_from_db()
    return session


def back_up(job: Job, **fields: Any) -> Session:
    job.refresh_from_db()
    return run(start_backup(job, by=None, **fields))


def backed_up(job: Job, **fields: Any) -> RestorePoint:
    session = back_up(job, **fields)
    assert session.state == State.SUCCEEDED, (session.result_code, session.result_message)
    assert session.written_point
    return session.written_point


def log_of(session: Session) -> str:
    return gzip.decompress(log_path(session.uuid).read_bytes()).decode()


def save_protection(job: Job, **fields: Any) -> None:
    """Change what the console vouches for, as saving the job's form does."""
    for name, value in fields.items():
        setattr(job, name, value)
    job.protection_proof = vouch_for(job, "protection_proof")
    job.save()


# Starting


def test_a_start_waits_is_queued_and_says_who_asked(job: Job) -> None:
    bob = make_user(Role.BACKUP_OPERATOR)
    session = start_backup(job, by=bob)
    session.refresh_from_db()
    assert session.state == State.QUEUED
    assert (session.requested_by, session.job, session.job_name, session.repository) == (
        bob,
        job,
        job.name,
        job.repository,
    )


def test_a_second_start_is_refused_and_names_the_first(job: Job) -> None:
    first = start_backup(job, by=None)
    with pytest.raises(AlreadyActive) as refused:
        start_backup(job, by=None)
    assert refused.value.session == first
    assert Session.objects.count() == 1


def test_of_starts_at_the_same_time_one_gets_through(job: Job) -> None:
    barrier, refused = threading.Barrier(4), []

    def start() -> None:
        barrier.wait()
        try:
            start_backup(job, by=None)
        except AlreadyActive as error:
            refused.append(error)
        connection.close()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (Session.objects.count(), len(refused)) == (1, 3)


def test_a_due_time_is_started_with_its_session(job: Job) -> None:
    due = make_due_time(job)
    session = start_backup(job, by=None, due_time=due)
    due.refresh_from_db()
    assert (due.state, due.session) == (DueState.STARTED, session)


# Backups


def test_the_first_backup_is_a_full_that_its_password_opens(job: Job, source: Path) -> None:
    point = backed_up(job)
    session = Session.objects.get()
    assert (session.plan_kind, session.plan_reason) == (Kind.FULL, "first-session")
    assert (session.result_code, session.result_params["kind"]) == ("backed-up", "full")
    assert (session.files, point.files, point.sequence, point.kind) == (2, 2, 1, Kind.FULL)
    assert session.source_bytes == 9000
    assert session.ended_at is not None
    assert session.lease_until is None
    assert job.current_chain() == point.chain
    assert point.size_bytes == point.path.stat().st_size
    assert [slot.password for slot in point.slots.all()] == [job.password and job.password.newest()]
    with open_point(point.path, Password(b"correct horse battery staple")) as opened:
        assert opened.head.file_id == point.uuid
        assert opened.summary.job_name == job.name
        assert opened.summary.reason == "first-session"


def test_the_next_one_is_an_incremental_and_opens_the_whole_chain(job: Job, source: Path) -> None:
    first = backed_up(job)
    (source / "three").write_bytes(b"3")
    second = backed_up(job)
    assert (second.sequence, second.kind, second.parent, second.chain) == (2, Kind.INCREMENTAL, first, first.chain)
    with open_point(second.path, Password(b"correct horse battery staple")) as opened:
        assert set(opened.earlier_file_keys) == {first.uuid}
        root = str(source).lstrip("/").encode()
        assert [entry.name for entry in opened.list_folder(root)] == [b"one", b"sub", b"three"]


def test_a_changed_password_writes_an_incremental_under_the_new_one(job: Job) -> None:
    first = backed_up(job)
    assert job.password
    change_password(job.password, "new horse")
    second = backed_up(job)
    session = Session.objects.order_by("pk").last()
    assert session
    assert (session.plan_kind, session.plan_reason) == (Kind.INCREMENTAL, "key-changed")
    assert second.parent == first
    assert [slot.version for slot in second.slots.all()] == [2]
    with open_point(second.path, Password(b"new horse")) as opened:
        assert set(opened.earlier_file_keys) == {first.uuid}


def test_enabling_and_disabling_encryption_begins_new_chains(job: Job) -> None:
    password = job.password
    encrypted = backed_up(job)
    save_protection(job, encryption=Encryption.OFF, password=None)
    plain = backed_up(job)
    save_protection(job, encryption=Encryption.PASSWORD, password=password)
    again = backed_up(job)
    reasons = list(Session.objects.order_by("pk").values_list("plan_reason", flat=True))
    assert reasons == ["first-session", "encryption-disabled", "encryption-enabled"]
    assert len({encrypted.chain, plain.chain, again.chain}) == 3
    assert (plain.chain.encrypted, plain.file_key_sealed, plain.slots.count()) == (False, None, 0)
    states = dict(JobChain.objects.values_list("chain", "state"))
    assert states == {
        encrypted.chain_id: JobChainState.PREVIOUS,
        plain.chain_id: JobChainState.PREVIOUS,
        again.chain_id: JobChainState.CURRENT,
    }


def test_what_was_asked_for_is_settled_once_it_is_done(job: Job) -> None:
    backed_up(job)
    full = backed_up(job, full=True)
    assert (full.kind, full.sequence, full.parent) == (Kind.FULL, 2, None)
    job.refresh_from_db()
    assert not job.full_requested
    Job.objects.update(new_chain_requested=True)
    new = backed_up(job)
    assert new.chain != full.chain
    job.refresh_from_db()
    assert not job.new_chain_requested


def test_a_failed_session_settles_nothing(job: Job, source: Path) -> None:
    backed_up(job)
    source.rename(source.with_name("elsewhere"))
    session = back_up(job, full=True)
    assert (session.state, session.result_code) == (State.FAILED, "source-missing")
    job.refresh_from_db()
    assert job.full_requested


def test_the_session_keeps_what_it_was_told_and_uses_no_key_unseen(job: Job) -> None:
    backed_up(job)
    session = Session.objects.get()
    assert session.claimed_settings["sources"] == job.sources
    assert session.claimed_settings["password_version"] == 1
    event = AuditEvent.objects.get(action="key used")
    assert (event.object_name, event.after["session"]) == (str(job.password), str(session.uuid))


def test_retention_follows_a_success(job: Job) -> None:
    Job.objects.update(keep_points=1)
    first = backed_up(job)
    path = first.path
    second = backed_up(job)
    assert list(RestorePoint.objects.all()) == [second]
    assert not path.exists()
    assert "pruned" in LogLine.objects.values_list("code", flat=True)


def test_the_log_says_what_is_written_and_why_in_words(job: Job) -> None:
    first, second = (back_up(job) for _ in range(2))
    chain = job.current_chain()
    assert chain
    said = [LogLine.objects.get(session=session, code="plan").message for session in (first, second)]
    assert said == [
        f"Writes full 1 of a new chain {chain.uuid}. It is the first session of this job.",
        f"Writes incremental 2 of the chain {chain.uuid}. It holds the changes since point 1.",
    ]


def test_warnings_are_counted_and_logged(job: Job, source: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(source / "socket"))
        session = back_up(job)
    if session.warnings:
        assert session.state == State.WARNING
        assert LogLine.objects.filter(session=session, level="warning").count() == session.warnings


# Refusals: nothing is written, and the reason is stored


def assert_refused(session: Session, code: str) -> None:
    assert (session.state, session.result_code) == (State.FAILED, code), session.result_message
    assert session.result_message
    assert session.ended_at is not None
    assert not RestorePoint.objects.filter(started_at__gt=session.created_at).exists()
    assert LogLine.objects.filter(session=session, level="error", message=session.result_message).exists()


def test_a_recipient_that_the_console_does_not_vouch_for(job: Job, tmp_path: Path) -> None:
    Job.objects.update(password=make_password("of somebody else"))
    assert_refused(back_up(job), "protection-changed")
    assert not (tmp_path / "repository").exists()


def test_encryption_switched_off_in_the_database(job: Job, tmp_path: Path) -> None:
    Job.objects.update(encryption=Encryption.OFF, password=None)
    assert_refused(back_up(job), "protection-changed")
    assert not (tmp_path / "repository").exists()


def test_a_point_is_signed_by_this_console(job: Job) -> None:
    point = backed_up(job)
    with reading.open_point(point) as opened:
        assert opened.summary.signer == public_bytes()


def test_a_key_that_is_out_of_reach_is_no_reason_for_a_full(job: Job) -> None:
    first = backed_up(job)
    RestorePoint.objects.update(file_key_sealed=b"\1" * 100)
    assert_refused(back_up(job), "key-out-of-reach")
    assert list(first.chain.folder.iterdir()) == [first.path]


def test_a_password_version_that_was_tampered_with(job: Job, tmp_path: Path) -> None:
    assert job.password
    job.password.versions.update(salt=bytes(16))
    assert_refused(back_up(job), "key-out-of-reach")
    assert not (tmp_path / "repository").exists()


def test_a_vault_takes_nothing_plain(job: Job, tmp_path: Path) -> None:
    save_protection(job, encryption=Encryption.OFF, password=None)
    job.repository.requires_encryption = True
    job.repository.save()
    assert_refused(back_up(job), "plaintext-refused")
    assert not (tmp_path / "repository").exists()


def test_a_plain_file_that_was_published_as_encryption_became_required_stays_foreign(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the session that wrote it registers it, nor the next one, which begins an encrypted chain beside it."""
    save_protection(job, encryption=Encryption.OFF, password=None)
    work = supervising.Supervisor.run

    def require_after(self: supervising.Supervisor, request: Any) -> Any:
        end = work(self, request)
        Repository.objects.update(requires_encryption=True)
        return end

    with monkeypatch.context() as patch:
        patch.setattr(supervising.Supervisor, "run", require_after)
        assert_refused(back_up(job), "plaintext-refused")
    (plain,) = job.repository.root.iterdir()
    save_protection(job, encryption=Encryption.PASSWORD, password=make_password())
    session = back_up(job)
    assert session.state == State.SUCCEEDED and f"{plain} is plain" in log_of(session)
    chain = Chain.objects.get()
    assert chain.encrypted and str(chain.uuid) != plain.name
    assert is_marked(job.repository.root) and (plain / "1").is_file()


def test_a_source_in_a_repository(job: Job, tmp_path: Path) -> None:
    (tmp_path / "repository" / "x").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "repository" / "x")
    Job.objects.update(sources=[str(tmp_path / "link")])
    assert_refused(back_up(job), "source-in-repository")


def test_a_source_in_the_state_folder(job: Job, tmp_path: Path) -> None:
    inside = settings.BACKUPSITE.home / "logs"
    inside.mkdir(exist_ok=True)
    (tmp_path / "link").symlink_to(inside)
    for source in (str(settings.BACKUPSITE.home), str(inside), str(tmp_path / "link")):
        Job.objects.update(sources=[source])
        assert_refused(back_up(job), "source-in-state-folder")
    assert not (tmp_path / "repository").exists()


def test_a_repository_that_is_not_mounted_is_not_made_anew(job: Job, tmp_path: Path) -> None:
    backed_up(job)
    (tmp_path / "repository").rename(tmp_path / "unmounted")
    assert_refused(back_up(job), "repository-away")
    assert not (tmp_path / "repository").exists()
    (tmp_path / "unmounted").rename(tmp_path / "repository")
    assert backed_up(job).sequence == 2


def test_an_empty_folder_where_the_repository_was_is_not_written(job: Job, tmp_path: Path) -> None:
    backed_up(job)
    (tmp_path / "repository").rename(tmp_path / "disk")
    (tmp_path / "repository").mkdir()  # the mount point without its disk
    assert_refused(back_up(job), "repository-empty")
    assert not list((tmp_path / "repository").iterdir())
    Job.objects.update(new_chain_requested=True)
    assert backed_up(job).sequence == 1


def test_a_repository_inside_a_source_is_left_out(job: Job, source: Path) -> None:
    make_repository(source / "other")
    (source / "other").mkdir()
    (source / "other" / "file").write_bytes(b"of a repository")
    job.repository.path = str(source / "repository")
    job.repository.save()
    point = backed_up(job)
    assert point.files == 2


def test_a_job_that_was_deleted_while_it_waited(job: Job) -> None:
    session = start_backup(job, by=None)
    job.delete()
    assert_refused(run(session), "job-gone")


def test_a_full_state_disk_stops_the_session(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.supervising.RESERVE_BYTES", 2**62)
    session = back_up(job)
    assert_refused(session, "state-disk-full")
    assert session.result_params["path"] == str(settings.BACKUPSITE.home)
    assert not (tmp_path / "repository").exists()


def test_a_fault_of_our_own_is_a_stored_result(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.backing_up.situation_of", lambda job: 1 / 0)
    session = back_up(job)
    assert_refused(session, "internal-error")
    assert session.result_params == {"type": "ZeroDivisionError"}
    assert "ZeroDivisionError" in log_of(session)


# The repository beside the catalogue


def test_a_missing_file_begins_a_new_chain_that_names_it(job: Job) -> None:
    first = backed_up(job)
    first.path.unlink()
    second = backed_up(job)
    session = Session.objects.order_by("pk").last()
    assert session
    assert session.plan_reason == "chain-damaged"
    assert "point 1" in session.plan_params["damage"]
    assert (second.sequence, second.kind) == (1, Kind.FULL)
    assert second.chain != first.chain


def test_a_sealed_file_without_a_row_is_adopted_before_planning(job: Job, source: Path) -> None:
    backed_up(job)
    (source / "three").write_bytes(b"3")
    lost = backed_up(job)
    facts = (lost.uuid, lost.seal_hash, lost.files, lost.size_bytes, lost.source_bytes, lost.parent, lost.started_at)
    Session.objects.update(written_point=None)
    lost.delete()
    third = backed_up(job)
    found = RestorePoint.objects.get(sequence=2)
    assert (third.sequence, third.parent) == (3, found)
    assert (found.uuid, found.seal_hash, found.files, found.size_bytes, found.source_bytes, found.parent) == facts[:6]
    assert abs(found.started_at - facts[6]) < timedelta(milliseconds=1)
    assert [slot.version for slot in found.slots.all()] == [1]
    assert "adopted" in LogLine.objects.values_list("code", flat=True)
    verify = run(start_verify(found, by=None, depth="full"))
    assert verify.state == State.SUCCEEDED, verify.result_message  # its key was sealed for the new row


def test_the_first_file_of_a_new_chain_is_adopted_too(job: Job) -> None:
    """Its session died after publishing: neither the chain nor the point has a row."""
    point = backed_up(job)
    chain = point.chain
    Session.objects.update(written_point=None, state=State.INTERRUPTED)
    point.delete()
    JobChain.objects.all().delete()
    chain.delete()
    second = backed_up(job)
    assert (second.sequence, second.kind, second.chain.uuid) == (2, Kind.INCREMENTAL, chain.uuid)
    assert job.current_chain() == second.chain


def test_a_new_chain_that_was_begun_is_resumed_in_its_unfinished_file(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session was killed: the chain has no row, and the next session goes on under the same chain and file id."""
    requests: list[BackupRequest] = []
    with monkeypatch.context() as patch:
        patch.setattr(supervising, "request_line", lambda request: requests.append(request) or request_line(request))
        point = backed_up(job)
    chain, part = point.chain, point.path.with_name(f"1.{point.uuid}.part")
    Session.objects.update(written_point=None, state=State.INTERRUPTED)
    point.delete()
    JobChain.objects.all().delete()
    chain.delete()
    point.path.unlink()
    leave_unfinished(requests[0], tmp_path, monkeypatch)
    assert part.exists()
    resumed = backed_up(job)
    assert (resumed.uuid, resumed.chain.uuid, resumed.sequence) == (point.uuid, chain.uuid, 1)
    assert "resumed" in LogLine.objects.values_list("code", flat=True)
    assert [path.name for path in job.repository.root.rglob("*") if path.is_file()] == ["1"]


def test_a_foreign_file_ahead_stops_the_session(job: Job) -> None:
    point = backed_up(job)
    (point.chain.folder / "2").write_bytes(os.urandom(20_000))
    assert_refused(back_up(job), "cannot-adopt")
    Job.objects.update(new_chain_requested=True)
    assert backed_up(job).chain != point.chain


def test_an_interrupted_deletion_is_finished(job: Job) -> None:
    first, second = backed_up(job), backed_up(job, full=True)
    RestorePoint.objects.filter(pk=first.pk).update(state=PointState.DELETING)
    third = backed_up(job)
    assert not first.path.exists()
    assert list(RestorePoint.objects.order_by("sequence")) == [second, third]


# Delivery, leases and being killed


def test_a_second_delivery_leaves_silently(job: Job) -> None:
    session = start_backup(job, by=None)
    run(session)
    before = Session.objects.values().get()
    run_session(session.pk)
    assert Session.objects.values().get() == before
    assert RestorePoint.objects.count() == 1


def test_a_session_that_was_taken_away_seals_nothing(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else holds the session by the time the file could be sealed."""
    session = start_backup(job, by=None)

    def steal(held: Any) -> bool:
        Session.objects.filter(pk=session.pk).update(fence=99)
        return real(held)

    real = supervising.renew
    monkeypatch.setattr(supervising, "renew", steal)
    run(session)
    assert (session.state, session.fence) == (State.RUNNING, 99)  # the stale worker stored nothing
    assert not RestorePoint.objects.exists()
    left = [path for path in job.repository.root.rglob("*") if path.is_file()]
    assert all(path.suffix == ".part" for path in left)  # at most an unfinished file, for whoever holds it now


def test_an_expired_session_lets_the_next_one_run(job: Job) -> None:
    session = start_backup(job, by=None)
    Session.objects.filter(pk=session.pk).update(state=State.RUNNING, lease_until=Now() - timedelta(seconds=1), fence=1)
    assert expire() == [session.pk]
    assert backed_up(job).sequence == 1


# Stopping


@pytest.fixture
def long_source(source: Path) -> Path:
    make_slow_source(source)
    Job.objects.update(level="strong")
    return source


def in_thread(session: Session) -> threading.Thread:
    def work() -> None:
        run_session(session.pk)
        connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def wait_for(true: Callable[[], bool], seconds: float = 20) -> None:
    done = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if true():
            return
        done.wait(0.02)
    raise AssertionError("waited in vain")


def test_a_session_that_has_not_begun_is_stopped_at_once(job: Job) -> None:
    session = start_backup(job, by=None)
    assert request_cancel(session)
    session.refresh_from_db()
    assert (session.state, session.result_code) == (State.CANCELLED, "cancelled")
    run(session)
    assert session.state == State.CANCELLED
    assert not request_cancel(session)
    assert backed_up(job)


def test_a_running_session_stops_within_two_seconds(job: Job, long_source: Path) -> None:
    session = start_backup(job, by=None)
    thread = in_thread(session)
    wait_for(lambda: any(path.stat().st_size > 10**6 for path in job.repository.root.rglob("*.part")))
    process = next(children())
    os.kill(process, signal.SIGSTOP)  # a fast machine would be done before anybody could ask it to stop
    session.refresh_from_db()
    assert request_cancel(session)
    os.kill(process, signal.SIGCONT)
    wait_for(lambda: Session.objects.filter(pk=session.pk).exclude(state=State.RUNNING).exists(), seconds=10)
    thread.join()
    session.refresh_from_db()
    assert (session.state, session.result_code) == (State.CANCELLED, "cancelled")
    assert session.cancel_requested_at and session.ended_at
    assert session.ended_at - session.cancel_requested_at < timedelta(seconds=2)
    assert not [path for path in job.repository.root.rglob("*") if path.name.isdecimal()]
    assert not RestorePoint.objects.exists()
    assert session.progress.current_path == ""
    assert not request_cancel(session)


def children() -> Iterator[int]:
    """The processes of sessions that this process started."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                command = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if int(stat[1]) == os.getpid() and b"jobs.process" in command and stat[0] != "Z":
                yield int(name)


def test_a_killed_process_is_a_failed_session_and_the_next_one_tidies_up(job: Job, long_source: Path) -> None:
    session = start_backup(job, by=None)
    thread = in_thread(session)
    wait_for(lambda: Session.objects.filter(pk=session.pk, progress__bytes_written__gt=10**6).exists())
    for pid in children():
        os.kill(pid, signal.SIGKILL)
    thread.join()
    session.refresh_from_db()
    assert (session.state, session.result_code) == (State.FAILED, "process-ended")
    assert "Killed" in session.result_message
    Job.objects.update(level="none")
    point = backed_up(job)
    assert [path for path in job.repository.root.rglob("*") if path.is_file()] == [point.path]


# Restores and verifies


def restore_root() -> Path:
    return Path(settings.BACKUPSITE.home) / "restores"


def test_a_restore_below_the_restore_root(job: Job, source: Path) -> None:
    point, charlie = backed_up(job), make_user(Role.RESTORE_OPERATOR)
    into = restore_root() / point.uuid.hex
    session = run(start_restore(point, by=charlie, paths=[], into=str(into), existing="skip"))
    assert (session.state, session.result_code, session.files) == (State.SUCCEEDED, "restored", 2)
    restored = into / str(source).lstrip("/")
    assert (restored / "sub" / "two").read_bytes() == (source / "sub" / "two").read_bytes()
    assert not Pin.objects.exists()
    actions = list(AuditEvent.objects.filter(user=charlie).order_by("pk").values_list("action", flat=True))
    assert actions == ["restore requested", "key used", "restore started", "restore ended"]


def test_a_restore_of_a_selection_by_an_administrator_anywhere(job: Job, source: Path, tmp_path: Path) -> None:
    point = backed_up(job)
    path = str(source / "one").lstrip("/").encode()
    chosen = start_restore(point, by=make_user(), paths=[path], into=str(tmp_path / "into"), existing="overwrite")
    assert run(chosen).files == 1
    assert (tmp_path / "into" / path.decode()).read_bytes() == (source / "one").read_bytes()


def test_where_a_restore_may_not_go(job: Job, tmp_path: Path) -> None:
    point, charlie, alice = backed_up(job), make_user(Role.RESTORE_OPERATOR), make_user()
    for by, into, code in (
        (charlie, tmp_path / "into", "outside-roots"),
        (charlie, restore_root() / ".." / "x", "in-state-folder"),
        (alice, tmp_path / "repository" / "x", "in-repository"),
        (alice, settings.BACKUPSITE.home / "logs", "in-state-folder"),
        (alice, Path("relative"), "not-absolute"),
    ):
        with pytest.raises(TargetRefused) as refused:
            start_restore(point, by=by, paths=[], into=str(into), existing="skip")
        assert refused.value.code == code
    assert not Pin.objects.exists()


def test_rights_that_were_lost_meanwhile_count(job: Job, tmp_path: Path) -> None:
    point, alice = backed_up(job), make_user()
    session = start_restore(point, by=alice, paths=[], into=str(tmp_path / "into"), existing="skip")
    alice.grants.all().delete()
    run(session)
    assert (session.state, session.result_code) == (State.FAILED, "outside-roots")
    assert not (tmp_path / "into").exists()


def test_a_link_in_the_restore_root_is_not_followed(job: Job, tmp_path: Path) -> None:
    point = backed_up(job)
    into = restore_root() / point.uuid.hex
    session = start_restore(point, by=make_user(Role.RESTORE_OPERATOR), paths=[], into=str(into / "x"), existing="skip")
    restore_root().mkdir(parents=True, exist_ok=True)
    into.symlink_to(tmp_path)
    assert run(session).state == State.FAILED
    assert not (tmp_path / "x").exists()


def test_the_selection_is_sealed(job: Job) -> None:
    point = backed_up(job)
    into = str(restore_root() / "secret-place")
    session = start_restore(point, by=make_user(), paths=[b"secret-\xff"], into=into, existing="rename")
    session = Session.objects.get(pk=session.pk)
    assert b"secret" not in bytes(session.order_sealed or b"")
    chosen = selection_of(session)
    assert (chosen.paths, chosen.into, chosen.existing) == ((b"secret-\xff",), into, "rename")


def test_a_point_that_is_going_is_not_restored(job: Job) -> None:
    point = make_point(make_chain(job))
    RestorePoint.objects.update(state=PointState.DELETING)
    with pytest.raises(PointGone):
        start_verify(point, by=None)
    assert not Session.objects.exists()


def test_a_reader_holds_its_point_until_it_ends(job: Job) -> None:
    Job.objects.update(keep_points=1)
    point = backed_up(job)
    reader = start_verify(point, by=None)
    backed_up(job)
    assert point.path.exists()
    assert "prune-held" in LogLine.objects.values_list("code", flat=True)
    assert run(reader).state == State.SUCCEEDED
    assert not Pin.objects.exists()
    backed_up(job)
    assert not point.path.exists()


@pytest.mark.parametrize("depth", ["quick", "full"])
def test_a_verify_of_a_sound_point(job: Job, depth: str) -> None:
    session = run(start_verify(backed_up(job), by=None, depth=depth))
    assert (session.state, session.result_code) == (State.SUCCEEDED, "verified"), session.result_message
    assert session.result_params["depth"] == depth


def test_a_verify_names_the_damage_and_the_next_session_begins_a_new_chain(job: Job, source: Path) -> None:
    (source / "large").write_bytes(os.urandom(6 * 1024**2))
    point = backed_up(job)
    with point.path.open("r+b") as file:
        file.seek(point.size_bytes // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    session = run(start_verify(point, by=None, depth="full"))
    assert (session.state, session.result_code) == (State.FAILED, "damaged")
    assert any(
        "large" in message for message in LogLine.objects.filter(level="error").values_list("message", flat=True)
    )
    assert "point 1" in Chain.objects.get().damage
    assert backed_up(job).chain != point.chain


# Again


def test_retry_starts_the_same_again(job: Job, tmp_path: Path) -> None:
    alice = make_user()
    first = back_up(job)
    point = first.written_point
    assert point
    restore = run(start_restore(point, by=alice, paths=[], into=str(tmp_path / "into"), existing="skip"))
    verify = run(start_verify(point, by=alice, depth="full"))
    for session in (first, restore, verify):
        again = run(retry(session, by=alice))
        assert (again.kind, again.state) == (session.kind, State.SUCCEEDED)
        assert again.pk != session.pk


def test_what_cannot_be_repeated(job: Job) -> None:
    session = start_backup(job, by=None)
    with pytest.raises(NotRepeatable):
        retry(session, by=None)
    request_cancel(session)
    session.refresh_from_db()
    job.delete()
    session.refresh_from_db()
    with pytest.raises(NotRepeatable):
        retry(session, by=None)


def test_an_end_admits_whoever_waits(job: Job, proxy: Proxy, source: Path, tmp_path: Path) -> None:
    Proxy.objects.update(workers=1)
    other = make_job(sources=[str(source)], repository=make_repository(tmp_path / "other"))
    first, second = start_backup(job, by=None), start_backup(other, by=None)
    second.refresh_from_db()
    assert second.wait_reason == "proxy-busy"
    run(first)
    second.refresh_from_db()
    assert second.state == State.QUEUED
    assert admit() == 0


def test_nobody_is_told_a_key(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    """Everything that a session leaves in the database, in its log file and on the terminal."""
    assert isinstance(make_user(), User)
    point = backed_up(job)
    assert job.password
    keys = [kek_of(job.password.newest()), file_key_of(point) or b""]
    rows = "".join(str(list(model.objects.values())) for model in apps.get_models())
    log = log_of(Session.objects.get())
    said = "".join((rows, log, *capfd.readouterr()))
    for key in keys:
        assert len(key) == 32
        for form in (key.hex(), base64.b64encode(key).decode(), repr(key)[2:-1]):
            assert form not in said
