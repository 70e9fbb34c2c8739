"""One embedded Postgres per run of pytest, started by the process that controls the run; the seed of long tests, and
the time each folder took.
"""

import os
import shutil
from collections import defaultdict
from pathlib import Path

import pytest

from backupsite import postgres
from backupsite.config import socket_folder
from tests import soak
from tests.settings import RUN_FOLDER

pytest_plugins = ["tests.kms.fixtures"]

server_key = pytest.StashKey[postgres.Server]()


def place_of_run() -> postgres.Place:
    folder = Path(os.environ[RUN_FOLDER])
    return postgres.Place(folder / "postgres", socket_folder(folder), folder / "postgres.log", durable=False)


def pytest_configure(config: pytest.Config) -> None:
    soak.choose_seed()
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    server = postgres.start(place_of_run())
    config.stash[server_key] = server
    server.wait_until_ready()
    server.ensure_database()


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [f"seed of the long tests: SEED={soak.seed()}"] if config.option.markexpr == "soak" else []


def pytest_unconfigure(config: pytest.Config) -> None:
    server = config.stash.get(server_key, None)
    if server is not None:
        server.stop()
    if not hasattr(config, "workerinput"):
        place = place_of_run()
        for folder in (place.socket_folder, place.folder.parent):
            shutil.rmtree(folder, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the seconds of tests per folder, set-up and tear-down included."""
    seconds: dict[str, float] = defaultdict(float)
    tests: dict[str, set[str]] = defaultdict(set)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                folder = report.nodeid.split("::")[0].rpartition("/")[0]
                seconds[folder] += report.duration
                tests[folder].add(report.nodeid)
    if seconds:
        terminalreporter.section("time per folder")
    for folder, total in sorted(seconds.items(), key=lambda item: -item[1]):
        terminalreporter.write_line(f"{total:8.1f} s {len(tests[folder]):5d} tests  {folder}")
