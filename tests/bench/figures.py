"""The figures: one JSON file, written after every measurement, so that an interrupted benchmark keeps what it has and
goes on from there. What is drawn and written from them is left to table.py, picture.py and document.py.

    machine        facts about the machine and the versions
    trees          what each tree is: files, bytes, where it stood
    measurements   one a tree, tool, run and step
    memory         one a number of files, number of points and session
    numbers        one a further number
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.tools import TOOLS, engine_environment, run_python

Figure = dict[str, Any]
LIBRARIES = """
import blake3
from backports import zstd
from cryptography.hazmat.backends.openssl import backend
print(f"zstd {zstd.zstd_version}, {backend.openssl_version_text()}, BLAKE3 {blake3.__version__}")
"""


@dataclass
class Figures:
    path: Path | None = None  # None: kept in memory only
    content: Figure = field(default_factory=dict)

    def part(self, name: str) -> list[Figure]:
        found: list[Figure] = self.content.setdefault(name, [])
        return found

    def put(self, name: str, figure: Figure, key: Iterable[str]) -> None:
        """Add a figure in place of the one with the same values at `key`, and store everything."""
        names = tuple(key)
        kept = [other for other in self.part(name) if any(other[part] != figure[part] for part in names)]
        self.content[name] = [*kept, figure]
        self.store()

    def has(self, name: str, **values: object) -> bool:
        return any(all(figure.get(key) == value for key, value in values.items()) for figure in self.part(name))

    def store(self) -> None:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = self.path.with_name(self.path.name + ".part")
            unfinished.write_text(as_json(self.content), encoding="utf-8")
            unfinished.replace(self.path)


def as_json(content: Figure) -> str:
    """One figure a line, so that a difference can be read."""
    parts = []
    for name, part in content.items():
        if isinstance(part, list):
            lines = ",\n".join(f"    {json.dumps(figure)}" for figure in part)
            parts.append(f"  {json.dumps(name)}: [\n{lines}\n  ]" if part else f"  {json.dumps(name)}: []")
        else:
            parts.append(f"  {json.dumps(name)}: {json.dumps(part)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def load(path: Path) -> Figure:
    content: Figure = json.loads(path.read_text(encoding="utf-8"))
    return content


def machine(*, quick: bool) -> Figure:
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "processor": processor(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}, {platform.machine()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
        "quick": quick,
        "libraries": libraries(),
    }


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def libraries() -> str:
    """The versions of what does the work; asked of another process, because this one is to stay small."""
    return run_python(LIBRARIES, engine_environment())


@dataclass(frozen=True)
class Row:
    """The medians of one tool's runs of one step on one tree; `added_bytes` is what the step added to the repository.

    `points` is how many the chain had afterwards.
    """

    tree: str
    step: str
    tool: str
    version: str
    runs: int
    points: int
    seconds: float
    cpu_seconds: float
    mib_per_second: float
    peak_bytes: int
    repository_bytes: int
    added_bytes: int


def rows(content: Figure, tree: str, steps: Iterable[str]) -> list[Row]:
    """By step, and there the engine first, then the peers, then what they are compared with."""
    of_tree = [figure for figure in content.get("measurements", []) if figure["tree"] == tree]
    found = []
    for step in steps:
        for tool in TOOLS:
            runs = [figure for figure in of_tree if (figure["step"], figure["tool"]) == (step, tool)]
            if runs:
                found.append(row(runs))
    return found


def row(runs: list[Figure]) -> Row:
    def middle(name: str) -> float:
        return float(median(figure[name] for figure in runs))

    first, seconds = runs[0], middle("seconds")
    return Row(
        tree=first["tree"],
        step=first["step"],
        tool=first["tool"],
        version=" and ".join(sorted({figure["version"] for figure in runs})),
        runs=len(runs),
        points=min(figure["points"] for figure in runs),
        seconds=seconds,
        cpu_seconds=middle("cpu_seconds"),
        mib_per_second=middle("source_bytes") / 2**20 / seconds,
        peak_bytes=int(middle("peak_bytes")),
        repository_bytes=int(middle("repository_bytes")),
        added_bytes=int(middle("added_bytes")),
    )
