"""A worker as a process of its own, on the database of the running test: what a test can kill."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from django.conf import settings
from django.db import connection

ROOT = Path(__file__).resolve().parents[2]
CODE = "import django, sys; django.setup(); from jobs.tasks import run_session; run_session(int(sys.argv[1]))"


def start_worker(
    session_id: int, *, lease_seconds: float, socket_folder: Path | str | None = None
) -> subprocess.Popen[bytes]:
    """Start a worker on one session; the database is reached through `socket_folder`, or directly."""
    database = connection.settings_dict
    folder = socket_folder or database["HOST"]
    environment = {
        **{name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "PYTHONPATH", "HOME")},
        "DJANGO_SETTINGS_MODULE": "backupsite.settings",
        "DATABASE_URL": f"postgresql://{database['USER']}@/{database['NAME']}?host={folder}",
        "BACKUPSITE_HOME": str(settings.BACKUPSITE.home),
        "BACKUPSITE_LEASE_SECONDS": str(lease_seconds),
    }
    return subprocess.Popen([sys.executable, "-c", CODE, str(session_id)], cwd=ROOT, env=environment)


class Door:
    """A way to the test's Postgres that can be shut: connections through it break, and new ones are refused."""

    NAME = ".s.PGSQL.5432"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self.folder = folder
        self._target = str(Path(str(connection.settings_dict["HOST"])) / self.NAME)
        self._pairs: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.open()

    def open(self) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.folder / self.NAME))
        listener.listen(16)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def shut(self) -> None:
        assert self._listener
        (self.folder / self.NAME).unlink()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._pairs:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._pairs.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                here, _ = listener.accept()
            except OSError:
                return
            there = socket.socket(socket.AF_UNIX)
            there.connect(self._target)
            self._pairs += [here, there]
            for one, other in ((here, there), (there, here)):
                threading.Thread(target=_forward, args=(one, other), daemon=True).start()


def _forward(one: socket.socket, other: socket.socket) -> None:
    try:
        while data := one.recv(65536):
            other.sendall(data)
    except OSError:
        pass
    for end in (one, other):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue
