"""The embedded Postgres: its data folder, its socket, its start and its end.

Decides which major version runs, and who may connect (the operating-system user of the console, by its socket, and
nobody else). Leaves to others when it runs (the supervisor starts it first and stops it last, tests start one of their
own), as whom (`postgres_account`), and where its programs are (`postgres_programs`).

As root, Postgres runs as an unprivileged user who may be unable to reach the state folder (below /root, say). So the
data and the socket folder are opened here and handed down as descriptors, and Postgres knows them as /proc/self/fd/N.
Its programs need a path that its user can pass: Postgres resolves its own.
"""

import contextlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from backupsite import processes
from backupsite.config import DATABASE_NAME, DATABASE_USER, Config
from backupsite.postgres_account import Account, PostgresError, bare_environment, choose_account, launched
from backupsite.postgres_programs import PROGRAMS, prepare_programs

NEWEST = max(PROGRAMS)
START_TIMEOUT_SECONDS = 120.0  # crash recovery of a large write-ahead log
INITDB_TIMEOUT_SECONDS = 120.0
STOP_STEPS = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
ACCESS = "local all all peer map=backupsite\nlocal replication all peer map=backupsite\n"
# Collation by code point, built in: it does not change with the system's C library. Postgres 16 has libc's C alone.
LOCALE = ("-E", "UTF8", "--locale=C")
BUILTIN_LOCALE = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8")


@dataclass(frozen=True)
class Place:
    """Where one embedded Postgres lives."""

    folder: Path  # <major>/data, programs/<major>
    socket_folder: Path
    log_path: Path
    durable: bool = True  # tests do without fsync

    @property
    def programs(self) -> Path:
        return self.folder / "programs"

    def version_folder(self, major: int) -> Path:
        return self.folder / str(major)

    def data(self, major: int) -> Path:
        return self.version_folder(major) / "data"


class Server:
    """A running Postgres, a child of this process. Its object is made by `start`."""

    def __init__(self, place: Place, major: int, process: subprocess.Popen[bytes], log_start: int) -> None:
        self.place = place
        self.major = major
        self.process = process
        self.log_start = log_start  # where this start's lines begin, in bytes

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(
            host=str(self.place.socket_folder), port=5432, user=DATABASE_USER, dbname=database, autocommit=True
        )

    def wait_until_ready(self, timeout_seconds: float = START_TIMEOUT_SECONDS) -> None:
        """Return when connections are taken. Raises PostgresError with the last line of the log if it ends before."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            if self.process.poll() is not None:
                raise PostgresError(f"Postgres ended at its start: {reason_in(self.place.log_path, self.log_start)}")
            try:
                self.connect().close()
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    raise PostgresError(f"Postgres does not answer after {timeout_seconds:.0f} s: {error}") from error
                time.sleep(processes.POLL_SECONDS)
            else:
                return

    def ensure_database(self, name: str = DATABASE_NAME) -> None:
        with contextlib.closing(self.connect()) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
            if found is None:
                connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))

    def stop(self) -> None:
        """End it in steps: fast, then at once, then by force. Returns when the process is gone."""
        for number, seconds in STOP_STEPS:
            if self.process.poll() is not None:
                break
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)


def place_of(config: Config) -> Place:
    return Place(config.postgres_folder, config.socket_folder, config.home / "logs" / "postgres.log")


def start(place: Place, *, major_of_new_data: int = NEWEST) -> Server:
    """Make what is missing, end what a killed supervisor left, and start Postgres; the caller waits until it is ready.

    Call it from the main thread: Postgres is ended with the thread that started it. Raises PostgresError.
    """
    account = choose_account()
    major = choose_major(place, major_of_new_data)
    prepare_folders(place, account)
    binaries = prepare_programs(place.programs, major, account)
    end_leftovers(place.data(major))
    if not place.data(major).exists():
        make_data_folder(place, major, binaries, account)
    write_access_rules(place.data(major), account)
    with opened(place.version_folder(major), place.socket_folder) as (data_fd, socket_fd), log_file(place) as log:
        log_start = os.fstat(log).st_size
        process = subprocess.Popen(
            launched(
                account, signal.SIGINT, [str(binaries / "postgres"), *server_arguments(place, data_fd, socket_fd)]
            ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(data_fd, socket_fd),
            cwd="/",
            env=bare_environment(),
        )
    return Server(place, major, process, log_start)


def choose_major(place: Place, otherwise: int = NEWEST) -> int:
    """Return the newest major version that has data here; `otherwise` for a new folder.

    Raises PostgresError for data of a version that is not among ours: starting an older one would offer old data.
    """
    majors = []
    for folder in sorted(place.folder.glob("*/data")):
        written = read_version(folder)
        if folder.parent.name != written or int(written) not in PROGRAMS:
            known = " and ".join(str(major) for major in sorted(PROGRAMS))
            raise PostgresError(
                f"The data folder {folder} was written by Postgres {written}; this release runs {known}. "
                "Use the release that wrote it, or another BACKUPSITE_HOME."
            )
        majors.append(int(written))
    return max(majors, default=otherwise)


def read_version(data: Path) -> str:
    try:
        version = (data / "PG_VERSION").read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise PostgresError(
            f"The data folder {data} has no readable PG_VERSION: it is not a Postgres data folder."
        ) from error
    if not version.isdigit():
        raise PostgresError(f"The data folder {data} has the unknown PG_VERSION {version[:20]!r}.")
    return version


def prepare_folders(place: Place, account: Account) -> None:
    """Make the folders; those of Postgres itself are its user's alone, those above can be passed, not listed."""
    passable = 0o711 if account.switch else 0o700
    for folder in (place.folder, place.programs):
        folder.mkdir(mode=passable, parents=True, exist_ok=True)
    place.log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if place.socket_folder.is_relative_to(place.folder.parent):
        place.socket_folder.parent.mkdir(mode=passable, parents=True, exist_ok=True)
    own_folder(place.socket_folder, account)


def own_folder(folder: Path, account: Account) -> None:
    """Make `folder` a 0700 folder of `account`. Raises PostgresError if somebody else put something else there."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        os.chown(folder, account.uid, account.gid)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {account.uid, os.geteuid()}:
        raise PostgresError(f"{folder} belongs to somebody else: remove it, or use another BACKUPSITE_HOME.")
    if found.st_uid != account.uid:
        os.chown(folder, account.uid, account.gid)
    os.chmod(folder, 0o700)


def make_data_folder(place: Place, major: int, binaries: Path, account: Account) -> None:
    """Run initdb into a temporary name and rename it at the end: a data folder is whole or not there."""
    own_folder(place.version_folder(major), account)
    shutil.rmtree(place.version_folder(major) / "data.new", ignore_errors=True)
    with opened(place.version_folder(major)) as (fd,):
        new = f"/proc/self/fd/{fd}/data.new"
        options = ["-D", new, "-U", DATABASE_USER, "--auth-local=peer", "--auth-host=reject", "--no-instructions"]
        options += LOCALE if major < 17 else LOCALE + BUILTIN_LOCALE
        if not place.durable:
            options.append("--no-sync")
        command = launched(account, signal.SIGKILL, [str(binaries / "initdb"), *options])
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            pass_fds=(fd,),
            cwd="/",
            env=bare_environment(),
            check=False,
            timeout=INITDB_TIMEOUT_SECONDS,
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise PostgresError(f"initdb could not make {place.data(major)}: {lines[0]}")
        os.rename("data.new", "data", src_dir_fd=fd, dst_dir_fd=fd)
        os.fsync(fd)


def write_access_rules(data: Path, account: Account) -> None:
    """Let the operating-system user of the console in, and nobody else; by its socket, and not by a network."""
    own = pwd.getpwuid(os.geteuid()).pw_name
    for name, text in (("pg_hba.conf", ACCESS), ("pg_ident.conf", f'backupsite "{own}" {DATABASE_USER}\n')):
        path = data / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            os.chown(path, account.uid, account.gid)
            path.chmod(0o600)


def end_leftovers(data: Path) -> None:
    """End the Postgres that a killed supervisor left at this data folder, and remove its pid file.

    Postgres itself believes in any process that has the number in postmaster.pid, so that another process of the same
    user and number would keep it from starting; its working directory tells for certain.
    """
    if not processes.end_all(lambda: processes.working_in(data), STOP_STEPS):
        raise PostgresError(f"A Postgres at {data} does not end: see the processes that work in this folder.")
    (data / "postmaster.pid").unlink(missing_ok=True)


def server_arguments(place: Place, data_fd: int, socket_fd: int) -> list[str]:
    settings = {
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        "port": "5432",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] ",
        "logging_collector": "off",
        "max_connections": "100",
    }
    if not place.durable:
        settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    arguments = ["-D", f"/proc/self/fd/{data_fd}/data", "-k", f"/proc/self/fd/{socket_fd}"]
    for name, value in settings.items():
        arguments += ["-c", f"{name}={value}"]
    return arguments


@contextlib.contextmanager
def opened(*folders: Path) -> Iterator[list[int]]:
    descriptors: list[int] = []
    try:
        descriptors.extend(os.open(folder, os.O_RDONLY | os.O_DIRECTORY) for folder in folders)
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@contextlib.contextmanager
def log_file(place: Place) -> Iterator[int]:
    """Open the log for appending; one that has grown past 10 MiB is put aside first, and replaces the one before it."""
    path = place.log_path
    if path.exists() and path.stat().st_size > 10 * 2**20:
        os.replace(path, path.with_suffix(".log.1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def reason_in(path: Path, start: int) -> str:
    """Return why Postgres ended, from the lines of its log since `start`: its last error, else all that it said."""
    with path.open("rb") as log:
        log.seek(start)
        lines = log.read(65536).decode(errors="replace").strip().splitlines()
    errors = [line for line in lines if any(word in line for word in ("FATAL:", "PANIC:", "ERROR:"))]
    return errors[-1] if errors else " ".join(lines) or "no message"
