"""A target to write entries into, one by one, and what was reported meanwhile."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from repositories.engine.entries import Entry
from repositories.engine.reader import Piece
from repositories.engine.restore_entry import EntryWriter, Failure, Tally
from repositories.engine.target import Existing, Target, open_into

OLD_NS = 1_234_567_890_123_456_789


def make_entry(path: bytes, kind: int = stat.S_IFREG, mode: int = 0o644, **more: object) -> Entry:
    facts: dict[str, object] = {
        "uid": os.geteuid(),
        "gid": os.getegid(),
        "size": 0,
        "mtime_ns": OLD_NS,
        "ctime_ns": OLD_NS,
        "inode": 7,
        "device": 1,
    }
    return Entry(path=path, mode=kind | mode, **(facts | more))  # type: ignore[arg-type]


DESKS: list[Desk] = []


@dataclass
class Desk:
    """A target and its writer, and what was reported."""

    target: Target
    writer: EntryWriter
    tally: Tally
    failures: list[Failure] = field(default_factory=list)

    def write(self, path: bytes, content: bytes = b"", **more: object) -> None:
        self.writer.write(make_entry(path, **more), pieces(content))  # type: ignore[arg-type]

    def codes(self) -> list[str]:
        return [failure.code for failure in self.failures]


def pieces(*contents: bytes) -> list[Piece]:
    return [memoryview(content) for content in contents if content]


def open_desk(into: Path, existing: Existing = Existing.SKIP, below: Path | None = None) -> Desk:
    target, tally = Target(open_into(into, below), existing), Tally()
    failures: list[Failure] = []
    desk = Desk(target, EntryWriter(target, tally, failures.append, lambda: None), tally, failures)
    DESKS.append(desk)
    return desk
