"""What one command costs: its time, its CPU time and its peak memory, with every process that it starts.

Memory is measured alike for all tools. While the command runs, all processes of its session are looked at 20 times a
second: what is theirs alone (anonymous memory) is added up, what may be shared (mapped files) is counted once, as the
largest. The kernel's own exact peak of the largest process is taken where that is more.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.05


@dataclass(frozen=True)
class Measured:
    seconds: float
    cpu_seconds: float  # of all its processes; on a busy machine it tells more than the time
    peak_bytes: int  # of all its processes together


class CommandFailed(Exception):
    """A measured command ended with an error; its figures mean nothing."""


def run(command: list[str], environment: dict[str, str], folder: Path) -> Measured:
    """Run one command to its end and measure it with all its children."""
    measured, _ = run_and_hear(command, environment, folder)
    return measured


def run_and_hear(command: list[str], environment: dict[str, str], folder: Path) -> tuple[Measured, str]:
    """The same, with what the command said. Raises CommandFailed."""
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            with Sampler(process.pid) as sampler:
                _, status, usage = os.wait4(process.pid, 0)
                seconds = time.perf_counter() - started
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read().decode("utf-8", "replace")
        if process.returncode != 0:
            raise CommandFailed(f"{' '.join(command)} ended with {process.returncode}:\n{said[-2000:]}")
    peak_bytes = max(usage.ru_maxrss * 1024, sampler.peak_bytes)
    return Measured(seconds, usage.ru_utime + usage.ru_stime, peak_bytes), said


class Sampler:
    """Looks at the processes of one session until it is left; then `peak_bytes` is the most that was seen."""

    def __init__(self, session: int) -> None:
        self._session = session
        self._is_ours: dict[int, bool] = {}  # by process id, so that the others are looked at once only
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sampler")
        self.peak_bytes = 0

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.peak_bytes = max(self.peak_bytes, self.now_bytes())

    def now_bytes(self) -> int:
        """The memory of all of them now. A process that started or ended meanwhile counts the next time, or no more."""
        found = [memory for pid in self._pids() if (memory := memory_bytes(pid))]
        return sum(own for own, _ in found) + max((shared for _, shared in found), default=0)

    def _pids(self) -> list[int]:
        present = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        self._is_ours = {
            pid: self._is_ours[pid] if pid in self._is_ours else session_of(pid) == self._session for pid in present
        }
        return [pid for pid, is_ours in self._is_ours.items() if is_ours]


def session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def memory_bytes(pid: int) -> tuple[int, int] | None:
    """What a process has for itself, and what it may share; None if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    found = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)
             if name.startswith("Rss")}  # fmt: skip
    return found.get("RssAnon", 0), found.get("RssFile", 0) + found.get("RssShmem", 0)
