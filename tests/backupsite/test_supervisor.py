"""`manage.py run`, really: started on a temporary state folder, killed in every part, stopped; as whoever runs it."""

import contextlib
import datetime
import http.client
import ipaddress
import json
import os
import queue
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from backupsite import config, health, processes

MANAGE = Path(__file__).resolve().parent.parent.parent / "manage.py"
PASSWORD = "a password of eight words or so"
CHILDREN = {"web", *health.CLUSTERS, health.WATCHDOG}
RECOVERY_SECONDS = 40

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def home():
    folder = Path(tempfile.mkdtemp(prefix="backupsite-home-"))
    yield folder
    for pid in processes.marked(str(folder)):
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(config.socket_folder(folder), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(home, **values):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("BACKUPSITE_", "DATABASE_", "DJANGO_"))}
    return kept | {"BACKUPSITE_HOME": str(home)} | values


class Console:
    """A running `manage.py run`, its lines of output, and questions to it."""

    def __init__(self, home, **values):
        self.home = home
        self.port = free_port()
        values = {"BACKUPSITE_BIND": f"127.0.0.1:{self.port}"} | values
        self.process = subprocess.Popen(
            [sys.executable, str(MANAGE), "run"],
            env=environment(home, **values),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines = []
        self._new = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            self._new.put(line)
        self._new.put(None)

    @property
    def output(self):
        return "\n".join(self.lines)

    def wait_for_line(self, text):
        while text not in self.output:
            assert self._new.get(timeout=90) is not None, f"it ended without saying {text!r}:\n{self.output}"
        return self

    def wait_until_ready(self):
        return self.wait_for_line("State folder:")

    def healthz(self, tls=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        if tls is not None:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=tls)
        with contextlib.closing(connection):
            connection.request("GET", "/healthz")
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def is_healthy(self):
        try:
            return self.healthz()[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def child(self, name):
        """Return the process of a child, once its pid file names a living one."""
        path = self.home / "run" / f"{name}.pid"
        assert processes.wait_until(lambda: (found := processes.read_pid_file(path)) is not None and found.alive(), 30)
        return processes.read_pid_file(path)

    def postgres(self):
        data = self.home / "postgres" / "18" / "data"
        rows = [processes.read_row(pid) for pid in processes.working_in(data)]
        return next(row.pid for row in rows if row is not None and row.parent == self.process.pid)

    def query(self, text):
        settings = {"host": str(config.socket_folder(self.home)), "user": "backupsite", "dbname": "backupsite"}
        with contextlib.closing(psycopg.connect(**settings, port=5432)) as connection:
            return connection.execute(text).fetchall()

    def everything(self):
        data = self.home / "postgres" / "18" / "data"
        return [*processes.marked(str(self.home)), *processes.working_in(data)]

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait(60)
        self._reader.join(10)
        return self.process.returncode


@contextlib.contextmanager
def started(home, **values):
    console = Console(home, **values)
    try:
        yield console.wait_until_ready()
    finally:
        if console.process.poll() is None:
            console.stop()


def refused(home, **values):
    """Run a start that must fail; return its code and what it says."""
    values = {"BACKUPSITE_BIND": f"127.0.0.1:{free_port()}"} | values
    done = subprocess.run(
        [sys.executable, str(MANAGE), "run"],
        env=environment(home, **values),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
        check=False,
    )
    return done.returncode, done.stdout.strip()


def test_a_newcomers_first_and_second_start(home):
    with started(home) as console:
        assert console.healthz() == (200, {"status": "ok"})
        link = re.search(rf"http://127\.0\.0\.1:{console.port}/first-admin/([\w-]+)/", console.output)
        assert link, console.output
        stored = console.query("SELECT token_hash, used_at FROM backupsite_firstadmin")
        assert len(stored) == 1
        assert link[1] not in str(stored)
        code, said = refused(home)
        assert code != 0
        assert f"is in use by process {console.process.pid} (manage.py run" in said
        assert "\n" not in said
        key = (home / "secret-key").read_bytes()
        assert console.stop() == 0
        assert console.everything() == []
        assert "Backupsite stops." in console.output
    with started(home) as console:
        again = re.search(r"/first-admin/([\w-]+)/", console.output)
        assert again[1] != link[1]
        assert (home / "secret-key").read_bytes() == key
        assert len(console.query("SELECT 1 FROM backupsite_firstadmin")) == 1
        assert console.stop(signal.SIGINT) == 0
        assert console.everything() == []


def test_an_unattended_first_start_makes_the_administrator_and_hands_the_password_to_nobody(home):
    admins = "SELECT username, role FROM backupsite_user JOIN backupsite_rolegrant ON user_id = backupsite_user.id"
    with started(home, BACKUPSITE_ADMIN_PASSWORD=PASSWORD) as console:
        assert "first-admin" not in console.output
        assert console.query(admins) == [("admin", "administrator")]
        for pid in console.everything():
            assert PASSWORD.encode() not in b"\0".join(processes.environment_of(pid)), pid
        before = console.query("SELECT password FROM backupsite_user")
    with started(home, BACKUPSITE_ADMIN_PASSWORD="another one, which must not count") as console:
        assert console.query("SELECT password FROM backupsite_user") == before


def test_the_kill_of_any_process_is_survived(home):
    with started(home) as console:
        for name in sorted(CHILDREN):
            child = console.child(name)
            os.kill(child.pid, signal.SIGKILL)
            assert processes.wait_until(lambda c=child: not c.alive(), 10)
            assert console.child(name) != child
            assert processes.wait_until(console.is_healthy, RECOVERY_SECONDS), (name, console.output)
            assert processes.group_members(child) == [], "nothing of the old group goes on unsupervised"
        postgres = console.postgres()
        os.kill(postgres, signal.SIGKILL)
        assert processes.wait_until(lambda: not Path(f"/proc/{postgres}").exists(), 10)
        assert processes.wait_until(console.is_healthy, RECOVERY_SECONDS), console.output
        assert console.postgres() != postgres
        sentinel = below(console.child("control").pid)
        os.kill(sentinel, signal.SIGKILL)
        console.wait_for_line("control ended (exit code")
        assert processes.wait_until(console.is_healthy, RECOVERY_SECONDS), console.output
        worker = below(console.child("web").pid)
        os.kill(worker, signal.SIGKILL)
        assert processes.wait_until(console.is_healthy, RECOVERY_SECONDS), console.output
        assert console.stop() == 0
        assert console.everything() == []


def below(pid):
    return next(row.pid for row in processes.all_rows() if row.parent == pid)


def test_what_is_down_is_named(home):
    with started(home) as console:
        web = console.child("web")
        os.kill(console.process.pid, signal.SIGSTOP)  # nobody starts anything again now
        try:
            watchdog = console.child("watchdog")
            os.kill(watchdog.pid, signal.SIGKILL)
            assert processes.wait_until(
                lambda: console.healthz() == (503, {"status": "down", "down": ["watchdog"]}), 10
            )
            os.kill(console.postgres(), signal.SIGKILL)
            assert processes.wait_until(lambda: "database" in console.healthz()[1].get("down", []), 10)
        finally:
            os.kill(console.process.pid, signal.SIGCONT)
        assert processes.wait_until(console.is_healthy, RECOVERY_SECONDS), console.output
        assert console.child("web") == web


def test_a_killed_supervisor_leaves_nothing_that_hinders_the_next_start(home):
    console = Console(home).wait_until_ready()
    console.process.kill()
    console.process.wait()
    with started(home, BACKUPSITE_BIND=f"127.0.0.1:{console.port}") as again:
        again.port = console.port
        assert again.is_healthy()
        assert again.stop() == 0
        assert again.everything() == []


def test_a_signal_during_the_start_and_a_repeated_one_end_it_cleanly(home):
    console = Console(home)
    assert processes.wait_until((home / "run" / "lock").exists, 30)
    for _ in range(3):
        console.process.send_signal(signal.SIGTERM)
    assert console.process.wait(60) == 0
    assert console.everything() == []
    with started(home) as console:  # and what was made until then can be used
        console.process.send_signal(signal.SIGTERM)
        for _ in range(5):
            console.process.send_signal(signal.SIGINT)
        assert console.process.wait(60) == 0
        assert console.everything() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("BACKUPSITE_BIND", "nonsense"), ("BACKUPSITE_BIND", "0.0.0.0:8000"), ("DATABASE_URL", "nonsense")],
)
def test_a_malformed_setting_is_one_line_and_code_2(home, name, value):
    code, said = refused(home, **{name: value})
    assert code == 2
    assert name in said
    assert "\n" not in said


def test_a_taken_port_is_one_line(home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said = refused(home, BACKUPSITE_BIND=f"127.0.0.1:{port}")
    assert code == 1
    assert f"Cannot listen on 127.0.0.1:{port}: Address already in use" in said
    assert "\n" not in said


def test_unusable_instance_keys_are_one_line_and_show_nothing(home):
    code, said = refused(home, BACKUPSITE_INSTANCE_KEYS="not-a-ring-0123456789")
    assert code == 1
    assert "instance keys" in said
    assert "0123456789" not in said
    assert "\n" not in said
    (home / "instance-keys").mkdir()
    code, said = refused(home)
    assert (code, "\n" in said) == (1, False), said
    assert "instance-keys" in said


def test_a_data_folder_of_an_unknown_postgres_is_one_line(home):
    data = home / "postgres" / "99" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("99\n")
    code, said = refused(home)
    assert (code, "\n" in said) == (1, False), said
    assert "written by Postgres 99" in said


def test_a_database_that_does_not_answer_is_one_line_without_its_password(home):
    url = f"postgresql://alice:topsecret@127.0.0.1:{free_port()}/backupsite"
    code, said = refused(home, DATABASE_URL=url)
    assert (code, "\n" in said) == (1, False), said
    assert "does not answer" in said
    assert "topsecret" not in said


def test_an_own_postgres_is_used_instead_of_the_embedded_one(home):
    """The run's Postgres stands for it: DATABASE_URL names a new database there."""
    url = os.environ["DATABASE_URL"]
    name = f"own_{os.getpid()}"
    with contextlib.closing(psycopg.connect(url, autocommit=True)) as server:
        server.execute(f"CREATE DATABASE {name}")
        try:
            with started(home, DATABASE_URL=url.replace("/backupsite?", f"/{name}?")) as console:
                assert console.healthz() == (200, {"status": "ok"})
                assert not (home / "postgres").exists()
                assert console.stop() == 0
        finally:
            server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def test_the_first_administrators_link_needs_a_running_console(home):
    values = environment(home)
    done = subprocess.run(
        [sys.executable, str(MANAGE), "first_admin"],
        env=values,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "Is the console running?" in done.stderr


def make_certificate(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "backup.example.org")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    certificate = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / "key.pem").write_bytes(pem)
    return {"BACKUPSITE_TLS_CERT": str(folder / "cert.pem"), "BACKUPSITE_TLS_KEY": str(folder / "key.pem")}


def test_tls_is_served_on_every_address(home, tmp_path):
    tls = make_certificate(tmp_path)
    code, said = refused(home, **tls | {"BACKUPSITE_TLS_KEY": str(tmp_path / "cert.pem")})
    assert (code, "\n" in said) == (1, False), said
    code, said = refused(home, **tls | {"BACKUPSITE_TLS_CERT": str(tmp_path / "missing.pem")})
    assert (code, "\n" in said) == (1, False), said
    port = free_port()
    with started(home, BACKUPSITE_BIND=f"0.0.0.0:{port}", **tls) as console:
        console.port = port
        trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        assert console.healthz(trusting) == (200, {"status": "ok"})
        assert not console.is_healthy(), "plain HTTP is not answered"


def test_the_pieces_run_one_by_one(home):
    """As under systemd: every piece is a command of its own, and /healthz knows them by their pid files."""
    values = environment(home, BACKUPSITE_BIND=f"127.0.0.1:{free_port()}")
    port = int(values["BACKUPSITE_BIND"].rpartition(":")[2])

    def manage(*arguments):
        return [sys.executable, str(MANAGE), *arguments]

    with contextlib.ExitStack() as stack:

        def start(*arguments):
            child = stack.enter_context(subprocess.Popen(manage(*arguments), env=values, start_new_session=True))
            stack.callback(child.wait, 60)
            stack.callback(child.terminate)

        start("postgres")
        code = subprocess.run(manage("prepare"), env=values, capture_output=True, text=True, timeout=90, check=False)
        assert code.returncode == 0, code.stderr
        assert "/first-admin/" in code.stdout
        start("web")
        for name in health.CLUSTERS:
            start("cluster", name)
        start("watchdog")
        console = Console.__new__(Console)
        console.port = port
        assert processes.wait_until(console.is_healthy, 60), console.healthz()
        link = subprocess.run(
            manage("first_admin"), env=values, capture_output=True, text=True, timeout=60, check=False
        )
        assert f"http://127.0.0.1:{port}/first-admin/" in link.stdout
        code, said = refused(home)
        assert "manage.py postgres" in said
    assert processes.working_in(home / "postgres" / "18" / "data") == []
