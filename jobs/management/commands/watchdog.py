"""`manage.py watchdog`: each second the tick, and a look at the clusters.

Its duties are independent: one that fails is logged and comes again, and a database that is away is waited for.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from django.core.management.base import BaseCommand
from django.db import InterfaceError, OperationalError, connection

from backupsite import processes
from jobs import clusters, questions, ticking

ROUND_SECONDS = 1.0
AGAIN_LOGGED_AFTER_SECONDS = 60.0

logger = logging.getLogger(__name__)


@dataclass
class Duty:
    """Something to be done every so often."""

    name: str
    action: Callable[[], object]
    every_seconds: float
    due_at: float = 0.0
    quiet_until: float = 0.0

    def do(self, now: float) -> None:
        if now < self.due_at:
            return
        self.due_at = now + self.every_seconds
        try:
            self.action()
        except (OperationalError, InterfaceError) as error:
            connection.close()
            self._log(now, "The database is away; %s waits for it: %s", self.name, str(error).strip())
        except Exception:
            connection.close()
            if now >= self.quiet_until:
                logger.exception("%s failed; it is tried again.", self.name)
            self.quiet_until = now + AGAIN_LOGGED_AFTER_SECONDS

    def _log(self, now: float, message: str, *values: str) -> None:
        if now >= self.quiet_until:
            logger.warning(message, *values)
            self.quiet_until = now + AGAIN_LOGGED_AFTER_SECONDS


def duties() -> list[Duty]:
    return [
        Duty("tick", ticking.tick, ROUND_SECONDS),
        Duty("end hung clusters", clusters.end_hung, 5.0),
        Duty("keep the schedule", clusters.keep_schedule, 60.0),
        Duty("remove old questions", questions.remove_old, 60.0),
    ]


class Command(BaseCommand):
    help = "Calls the tick each second and ends clusters that hang."
    requires_system_checks = ()

    def handle(self, *args: object, **options: object) -> None:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        processes.write_pid_file(clusters.pid_file("watchdog"), processes.this_process())
        watch(duties(), stop)


def watch(what: list[Duty], stop: threading.Event) -> None:
    """Do what is due, each second, until told to stop."""
    while not stop.is_set():
        began = time.monotonic()
        for duty in what:
            duty.do(began)
        stop.wait(max(0.0, ROUND_SECONDS - (time.monotonic() - began)))
