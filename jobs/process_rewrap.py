"""The rewrap of a chain in a session's process: heads are exchanged, and each is told to the worker in batches.

What a batch says is on disk: the worker may bring its catalogue up to it at any time. A point that cannot be rewritten
is a line in the log and in the count, never a silence. How heads are exchanged is decided in the engine.

Codes of log lines: rewrap-refused.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Protocol

from jobs.protocol import Event, Heads, HeadSaid, Noted, PointFile, RewrapDone, RewrapRequest, SlotSaid
from repositories.engine.expectation import Expected
from repositories.engine.head import Head
from repositories.engine.observer import PROGRESS_INTERVAL_SECONDS, Progress
from repositories.engine.rewrap_many import Exchange, KnownFile, Rewrapped, obstacle_of, rewrap_many

BATCH = 100
OBSTACLES = {
    "immutable": "The file has the attribute “immutable”.",
    "append-only": "The file has the attribute “append only”.",
}


class Worker(Protocol):
    """Whom it is told to: the process's pipe."""

    def send(self, event: Event) -> None: ...

    def progress(self, p: Progress) -> None: ...

    def cancelled(self) -> bool: ...


def rewrap_chain(request: RewrapRequest, worker: Worker) -> RewrapDone:
    """Rewrap every point of the request that has a key, the newest last. A wish to stop ends it between two points."""
    files = [_known(point, request) for point in request.points]
    wanted = Exchange(request.add.all(), request.remove)
    telling = _Telling(worker, files)
    for result in rewrap_many(files, wanted, worker.cancelled):
        telling.take(result)
    return telling.end()


class _Telling:
    """Collects what became of each file, and passes it on in time."""

    def __init__(self, worker: Worker, files: list[KnownFile]) -> None:
        self._worker, self._total = worker, len(files)
        self._paths = {file.expected.file_id: file.path for file in files}
        self._counts: Counter[str] = Counter()
        self._heads: list[HeadSaid] = []
        self._told_at = 0.0

    def take(self, result: Rewrapped) -> None:
        if result.head is None:
            self._counts["refused"] += 1
            self._worker.send(Noted("warning", "rewrap-refused", self._why(result)))
        else:
            self._counts["written" if result.written else "passed"] += 1
            self._heads.append(head_said(result.head))
        if len(self._heads) >= BATCH:
            self._pass_on()
        if time.monotonic() - self._told_at >= PROGRESS_INTERVAL_SECONDS:
            self._progress()

    def end(self) -> RewrapDone:
        self._pass_on()
        self._progress()
        done = self._counts.total()
        return RewrapDone(
            written=self._counts["written"],
            passed=self._counts["passed"],
            refused=self._counts["refused"],
            stopped=done < self._total,
        )

    def _why(self, result: Rewrapped) -> str:
        assert result.problem is not None, "without a head there is an error"
        code = obstacle_of(result.problem, self._paths[result.file_id])
        return " ".join(filter(None, (str(result.problem), OBSTACLES.get(code, ""))))

    def _pass_on(self) -> None:
        if self._heads:
            self._worker.send(Heads(self._heads))
            self._heads = []

    def _progress(self) -> None:
        self._told_at = time.monotonic()
        self._worker.progress(Progress("rewrap", files_done=self._counts.total(), files_total=self._total))


def head_said(head: Head) -> HeadSaid:
    slots = [SlotSaid(slot.kind.name.lower(), slot.record, slot.version, slot.hint) for slot in head.slots]
    return HeadSaid(head.file_id, head.generation, slots)


def _known(point: PointFile, request: RewrapRequest) -> KnownFile:
    assert point.file_key is not None, "a point without a key is left out of the request"
    expected = Expected(point.file_id, point.seal_hash, point.head_generation, chain_id=request.chain_id)
    return KnownFile(Path(os.fsdecode(point.path)), expected, point.file_key)
