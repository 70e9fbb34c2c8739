"""Further processes that share one restore: when they pay, starting them, hearing them, ending them.

What such a process does is in `repositories.engine.restore_worker`. It never outlives the one that started it: it stops
when its stdin ends.
"""

from __future__ import annotations

import os
import select
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from repositories.engine.errors import Cancelled, EngineError, OutOfSpace
from repositories.engine.own_process import ENVIRONMENT
from repositories.engine.reader import Point
from repositories.engine.restore_entry import Failure, Tally
from repositories.engine.restore_share import CommonList
from repositories.engine.restore_worker import Broke, Counted, Failed, Finished, WorkerOrder, decode_message
from repositories.engine.target import Target

PROCESSES_MAX = 4
WORTH_BYTES = 256 << 20
WORTH_FILES = 20_000
WORTH_SEGMENTS = 6
WORTH_STORED_BYTES = 64 << 20
STOP_SECONDS = 1.5
WAIT_SECONDS = 0.1
READ_BYTES = 1 << 16
PACKAGES = Path(__file__).resolve().parents[2]


class HelperLost(EngineError):
    """A process that shared a restore ended without a word."""

    code = "helper-lost"


def helpers_worth(point: Point, segments: int) -> int:
    """How many further processes a restore of so many segments pays for: none for a small one."""
    summary = point.summary
    if segments < WORTH_SEGMENTS or (summary.source_bytes < WORTH_BYTES and summary.files < WORTH_FILES):
        return 0
    return _processors() - 1


def helpers_likely(stored_bytes: int) -> int:
    """The same before the point is opened, from the length of its file alone."""
    return _processors() - 1 if stored_bytes >= WORTH_STORED_BYTES else 0


def _processors() -> int:
    return min(len(os.sched_getaffinity(0)), PROCESSES_MAX)


class Process:
    """A process that was started and waits for its order. Closing its stdin ends it, before and after."""

    def __init__(self) -> None:
        self.stdin, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "repositories.engine.restore_worker"],
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                env={"PATH": os.defpath, "PYTHONPATH": str(PACKAGES), "LC_ALL": "C.UTF-8", **ENVIRONMENT},
                process_group=0,  # Ctrl-C is for the first process, which ends this one in order
            )
        assert self._process.stdout
        self.stdout = self._process.stdout

    @property
    def number(self) -> int:
        return self._process.pid

    def give(self, order: WorkerOrder, descriptors: list[int]) -> None:
        line = msgspec.json.encode(order) + b"\n"
        self.stdin.sendall(line[socket.send_fds(self.stdin, [line], descriptors) :])

    def end(self) -> None:
        self.stdin.close()
        self._process.kill()  # nothing, where it ended as it should
        self._process.wait()
        self.stdout.close()


class Standby:
    """Processes that start while a password is derived; a context manager that ends those that were not needed."""

    def __init__(self, count: int = 0) -> None:
        self.processes = [Process() for _ in range(count)]

    def __enter__(self) -> Standby:
        return self

    def __exit__(self, *_: object) -> None:
        while self.processes:
            self.processes.pop().end()

    def take(self) -> Process:
        return self.processes.pop() if self.processes else Process()


class _Helper:
    """One process at work, what it said so far, and what it did."""

    def __init__(self, process: Process) -> None:
        self.counted = Counted(0, 0, 0, 0, 0, 0, 0, 0, b"", 0.0)
        self.finished: Finished | None = None
        self._rest = b""
        self._process, self.stdout = process, process.stdout

    def hear(self) -> list[bytes]:
        """The lines that have arrived; called when there is something to read. Raises HelperLost at the end."""
        part = os.read(self.stdout.fileno(), READ_BYTES)
        if not part and self.finished is None:
            raise HelperLost("A process of this restore ended unexpectedly. Start it again; what is there is skipped.")
        *lines, self._rest = (self._rest + part).split(b"\n")
        return lines

    def end(self) -> list[bytes]:
        """Tell it to stop and see that it does, which removes its unfinished file. One that did its share is done.

        Returns the folders that it made and left incomplete.
        """
        self._process.stdin.close()
        deadline_seconds = time.monotonic() + (STOP_SECONDS if self.finished is None else 0.0)
        while (left_seconds := deadline_seconds - time.monotonic()) > 0:
            if select.select([self.stdout], [], [], left_seconds)[0]:
                part = os.read(self.stdout.fileno(), READ_BYTES)
                self._rest += part
                if not part:
                    break
        self._process.end()
        return self.finished.created if self.finished else _left(self._rest.splitlines()[-1:])


class Helpers:
    """All further processes of one restore; a context manager that leaves none behind."""

    def __init__(self, failed: Callable[[Failure], None]) -> None:
        self._failed = failed
        self._helpers: list[_Helper] = []
        self._selector = selectors.DefaultSelector()
        self.incomplete: list[bytes] = []  # folders that helpers made and left so when they were stopped

    def __enter__(self) -> Helpers:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._selector.close()

    def start(
        self, processes: Iterable[Process], point: Point, paths: tuple[bytes, ...], target: Target, common: CommonList
    ) -> None:
        """Give each process its order; those that come from a generator are started one by one meanwhile."""
        order = WorkerOrder(
            path=os.fsencode(point.path),
            seal_hash=point.seal_hash,
            file_key=point.file_key,
            paths=paths,
            existing=target.existing.value,
            fresh=target.fresh,
        )
        for process in processes:
            helper = _Helper(process)
            self._helpers.append(helper)
            self._selector.register(helper.stdout, selectors.EVENT_READ, helper)
            with suppress(BrokenPipeError):  # hearing nothing from it will say so
                process.give(order, [target.root.descriptor, common.descriptor])

    def hear(self, wait_seconds: float = 0.0) -> None:
        """Take what they said. Raises what made one of them give up."""
        if not self._helpers:
            return
        for key, _ in self._selector.select(wait_seconds):
            helper: _Helper = key.data
            for line in helper.hear():
                self._take(helper, line)
            if helper.finished is not None:
                self._selector.unregister(helper.stdout)

    def wait(self, beat: Callable[[], None]) -> None:
        """Until all have done their share."""
        while any(helper.finished is None for helper in self._helpers):
            self.hear(WAIT_SECONDS)
            beat()

    def counted(self) -> list[Counted]:
        return [helper.counted for helper in self._helpers]

    def add_to(self, tally: Tally, target: Target) -> None:
        """Add what they did to what the first process did."""
        for helper in self._helpers:
            done, finished = helper.counted, helper.finished
            tally.files += done.files
            tally.directories += done.directories
            tally.others += done.others
            tally.skipped += done.skipped
            tally.failed += done.failed
            tally.damaged += done.damaged
            tally.bytes_done += done.bytes_done
            tally.bytes_written += done.bytes_written
            if finished is None:
                continue
            for code, count in finished.losses.items():
                tally.losses.add(code, finished.first_paths[code], count)
            target.created.update(finished.created)
            for path, time_ns in finished.found:
                target.found[path] = min(time_ns, target.found.get(path, time_ns))  # before anybody added to it
        self._end()

    def _end(self) -> None:
        for helper in self._helpers:
            self.incomplete += helper.end()
        self._helpers = []

    def _take(self, helper: _Helper, line: bytes) -> None:
        match decode_message(line):
            case Counted() as counted:
                helper.counted = counted
            case Failed(path, code, sentence):
                self._failed(Failure(path, code, sentence))
            case Finished() as finished:
                helper.finished = finished
            case Broke(code, sentence, fields):
                raise _error(code, sentence, fields)


def _left(last: list[bytes]) -> list[bytes]:
    """The folders that a helper's last message, where there is a whole one, names as made and not complete."""
    for line in last:
        if line.endswith(b"}"):
            match decode_message(line):
                case Broke() as broke:
                    return broke.incomplete
                case Finished() as finished:
                    return finished.created
    return []


def _error(code: str, sentence: str, fields: dict[str, str | int]) -> EngineError:
    family = {error.code: error for error in (Cancelled, OutOfSpace)}
    return family.get(code, HelperLost)(sentence, **fields)
