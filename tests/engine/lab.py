"""Real folders, real chains, and a comparison of both; no part of the engine is replaced."""

import functools
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from keys.crypto_password import KdfParameters, derive_kek
from keys.crypto_recipients import PasswordRecipient
from repositories.engine import read_ahead, small_files
from repositories.engine.backup import BackupOrder, FreeSpace, Kind, ParentPoint, Written, write_backup
from repositories.engine.entries import Entry, EntryType
from repositories.engine.observer import Progress
from repositories.engine.reader import Kek, Point, Secret, open_point

CHEAP = KdfParameters(memory_kib=8 * 1024, iterations=1, lanes=1)
NO_RESERVE = FreeSpace(bytes=0, share=0.0)


def later() -> int:
    """A clock ten seconds ahead: no file of the test is racy."""
    return time.time_ns() + 10_000_000_000


@functools.cache
def recipient(password: str = "correct horse") -> PasswordRecipient:
    salt = hashlib.sha256(password.encode()).digest()[:16]
    kek = derive_kek(password.encode(), salt=salt, parameters=CHEAP)
    return PasswordRecipient(uuid4(), 1, salt, CHEAP, kek, hint=f"hint of {password}")


def end_segments_often(monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
    """Segments of about so many entries. Where they end concerns the writer only, which does it all in this process."""
    monkeypatch.setattr(small_files, "BOUNDARY_MODULUS", entries)
    monkeypatch.setattr(read_ahead, "_WORTH_ENTRIES", 1 << 30)


class Recorder:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.warnings: list[tuple[str, bytes, str]] = []
        self.notes: list[tuple[str, str]] = []
        self.reports: list[Progress] = []
        self.sealed = 0

    def progress(self, p: Progress) -> None:
        self.reports.append(p)

    def warn(self, code: str, path: bytes, message: str) -> None:
        self.warnings.append((code, path, message))

    def note(self, code: str, message: str) -> None:
        self.notes.append((code, message))

    def cancelled(self) -> bool:
        return False

    def before_seal(self) -> None:
        self.sealed += 1


@dataclass
class Chain:
    """One chain in a repository of its own, written point by point."""

    root: Path
    source: Path
    passwords: tuple[str, ...] = ("correct horse",)
    chain_id: UUID = field(default_factory=uuid4)
    points: list[Written] = field(default_factory=list)

    def write(
        self, kind: Kind | None = None, observer: object = None, passwords: tuple[str, ...] | None = None, **fields
    ) -> Written:
        newest = self.points[-1] if self.points else None
        chosen = self.passwords if passwords is None else passwords
        order = {
            "root": self.root,
            "chain_id": self.chain_id,
            "file_id": uuid4(),
            "sequence": newest.sequence + 1 if newest else 1,
            "kind": kind or (Kind.INCREMENTAL if newest else Kind.FULL),
            "reason": "first-session",
            "started_at_ns": time.time_ns(),
            "sources": (os.fsencode(self.source),),
            "recipients": tuple(recipient(password) for password in chosen),
            "parent": ParentPoint(newest.path, newest.file_key) if newest else None,
            "reserve": NO_RESERVE,
            "clock": later,
            "job_name": "a job",
        }
        written = write_backup(BackupOrder(**{**order, **fields}), observer or Recorder())
        self.points.append(written)
        return written

    @property
    def folder(self) -> Path:
        return self.root / str(self.chain_id)

    def secret(self) -> Secret | None:
        return Kek(recipient(self.passwords[0]).kek) if self.passwords else None

    def open(self, number: int = -1, secret: Secret | None = None) -> Point:
        return open_point(self.points[number].path, secret or self.secret())

    def names(self) -> list[str]:
        return sorted(os.listdir(self.folder)) if self.folder.exists() else []


@contextmanager
def folder_in_memory(instead: Path) -> Iterator[Path]:
    """A folder for very many files, where making them is cheap; below `instead` where there is no such place."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else instead
    with tempfile.TemporaryDirectory(prefix="backupsite-test-", dir=place) as folder:
        yield Path(folder)


def write_tree(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def inside(source: Path, name: str = "") -> bytes:
    """The path in a point of something below the source."""
    return os.fsencode(source / name)[1:]


def facts_on_disk(folder: Path) -> dict[bytes, tuple]:
    """Everything below a folder as a restore must bring it back, and the folder itself."""
    facts = {}
    todo = [os.fsencode(folder)]
    while todo:
        path = todo.pop()
        found = os.lstat(path)
        content: object = None
        if stat.S_ISREG(found.st_mode):
            content = Path(os.fsdecode(path)).read_bytes()
        elif stat.S_ISLNK(found.st_mode):
            content = os.readlink(path)
        elif stat.S_ISDIR(found.st_mode):
            todo += [path + b"/" + name for name in os.listdir(path)]
        elif stat.S_ISSOCK(found.st_mode):
            continue
        xattrs = tuple(
            (os.fsencode(name), os.getxattr(path, name, follow_symlinks=False))
            for name in sorted(os.listxattr(path, follow_symlinks=False))
        )
        facts[path[1:]] = (found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, found.st_rdev, xattrs, content)
    return facts


def facts_in_point(point: Point, path: bytes = b"") -> dict[bytes, tuple]:
    facts = {}
    for entry in point.walk(path):
        if not entry.ancestor:
            content = b"".join(point.read(entry)) if entry.is_file else None
            if entry.type is EntryType.SYMLINK:
                content = entry.target
            facts[entry.path] = (
                entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.rdev, entry.xattrs, content,
            )  # fmt: skip
    return facts


def content_of(point: Point, path: bytes) -> bytes:
    return b"".join(point.read(point.entry(path)))


def paths(entries: list[Entry]) -> list[bytes]:
    return [entry.path for entry in entries]
