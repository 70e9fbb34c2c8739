"""`manage.py run`: everything of one console on one machine, started in order, kept alive, stopped in order.

Decides what runs, when it is started again, and how it is stopped. Each child runs in a process session of its own that
ends with this process (`launch`); a child that ends takes the rest of its group along before it is started again. How
Postgres is run is decided in `postgres`, what a database needs before its first use in `prepare`; a hung cluster is
found by the watchdog.
"""

import contextlib
import http.client
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from backupsite import health, launch, postgres, prepare, processes, state_folder, web
from backupsite.config import Config, in_url, is_wildcard
from backupsite.postgres_account import PostgresError

MANAGE = Path(__file__).resolve().parent.parent / "manage.py"
SESSION_STOP_SECONDS = 2.0
CLUSTER_STOP_SECONDS = 10.0
WEB_STOP_SECONDS = 8.0
READY_TIMEOUT_SECONDS = 60.0
ASK_TIMEOUT_SECONDS = 2.0
LONGEST_DELAY_SECONDS = 30.0
STEADY_SECONDS = 60.0  # who ran this long is started again without delay
ROUND_SECONDS = 1.0


class StartError(Exception):
    """The console cannot start. str() is one line."""


class Stopped(Exception):
    """A signal asked for the end while the console was starting."""


def say(line: str) -> None:
    with contextlib.suppress(OSError):  # whoever read our output has gone; that is no reason to stop
        print(line, flush=True)


@dataclass
class Child:
    """One program that is to run always."""

    name: str
    arguments: tuple[str, ...]
    pass_fds: tuple[int, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    popen: subprocess.Popen[bytes] | None = None
    leader: processes.Process | None = None
    started_at: float = 0.0
    delay_seconds: float = 0.0
    due_at: float = 0.0

    def start(self) -> None:
        prefix = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(int(signal.SIGTERM)), "-"]
        self.popen = subprocess.Popen(
            [*prefix, sys.executable, str(MANAGE), *self.arguments],
            stdin=subprocess.DEVNULL,
            pass_fds=self.pass_fds,
            env=os.environ | self.environment,
        )
        start = processes.start_of(self.popen.pid)
        self.leader = processes.Process(self.popen.pid, start) if start is not None else None
        self.started_at = time.monotonic()

    def running(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def terminate(self) -> None:
        if self.running() and self.popen is not None:
            self.popen.terminate()

    def end_group(self) -> None:
        if self.leader is not None:
            processes.kill_group(self.leader)
        if self.popen is not None:
            self.popen.wait()

    def plan_restart(self, now: float) -> None:
        """Start again at once after a steady run, else after 1, 2, 4 ... seconds."""
        if now - self.started_at >= STEADY_SECONDS:
            self.delay_seconds = 0.0
        self.due_at = now + self.delay_seconds
        self.delay_seconds = min(max(1.0, self.delay_seconds * 2), LONGEST_DELAY_SECONDS)


class Supervisor:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.place = postgres.place_of(config)
        self.server: postgres.Server | None = None
        self.server_backoff = Child("postgres", ())
        self.children: list[Child] = []
        self.stop_wanted = False

    def run(self) -> None:
        """Start, watch until a signal, stop. Raises one of the start errors with everything stopped again."""
        with wake_up_on_signals(self.want_stop) as wake_up:
            lock = state_folder.Lock(self.config.run_folder / "lock", "manage.py run")
            try:
                state_folder.end_leftovers(self.config.home)
                state_folder.check_room(self.config.home)
                check_certificate(self.config)
                with listening(self.config) as listener:
                    self.start(listener)
                    self.watch(wake_up)
            except Stopped:
                pass
            finally:
                self.stop()
                lock.release()

    def want_stop(self) -> None:
        self.stop_wanted = True

    def start(self, listener: socket.socket) -> None:
        began = time.monotonic()
        os.environ[processes.MARK] = str(self.config.home)
        if self.config.embedded:
            self.server = postgres.start(self.place)
            self.server.wait_until_ready()
            self.server.ensure_database()
        self.leave_if_asked()
        link = prepare.prepare(self.config.admin_password, self.config.public_origin)
        self.leave_if_asked()
        self.children = children_of(listener.fileno())
        for child in self.children:
            child.start()
        self.wait_until_healthy()
        say(f"Backupsite is ready at {self.config.public_origin} ({time.monotonic() - began:.1f} s).")
        if is_wildcard(self.config.bind_host) and self.config.origin is None:
            say("Other names and addresses of this machine are refused: set BACKUPSITE_ORIGIN to what browsers type.")
        if link is not None:
            say(f"Make the first administrator here (works once, for 24 hours): {link}")
        say(f"State folder: {self.config.home}. Stop with Ctrl-C.")

    def leave_if_asked(self) -> None:
        if self.stop_wanted:
            raise Stopped

    def wait_until_healthy(self) -> None:
        """Return when /healthz says so. A child that ends meanwhile is a failed start: its message stands above."""
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        while not healthy(self.config):
            self.leave_if_asked()
            self.keep_postgres(time.monotonic())
            ended = [child.name for child in self.children if not child.running()]
            if ended:
                raise StartError(f"{' and '.join(ended)} ended at the start; the reason stands above.")
            if time.monotonic() > deadline:
                raise StartError(f"The console does not answer after {READY_TIMEOUT_SECONDS:.0f} s.")
            time.sleep(processes.POLL_SECONDS)

    def watch(self, wake_up: int) -> None:
        """Start again whatever ends, until a signal asks for the end. Postgres comes first: the others need it."""
        while not self.stop_wanted:
            now = time.monotonic()
            self.keep_postgres(now)
            for child in self.children:
                self.keep(child, now)
            select.select([wake_up], [], [], ROUND_SECONDS)
            with contextlib.suppress(BlockingIOError):
                os.read(wake_up, 4096)

    def keep(self, child: Child, now: float) -> None:
        if child.running():
            return
        if child.popen is not None:
            say(f"{child.name} ended ({ending(child.popen.returncode)}); it is started again.")
            child.end_group()
            child.popen = None
            child.plan_restart(now)
        if now < child.due_at:
            return
        try:
            child.start()
        except OSError as error:  # no memory, no process numbers: it may be better in a while
            say(f"{child.name} cannot be started: {error.strerror}; it is tried again.")
            child.plan_restart(now)

    def keep_postgres(self, now: float) -> None:
        backoff = self.server_backoff
        if not self.config.embedded or (self.server is not None and self.server.process.poll() is None):
            return
        if self.server is not None:
            say(f"Postgres ended ({ending(self.server.process.returncode)}); it is started again.")
            self.server = None
            backoff.plan_restart(now)
        if now >= backoff.due_at:
            backoff.started_at = now
            try:
                self.server = postgres.start(self.place)
            except PostgresError as error:
                say(str(error))
                backoff.plan_restart(now)

    def stop(self) -> None:
        """Stop in order: what starts sessions, the sessions, the clusters, the web server, and Postgres last."""
        if self.children:
            say("Backupsite stops.")
        clusters = [child for child in self.children if child.name in health.CLUSTERS]
        others = [child for child in self.children if child.name not in health.CLUSTERS]
        for child in self.children:
            if child.name != "web":
                child.terminate()
        self.end_sessions(clusters)
        wait_for(clusters, CLUSTER_STOP_SECONDS)
        for child in others:
            child.terminate()
        wait_for(others, WEB_STOP_SECONDS)
        for child in self.children:
            child.end_group()
        self.children = []
        if self.server is not None:
            self.server.stop()
            self.server = None

    def end_sessions(self, clusters: list[Child]) -> None:
        """End what the clusters' workers run in process sessions of their own: TERM, two seconds, KILL."""
        leaders = {child.leader.pid for child in clusters if child.leader is not None}
        steps = ((signal.SIGTERM, SESSION_STOP_SECONDS), (signal.SIGKILL, 1.0))
        processes.end_all(lambda: processes.sessions_below(leaders), steps)


def children_of(listen_descriptor: int) -> list[Child]:
    listen = {web.LISTEN_VARIABLE: str(listen_descriptor)}
    return [
        Child("web", ("web",), (listen_descriptor,), listen),
        *(Child(name, ("cluster", name)) for name in health.CLUSTERS),
        Child(health.WATCHDOG, ("watchdog",)),
    ]


def wait_for(children: list[Child], seconds: float) -> None:
    processes.wait_until(lambda: not any(child.running() for child in children), seconds)


def ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    return f"signal {-code}"


def check_certificate(config: Config) -> None:
    """Raise StartError where the web server would end at its start."""
    if config.tls_cert is None or config.tls_key is None:
        return
    for path in (config.tls_cert, config.tls_key):
        try:
            path.open("rb").close()
        except OSError as error:
            raise StartError(f"The TLS file {path} cannot be read: {error.strerror}.") from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.tls_cert, config.tls_key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise StartError(
            f"{config.tls_cert} and {config.tls_key} are not a certificate and its key without a password: {error}"
        ) from error


@contextlib.contextmanager
def listening(config: Config) -> Iterator[socket.socket]:
    """Take the port before anything is started. Raises StartError."""
    address = f"{in_url(config.bind_host)}:{config.bind_port}"
    try:
        family, kind, _, _, place = socket.getaddrinfo(config.bind_host, config.bind_port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
    except OSError as error:
        raise StartError(f"BACKUPSITE_BIND={address}: {error.strerror}.") from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(place)
            listener.listen(512)
        except OSError as error:
            raise StartError(
                f"Cannot listen on {address}: {error.strerror}. Set BACKUPSITE_BIND to a free one."
            ) from error
        yield listener


def healthy(config: Config) -> bool:
    """Ask /healthz of our own address once."""
    host = config.bind_host
    if is_wildcard(host):
        host = "::1" if ":" in host else "127.0.0.1"
    connection: http.client.HTTPConnection
    if config.tls:
        unchecked = ssl.create_default_context()  # it is our own socket: its name need not be in the certificate
        unchecked.check_hostname = False
        unchecked.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, config.bind_port, timeout=ASK_TIMEOUT_SECONDS, context=unchecked)
    else:
        connection = http.client.HTTPConnection(host, config.bind_port, timeout=ASK_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/healthz", headers={"Host": "localhost"})
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def wake_up_on_signals(stop: Callable[[], None]) -> Iterator[int]:
    """Yield a descriptor that becomes readable at each signal; TERM, INT and HUP call `stop` as well."""
    reader, writer = os.pipe()
    for end in (reader, writer):
        os.set_blocking(end, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup wants to be obeyed
            signal.signal(number, lambda *_: stop())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)
