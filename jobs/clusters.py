"""Whether the clusters work: which are alive, and which hang and have to be ended.

A hung cluster still has a heartbeat, and a question to it waits behind busy workers; so the queue is asked. Starting a
cluster again is the supervisor's (`backupsite.supervisor`, or systemd); what was in the queue is delivered to the new
one.

A session cluster hangs when a session was queued 30 s ago and is not claimed, while fewer sessions of its proxy hold a
lease than it has workers. The others hang when a task lies in the queue for 30 s longer than one may take. When a
cluster's master is gone, its workers go on unsupervised and are ended too.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone
from django_q.models import OrmQ, Schedule

from backupsite import processes
from jobs.admission import database_now
from jobs.models import Proxy, Session, State

HUNG_AFTER = timedelta(seconds=30)
SEEN_EVERY = timedelta(seconds=5)
TICK = "jobs.tasks.tick"
CONTROL = "control"
QUICK = ".quick"

logger = logging.getLogger(__name__)


def pid_file(cluster: str) -> Path:
    folder: Path = settings.BACKUPSITE.run_folder
    return folder / f"{cluster}.pid"


def master_of(cluster: str) -> processes.Process | None:
    """Return the cluster's master, alive or not; None when it never wrote its file on this machine."""
    return processes.read_pid_file(pid_file(cluster))


def see_proxies() -> None:
    """Note which proxies are there: those whose session cluster runs. Not every second: a row is not a clock."""
    for proxy in Proxy.objects.filter(Q(seen_at=None) | Q(seen_at__lt=Now() - SEEN_EVERY)):
        master = master_of(proxy.cluster)
        if master is not None and master.alive():
            Proxy.objects.filter(pk=proxy.pk).update(seen_at=Now())


def end_hung() -> list[str]:
    """End every cluster of this machine that hangs or lost its master; return their names."""
    return [cluster for cluster in _clusters() if _end_if_hung(cluster)]


def keep_schedule() -> None:
    """Make the row by which django-q2 calls the tick each minute, should the watchdog be gone."""
    wanted: dict[str, Any] = {"schedule_type": Schedule.MINUTES, "minutes": 1, "repeats": -1, "cluster": CONTROL}
    rows = Schedule.objects.filter(func=TICK)
    if not rows.filter(**wanted).exists():
        rows.delete()
        Schedule.objects.create(name="tick", func=TICK, next_run=timezone.now(), **wanted)


def is_hung(cluster: str, now: datetime) -> bool:
    proxy = Proxy.objects.filter(cluster=cluster).first()
    if proxy is None:
        forgotten: bool = OrmQ.objects.filter(key=cluster, lock__lt=now - HUNG_AFTER - _longest(cluster)).exists()
        return forgotten
    sessions = Session.objects.filter(proxy=proxy)
    unclaimed = sessions.filter(state=State.QUEUED, queued_at__lt=now - HUNG_AFTER).exists()
    return unclaimed and sessions.filter(state=State.RUNNING, lease_until__gt=now).count() < proxy.workers


def _clusters() -> list[str]:
    of_proxies = Proxy.objects.values_list("cluster", flat=True)
    return [CONTROL, *(name for cluster in of_proxies for name in (cluster, cluster + QUICK))]


def _longest(cluster: str) -> timedelta:
    """Return how long a task of this cluster may take."""
    shared: dict[str, Any] = settings.Q_CLUSTER
    return timedelta(seconds=max(0, shared["ALT_CLUSTERS"].get(cluster, shared)["timeout"]))


def _end_if_hung(cluster: str) -> bool:
    master = master_of(cluster)
    if master is None:
        return False
    if not master.alive():
        return processes.kill_group(master)
    if _is_young(cluster) or not is_hung(cluster, database_now()):
        return False
    logger.error("The cluster %s hangs: its processes are ended, and it is started again.", cluster)
    processes.kill_group(master)
    OrmQ.objects.filter(key=cluster, lock__gt=Now()).update(lock=Now())  # what it had fetched is delivered again
    return True


def _is_young(cluster: str) -> bool:
    """A cluster that has just started gets its time; the file is written when its workers run."""
    try:
        started_at = datetime.fromtimestamp(pid_file(cluster).stat().st_mtime, timezone.get_current_timezone())
    except FileNotFoundError:
        return True
    return timezone.now() - started_at < HUNG_AFTER
