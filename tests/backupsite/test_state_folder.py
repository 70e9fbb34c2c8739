"""The state folder: whose it is, who holds it, whether there is room."""

import collections
import os
import subprocess
import sys

import pytest

from backupsite import processes, state_folder


@pytest.fixture
def home(tmp_path):
    return tmp_path / "a" / "state"


def mode(path):
    return path.stat().st_mode & 0o777


def test_a_new_folder_is_closed_to_others(home):
    state_folder.prepare(home)
    assert mode(home) == (0o711 if os.geteuid() == 0 else 0o700)
    assert mode(home / "run") == mode(home / "logs") == mode(home / "restores") == 0o700
    state_folder.prepare(home)


def test_an_empty_folder_is_taken_over_and_closed(home):
    home.mkdir(parents=True)
    home.chmod(0o777)
    state_folder.prepare(home)
    assert not mode(home) & 0o066


def test_a_folder_with_something_in_it_keeps_its_mode(home):
    home.mkdir(parents=True)
    (home / "something").touch()
    home.chmod(0o750)
    state_folder.prepare(home)
    assert mode(home) == 0o750


def test_a_folder_that_others_may_write_is_refused(home):
    home.mkdir(parents=True)
    (home / "something").touch()
    home.chmod(0o770)
    with pytest.raises(state_folder.StateFolderError, match="chmod go-w"):
        state_folder.prepare(home)
    assert mode(home) == 0o770


def test_a_folder_of_somebody_else_is_refused(home, monkeypatch):
    home.mkdir(parents=True)
    monkeypatch.setattr("os.geteuid", lambda: home.stat().st_uid + 1)
    with pytest.raises(state_folder.StateFolderError, match="belongs to") as caught:
        state_folder.prepare(home)
    assert "\n" not in str(caught.value)
    assert list(home.iterdir()) == []


def test_a_file_is_no_folder(home):
    home.parent.mkdir(parents=True)
    home.touch()
    with pytest.raises(state_folder.StateFolderError, match="is not a folder"):
        state_folder.prepare(home)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(state_folder.StateFolderError, match=r"Not a directory|File exists") as caught:
        state_folder.prepare(tmp_path / "file" / "state")
    assert "\n" not in str(caught.value)


def test_room_is_needed(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(2**40, 2**40, state_folder.LEAST_FREE_BYTES - 1))
    with pytest.raises(state_folder.StateFolderError, match="255 MiB are free"):
        state_folder.check_room(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(2**40, 2**40, state_folder.LEAST_FREE_BYTES))
    state_folder.check_room(tmp_path)


def test_the_second_to_lock_learns_who_was_first(home):
    state_folder.prepare(home)
    first = state_folder.Lock(home / "run" / "lock", "the first")
    with pytest.raises(state_folder.StateFolderError, match=rf"in use by process {os.getpid()} \(the first, started "):
        state_folder.Lock(home / "run" / "lock", "the second")
    first.release()
    state_folder.Lock(home / "run" / "lock", "the third").release()


def test_a_killed_holder_holds_nothing(home):
    state_folder.prepare(home)
    program = "import sys; from pathlib import Path; from backupsite.state_folder import Lock; "
    program += "lock = Lock(Path(sys.argv[1]), 'gone'); print(flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(home / "run" / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    holder.stdout.readline()
    with pytest.raises(state_folder.StateFolderError, match=str(holder.pid)):
        state_folder.Lock(home / "run" / "lock", "early")
    holder.kill()
    holder.communicate()
    state_folder.Lock(home / "run" / "lock", "late").release()


def test_what_a_killed_supervisor_left_is_ended_and_nothing_else(home):
    state_folder.prepare(home)
    program = [
        sys.executable,
        "-c",
        "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()",
    ]
    ours, other = (
        subprocess.Popen(program, env=os.environ | {processes.MARK: mark}, stdout=subprocess.PIPE)
        for mark in (str(home), f"{home}2")
    )
    for child in (ours, other):
        child.stdout.readline()
    (home / "run" / "web.pid").write_text("1 1\n")
    state_folder.end_leftovers(home)
    assert ours.wait(5) == -9
    assert other.poll() is None
    assert list((home / "run").glob("*.pid")) == []
    other.kill()
    other.communicate()
    ours.communicate()
