"""Workers that are killed, processes that are stopped, a database that goes away: every session ends well."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection
from django.utils import timezone

from jobs.leases import expire
from jobs.models import Job, LogLevel, LogLine, Proxy, Session, SessionProgress, State
from jobs.session_log import KEPT_A_LEVEL, SessionLog, log_path
from jobs.sessions import request_cancel, start_backup
from jobs.supervising import end_group, fresh_environment, has_ended, start_process
from jobs.tasks import run_session
from tests.factories import make_job, make_proxy, make_repository, make_session
from tests.jobs.trees import SLOW_BYTES, make_slow_source
from tests.jobs.worker_process import Door, start_worker

pytestmark = pytest.mark.django_db(transaction=True)

LEASE_SECONDS = 1.5


@pytest.fixture(autouse=True)
def proxy(transactional_db: None) -> Proxy:
    proxy = make_proxy()
    Proxy.objects.filter(pk=proxy.pk).update(seen_at=timezone.now() + timedelta(hours=1))
    return proxy


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job whose full takes some seconds."""
    source = tmp_path / "source"
    make_slow_source(source)
    return make_job(sources=[str(source)], repository=make_repository(tmp_path / "repository"), level="strong")


def wait_for(true: Callable[[], bool], seconds: float = 30) -> None:
    pause = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if true():
            return
        pause.wait(0.02)
    raise AssertionError("waited in vain")


def is_reading(session: Session) -> bool:
    return Session.objects.filter(pk=session.pk, progress__bytes_written__gt=10**6).exists()


def is_over(session: Session) -> bool:
    return not Session.objects.active().filter(pk=session.pk).exists()


def files_in(job: Job) -> list[Path]:
    return [path for path in job.repository.root.rglob("*") if path.is_file()]


def published(job: Job) -> list[str]:
    """The sealed files; what is unfinished has another name, and the next session removes it."""
    return [path.name for path in files_in(job) if path.name.isdecimal()]


def process_of(parent: int) -> int:
    """The session process that `parent` started, as soon as it is there.

    It is looked for again and again, and taken from the look that found it: in the middle of its exec it has no
    command, so of two looks the first may see it and the second not.
    """
    found: list[int] = []

    def is_there() -> bool:
        found[:] = processes_of(parent)
        return len(found) == 1

    wait_for(is_there)
    return found[0]


def processes_of(parent: int) -> list[int]:
    """The session processes that `parent` started, zombies left out, and its launcher."""
    return [pid for pid, (state, above, command) in all_processes() if above == parent and state != "Z" and command]


def all_processes() -> Iterator[tuple[int, tuple[str, int, bool]]]:
    for name in os.listdir("/proc"):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            arguments = Path(f"/proc/{name}/cmdline").read_bytes()
        except (OSError, UnicodeDecodeError):
            continue
        if name.isdigit():
            command = b"jobs.process" in arguments and b"launch.py" not in arguments
            yield int(name), (fields[0], int(fields[1]), command)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def workers() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for worker in started:
        worker.kill()
        worker.wait()


# Killed


def test_kill_of_a_worker_ends_its_process_and_the_session_is_interrupted(
    job: Job, workers: list[subprocess.Popen[bytes]]
) -> None:
    session = start_backup(job, by=None)
    workers.append(start_worker(session.pk, lease_seconds=LEASE_SECONDS))
    wait_for(lambda: is_reading(session))
    child = process_of(workers[0].pid)
    workers[0].kill()
    workers[0].wait()
    wait_for(lambda: not is_alive(child), seconds=8)
    session.refresh_from_db()
    assert session.state == State.RUNNING  # nobody was there to say anything else
    wait_for(lambda: expire() == [session.pk], seconds=5)
    session.refresh_from_db()
    assert (session.state, session.result_code) == (State.INTERRUPTED, "lease-lost")
    Job.objects.update(level="none")
    again = start_backup(Job.objects.get(), by=None)
    run_session(again.pk)
    again.refresh_from_db()
    assert again.state == State.SUCCEEDED, again.result_message
    assert again.written_point
    assert files_in(job) == [again.written_point.path]


def test_a_frozen_worker_that_wakes_up_late_seals_nothing(job: Job, workers: list[subprocess.Popen[bytes]]) -> None:
    """Suspended past its lease, it finds that the session is no longer its own."""
    session = start_backup(job, by=None)
    workers.append(start_worker(session.pk, lease_seconds=LEASE_SECONDS))
    wait_for(lambda: is_reading(session))
    child = process_of(workers[0].pid)
    workers[0].send_signal(signal.SIGSTOP)
    os.kill(child, signal.SIGSTOP)
    wait_for(lambda: expire() == [session.pk], seconds=10)
    os.kill(child, signal.SIGCONT)
    workers[0].send_signal(signal.SIGCONT)
    assert workers[0].wait(timeout=30) == 0
    assert not is_alive(child)
    session.refresh_from_db()
    assert (session.state, session.written_point) == (State.INTERRUPTED, None)
    assert published(job) == []


def test_a_console_that_is_stopped_interrupts_its_sessions(job: Job, workers: list[subprocess.Popen[bytes]]) -> None:
    """The supervisor of the whole console sends TERM to the sessions first; their workers store what happened."""
    session = start_backup(job, by=None)
    workers.append(start_worker(session.pk, lease_seconds=LEASE_SECONDS))
    wait_for(lambda: is_reading(session))
    child = process_of(workers[0].pid)
    os.kill(child, signal.SIGTERM)
    assert workers[0].wait(timeout=20) == 0
    session.refresh_from_db()
    assert (session.state, session.result_code) == (State.INTERRUPTED, "stopped-outside")
    assert published(job) == []


def test_a_process_that_does_not_listen_is_killed_within_two_seconds(job: Job) -> None:
    session = start_backup(job, by=None)
    thread = threading.Thread(target=lambda: (run_session(session.pk), connection.close()))
    thread.start()
    wait_for(lambda: is_reading(session))
    child = process_of(os.getpid())
    os.kill(child, signal.SIGSTOP)
    request_cancel(session)
    wait_for(lambda: is_over(session), seconds=10)
    thread.join()
    session.refresh_from_db()
    assert session.state == State.CANCELLED
    assert session.ended_at
    assert session.cancel_requested_at
    assert session.ended_at - session.cancel_requested_at < timedelta(seconds=2.5)
    assert not is_alive(child)


# Without a database


def test_a_session_survives_a_database_that_goes_away_and_comes_back(
    job: Job, workers: list[subprocess.Popen[bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    door = Door(tmp_path_factory.mktemp("door"))
    session = start_backup(job, by=None)
    workers.append(start_worker(session.pk, lease_seconds=30, socket_folder=door.folder))
    wait_for(lambda: is_reading(session))
    child = process_of(workers[0].pid)
    door.shut()
    written = process_bytes_written(child)
    wait_for(lambda: process_bytes_written(child) > written + 4 * 1024**2)  # it goes on
    assert is_alive(child)
    door.open()
    assert workers[0].wait(timeout=60) == 0
    session.refresh_from_db()
    assert (session.state, session.result_code) == (State.SUCCEEDED, "backed-up"), session.result_message


def process_bytes_written(pid: int) -> int:
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("wchar:"):
            return int(line.split()[1])
    raise AssertionError("no wchar")


def test_nothing_is_sealed_while_the_database_is_away(
    job: Job, workers: list[subprocess.Popen[bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    Job.objects.update(level="none")
    door = Door(tmp_path_factory.mktemp("door"))
    session = start_backup(job, by=None)
    workers.append(start_worker(session.pk, lease_seconds=30, socket_folder=door.folder))
    child = process_of(workers[0].pid)
    os.kill(child, signal.SIGSTOP)  # it has just begun, and does not get to its end before the door is shut
    door.shut()
    os.kill(child, signal.SIGCONT)
    wait_for(lambda: is_waiting_for_an_answer(child))
    assert published(job) == []
    door.open()
    assert workers[0].wait(timeout=60) == 0
    session.refresh_from_db()
    assert session.state == State.SUCCEEDED, session.result_message
    assert published(job) == ["1"]


def is_waiting_for_an_answer(pid: int) -> bool:
    """Its main thread reads from a pipe, and everything is on disk."""
    try:
        return "pipe_read" in Path(f"/proc/{pid}/wchan").read_text() and process_bytes_written(pid) > SLOW_BYTES // 3
    except OSError:
        return False


# What is shown while it runs


def test_progress_is_stored_while_it_runs_and_the_file_is_hidden_afterwards(job: Job) -> None:
    session = start_backup(job, by=None)
    thread = threading.Thread(target=lambda: (run_session(session.pk), connection.close()))
    thread.start()
    wait_for(lambda: SessionProgress.objects.filter(session=session, current_path__contains="text-").exists())
    wait_for(lambda: len(SessionProgress.objects.get(session=session).samples) > 0)
    thread.join()
    progress = SessionProgress.objects.get()
    assert progress.current_path == ""
    assert progress.bytes_read > SLOW_BYTES // 2
    assert set(progress.busy_seconds) == {"source", "proxy", "repository"}
    assert progress.samples[0][0] >= 1
    assert any(read > 0 for _, read, _ in progress.samples)
    assert any(written > 0 for _, _, written in progress.samples)


# The process and its surroundings


def test_the_environment_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_WORKER", "x")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    process = start_process()
    try:
        wait_for(lambda: os.getsid(process.pid) == process.pid)
        wait_for(lambda: b"launch.py" not in Path(f"/proc/{process.pid}/cmdline").read_bytes())
        wait_for(lambda: bool(Path(f"/proc/{process.pid}/environ").read_bytes()))  # empty in the middle of an exec
        environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        names = {line.split(b"=")[0] for line in environment.split(b"\0") if line}
        assert names == {name.encode() for name in fresh_environment()}
        assert b"SECRET" not in environment
    finally:
        end_group(process, finished=False)
        for pipe in (process.stdout, process.stderr):
            assert pipe
            pipe.close()


def test_helpers_of_a_killed_process_are_ended_too() -> None:
    """They would keep its pipes open, and its worker listening."""
    code = "import subprocess, time; print(subprocess.Popen(['sleep', '100']).pid, flush=True); time.sleep(100)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout
    helper = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: has_ended(process))
    assert process.returncode is None  # its end is not taken: its number can't be somebody else's
    assert is_alive(helper)
    end_group(process, finished=True)
    wait_for(lambda: not is_alive(helper))
    assert process.stdout.read() == b""
    process.stdout.close()


def test_a_log_keeps_a_thousand_lines_a_level_and_all_of_them_in_its_file() -> None:
    session = make_session()
    log = SessionLog(session)
    for number in range(KEPT_A_LEVEL + 7):
        log.say_warning("unreadable", f"file {number} cannot be read")
    log.say("plan", "one line\0with a zero byte")
    log.close()
    log.close()
    assert LogLine.objects.filter(level=LogLevel.WARNING).exclude(code="log-rest").count() == KEPT_A_LEVEL
    rest = LogLine.objects.get(code="log-rest")
    assert "7 more lines" in rest.message
    assert str(log_path(session.uuid)) in rest.message
    text = gzip.decompress(log_path(session.uuid).read_bytes()).decode()
    assert text.count("cannot be read") == KEPT_A_LEVEL + 7
    assert log_path(session.uuid).stat().st_mode & 0o077 == 0


def test_what_was_logged_can_be_read_although_the_worker_was_killed() -> None:
    session = make_session()
    log = SessionLog(session)
    log.say("plan", "the line before the end")
    log.store()
    raw = log_path(session.uuid).read_bytes()  # not closed: this is what a kill leaves
    assert b"the line before the end" in zlib.decompressobj(wbits=31).decompress(raw)
    log.close()
