"""The tools that are measured, each as the commands that somebody would type. Measuring one command is left to
measuring.py, what is done with which tree to rows.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from tests.bench.measuring import Measured, run

PASSWORD = "correct horse battery staple"
PROJECT = Path(__file__).resolve().parents[2]
PREPARED = PROJECT / "build" / "bench"  # where `make bench` puts peers
STEPS = ("full", "unchanged", "changed", "restore", "folder")
PEERS = ("restic", "borg")
TOOLS = ("backupsite", *PEERS, "backupsite --plain", "limit")


class Tool(Protocol):
    """`prepare` is not measured; `backup` is, with a folder to run in and the number of the point."""

    name: str
    steps: tuple[str, ...]

    def version(self) -> str: ...
    def prepare(self, folder: Path, source: Path) -> None: ...
    def backup(self, folder: Path, source: Path, number: int) -> Measured: ...


class Restoring(Tool, Protocol):
    """A tool that has the steps `restore` and `folder` too.

    The path of the one folder is the absolute one, as it was backed up.
    """

    def restore(self, folder: Path, into: Path, number: int, path: Path | None = None) -> Measured: ...


def plain_environment(**more: str) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.environ.get("HOME", "/"),
        "LC_ALL": "C.UTF-8",
        **more,
    }


def first_line(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.partition("\n")[0]


class Engine:
    """Backupsite's own engine through its command line, encrypted, with its default level."""

    name = "backupsite"
    steps: tuple[str, ...] = STEPS
    secret: tuple[str, ...] = ("--password-file", "password")

    def __init__(self, level: str | None = None) -> None:
        self._level = ["--level", level] if level else []

    def version(self) -> str:
        command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty"]
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        return found or "this tree"

    def prepare(self, folder: Path, source: Path) -> None:
        (folder / "password").write_text(PASSWORD + "\n", encoding="utf-8")

    def _engine(self, folder: Path, *arguments: str) -> Measured:
        command = [sys.executable, "-m", "repositories.engine", *arguments, *self.secret]
        return run(command, engine_environment(), folder)

    def backup(self, folder: Path, source: Path, number: int) -> Measured:
        return self._engine(folder, "backup", str(source), "--to", "repository", *self._level)

    def restore(self, folder: Path, into: Path, number: int, path: Path | None = None) -> Measured:
        wanted = [str(path)] if path else []
        return self._engine(folder, "recover", "repository", *wanted, "--into", str(into), "--point", str(number))


class PlainEngine(Engine):
    """The same without encryption: what encryption costs."""

    name = "backupsite --plain"
    steps: tuple[str, ...] = ("full",)
    secret = ("--plain",)


class Limit:
    """The same bytes through zstd, AES-GCM and write with nothing around them, on two threads."""

    name = "limit"
    steps: tuple[str, ...] = ("full",)

    def __init__(self, level: str | None = None) -> None:
        self._level = level or ""

    def version(self) -> str:
        return "zstd, AES-GCM, write"

    def prepare(self, folder: Path, source: Path) -> None:
        self._limit(folder, "pack", str(source), "packed")
        (folder / "repository").mkdir()

    def _limit(self, folder: Path, *arguments: str) -> Measured:
        return run([sys.executable, "-m", "tests.bench.limit", *arguments], engine_environment(), folder)

    def backup(self, folder: Path, source: Path, number: int) -> Measured:
        return self._limit(folder, "write", "packed", "repository/out", self._level)


class Restic:
    name = "restic"
    steps: tuple[str, ...] = STEPS

    def __init__(self, program: str) -> None:
        self._program = program
        options = subprocess.run([program, "restore", "--help"], capture_output=True, text=True, check=True).stdout
        self._sparse = ["--sparse"] if "--sparse" in options else []

    def version(self) -> str:
        return first_line([self._program, "version"]).split()[1]

    def prepare(self, folder: Path, source: Path) -> None:
        self._restic(folder, "init")

    def _restic(self, folder: Path, *arguments: str) -> Measured:
        command = [self._program, "--repo", str(folder / "repository"), "--quiet", *arguments]
        return run(command, plain_environment(RESTIC_PASSWORD=PASSWORD, RESTIC_CACHE_DIR=str(folder / "cache")), folder)

    def backup(self, folder: Path, source: Path, number: int) -> Measured:
        return self._restic(folder, "backup", str(source))

    def restore(self, folder: Path, into: Path, number: int, path: Path | None = None) -> Measured:
        """Of the newest point, which is the one with the highest number."""
        wanted = ["--include", str(path)] if path else []
        return self._restic(folder, "restore", "latest", "--target", str(into), *wanted, *self._sparse)


class Borg:
    name = "borg"
    steps: tuple[str, ...] = STEPS

    def __init__(self, program: str) -> None:
        self._program = program

    def version(self) -> str:
        return first_line([self._program, "--version"]).split()[1]

    def _borg(self, folder: Path, *arguments: str, inside: Path | None = None) -> Measured:
        environment = plain_environment(BORG_PASSPHRASE=PASSWORD, BORG_BASE_DIR=str(folder / "base"))
        return run([self._program, *arguments], environment, inside or folder)

    def prepare(self, folder: Path, source: Path) -> None:
        self._borg(folder, "init", "--encryption", "repokey-blake2", "repository")

    def backup(self, folder: Path, source: Path, number: int) -> Measured:
        return self._borg(folder, "create", f"repository::{number}", str(source))

    def restore(self, folder: Path, into: Path, number: int, path: Path | None = None) -> Measured:
        into.mkdir()
        wanted = [str(path.relative_to("/"))] if path else []
        return self._borg(folder, "extract", "--sparse", f"{folder}/repository::{number}", *wanted, inside=into)


def engine_environment() -> dict[str, str]:
    return plain_environment(PYTHONPATH=str(PROJECT))


def program_of(peer: str) -> str | None:
    """The peer that `make bench` prepared, else the one of the system."""
    prepared = PREPARED / peer / "bin" / peer
    return str(prepared) if prepared.exists() else shutil.which(peer)


def installed(level: str | None) -> list[Tool]:
    """The engine first, then the peers that there are, then what the machine and plain files allow."""
    restic, borg = program_of("restic"), program_of("borg")
    peers: list[Tool] = [Restic(restic)] if restic else []
    peers += [Borg(borg)] if borg else []
    return [Engine(level), *peers, PlainEngine(level), Limit(level)]


def missing_peers() -> list[str]:
    return [peer for peer in PEERS if program_of(peer) is None]


def run_python(program: str, environment: dict[str, str]) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()
