"""Which process is which: identities that survive the reuse of a number, pid files, and the end of whole groups.

A pid file holds "PID START", START being the start time in clock ticks since boot: the two together name one process
for as long as the machine is up. Knows nothing of what the processes do; who is started again is the supervisor's.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Every child of a supervisor carries its state folder in this variable, and hands it on to what it starts.
MARK = "BACKUPSITE_SUPERVISED"
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Process:
    pid: int
    start: int  # clock ticks since boot

    def alive(self) -> bool:
        """Whether this very process runs; a zombie does not."""
        return start_of(self.pid) == self.start


@dataclass(frozen=True)
class Row:
    """One line of /proc: what is needed to tell groups and leftovers."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    start: int


def this_process() -> Process:
    start = start_of(os.getpid())
    assert start is not None
    return Process(os.getpid(), start)


def start_of(pid: int) -> int | None:
    """Return the start time of a running process; None for none, or for a zombie."""
    row = read_row(pid)
    return None if row is None or row.state in "ZX" else row.start


def read_row(pid: int) -> Row | None:
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = line[line.rindex(b")") + 2 :].split()  # the name, in brackets, may contain anything
    return Row(pid, fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def all_rows() -> Iterator[Row]:
    for name in os.listdir("/proc"):
        if name.isdigit() and (row := read_row(int(name))) is not None and row.state not in "ZX":
            yield row


def write_pid_file(path: Path, process: Process) -> None:
    """Replace the file in one step: a reader sees the old line or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(f"{process.pid} {process.start}\n", encoding="ascii")
    os.replace(temporary, path)


def read_pid_file(path: Path) -> Process | None:
    try:
        pid, start = path.read_text(encoding="ascii").split()
        return Process(int(pid), int(start))
    except (OSError, ValueError):
        return None


def group_members(leader: Process) -> list[int]:
    """Return the running processes of the group that `leader` leads or led.

    A number is not given to a new process while a group of that number has members: if a process of that number runs
    and is not `leader`, the group had ended before.
    """
    row = read_row(leader.pid)
    if row is not None and row.start != leader.start:
        return []
    return [row.pid for row in all_rows() if row.group == leader.pid]


def kill_group(leader: Process, number: signal.Signals = signal.SIGKILL) -> bool:
    """Signal the whole group of `leader`; False if nothing of it is left."""
    if not group_members(leader):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, number)
    return True


def marked(mark: str) -> list[int]:
    """Return the running processes, but this one, that were started below a supervisor of this mark."""
    wanted = f"{MARK}={mark}".encode()
    return [row.pid for row in all_rows() if row.pid != os.getpid() and wanted in environment_of(row.pid)]


def environment_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it ended, or belongs to somebody else
        return []


def sessions_below(leaders: set[int]) -> list[int]:
    """Return the descendants of `leaders` that live in other process sessions than theirs."""
    rows = {row.pid: row for row in all_rows()}
    below = set(leaders)
    grown = True
    while grown:
        found = {row.pid for row in rows.values() if row.parent in below} - below
        below |= found
        grown = bool(found)
    return [pid for pid in below if pid in rows and rows[pid].session not in leaders]


def working_in(folder: Path) -> list[int]:
    """Return the running processes whose working directory is `folder`, whatever name it was opened by."""
    try:
        wanted = os.stat(folder)
    except FileNotFoundError:
        return []
    return [row.pid for row in all_rows() if is_working_in(row.pid, wanted)]


def is_working_in(pid: int, wanted: os.stat_result) -> bool:
    try:
        found = os.stat(f"/proc/{pid}/cwd")
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)


def end_all(find: Callable[[], list[int]], signals: tuple[tuple[signal.Signals, float], ...]) -> bool:
    """Signal what `find` returns, in steps of (signal, seconds to wait for the end). True when nothing is left."""
    for number, seconds in signals:
        for pid in find():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        if wait_until(lambda: not find(), seconds):
            return True
    return not find()


def wait_until(true: Callable[[], bool], timeout_seconds: float) -> bool:
    """Ask until `true()` holds or the time is over; return the last answer."""
    deadline = time.monotonic() + timeout_seconds
    while not true():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
