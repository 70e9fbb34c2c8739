"""Sources for tests that need a session to take its time."""

from __future__ import annotations

import os
from pathlib import Path

FILES = 3584
FILE_BYTES = 64 * 1024
SLOW_BYTES = FILES * FILE_BYTES


def make_slow_source(folder: Path) -> None:
    """Fill a folder with 224 MiB of text in many files.

    Compressing it strongly keeps two idle cores busy for three seconds: longer than any step of a test.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        (folder / f"text-{number}").write_bytes(os.urandom(FILE_BYTES // 2).hex().encode())
