"""Which clusters are alive, which hang, and that a hung one is ended with everything that belongs to it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.db import OperationalError
from django.utils import timezone
from django_q.models import OrmQ, Schedule
from django_q.tasks import async_task

from backupsite import processes
from jobs import clusters
from jobs.admission import database_now
from jobs.clusters import HUNG_AFTER, end_hung, is_hung, keep_schedule, pid_file, see_proxies
from jobs.management.commands.watchdog import Duty, watch
from jobs.models import Proxy, Session, State
from tests.factories import make_job, make_proxy, make_session

pytestmark = pytest.mark.django_db

LONG_AGO = timedelta(minutes=10)


@pytest.fixture(autouse=True)
def run_folder() -> Iterator[Path]:
    folder = settings.BACKUPSITE.run_folder
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    for path in folder.glob("*.pid"):
        path.unlink()


@pytest.fixture
def cluster() -> Iterator[subprocess.Popen[bytes]]:
    """A process group that stands for the session cluster: a master with one worker, started long ago."""
    code = "import subprocess, sys; print(subprocess.Popen(['sleep', '100']).pid, flush=True); sys.stdin.read()"
    popen = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    start = processes.start_of(popen.pid)
    assert start is not None
    assert popen.stdout
    popen.stdout.readline()  # the worker runs
    processes.write_pid_file(pid_file("local"), processes.Process(popen.pid, start))
    old = timezone.now().timestamp() - 1000
    os.utime(pid_file("local"), (old, old))
    yield popen
    processes.kill_group(processes.Process(popen.pid, start))
    popen.wait()
    assert popen.stdin
    popen.stdin.close()
    popen.stdout.close()


def group(popen: subprocess.Popen[bytes]) -> list[int]:
    return [row.pid for row in processes.all_rows() if row.group == popen.pid]


def forgotten() -> Session:
    """A session whose task nobody takes."""
    session = make_session(make_job(), state=State.QUEUED)
    Session.objects.filter(pk=session.pk).update(queued_at=database_now() - HUNG_AFTER * 2)
    return session


def running(lease: timedelta) -> Session:
    return make_session(make_job(), state=State.RUNNING, lease_until=database_now() + lease)


def test_a_session_cluster_hangs_when_a_free_worker_takes_nothing() -> None:
    make_proxy()
    assert not is_hung("local", database_now())
    forgotten()
    assert is_hung("local", database_now())
    running(timedelta(minutes=1))
    assert is_hung("local", database_now())  # one of two workers is busy
    running(timedelta(minutes=1))
    assert not is_hung("local", database_now())  # both are: waiting is no sign of hanging


def test_a_worker_without_a_lease_is_not_busy() -> None:
    make_proxy()
    forgotten()
    for _ in range(2):
        running(-timedelta(seconds=1))
    assert is_hung("local", database_now())


def test_a_session_that_was_just_queued_is_no_sign() -> None:
    make_proxy()
    session = forgotten()
    Session.objects.filter(pk=session.pk).update(queued_at=database_now())
    assert not is_hung("local", database_now())


@pytest.mark.parametrize(("name", "timeout_seconds"), [("local.quick", 30), ("control", 60)])
def test_a_short_cluster_hangs_when_a_task_lies_longer_than_one_may_take(name: str, timeout_seconds: int) -> None:
    make_proxy()
    async_task("jobs.tasks.tick", cluster=name)
    limit = HUNG_AFTER + timedelta(seconds=timeout_seconds)
    OrmQ.objects.update(lock=database_now() - limit + timedelta(seconds=5))
    assert not is_hung(name, database_now())
    OrmQ.objects.update(lock=database_now() - limit - timedelta(seconds=5))
    assert is_hung(name, database_now())


def test_a_hung_cluster_is_ended_whole_and_its_tasks_are_delivered_again(cluster: subprocess.Popen[bytes]) -> None:
    make_proxy()
    session = forgotten()
    async_task("jobs.tasks.run_session", session.pk, cluster="local")
    OrmQ.objects.update(lock=database_now() + timedelta(minutes=5))
    assert len(group(cluster)) == 2
    assert end_hung() == ["local"]
    assert processes.wait_until(lambda: group(cluster) == [], 5)
    assert OrmQ.objects.get().lock <= database_now()


def test_a_cluster_that_works_is_left_alone(cluster: subprocess.Popen[bytes]) -> None:
    make_proxy()
    assert end_hung() == []
    assert len(group(cluster)) == 2


def test_a_cluster_that_has_just_started_gets_its_time(cluster: subprocess.Popen[bytes]) -> None:
    make_proxy()
    forgotten()
    os.utime(pid_file("local"))
    assert end_hung() == []
    assert len(group(cluster)) == 2


def test_workers_without_a_master_are_ended(cluster: subprocess.Popen[bytes]) -> None:
    make_proxy()
    cluster.kill()
    cluster.wait()
    assert len(group(cluster)) == 1
    assert end_hung() == ["local"]
    assert processes.wait_until(lambda: group(cluster) == [], 5)
    assert end_hung() == []


def test_a_proxy_is_seen_while_its_cluster_runs(cluster: subprocess.Popen[bytes]) -> None:
    here, elsewhere = make_proxy(), make_proxy(name="elsewhere", cluster="elsewhere")
    Proxy.objects.update(seen_at=None)
    see_proxies()
    here.refresh_from_db()
    elsewhere.refresh_from_db()
    assert here.seen_at is not None
    assert timezone.now() - here.seen_at < timedelta(seconds=30)
    assert elsewhere.seen_at is None
    cluster.kill()
    cluster.wait()
    Proxy.objects.update(seen_at=None)
    see_proxies()
    here.refresh_from_db()
    assert here.seen_at is None


def test_the_schedule_of_the_tick_is_kept() -> None:
    keep_schedule()
    row = Schedule.objects.get()
    assert (row.func, row.cluster, row.schedule_type, row.minutes, row.repeats) == (
        "jobs.tasks.tick",
        "control",
        Schedule.MINUTES,
        1,
        -1,
    )
    keep_schedule()
    assert Schedule.objects.get() == row
    Schedule.objects.update(repeats=0)
    keep_schedule()
    assert Schedule.objects.get().repeats == -1
    Schedule.objects.all().delete()
    keep_schedule()
    assert Schedule.objects.count() == 1


# The watchdog's round


def make_duty(action: Callable[[], object], every_seconds: float = 1.0) -> Duty:
    return Duty("duty", action, every_seconds)


def test_a_duty_is_done_when_it_is_due() -> None:
    done: list[int] = []
    duty = make_duty(lambda: done.append(1), every_seconds=5)
    for now in (100.0, 101.0, 104.9, 105.0, 106.0):
        duty.do(now)
    assert len(done) == 2


@pytest.mark.parametrize("error", [OperationalError("the database is shut"), ZeroDivisionError()])
@pytest.mark.django_db(transaction=True)
def test_a_duty_that_fails_comes_again_and_is_logged_once_a_minute(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[int] = []

    def fail() -> None:
        tries.append(1)
        raise error

    duty = make_duty(fail)
    for now in (100.0, 101.0, 102.0):
        duty.do(now)
    assert len(tries) == 3
    assert len(caplog.records) == 1


def test_the_watchdog_goes_round_until_it_is_told_to_stop() -> None:
    stop = threading.Event()
    rounds: list[int] = []

    def once() -> None:
        rounds.append(1)
        stop.set()

    watch([make_duty(once)], stop)
    assert rounds == [1]
    assert timedelta(seconds=30) == clusters.HUNG_AFTER
