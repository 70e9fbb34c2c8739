"""What the engine's own processes (the command line, the helpers of a restore) set before anything else is imported.

Where the engine is a guest in somebody else's process, that process decides.
"""

from __future__ import annotations

import ctypes
import gc
import os

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8  # of malloc.h
KEPT_BYTES = 32 << 20
STEP_BYTES = 4 << 20
MAPPED_BYTES_MIN = 32 << 20  # the most that glibc takes
OBJECTS_BETWEEN_COLLECTIONS = 50_000
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}  # no threads of numpy's that wait for algebra, and cost time to start


def prepare() -> None:
    """Called once, at the start of a process: before it has threads, and before numpy is imported."""
    os.environ.update(ENVIRONMENT)
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)  # entries come in thousands and hold no cycles
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Blocks of some MiB come and go all the time. By default each costs the system a thousand page faults, since what
    is freed goes back at once; kept, the same pages serve the next block. One arena serves all threads: few of them
    allocate, and each arena keeps its own. Another C library than glibc keeps its own ways.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(M_ARENA_MAX, 1)
    mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES_MIN)
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    mallopt(M_TOP_PAD, STEP_BYTES)
