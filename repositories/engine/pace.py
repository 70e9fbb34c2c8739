"""Bandwidth limits: how long to wait so that no more bytes a second pass than were allowed.

Whoever moves bytes says so with spend(), from any thread and without waiting; the one thread that goes on with the
work calls wait() before it does, which sleeps in short steps and beats between them, so that a limited run is stopped
as fast as any other. Which bytes count is left to the callers: what is appended to a backup file, and the sealed blocks
that are read from one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

STEP_SECONDS = 0.1
_BURST_SECONDS = 0.25  # what was not used for so long may be made up for, no more


@dataclass(frozen=True, slots=True)
class Limit:
    """`clock` is monotonic, in seconds."""

    bytes_per_second: int
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if self.bytes_per_second < 1:
            raise ValueError(f"a limit of {self.bytes_per_second} bytes a second moves nothing")


class Pace:
    """One run under a limit. `beat` may raise to stop it."""

    def __init__(self, limit: Limit, beat: Callable[[], None]) -> None:
        self._limit, self._beat = limit, beat
        self._lock = threading.Lock()
        self._paid_until = limit.clock()  # the moment at which all bytes so far are within the limit

    def spend(self, size_bytes: int) -> None:
        with self._lock:
            start = max(self._paid_until, self._limit.clock() - _BURST_SECONDS)
            self._paid_until = start + size_bytes / self._limit.bytes_per_second

    def wait(self) -> None:
        """Until what was spent is within the limit."""
        while (left_seconds := self._paid_until - self._limit.clock()) > 0:
            self._beat()
            self._limit.sleep(min(left_seconds, STEP_SECONDS))
