"""Real processes of a test's own, on its database: forked, so that they cost little and can be killed."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

from django.db import connections


def fork(work: Callable[[], None]) -> int:
    """Run something in a process of its own, with connections of its own; return its id.

    It ends with 0, with the number of a SystemExit, or with 1 and a traceback.
    """
    connections.close_all()
    if pid := os.fork():
        return pid
    try:
        work()
        os._exit(0)
    except SystemExit as end:
        os._exit(int(end.code or 0))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)
