"""The tools that are measured, each as the commands that somebody would type, and the measuring of one command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

PASSWORD = "correct horse battery staple"
PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Measured:
    seconds: float
    cpu_seconds: float  # of all its processes; on a busy machine it tells more than the time
    peak_bytes: int  # of the largest process of the command


class CommandFailed(Exception):
    """A measured command ended with an error; its figures mean nothing."""


def run(command: list[str], environment: dict[str, str], folder: Path) -> Measured:
    """Run one command to its end and measure it with all its children."""
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            output.seek(0)
            said = output.read().decode("utf-8", "replace")[-2000:]
            raise CommandFailed(f"{' '.join(command)} ended with {process.returncode}:\n{said}")
    return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


class Tool(Protocol):
    """`prepare` is not measured; the three others are, each with a folder to run in."""

    name: str

    def version(self) -> str: ...
    def prepare(self, folder: Path) -> None: ...
    def backup(self, folder: Path, source: Path, number: int) -> Measured: ...
    def restore(self, folder: Path, into: Path) -> Measured: ...


def plain_environment(**more: str) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.environ.get("HOME", "/"),
        "LC_ALL": "C.UTF-8",
        **more,
    }


class Engine:
    """Backupsite's own engine through its command line, encrypted, with its default level."""

    name = "backupsite"

    def __init__(self, level: str | None = None) -> None:
        self._level = ["--level", level] if level else []

    def version(self) -> str:
        command = ["git", "-C", str(PROJECT), "rev-parse", "--short", "HEAD"]
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        return found or "this tree"

    def prepare(self, folder: Path) -> None:
        (folder / "password").write_text(PASSWORD + "\n", encoding="utf-8")

    def _engine(self, folder: Path, *arguments: str) -> Measured:
        environment = plain_environment(PYTHONPATH=str(PROJECT))
        return run(
            [sys.executable, "-m", "repositories.engine", *arguments, "--password-file", "password"],
            environment,
            folder,
        )

    def backup(self, folder: Path, source: Path, number: int) -> Measured:
        return self._engine(folder, "backup", str(source), "--to", "repository", *self._level)

    def restore(self, folder: Path, into: Path) -> Measured:
        return self._engine(folder, "recover", "repository", "--into", str(into), "--point", "1")


class Restic:
    name = "restic"
    environment = plain_environment(RESTIC_PASSWORD=PASSWORD)

    def version(self) -> str:
        return subprocess.run(["restic", "version"], capture_output=True, text=True, check=True).stdout.split()[1]

    def prepare(self, folder: Path) -> None:
        run(self._command(folder, "init"), self._own(folder), folder)

    def _command(self, folder: Path, *arguments: str) -> list[str]:
        return ["restic", "--repo", str(folder / "repository"), "--quiet", *arguments]

    def _own(self, folder: Path) -> dict[str, str]:
        return {**self.environment, "RESTIC_CACHE_DIR": str(folder / "cache")}

    def backup(self, folder: Path, source: Path, number: int) -> Measured:
        return run(self._command(folder, "backup", str(source)), self._own(folder), folder)

    def restore(self, folder: Path, into: Path) -> Measured:
        return run(self._command(folder, "restore", "latest", "--target", str(into)), self._own(folder), folder)


class Borg:
    name = "borg"

    def version(self) -> str:
        return subprocess.run(["borg", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]

    def _own(self, folder: Path) -> dict[str, str]:
        return plain_environment(BORG_PASSPHRASE=PASSWORD, BORG_BASE_DIR=str(folder / "base"))

    def prepare(self, folder: Path) -> None:
        run(["borg", "init", "--encryption", "repokey-blake2", "repository"], self._own(folder), folder)

    def backup(self, folder: Path, source: Path, number: int) -> Measured:
        return run(["borg", "create", f"repository::{number}", str(source)], self._own(folder), folder)

    def restore(self, folder: Path, into: Path) -> Measured:
        into.mkdir()
        return run(["borg", "extract", f"{folder}/repository::1"], self._own(folder), into)


def installed(level: str | None) -> list[Tool]:
    """The engine first, then the peers that this machine has."""
    peers: list[Tool] = [peer for peer in (Restic(), Borg()) if shutil.which(peer.name)]
    return [Engine(level), *peers]
