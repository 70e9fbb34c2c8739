"""From an older major version of the embedded Postgres to the newest: dump, new data folder, restore.

The old data folder stays as it was; the new one counts from the moment of its last rename, so that an interrupted
upgrade leaves the old version in use. Which version runs is decided in `postgres`.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from backupsite import postgres, postgres_programs
from backupsite.config import DATABASE_NAME, DATABASE_USER, socket_folder
from backupsite.postgres import NEWEST, Place
from backupsite.postgres_account import PostgresError, bare_environment


def upgrade(place: Place) -> tuple[int, int] | None:
    """Upgrade a stopped Postgres; return the versions before and after, or None when it is the newest already."""
    before = postgres.choose_major(place)
    if before == NEWEST:
        return None
    folder = place.folder / "upgrade"
    new_place = Place(folder, socket_folder(folder), place.log_path, durable=place.durable)
    shutil.rmtree(folder, ignore_errors=True)
    with running(place) as old, running(new_place) as new:
        new.ensure_database()
        copy(old, new)
    new_place.version_folder(NEWEST).rename(place.version_folder(NEWEST))
    sync(place.folder)
    for left in (new_place.socket_folder, folder):
        shutil.rmtree(left, ignore_errors=True)
    return before, NEWEST


@contextlib.contextmanager
def running(place: Place) -> Iterator[postgres.Server]:
    server = postgres.start(place)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def copy(old: postgres.Server, new: postgres.Server) -> None:
    """Pipe a dump of our database into the new server, in one transaction. Raises PostgresError."""
    binaries = postgres_programs.binaries_in(new.place.programs / str(NEWEST))
    dump = subprocess.Popen(
        [str(binaries / "pg_dump"), "--format=custom", "--compress=none", *address(old), DATABASE_NAME],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=bare_environment(),
    )
    restore = subprocess.run(
        [str(binaries / "pg_restore"), "--single-transaction", "--exit-on-error", *address(new), "-d", DATABASE_NAME],
        stdin=dump.stdout,
        capture_output=True,
        env=bare_environment(),
        check=False,
    )
    _, dump_errors = dump.communicate()
    for name, code, errors in (
        ("pg_dump", dump.returncode, dump_errors),
        ("pg_restore", restore.returncode, restore.stderr),
    ):
        if code != 0:
            raise PostgresError(f"{name} failed; the old data folder stays in use: {' '.join(errors.decode().split())}")


def address(server: postgres.Server) -> list[str]:
    return ["-h", str(server.place.socket_folder), "-p", "5432", "-U", DATABASE_USER]


def sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
