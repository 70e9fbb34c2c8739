"""Who reads the next batch of small files: this process, or a further one beside it; a few batches ahead of their use.

Reading a small file is a handful of short system calls, and threads of one interpreter would wait for each other at
each, so there are two processes. The further one is started when a backup turns out to be large enough; it gets a batch
whenever it has less than two, and this process reads the others itself. If it is lost, this process reads what it had.
How a batch is read is left to small_files.py; the order in which batches are used, to storing.py.
"""

from __future__ import annotations

import marshal
import mmap
import os
import select
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from repositories.engine.layout import BLOCK_TARGET_BYTES
from repositories.engine.read_helper import LENGTH_BYTES, frame
from repositories.engine.small_files import SMALL_FILE_BYTES, Answer, BatchReader, Keys, Request

BATCHES_AHEAD = 3
_SLOT_BYTES = BLOCK_TARGET_BYTES + SMALL_FILE_BYTES + mmap.PAGESIZE  # a batch ends with the file that fills a block
_SLOTS = BATCHES_AHEAD + 2
_HELPER_BATCHES = 2  # one that it reads, and one that waits for it
_WORTH_BATCHES = 3  # so many batches pay for starting a process
_WAIT_SECONDS = 0.2
_PACKAGES = Path(__file__).resolve().parents[2]


@dataclass(slots=True, eq=False)
class Ticket:
    """A batch that was asked for. Its slot is free again after release()."""

    request: Request
    slot: int
    answer: Answer | None = None


class ReadAhead:
    """Use begin() and then, in the same order, wait() and release(); close() in any case. `beat` may raise."""

    def __init__(self, keys: Keys, beat: Callable[[], None], helpers: int | None = None) -> None:
        """`helpers` is how many further processes there may be, at most one; None where the machine decides."""
        self._keys, self._beat = keys, beat
        self._reader = BatchReader(keys)
        self._descriptor = os.memfd_create("backupsite-batches")
        os.ftruncate(self._descriptor, _SLOTS * _SLOT_BYTES)
        self._memory = mmap.mmap(self._descriptor, 0)
        self._free = list(range(_SLOTS))
        self._allowed = (len(os.sched_getaffinity(0)) > 1) if helpers is None else bool(helpers)
        self._helper: _Helper | None = None
        self._begun = 0

    def begin(self, request: Request) -> Ticket:
        """Have it read, now or by the further process."""
        self._begun += 1
        ticket = Ticket(request, self._free.pop())
        if self._allowed and self._helper is None and self._begun >= _WORTH_BATCHES:
            self._helper = _Helper(self._keys, self._descriptor)
        if self._helper is not None and self._helper.has_room():
            self._helper.send(ticket)
        else:
            ticket.answer = self._reader.read(request, self.content(ticket))
        return ticket

    def is_ready(self, ticket: Ticket) -> bool:
        if ticket.answer is None and self._helper is not None:
            self._hear(0.0)
        return ticket.answer is not None

    def wait(self, ticket: Ticket) -> Answer:
        while ticket.answer is None:
            self._beat()
            self._hear(_WAIT_SECONDS)
        return ticket.answer

    def content(self, ticket: Ticket) -> memoryview:
        """Where the small files of a batch lie."""
        return memoryview(self._memory)[ticket.slot * _SLOT_BYTES : (ticket.slot + 1) * _SLOT_BYTES]

    def release(self, ticket: Ticket) -> None:
        self._free.append(ticket.slot)

    def close(self) -> None:
        if self._helper is not None:
            self._helper.end()
            self._helper = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _hear(self, seconds: float) -> None:
        """Take what the further process said; if it is lost, read here what it had, and do without."""
        if self._helper is None or self._helper.hear(seconds):
            return
        lost, self._helper, self._allowed = self._helper, None, False
        lost.end()
        for ticket in lost.waiting:
            ticket.answer = self._reader.read(ticket.request, self.content(ticket))


class _Helper:
    """The further process, and the batches that it has."""

    def __init__(self, keys: Keys, descriptor: int) -> None:
        self.waiting: deque[Ticket] = deque()
        self._said = bytearray()
        self._unsent = bytearray(frame(tuple(keys)))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "repositories.engine.read_helper", str(descriptor), str(_SLOT_BYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(descriptor,),
            env={"PATH": os.defpath, "PYTHONPATH": str(_PACKAGES), "LC_ALL": "C.UTF-8"},
            process_group=0,  # Ctrl-C is for the first process, which ends this one in order
        )
        assert self._process.stdin and self._process.stdout
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)

    def has_room(self) -> bool:
        return len(self.waiting) < _HELPER_BATCHES

    def send(self, ticket: Ticket) -> None:
        self.waiting.append(ticket)
        self._unsent += frame((ticket.slot, tuple(ticket.request)))
        self.hear(0.0)

    def hear(self, seconds: float) -> bool:
        """Send and take what can be, waiting at most so long; False if it is gone."""
        readable, writable, _ = select.select([self._from], [self._to] if self._unsent else [], [], seconds)
        try:
            if writable:
                del self._unsent[: os.write(self._to, self._unsent)]
            if readable:
                part = os.read(self._from, 1 << 20)
                self._said += part
                self._take()
                return bool(part)
        except BrokenPipeError:
            return False
        return True

    def _take(self) -> None:
        while len(self._said) >= LENGTH_BYTES:
            end = LENGTH_BYTES + int.from_bytes(self._said[:LENGTH_BYTES], "little")
            if len(self._said) < end:
                return
            answer = marshal.loads(bytes(self._said[LENGTH_BYTES:end]))  # noqa: S302 - from our own process
            del self._said[:end]
            self.waiting.popleft().answer = Answer(*answer)

    def end(self) -> None:
        """It holds nothing that would have to be put in order."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.kill()
        self._process.wait()
