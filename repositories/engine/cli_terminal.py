"""What a command says and hears: lines and warnings for people, one JSON object for programs, a progress line, Ctrl-C.

Results go to stdout, everything about the way there to stderr. What is said is left to the commands.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from repositories.engine.errors import text
from repositories.engine.observer import Progress

DONE, WITH_WARNINGS, FAILED = 0, 1, 2
WARNINGS_SHOWN_MAX = 1_000
CLEAR_LINE = "\r\x1b[K"
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
PATH_SHOWN_MAX = 40


def size(size_bytes: int) -> str:
    """1536 -> 1.5 KiB."""
    amount = float(size_bytes)
    for unit in UNITS:
        if amount < 1024 or unit == UNITS[-1]:
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def moment(time_ns: int) -> str:
    """A time for people, in their zone and with it."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(time_ns // 1_000_000_000))


def moment_utc(time_ns: int) -> str:
    """A time for programs: ISO 8601, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_ns // 1_000_000_000))


class Terminal:
    """An Observer that shows a run to the person who started it, and stops it when that person presses Ctrl-C."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.warnings = 0
        self._stopped = False
        self._shows_progress = sys.stderr.isatty()
        self._line_open = False
        self._started_seconds = time.monotonic()

    # The observer

    def progress(self, p: Progress) -> None:
        if self._shows_progress:
            sys.stderr.write(CLEAR_LINE + self._line(p)[: _columns() - 1])
            sys.stderr.flush()
            self._line_open = True

    def warn(self, code: str, path: bytes, message: str) -> None:
        self.warnings += 1
        if self.warnings <= WARNINGS_SHOWN_MAX:
            self.aside(f"warning: {message}" if path and text(path) in message else f"warning: {text(path)}: {message}")
        elif self.warnings == WARNINGS_SHOWN_MAX + 1:
            self.aside("warning: further warnings are only counted.")

    def note(self, code: str, message: str) -> None:
        self.aside(message)

    def cancelled(self) -> bool:
        return self._stopped

    def before_seal(self) -> None:
        """Nobody else decides about a backup that was started by hand."""

    # For the commands

    def say(self, line: str) -> None:
        """A line of the result; with --json there is only the object."""
        if not self.as_json:
            self._end_line()
            sys.stdout.write(line + "\n")

    def aside(self, line: str) -> None:
        """A line about the way to the result."""
        self._end_line()
        sys.stderr.write(line + "\n")

    def end(self, result: dict[str, object]) -> None:
        """The last line: the result as one JSON object, if it was asked for."""
        self._end_line()
        if self.as_json:
            sys.stdout.write(json.dumps(result, ensure_ascii=True) + "\n")
        sys.stdout.flush()

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Inside, Ctrl-C and SIGTERM ask the engine to stop, which cleans up; pressed again they change nothing."""
        old = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopped = True

    def _end_line(self) -> None:
        if self._line_open:
            sys.stderr.write(CLEAR_LINE)
            sys.stderr.flush()
            self._line_open = False

    def _line(self, p: Progress) -> str:
        seconds = max(time.monotonic() - self._started_seconds, 0.001)
        share = f"{min(p.bytes_processed / p.bytes_total, 1):4.0%}  " if p.bytes_total else ""
        speed = size(int(p.bytes_processed / seconds))
        shown = text(p.current_path)
        shown = shown if len(shown) <= PATH_SHOWN_MAX else "..." + shown[-PATH_SHOWN_MAX:]
        return f"{p.stage}  {share}{p.files_done:,} files  {size(p.bytes_processed)}  {speed}/s  {shown}"


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80
