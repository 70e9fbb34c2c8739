"""Work in a process of its own that may be killed or stopped: a fork of this one, without a new interpreter."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from typing import Any


class Killed(Exception):
    """It ended by kill -9."""


class Child:
    """A process at work; at the end of a `with` it is no more."""

    def __init__(self, work: Callable[[], Any]) -> None:
        answers, told = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            _work_and_end(work, told)
        os.close(told)
        self._answers = os.fdopen(answers, "rb")
        self._is_there = True

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._answers.close()
        if self._is_there:
            os.kill(self.pid, signal.SIGKILL)
            self._take_end()

    def wait(self) -> Any:
        """What came of the work. Raises Killed, and what the work raised."""
        raw = self._answers.read()
        status = self._take_end()
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and not raw:
            raise Killed
        assert os.WIFEXITED(status) and raw, f"the child ended with status {status}"
        was_raised, found = pickle.loads(raw)
        if was_raised:
            raise found
        return found

    def wait_until_stopped(self) -> None:
        found = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert found is not None and found.si_code == os.CLD_STOPPED, "it ended, and was not stopped"

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def _take_end(self) -> int:
        status = os.waitpid(self.pid, 0)[1]
        self._is_there = False
        return status


def in_child(work: Callable[[], Any]) -> Any:
    """Raises Killed, and what the work raised."""
    with Child(work) as child:
        return child.wait()


def _work_and_end(work: Callable[[], Any], told: int) -> None:
    """Nothing of the test runs behind it: no fixture is torn down a second time."""
    try:
        try:
            answer = (False, work())
        except BaseException as error:
            answer = (True, error)
        raw = pickle.dumps(answer)
        while raw:
            raw = raw[os.write(told, raw) :]
    finally:
        os._exit(0)
