"""The log of a session: 1,000 lines a level in Postgres, every line in a compressed file below the state folder.

Lines come from two threads (the worker's and the one that listens to the process) and are stored when the worker says
so; without a database they wait, within the same bound. What is worth a line is decided by those who write it.
"""

from __future__ import annotations

import gzip
import os
import threading
import zlib
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from django.conf import settings

from jobs.models import LogLevel, LogLine, Session

KEPT_A_LEVEL = 1_000


def log_path(session_uuid: UUID) -> Path:
    """Return where the whole log of a session lies, gzip-compressed text; absent for a session without a line."""
    folder: Path = settings.BACKUPSITE.home / "logs"
    return folder / f"{session_uuid}.log.gz"


class SessionLog:
    def __init__(self, session: Session) -> None:
        self._session_id = session.pk
        self._path = log_path(session.uuid)
        self._lock = threading.Lock()
        self._waiting: list[LogLine] = []
        self._counts: Counter[str] = Counter()
        self._file: gzip.GzipFile | None = None
        self._file_failed = False

    def say(self, code: str, message: str) -> None:
        self.add(LogLevel.INFO, code, message)

    def say_warning(self, code: str, message: str) -> None:
        self.add(LogLevel.WARNING, code, message)

    def say_error(self, code: str, message: str) -> None:
        self.add(LogLevel.ERROR, code, message)

    def add(self, level: str, code: str, message: str) -> None:
        message = message.replace("\0", "\\0")  # Postgres keeps no NUL
        now = datetime.now(UTC)
        with self._lock:
            self._counts[level] += 1
            if self._counts[level] <= KEPT_A_LEVEL:
                line = LogLine(session_id=self._session_id, level=level, code=code[:40], message=message, at=now)
                self._waiting.append(line)
            self._write(f"{now:%Y-%m-%d %H:%M:%S} {level} {code} {message}\n")

    def raw(self, text: str) -> None:
        """Add text to the file alone: what the process printed."""
        with self._lock:
            self._write(text)

    def count(self, level: str) -> int:
        with self._lock:
            return self._counts[level]

    def store(self) -> None:
        """Store what waits. Raises the database's errors; the lines then wait for the next time."""
        with self._lock:
            lines = list(self._waiting)
        if lines:
            LogLine.objects.bulk_create(lines)
        with self._lock:
            del self._waiting[: len(lines)]
            self._flush()

    def close(self) -> None:
        """Say how many lines are only in the file, store what waits and close the file.

        Raises the database's errors.
        """
        self._say_what_is_left_out()
        try:
            self.store()
        finally:
            self.close_file()

    def close_file(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file, self._file_failed = None, True

    def _say_what_is_left_out(self) -> None:
        for level, count in list(self._counts.items()):
            self._counts[level] = min(count, KEPT_A_LEVEL)  # said once, however often closing is tried
            if count > KEPT_A_LEVEL and not self._file_failed:
                rest = count - KEPT_A_LEVEL
                message = f"{rest} more lines of the level {level} are only in {self._path}."
                line = LogLine(session_id=self._session_id, level=level, code="log-rest", message=message)
                self._waiting.append(line)

    def _write(self, text: str) -> None:
        """A log file that can't be written (a full disk) never stops a session: the first lines are in Postgres."""
        if self._file_failed:
            return
        try:
            if self._file is None:
                self._file = _open(self._path)
            self._file.write(text.encode("utf-8", "backslashreplace"))
        except OSError:
            self._file_failed = True

    def _flush(self) -> None:
        """What was written so far can be read even if this process is killed."""
        if self._file is not None and not self._file_failed:
            try:
                self._file.flush(zlib.Z_SYNC_FLUSH)
            except OSError:
                self._file_failed = True


def _open(path: Path) -> gzip.GzipFile:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))  # private from its first byte on
    return gzip.GzipFile(path, "ab", compresslevel=6)
