"""What the engine's own processes set for themselves; each is tried in a process of its own."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from repositories.engine import own_process
from tests.engine_cli.conftest import PROJECT

FAULTS_OF_BLOCKS = """
import resource
from repositories.engine.own_process import prepare
prepare()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def open_blocks():
    for size in range(4 << 20, 8 << 20, 1 << 18):
        kept = [bytes(size), bytes(size // 2)]
open_blocks()
before = faults()
for _ in range(10):
    open_blocks()
print(faults() - before)
"""
THREADS = """
import os
from repositories.engine.own_process import prepare
prepare()
import numpy
print(len(os.listdir("/proc/self/task")))
"""


def said(script: str) -> int:
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, check=True)
    return int(done.stdout)


def test_the_memory_of_a_block_serves_the_next_one() -> None:
    """Fresh from the system, 160 blocks of 6 MiB and as many halves would be 368,640 faults of 4 KiB."""
    assert said(FAULTS_OF_BLOCKS) < 4_000


def test_numpy_starts_no_threads() -> None:
    assert said(THREADS) == 1


def test_another_c_library_keeps_its_own_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    own_process.keep_freed_memory()
