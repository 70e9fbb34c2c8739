"""Hearing what a session's process says, whatever the worker is busy with: a thread that always reads.

The process must never wait for a worker that waits for the database. So everything that can become much is bounded
here: of progress only the newest report is kept, log lines go to the session's log, which caps them, and of standard
error the last lines are kept. Heads that were rewritten are as many as the points that the worker asked for.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import IO

from jobs.protocol import ENDS, End, Heads, HeadSaid, MaySeal, Noted, Progressed, read_event
from jobs.session_log import SessionLog

ERROR_LINES_KEPT = 40


class Listener:
    """Reads both outputs of a process until they end.

    `heard` is set whenever there is something for the worker to do.
    """

    def __init__(self, events: IO[bytes], errors: IO[bytes], log: SessionLog) -> None:
        self.heard = threading.Event()
        self.end: End | None = None
        self.finished = False  # the process closed its outputs: nothing more will be said
        self._newest: Progressed | None = None
        self._asks_to_seal = False
        self._heads: list[HeadSaid] = []
        self._error_lines: deque[str] = deque(maxlen=ERROR_LINES_KEPT)
        self._log = log
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._read_events, args=(events,), daemon=True),
            threading.Thread(target=self._read_errors, args=(errors,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def take_progress(self) -> Progressed | None:
        """Return the newest report, once."""
        with self._lock:
            newest, self._newest = self._newest, None
            return newest

    def heads(self, most: int) -> list[HeadSaid]:
        """Return the first heads that were not yet dropped: they stay until the worker has stored them."""
        with self._lock:
            return self._heads[:most]

    def drop_heads(self, count: int) -> None:
        with self._lock:
            del self._heads[:count]

    def asks_to_seal(self) -> bool:
        with self._lock:
            return self._asks_to_seal

    def answered(self) -> None:
        with self._lock:
            self._asks_to_seal = False

    def join(self) -> None:
        for thread in self._threads:
            thread.join(timeout=5)

    def errors(self) -> str:
        return "".join(self._error_lines)

    def _read_events(self, events: IO[bytes]) -> None:
        for line in events:
            try:
                self._take(line)
            except ValueError as error:
                self._log.say_error("protocol", str(error))
        self.finished = True
        self.heard.set()

    def _take(self, line: bytes) -> None:
        event = read_event(line)
        match event:
            case Progressed():
                with self._lock:
                    self._newest = event
            case Noted():
                self._log.add(event.level, event.code, event.message)
            case Heads():
                with self._lock:
                    self._heads += event.heads
            case MaySeal():
                with self._lock:
                    self._asks_to_seal = True
                self.heard.set()
            case _:
                assert isinstance(event, ENDS)
                self.end = event

    def _read_errors(self, errors: IO[bytes]) -> None:
        for line in errors:
            text = line.decode("utf-8", "backslashreplace")
            self._error_lines.append(text)
            self._log.raw(text)
