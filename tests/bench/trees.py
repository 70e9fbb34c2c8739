"""Which real files are measured, and where the copy of them and the repositories stand.

Only a copy is ever backed up, so that every tool reads the same bytes and nothing changes between two runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
SIZE_BYTES_MAX = 2 * GIB
FILES_MAX = 60_000
QUICK_SIZE_BYTES_MAX = 64 << 20
QUICK_FILES_MAX = 4_000
MEMORY_FOLDER = Path("/dev/shm")
ROOM_FACTOR = 6  # the copy, a repository and a restored tree a tool, with some air
SETTLE_SECONDS = 3.0  # a file changed within two seconds of its reading is read again by the next session


@dataclass(frozen=True)
class Size:
    files: int
    size_bytes: int


def measure(path: Path) -> Size:
    """Regular files below a path, hard links counted once each name; unreadable folders count nothing."""
    files = size_bytes = 0
    for folder, _, names in os.walk(path):
        for name in names:
            facts = os.lstat(os.path.join(folder, name))
            if facts.st_mode & 0o170000 == 0o100000:
                files += 1
                size_bytes += facts.st_size
    return Size(files, size_bytes)


def candidates() -> Iterator[Path]:
    """Folders that a Linux system has, the ones with many small files first."""
    for folder in ("/usr/share", "/usr/include", "/usr/bin", "/usr/sbin", "/usr/libexec"):
        if Path(folder).is_dir() and not Path(folder).is_symlink():
            yield Path(folder)
    yield from sorted(path for path in Path("/usr/lib").iterdir() if path.is_dir() and not path.is_symlink())


def choose(size_bytes_max: int, files_max: int) -> list[Path]:
    """Take folders while all of them together stay below both limits; a too large folder is passed over."""
    chosen: list[Path] = []
    files = size_bytes = 0
    for path in candidates():
        size = measure(path)
        if files + size.files <= files_max and size_bytes + size.size_bytes <= size_bytes_max:
            chosen.append(path)
            files += size.files
            size_bytes += size.size_bytes
    return chosen


def work_folder(size_bytes: int) -> Path:
    """A new folder in memory when there is room for everything, else on the disk of the temporary folder."""
    needed = size_bytes * ROOM_FACTOR
    in_memory = (
        MEMORY_FOLDER.is_dir() and shutil.disk_usage(MEMORY_FOLDER).free > needed and free_memory_bytes() > needed
    )
    return Path(tempfile.mkdtemp(prefix="backupsite-bench-", dir=MEMORY_FOLDER if in_memory else None))


def free_memory_bytes() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def copy(paths: list[Path], into: Path) -> None:
    """Copy folders with everything that can be kept, each at its absolute path below `into`; then let the clock
    move on.
    """
    for path in paths:
        to = into / path.relative_to("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", "--", str(path), str(to)], check=True)
    time.sleep(SETTLE_SECONDS)
