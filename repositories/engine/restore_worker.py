"""A second process of one restore: takes segments from the common list, writes their entries, and reports.

Started by `repositories.engine.restore_helpers` only, which hands over the order, with the file key, through stdin, a
socket, and two descriptors with it: of the target and of the common list. Several processes and not several threads,
because writing a small file is a handful of short calls of the system, and threads of one interpreter wait for each
other at each.
Left to the first process: hard links (each name must find the first one) and the metadata of folders (last of all).
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType

import msgspec

from repositories.engine.entries import Entry
from repositories.engine.errors import EngineError, damaged
from repositories.engine.file_groups import FileGroup
from repositories.engine.observer import Progress, Pulse
from repositories.engine.own_process import prepare
from repositories.engine.reader import FileKey, open_point
from repositories.engine.restore_entry import EntryWriter, Failure, Tally
from repositories.engine.restore_groups import GroupWriter
from repositories.engine.restore_share import CommonList, Selection
from repositories.engine.restore_walk import Walker, no_beat
from repositories.engine.target import Existing, Target

STDIN, STDOUT = 0, 1
LINE_BYTES_MAX = 256 << 20
READ_BYTES = 1 << 16


class WorkerOrder(msgspec.Struct, frozen=True):
    """What the first process says. `repr` shows no key."""

    path: bytes
    seal_hash: bytes
    file_key: bytes | None
    paths: tuple[bytes, ...]
    existing: str
    fresh: bool

    def __repr__(self) -> str:
        return f"WorkerOrder({self.path!r})"


class Counted(msgspec.Struct, frozen=True, tag=True):
    """How far this process is."""

    files: int
    directories: int
    others: int
    skipped: int
    failed: int
    damaged: int
    bytes_done: int
    bytes_written: int
    current_path: bytes
    waited_seconds: float


class Failed(msgspec.Struct, frozen=True, tag=True):
    path: bytes
    code: str
    sentence: str


class Finished(msgspec.Struct, frozen=True, tag=True):
    """The last message of a process that did its share: the folders that it made or found, and its losses."""

    created: list[bytes]
    found: list[tuple[bytes, int]]
    losses: dict[str, int]
    first_paths: dict[str, bytes]


class Broke(msgspec.Struct, frozen=True, tag=True):
    """The last message of one that had to give up; with the folders that it made and cannot complete itself."""

    code: str
    sentence: str
    fields: dict[str, str | int]
    incomplete: list[bytes] = []


Message = Counted | Failed | Finished | Broke
decode_message = msgspec.json.Decoder(Message).decode
_encode = msgspec.json.Encoder().encode


def send(message: Message) -> None:
    remaining = memoryview(_encode(message) + b"\n")
    while remaining:
        remaining = remaining[os.write(STDOUT, remaining) :]


class Link:
    """The observer of this process: everything goes to the first one, whose end of stdin says when to stop."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.walker: Walker | None = None
        self.stopped = False

    def progress(self, p: Progress) -> None:
        tally = self.tally
        waited_seconds = self.walker.waited_seconds if self.walker else 0.0
        send(
            Counted(
                tally.files,
                tally.directories,
                tally.others,
                tally.skipped,
                tally.failed,
                tally.damaged,
                tally.bytes_done,
                tally.bytes_written,
                tally.current_path,
                waited_seconds,
            )
        )

    def warn(self, code: str, path: bytes, message: str) -> None:
        send(Failed(path, code, message))

    def note(self, code: str, message: str) -> None:
        """A restore has nothing to say that is no failure."""

    def cancelled(self) -> bool:
        return self.stopped or bool(select.select([STDIN], [], [], 0)[0])

    def before_seal(self) -> None:
        """Nothing is sealed by a restore."""

    def failed(self, failure: Failure) -> None:
        self.warn(failure.code, failure.path, failure.sentence)

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stopped = True


def read_order() -> tuple[WorkerOrder, int, int] | None:
    """The order, and the descriptors of target and list. None where there was none for this process."""
    stdin = socket.socket(fileno=STDIN)
    try:
        line, descriptors, _, _ = socket.recv_fds(stdin, READ_BYTES, 2)
        while line and not line.endswith(b"\n") and len(line) < LINE_BYTES_MAX and (part := stdin.recv(READ_BYTES)):
            line += part
    finally:
        stdin.detach()  # stays open: its end says when to stop
    if not line.endswith(b"\n"):
        return None
    target, common = descriptors
    return msgspec.json.decode(line, type=WorkerOrder), target, common


def work(order: WorkerOrder, target_descriptor: int, list_descriptor: int) -> Finished | Broke:
    """Do this process's share. Raises the engine's errors where there is nothing yet that was done."""
    tally = Tally()
    link = Link(tally)
    signal.signal(signal.SIGTERM, link.stop)
    pulse = Pulse(link, time.monotonic)
    secret = FileKey(order.file_key) if order.file_key is not None else None
    with (
        open_point(Path(os.fsdecode(order.path)), secret) as point,
        Target(target_descriptor, Existing(order.existing), fresh=order.fresh) as target,
    ):
        if point.seal_hash != order.seal_hash:
            raise damaged(point.path, "seal", "the file was exchanged while it was restored")
        writer = EntryWriter(target, tally, link.failed, lambda: pulse.beat(lambda: Progress("restore")))
        groups = GroupWriter(target, tally, writer, point.pieces)
        walker = Walker(Selection(point, order.paths), writer, groups, time.monotonic)
        link.walker = walker
        try:
            walker.run(_mine(walker, CommonList(list_descriptor)))
        except EngineError as error:
            walker.complete_folders(target, no_beat)
            return Broke(error.code, error.sentence, error.fields, walker.incomplete(target))
        link.progress(Progress("restore"))
        return Finished(list(target.created), list(target.found.items()), tally.losses.counts, tally.losses.first_paths)


def _mine(walker: Walker, common: CommonList) -> Iterator[Entry | FileGroup]:
    for number in common:
        for item in walker.items_of(number):
            if isinstance(item, FileGroup) or not item.hard_linked or item.is_directory:
                yield item


def main() -> int:
    prepare()
    order = read_order()
    with suppress(BrokenPipeError):  # the first process is gone, and what it cannot hear is not said
        try:
            if order is not None:
                send(work(*order))
        except EngineError as error:
            send(Broke(error.code, error.sentence, error.fields))
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
