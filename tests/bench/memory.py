"""Peak memory against the number of files and of points: the session that writes the last point of a chain, and the
whole restore of that point, each as its own command. How the chains are made is left to growing.py.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.bench import trees
from tests.bench.figures import Figures
from tests.bench.measuring import Measured
from tests.bench.rows import say
from tests.bench.tools import Engine, engine_environment

FILES = (10_000, 100_000, 1_000_000)
POINTS = (1, 30, 300)
QUICK_FILES = (100, 1_000)
QUICK_POINTS = (1, 3)
ROOM_BYTES_A_FILE = 12_000  # the tree, the repository and the restored tree, in pages of 4 KiB
ROOM_FILES_A_FILE = 3
SESSIONS = ("backup", "restore")


def measure_memory(figures: Figures, *, quick: bool, work: Path | None) -> None:
    for files in QUICK_FILES if quick else FILES:
        for points in QUICK_POINTS if quick else POINTS:
            if all(figures.has("memory", files=files, points=points, session=session) for session in SESSIONS):
                continue
            say(f"memory: {files:,} files, {points} points")
            folder = trees.work_folder(files * ROOM_BYTES_A_FILE, files * ROOM_FILES_A_FILE, work)
            try:
                for session, measured in measure_chain(folder, files, points, quick=quick).items():
                    put(figures, files, points, session, measured)
            finally:
                trees.remove(folder)


def measure_chain(folder: Path, files: int, points: int, *, quick: bool) -> dict[str, Measured]:
    engine, tree = Engine(), folder / "tree"
    engine.prepare(folder, tree)
    sizes = [str(files), str(points)]
    command = [sys.executable, "-m", "tests.bench.growing", str(tree), "repository", "password", *sizes]
    subprocess.run(command, check=True, cwd=folder, env=engine_environment())
    if not quick:
        trees.settle(time.monotonic())
    backup = engine.backup(folder, tree, points)
    restore = engine.restore(folder, folder / "restored", points)
    found = trees.measure(folder / "restored").files
    if found != files:
        raise SystemExit(f"Point {points} gave {found} files back, not {files}.")
    return {"backup": backup, "restore": restore}


def put(figures: Figures, files: int, points: int, session: str, measured: Measured) -> None:
    figure = {
        "files": files,
        "points": points,
        "session": session,
        "peak_bytes": measured.peak_bytes,
        "seconds": round(measured.seconds, 3),
    }
    figures.put("memory", figure, ("files", "points", "session"))
    say(f"  {session}: {measured.peak_bytes / 2**20:.0f} MiB, {measured.seconds:.1f} s")
