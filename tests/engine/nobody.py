"""Doing something as an ordinary user, for tests that run as root."""

import os
import pickle
import traceback
from collections.abc import Callable
from typing import TypeVar

import pytest

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

_T = TypeVar("_T")


def as_nobody(act: Callable[[], _T]) -> _T:
    """What `act` returns in a child process of user and group 65534: a change of user cannot be undone.

    What it needs must be imported before: the folders of Python and of the project may be closed to others.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        code = 1
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            answer = pickle.dumps(act())
            code = 0
        except BaseException:
            answer = traceback.format_exc().encode()
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(answer)
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, f"the child ended with {code}: {answer.decode(errors='replace')}"
    return pickle.loads(answer)
