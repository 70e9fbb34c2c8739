"""The calls of this process that change what is on a disk: counted, and one of them made to fail, or to be the last.

The engine makes them through the module `os`, whose functions are exchanged as long as `watched()` lasts. Reading is
not touched, so in a backup these are the calls that concern the repository.
"""

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

WRITES = ("pwrite", "pwritev")
NAMES = (*WRITES, "open", "fsync", "link", "rename", "unlink", "ftruncate", "mkdir", "rmdir")


@dataclass(frozen=True)
class Call:
    """One call, not made yet."""

    name: str
    arguments: tuple[Any, ...]
    more: dict[str, Any]
    whole: Callable[..., Any]

    def make(self) -> Any:
        return self.whole(*self.arguments, **self.more)

    def half(self) -> int:
        """Of a write, write only the first half."""
        fd, given, offset = self.arguments
        raw = bytes(given) if self.name == "pwrite" else b"".join(map(bytes, given))
        return _PWRITE(fd, raw[: max(1, len(raw) // 2)], offset)


_PWRITE = os.pwrite
Fault = Callable[[Call], Any]


def failing(number: int, *, but: tuple[str, ...] = ()) -> Fault:
    """With this errno, and nothing done; calls of the names `but` work."""

    def fail(call: Call) -> Any:
        if call.name in but:
            return call.make()
        raise OSError(number, os.strerror(number))

    return fail


def cut_short(call: Call) -> int:
    """A write that writes less than it was given, which is no error."""
    return call.half()


def full_in_the_middle(call: Call) -> Any:
    """Half of a write is on the disk when there is no more room."""
    call.half()
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def killed(_call: Call) -> Any:
    """A real kill -9 before the call."""
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()


def killed_in_the_middle(call: Call) -> Any:
    """A real kill -9 when half of a write is on the disk; of another call, behind it."""
    with suppress(OSError):
        if call.name in WRITES:
            call.half()
        else:
            call.make()
    killed(call)


def stopped(call: Call) -> Any:
    """Suspended before the call, which is made when somebody sends SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)
    return call.make()


class Watch:
    """The names of the calls so far; calls of other threads are counted as well."""

    def __init__(self, at: int | str | None, fault: Fault | None, lasting: bool) -> None:
        self.made: list[str] = []
        self.struck = False
        self._at, self._fault, self._lasting, self._lock = at, fault, lasting, threading.Lock()

    def take(self, call: Call) -> Any:
        if call.name == "open" and not (len(call.arguments) > 1 and call.arguments[1] & os.O_CREAT):
            return call.make()
        with self._lock:
            if self._at == call.name:
                self._at = len(self.made)
            number = len(self.made)
            self.made.append(call.name)
        if self._fault is None or not self._strikes(number, call):
            return call.make()
        self.struck = True
        return self._fault(call)

    def _strikes(self, number: int, call: Call) -> bool:
        if not isinstance(self._at, int) or (self._fault in _OF_WRITES and call.name not in WRITES):
            return False
        return number == self._at or (self._lasting and number > self._at)


_OF_WRITES = (cut_short, full_in_the_middle)


@contextmanager
def watched(at: int | str | None = None, fault: Fault | None = None, *, lasting: bool = False) -> Iterator[Watch]:
    """Count the calls. One becomes the fault, if `lasting` with all that follow it.

    `at` is its number, from 0, or a name: the first call of it. How many writes there are depends a little on threads.
    """
    watch, before = Watch(at, fault, lasting), {name: getattr(os, name) for name in NAMES}

    def exchanged(name: str) -> Callable[..., Any]:
        return lambda *arguments, **more: watch.take(Call(name, arguments, more, before[name]))

    for name in NAMES:
        setattr(os, name, exchanged(name))
    try:
        yield watch
    finally:
        for name, whole in before.items():
            setattr(os, name, whole)
