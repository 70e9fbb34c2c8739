"""The embedded Postgres, really: made, started, killed, started again, stopped; as whoever runs the tests."""

import contextlib
import os
import pickle
import pwd
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest

from backupsite import config, postgres, postgres_account, postgres_programs, postgres_upgrade, processes

NOW = ((signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))


@contextlib.contextmanager
def new_place(**fields):
    """Yield a place in a folder that an unprivileged Postgres can pass; nothing of it is left afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="backupsite-postgres-"))
    folder.chmod(0o711)
    made = postgres.Place(folder / "postgres", config.socket_folder(folder), folder / "postgres.log", **fields)
    try:
        yield made
    finally:
        processes.end_all(
            lambda: [pid for major in postgres_programs.PROGRAMS for pid in processes.working_in(made.data(major))], NOW
        )
        shutil.rmtree(folder)
        shutil.rmtree(made.socket_folder, ignore_errors=True)


@pytest.fixture
def place():
    with new_place(durable=False) as made:
        yield made


@pytest.fixture(scope="module")
def shared():
    """One place for the tests that leave it as it was: initdb costs more than a start."""
    with new_place(durable=True) as made:
        yield made


@contextlib.contextmanager
def running(place, **options):
    server = postgres.start(place, **options)
    try:
        server.wait_until_ready(60)
        server.ensure_database()
        yield server
    finally:
        server.stop()


def rows(server):
    with contextlib.closing(server.connect("backupsite")) as connection:
        return [row[0] for row in connection.execute("SELECT text FROM notes ORDER BY text")]


def write(server, text):
    with contextlib.closing(server.connect("backupsite")) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS notes (text text)")
        connection.execute("INSERT INTO notes VALUES (%s)", (text,))


def test_it_starts_stops_and_keeps_what_it_has(shared):
    with running(shared) as server:
        write(server, "kept")
        account = postgres_account.choose_account()
        assert os.stat(f"/proc/{server.process.pid}").st_uid == account.uid != 0
    assert processes.working_in(shared.data(postgres.NEWEST)) == []
    with running(shared) as server:
        assert "kept" in rows(server)


def test_the_database_is_utf8_and_sorts_the_same_everywhere(shared):
    with running(shared) as server, contextlib.closing(server.connect("backupsite")) as connection:
        found = connection.execute(
            "SELECT pg_encoding_to_char(encoding), datlocprovider, datlocale FROM pg_database"
            " WHERE datname = 'backupsite'"
        ).fetchone()
    assert found == ("UTF8", "b", "C.UTF-8")


def test_it_listens_to_its_socket_alone_and_that_is_closed_to_others(shared):
    with running(shared) as server, contextlib.closing(server.connect()) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        hba = connection.execute("SELECT type, auth_method FROM pg_hba_file_rules").fetchall()
        assert {kind for kind, _ in hba} == {"local"}
        assert {method for _, method in hba} == {"peer"}
        assert shared.socket_folder.stat().st_mode & 0o777 == 0o700
        assert shared.data(server.major).stat().st_mode & 0o777 == 0o700


def test_the_users_of_the_system_are_told_apart(shared):
    with running(shared), pytest.raises(psycopg.OperationalError, match="authentication failed"):
        psycopg.connect(host=str(shared.socket_folder), port=5432, user="postgres", dbname="postgres")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_the_unprivileged_user_of_postgres_has_no_database_of_ours(shared):
    with running(shared):
        account = postgres_account.choose_account()
        hello = struct.pack("!i", 196608) + b"user\0backupsite\0database\0postgres\0\0"
        hello = struct.pack("!i", len(hello) + 4) + hello
        program = "import sys, socket; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        program += "s.send(bytes.fromhex(sys.argv[2])); print(s.recv(400))"
        done = subprocess.run(
            ["/usr/bin/python3", "-c", program, str(shared.socket_folder / config.SOCKET_NAME), hello.hex()],
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
    assert "Peer authentication failed" in done.stdout, done


def test_kill_is_survived(shared):
    server = postgres.start(shared)
    server.wait_until_ready()
    server.ensure_database()
    write(server, "before the kill")
    server.process.kill()
    server.process.wait()
    with running(shared) as again:
        assert "before the kill" in rows(again)


def test_a_left_pid_file_that_names_a_living_process_does_not_matter(shared):
    """Numbers are used again after a restart of a container: Postgres would refuse to start, for ever."""
    with running(shared):
        pass
    stranger = subprocess.Popen(["sleep", "60"], user=postgres_account.choose_account().uid)
    try:
        pid_file = shared.data(postgres.NEWEST) / "postmaster.pid"
        pid_file.write_text(f"{stranger.pid}\n/somewhere\n0\n5432\n\n\n")
        with running(shared):
            assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_server_left_by_a_killed_parent_ends_with_it_and_is_replaced(shared):
    program = """if True:
        import pickle, sys
        from backupsite import postgres
        server = postgres.start(pickle.loads(bytes.fromhex(sys.argv[1])))
        server.wait_until_ready()
        print(server.process.pid, flush=True)
        sys.stdin.read()"""
    command = [sys.executable, "-c", program, pickle.dumps(shared).hex()]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pid = int(parent.stdout.readline())
    left = processes.Process(pid, processes.start_of(pid))
    parent.kill()
    parent.communicate()
    assert processes.wait_until(lambda: not left.alive(), 20), "the parent-death signal must end it"
    with running(shared) as server:
        write(server, "works")


def test_a_server_that_does_not_end_by_itself_is_ended(shared):
    first = postgres.start(shared)
    first.wait_until_ready()
    second = postgres.start(shared)  # as after a supervisor that lost its child: nobody waits for the first one
    second.wait_until_ready()
    assert first.process.wait(10) is not None
    second.stop()


def test_an_interrupted_initdb_leaves_nothing_in_the_way(place):
    account = postgres_account.choose_account()
    postgres.prepare_folders(place, account)
    postgres.own_folder(place.version_folder(postgres.NEWEST), account)
    half = place.version_folder(postgres.NEWEST) / "data.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    with running(place) as server:
        write(server, "works")


@pytest.mark.parametrize(
    ("folder", "version", "message"),
    [
        ("18", "17\n", "written by Postgres 17"),
        ("99", "99\n", "written by Postgres 99"),
        ("18", "eighteen\n", "unknown PG_VERSION"),
        ("18", None, "no readable PG_VERSION"),
    ],
)
def test_a_foreign_data_folder_is_refused_in_one_line(place, folder, version, message):
    data = place.folder / folder / "data"
    data.mkdir(parents=True)
    if version is not None:
        (data / "PG_VERSION").write_text(version)
    with pytest.raises(postgres_account.PostgresError, match=message) as caught:
        postgres.start(place)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in place.folder.iterdir()) == [folder], "nothing was touched"


def test_a_socket_folder_of_somebody_else_is_refused(place):
    place.socket_folder.parent.mkdir(parents=True, exist_ok=True)
    place.socket_folder.symlink_to("/tmp")
    with pytest.raises(postgres_account.PostgresError, match="belongs to somebody else"):
        postgres.start(place)


def test_a_failed_start_tells_the_reason(place):
    with running(place):
        pass
    (place.data(postgres.NEWEST) / "global" / "pg_control").unlink()
    server = postgres.start(place)
    with pytest.raises(postgres_account.PostgresError, match="pg_control"):
        server.wait_until_ready()


def test_below_a_closed_folder_and_with_a_long_path(place, monkeypatch):
    """Root's Postgres cannot pass a 0700 folder; and no client can name a long socket path."""
    monkeypatch.setattr(postgres_programs, "OPEN_PROGRAMS", place.folder.parent / "open")
    deep = place.folder.parent / ("x" * 120) / "home"
    deep.mkdir(parents=True)
    deep.parent.chmod(0o700)
    far = postgres.Place(deep / "postgres", config.socket_folder(deep), deep / "postgres.log", durable=False)
    assert not far.socket_folder.is_relative_to(deep)
    try:
        for _ in range(2):
            with running(far) as server:
                write(server, "works")
        if os.geteuid() == 0:
            shared = {path.name for path in postgres_programs.OPEN_PROGRAMS.iterdir()} - {"lock"}
            assert shared == {(far.programs / "18" / postgres_programs.MARK).read_text()}
    finally:
        shutil.rmtree(far.socket_folder, ignore_errors=True)


def test_the_newest_major_version_is_reached_by_an_upgrade_and_the_old_data_stays(place):
    with running(place, major_of_new_data=16) as old:
        assert old.major == 16
        write(old, "from 16: äöü")
    assert postgres_upgrade.upgrade(place) == (16, 18)
    with running(place) as new:
        assert new.major == 18
        assert rows(new) == ["from 16: äöü"]
    assert (place.data(16) / "PG_VERSION").read_text() == "16\n"
    assert not (place.folder / "upgrade").exists()
    assert postgres_upgrade.upgrade(place) is None


def test_stop_is_a_fast_one(shared):
    server = postgres.start(shared)
    server.wait_until_ready()
    client = server.connect()  # a smart stop would wait for it
    server.stop()
    assert server.process.returncode == 0
    assert "fast shutdown" in shared.log_path.read_text()
    client.close()


def test_the_account_is_never_root():
    account = postgres_account.choose_account()
    assert account.uid != 0
    assert account.switch == (os.geteuid() == 0)
    assert pwd.getpwnam(account.name).pw_uid == account.uid
