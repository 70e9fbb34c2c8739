"""The worker's side of a running session: starts its process, watches it, keeps the lease, passes cancellation on.

The process has a session and an environment of its own and gets its keys through a pipe. Without a database it goes on
reading and writing; it is allowed to seal only after the lease was renewed with this worker's own fencing number. What
a session is told, and what becomes of its end, is decided elsewhere (`jobs.running` and the modules that it names).
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection
from django.db.models.functions import Now

from backupsite import launch
from jobs.leases import Claim, Stale, held_row, renew
from jobs.listening import Listener
from jobs.models import Session, SessionProgress
from jobs.protocol import End, Failed, HeadSaid, MaySealAnswer, Progressed, Request, line_of, request_line
from jobs.samples import Graph
from jobs.session_log import SessionLog
from repositories.engine.errors import text

LOOK_SECONDS = 0.5  # how often cancellation is looked for
STORE_SECONDS = 1.0
KILL_AFTER_SECONDS = 1.2  # after TERM on somebody's wish: together with LOOK_SECONDS less than two seconds
GRACE_SECONDS = 5.0  # where nobody waits: time to remove what is unfinished
HEADS_AT_ONCE = 500  # rows of a transaction: what is stored by then stays stored
RESERVE_BYTES = 1024**3
RESERVE_SHARE = 0.02
KEPT_ENVIRONMENT = ("BACKUPSITE_SUPERVISED",)  # by which the console's supervisor knows its own
DATABASE_ERRORS = (OperationalError, InterfaceError)
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass
class Beat:
    """Something that is due every so often."""

    seconds: float
    due_at: float = 0.0

    def is_due(self, now: float) -> bool:
        if now < self.due_at:
            return False
        self.due_at = now + self.seconds
        return True


class Supervisor:
    """One run of one session's process. `cancelled` says whether it was stopped on somebody's wish.

    `store_heads` brings the catalogue up to heads that the process rewrote; it is called while the process goes on.
    """

    def __init__(
        self, held: Claim, log: SessionLog, store_heads: Callable[[list[HeadSaid]], None] | None = None
    ) -> None:
        self.cancelled = False
        self._held = held
        self._log = log
        self._store_heads = store_heads
        self._graph = Graph()
        self._stopping: End | None = None  # what the end will be called, once the process is told to stop
        self._kill_at: float | None = None
        self._renewing = Beat(settings.LEASE_SECONDS / 3)
        self._looking = Beat(LOOK_SECONDS)
        self._storing = Beat(STORE_SECONDS)
        self._without_database = False

    def run(self, request: Request) -> End:
        """Return how the process ended; it is gone then, and with it everything that it started.

        Raises Stale when the session was taken away from this worker.
        """
        self._started_at = time.monotonic()
        self._process = start_process()
        self._listener = Listener(_pipe(self._process.stdout), _pipe(self._process.stderr), self._log)
        try:
            self._tell(request_line(request))
            self._watch()
        finally:
            end_group(self._process, finished=self._listener.finished)
            self._listener.join()
        self._store()
        return self._end()

    def _watch(self) -> None:
        while not self._listener.finished:
            self._listener.heard.wait(timeout=LOOK_SECONDS / 2)
            self._listener.heard.clear()
            now = time.monotonic()
            if self._renewing.is_due(now):
                self._keep_lease()
            if self._looking.is_due(now):
                self._look()
            if self._storing.is_due(now):
                self._store()
            if self._listener.asks_to_seal():
                self._answer()
            if has_ended(self._process) or (self._kill_at is not None and now >= self._kill_at):
                kill_group(self._process)  # a helper that outlives it would keep its pipes open

    def _tell(self, line: bytes) -> None:
        stdin = _pipe(self._process.stdin)
        try:
            stdin.write(line)
            stdin.flush()
        except BrokenPipeError:
            logger.info("The session's process ended before it was told everything.")

    def _keep_lease(self) -> bool:
        """Return whether the lease is renewed; raises Stale when it is lost, is False when nobody can tell."""
        renewed = self._in_database(lambda: renew(self._held))
        if renewed is False:
            raise Stale(f"Session {self._held.session_id} was taken away from this worker.")
        return renewed is True

    def _look(self) -> None:
        """Look for a wish to stop, and whether the state folder's disk is about to be full."""
        wished = Session.objects.filter(pk=self._held.session_id, cancel_requested_at__isnull=False)
        if self._in_database(wished.exists) and self._stopping is None:
            self.cancelled = True
            self._stop(Failed("cancelled", {}, "The session was stopped; nothing of it was published."))
        full = state_disk_full()
        if full is not None and self._stopping is None:
            self._stop(full)

    def _stop(self, end: End) -> None:
        self._stopping = end
        self._kill_at = time.monotonic() + KILL_AFTER_SECONDS
        ask_to_end(self._process)

    def _answer(self) -> None:
        """Say whether the file may be sealed; while nobody can tell, the process waits."""
        if self._stopping is None and not self._keep_lease():
            return
        self._listener.answered()
        self._tell(line_of(MaySealAnswer(allowed=self._stopping is None)))

    def _store(self) -> None:
        newest = self._listener.take_progress()
        if newest is not None:
            self._graph.add(time.monotonic() - self._started_at, newest.bytes_read, newest.bytes_written)
        self._in_database(lambda: self._store_now(newest))

    def _store_now(self, newest: Progressed | None) -> None:
        if newest is not None:
            store_progress(self._held, newest, self._graph)
        self._log.store()
        self.store_heads()

    def store_heads(self) -> None:
        """Bring the catalogue up to what was told. Raises the database's errors; what is not stored then stays."""
        while self._store_heads is not None and (heads := self._listener.heads(HEADS_AT_ONCE)):
            self._store_heads(heads)
            self._listener.drop_heads(len(heads))

    def _in_database(self, action: Callable[[], Result]) -> Result | None:
        """Return what the action returns, or None while the database is away: the session goes on without it."""
        try:
            result = action()
        except DATABASE_ERRORS as error:
            if not self._without_database:
                logger.warning("Session %s goes on without the database: %s", self._held.session_id, error)
            self._without_database = True
            self._renewing.due_at = 0.0  # the first thing when it is back
            connection.close()
            return None
        self._without_database = False
        return result

    def _end(self) -> End:
        if self._listener.end is not None and not isinstance(self._listener.end, Failed):
            return self._listener.end  # published or complete before the wish to stop arrived
        if self._stopping is not None:
            return self._stopping
        if self._listener.end is not None and self._listener.end.code == "cancelled":
            return Failed("stopped-outside", {}, "The console was stopped while the session ran: start it again.")
        return self._listener.end or process_ended(self._process.returncode, self._listener.errors())


def start_process() -> subprocess.Popen[bytes]:
    """Start `jobs.process` in a process session of its own; it is sent SIGTERM when this process ends.

    To be called from the main thread: the signal fires when the thread that started the process ends.
    """
    program = [sys.executable, "-E", "-s", "-m", "jobs.process"]
    launcher = [sys.executable, "-I", launch.__file__, str(os.getpid()), str(int(signal.SIGTERM)), "-"]
    return subprocess.Popen(
        [*launcher, *program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=settings.BASE_DIR,
        env=fresh_environment(),
        close_fds=True,
    )


def fresh_environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", **kept}


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Tell whether it ended, without taking its end: until then its number, and its group's, is nobody else's."""
    return process.returncode is not None or (
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    )


def ask_to_end(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        os.kill(process.pid, signal.SIGTERM)  # Popen's own would take its end


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and everything that it started, at once."""
    if process.returncode is None:
        with suppress(ProcessLookupError):  # before its first instruction it leads no group yet
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()


def end_group(process: subprocess.Popen[bytes], *, finished: bool) -> None:
    """Leave nothing behind: whatever still runs is asked to end, then killed; then the pipe to it is closed."""
    if not finished:
        ask_to_end(process)
    _wait_for_end(process, GRACE_SECONDS)
    kill_group(process)
    process.wait()
    with suppress(BrokenPipeError):
        _pipe(process.stdin).close()


def _wait_for_end(process: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not has_ended(process) and time.monotonic() < deadline:
        time.sleep(0.02)


def store_progress(held: Claim, newest: Progressed, graph: Graph) -> None:
    """Store a report in the session's narrow row, unless the session is somebody else's by now."""
    if not held_row(held).exists():
        return
    values = {
        "stage": newest.stage[:20],
        "files_done": newest.files_done,
        "files_total": newest.files_total,
        "bytes_processed": newest.bytes_processed,
        "bytes_total": newest.bytes_total,
        "bytes_read": newest.bytes_read,
        "bytes_written": newest.bytes_written,
        "current_path": text(newest.current_path),
        "busy_seconds": newest.busy_seconds,
        "samples": graph.samples,
    }
    rows = SessionProgress.objects.filter(session_id=held.session_id)
    if not rows.update(**values, updated_at=Now()):
        SessionProgress.objects.create(session_id=held.session_id, **values)


def state_disk_full() -> Failed | None:
    """Say so when less than the reserve is free where the state folder lies: a full disk also stops the console."""
    home: Path = settings.BACKUPSITE.home
    facts = os.statvfs(home)
    free_bytes = facts.f_bavail * facts.f_frsize
    needed_bytes = max(RESERVE_BYTES, int(facts.f_blocks * facts.f_frsize * RESERVE_SHARE))
    if free_bytes >= needed_bytes:
        return None
    params = {"path": str(home), "free_bytes": free_bytes, "needed_bytes": needed_bytes}
    message = (
        f"Only {free_bytes // 1024**2} MiB are free where the console's state folder {home} lies, and "
        f"{needed_bytes // 1024**2} MiB must stay free: make room, then start the session again."
    )
    return Failed("state-disk-full", params, message)


def process_ended(status: int | None, errors: str) -> Failed:
    """Name the end of a process that did not say how it ended."""
    if status is not None and status < 0:
        name = signal.strsignal(-status) or str(-status)
        message = f"The session's process was ended from outside ({name}): start the session again."
        return Failed("process-ended", {"signal": name}, message)
    last = errors.strip().rsplit("\n", 1)[-1][:200]
    message = f"The session's process ended without a result (exit code {status}). {last}".strip()
    return Failed("process-ended", {"exit_code": status}, message)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
