"""The four trees that are measured, how large each is in full and in the quick form, and where they stand.

Only a copy of real files is ever backed up, so that every tool reads the same bytes. How made-up content looks is left
to generated.py, what changes between two points to changes.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.tools import engine_environment

GIB = 1 << 30
MIB = 1 << 20
SIZE_BYTES_MAX = 2 * GIB
FILES_MAX = 60_000
QUICK_SIZE_BYTES_MAX = 24 * MIB
QUICK_FILES_MAX = 2_000
MEMORY_FOLDER = Path("/dev/shm")
SETTLE_SECONDS = 2.5  # a file changed within two seconds of its reading is read again by the next session
ONE_FOLDER_FILES = 300  # the folder that is restored alone has about so many, where the tree has such a one


@dataclass(frozen=True)
class Size:
    files: int
    size_bytes: int


@dataclass(frozen=True)
class Tree:
    """`amount` is what generated.py is asked for; a tree without a kind is a copy of real folders. `room_bytes` and
    `room_files` are what the tree, one repository and one restored tree need, where a tool keeps no holes.
    """

    key: str
    title: str
    change: str  # what the step "changed" does before
    room_bytes: int
    room_files: int
    kind: str = ""
    amount: int = 0
    quick_amount: int = 0


SOME_FILES = "1 % of the files get 64 other bytes each"
SOME_AREAS = "of 5 % of its areas of 1 MiB the first 4 to 64 KiB are others"
ONE_FILE = "64 other bytes in 1 of 64 files"
IMAGE_TITLE = "a disk image: 40 % holes, 30 % text, 30 % noise"
TREES = {
    tree.key: tree
    for tree in (
        Tree("a", "real system files", SOME_FILES, 8 * GIB, 200_000),
        Tree("b", "small files", SOME_FILES, 13 * GIB, 2_200_000, "small", 1_000_000, 1_000),
        Tree("c", IMAGE_TITLE, SOME_AREAS, 17 * GIB, 100_000, "image", 8 * 1024, 64),
        Tree("d", "content that does not compress", ONE_FILE, 8 * GIB, 10_000, "random", 2 * 1024, 32),
    )
}


def measure(path: Path) -> Size:
    """Regular files below a path, hard links counted once each name."""
    files = size_bytes = 0
    todo = [os.fspath(path)]
    while todo:
        with os.scandir(todo.pop()) as found:
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    files += 1
                    size_bytes += entry.stat(follow_symlinks=False).st_size
    return Size(files, size_bytes)


def make(tree: Tree, root: Path, *, quick: bool, sources: list[Path]) -> None:
    """Make the tree; `sources` are the folders to copy for the tree of real files."""
    if tree.kind:
        amount = tree.quick_amount if quick else tree.amount
        command = [sys.executable, "-m", "tests.bench.generated", tree.kind, str(root), str(amount)]
        subprocess.run(command, check=True, env=engine_environment())
    else:
        copy(sources, root)


def copy(paths: list[Path], into: Path) -> None:
    """Copy folders with everything that can be kept, each at its absolute path below `into`."""
    for path in paths:
        to = into / path.relative_to("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", "--", str(path), str(to)], check=True)


def one_folder(root: Path) -> Path:
    """The folder to be restored alone: the one whose number of files is nearest to ONE_FOLDER_FILES, else the first by
    its path.
    """
    files: dict[str, int] = {}
    for folder, _, names in os.walk(root, topdown=False):
        inner = sum(files.get(os.path.join(folder, name), 0) for name in os.listdir(folder))
        files[folder] = inner + sum(1 for name in names if os.path.isfile(os.path.join(folder, name)))
    below = {path: count for path, count in files.items() if path != os.fspath(root) and count}
    return Path(min(below, key=lambda path: (abs(below[path] - ONE_FOLDER_FILES), path)))


def real_folders(*, quick: bool) -> list[Path]:
    return choose(QUICK_SIZE_BYTES_MAX, QUICK_FILES_MAX) if quick else choose(SIZE_BYTES_MAX, FILES_MAX)


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


def work_folder(needed_bytes: int, needed_files: int, inside: Path | None = None) -> Path:
    """A new folder in `inside`, or where nothing is given in memory when there is room for everything, else on the disk
    of the temporary folder.
    """
    place = inside or (MEMORY_FOLDER if has_room(needed_bytes, needed_files) else None)
    return Path(tempfile.mkdtemp(prefix="backupsite-bench-", dir=place))


def has_room(needed_bytes: int, needed_files: int) -> bool:
    """In memory, for so many bytes and files; a gibibyte stays for what is measured."""
    return (
        MEMORY_FOLDER.is_dir()
        and shutil.disk_usage(MEMORY_FOLDER).free > needed_bytes
        and os.statvfs(MEMORY_FOLDER).f_favail > needed_files
        and free_memory_bytes() > needed_bytes + GIB
    )


def is_in_memory(folder: Path) -> bool:
    return folder.is_relative_to(MEMORY_FOLDER)


def free_memory_bytes() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def remove(folder: Path) -> None:
    """With the system's own command: a million files are gone in seconds."""
    subprocess.run(["rm", "-rf", "--", str(folder)], check=True)


def settle(since_seconds: float) -> None:
    """Wait until what was changed at that monotonic time counts as quiet."""
    time.sleep(max(0.0, since_seconds + SETTLE_SECONDS - time.monotonic()))
