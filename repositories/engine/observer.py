"""How a long run of the engine is watched and stopped.

The engine calls an Observer from the thread that called the engine, never from its own threads. What becomes of a
report (a line in a terminal, a message through a pipe) is left to the command line and to the console's process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from repositories.engine.errors import Cancelled

PROGRESS_INTERVAL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Busy:
    """Measured seconds that each side worked; the largest names the bottleneck."""

    source: float = 0.0
    proxy: float = 0.0
    repository: float = 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    stage: str  # "walk+write", "seal", "restore", "verify", ...
    files_done: int = 0
    files_total: int | None = None
    bytes_processed: int = 0  # of the source, unchanged files included
    bytes_total: int | None = None  # from the parent's manifest, so an estimate
    bytes_read: int = 0
    bytes_written: int = 0
    current_path: bytes = b""
    busy: Busy = field(default_factory=Busy)

    @property
    def busy_seconds(self) -> dict[str, float]:
        return {"source": self.busy.source, "proxy": self.busy.proxy, "repository": self.busy.repository}


class Observer(Protocol):
    def progress(self, p: Progress) -> None:
        """Take a report; called at most about five times a second."""

    def warn(self, code: str, path: bytes, message: str) -> None:
        """Take a warning about one path; the run goes on."""

    def note(self, code: str, message: str) -> None:
        """Take a sentence for the log that is no warning."""

    def cancelled(self) -> bool:
        """Whether to stop. Cheap; asked at least every half second of work.

        May raise Interrupted, after which an unfinished backup file stays for the next session.
        """

    def before_seal(self) -> None:
        """Raise Fenced if the file must not be published. Called once, after everything is on disk."""


class Silent:
    """An observer that never stops anything and forgets everything, but counts warnings."""

    def __init__(self) -> None:
        self.warnings = 0

    def progress(self, p: Progress) -> None:
        pass

    def warn(self, code: str, path: bytes, message: str) -> None:
        self.warnings += 1

    def note(self, code: str, message: str) -> None:
        pass

    def cancelled(self) -> bool:
        return False

    def before_seal(self) -> None:
        pass


class Pulse:
    """Asks the observer to go on and tells it how far things are, both at most every PROGRESS_INTERVAL_SECONDS.

    `clock` is a monotonic clock in seconds. beat() is cheap enough for every block and every few hundred files.
    """

    def __init__(self, observer: Observer, clock: Callable[[], float]) -> None:
        self.observer = observer
        self.clock = clock
        self._due = clock() - 1.0

    def beat(self, report: Callable[[], Progress]) -> None:
        """Raises Cancelled when the observer says so."""
        now = self.clock()
        if now < self._due:
            return
        self._due = now + PROGRESS_INTERVAL_SECONDS
        if self.observer.cancelled():
            raise Cancelled("The session was stopped; nothing was published. Start it again when you are ready.")
        self.observer.progress(report())
