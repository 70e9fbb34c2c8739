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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from repositories.engine.layout import BLOCK_TARGET_BYTES
from repositories.engine.read_helper import LENGTH_BYTES, frame
from repositories.engine.small_files import SMALL_FILE_BYTES, Answer, BatchReader, Keys, Request

BATCHES_AHEAD = 3
_SLOT_BYTES = BLOCK_TARGET_BYTES + SMALL_FILE_BYTES + mmap.PAGESIZE  # a batch ends with the file that fills a block
_HELPER_SLOTS = BATCHES_AHEAD + 1
_HELPER_BATCHES = 2  # one that it reads, and one that waits for it
_WORTH_ENTRIES = 2_000  # so many before it pay for starting a process
_WAIT_SECONDS = 0.2
_PACKAGES = Path(__file__).resolve().parents[2]


@dataclass(slots=True, eq=False)
class Ticket:
    """A batch that was asked for; `content` is where its small files lie, until release()."""

    request: Request
    content: memoryview
    slot: int | None  # of the further process
    answer: Answer | None = None


class ReadAhead:
    """Use begin() and then, in the same order, wait() and release(); close() in any case. `beat` may raise."""

    def __init__(self, keys: Keys, beat: Callable[[], None], helpers: int | None = None) -> None:
        """`helpers` is how many further processes there may be, at most one; None where the machine decides."""
        self._keys, self._beat = keys, beat
        self._reader = BatchReader(keys)
        self._spare: list[memoryview] = []
        self._allowed = (len(os.sched_getaffinity(0)) > 1) if helpers is None else bool(helpers)
        self._helper: _Helper | None = None
        self._entries = 0

    def begin(self, request: Request) -> Ticket:
        """Have it read, now or by the further process."""
        self._entries += len(request.kinds)
        if self._allowed and self._entries >= _WORTH_ENTRIES:
            self._start()
        if self._helper is not None and (ticket := self._helper.take(request)) is not None:
            return ticket
        content = self._spare.pop() if self._spare else memoryview(mmap.mmap(-1, _SLOT_BYTES))
        return Ticket(request, content, None, self._reader.read(request, content))

    def is_ready(self, ticket: Ticket) -> bool:
        if ticket.answer is None:
            self._hear(0.0)
        return ticket.answer is not None

    def wait(self, ticket: Ticket) -> Answer:
        while ticket.answer is None:
            self._beat()
            self._hear(_WAIT_SECONDS)
        return ticket.answer

    def release(self, ticket: Ticket) -> None:
        if ticket.slot is None:
            self._spare.append(ticket.content)
        elif self._helper is not None:
            self._helper.free.append(ticket.slot)

    def close(self) -> None:
        if self._helper is not None:
            self._helper.end()
            self._helper = None

    def _start(self) -> None:
        """Without a further process it is slower, and nothing else."""
        self._allowed = False
        with suppress(OSError):
            self._helper = _Helper(self._keys)

    def _hear(self, seconds: float) -> None:
        """Take what the further process said; if it is lost, read here what it had, and do without."""
        if self._helper is None or self._helper.hear(seconds):
            return
        lost, self._helper = self._helper, None
        lost.end()
        for ticket in lost.waiting:
            ticket.answer = self._reader.read(ticket.request, ticket.content)


class _Helper:
    """The further process, the memory that is shared with it, and the batches that it has."""

    def __init__(self, keys: Keys) -> None:
        self.waiting: deque[Ticket] = deque()
        self.free = list(range(_HELPER_SLOTS))
        self._said = bytearray()
        self._unsent = bytearray(frame(tuple(keys)))
        descriptor = os.memfd_create("backupsite-batches")
        try:
            os.ftruncate(descriptor, _HELPER_SLOTS * _SLOT_BYTES)
            self._memory = memoryview(mmap.mmap(descriptor, 0))
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "repositories.engine.read_helper", str(descriptor), str(_SLOT_BYTES)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(descriptor,),
                env={"PATH": os.defpath, "PYTHONPATH": str(_PACKAGES), "LC_ALL": "C.UTF-8"},
                process_group=0,  # Ctrl-C is for the first process, which ends this one in order
            )
        finally:
            os.close(descriptor)
        assert self._process.stdin and self._process.stdout
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)

    def take(self, request: Request) -> Ticket | None:
        """None if it has enough to do."""
        if len(self.waiting) >= _HELPER_BATCHES or not self.free:
            return None
        slot = self.free.pop()
        ticket = Ticket(request, self._memory[slot * _SLOT_BYTES : (slot + 1) * _SLOT_BYTES], slot)
        self.waiting.append(ticket)
        self._unsent += frame((slot, tuple(request)))
        self.hear(0.0)
        return ticket

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
