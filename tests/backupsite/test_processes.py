"""Identities of processes, groups, and what is started by `launch`."""

import os
import signal
import subprocess
import sys

import pytest

from backupsite import launch, processes

PAUSE = "import signal; print(flush=True); signal.pause()"


@pytest.fixture
def start():
    started = []

    def start_one(program=PAUSE, **options):
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, **options)
        started.append(child)
        child.said = child.stdout.readline().strip()
        return child

    yield start_one
    for child in started:
        child.kill()
        child.communicate()


def identity(pid):
    return processes.Process(pid, processes.start_of(pid))


def test_a_process_is_its_number_and_its_start(start):
    child = start()
    process = identity(child.pid)
    assert process.alive()
    assert not processes.Process(child.pid, process.start - 1).alive(), "another one had this number"
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not process.alive(), "a zombie is not alive"
    child.wait()
    assert not process.alive()


def test_a_name_with_brackets_and_spaces_does_not_confuse(start):
    child = start("import ctypes, signal; ctypes.CDLL(None).prctl(15, b') R 1 (x'); print(flush=True); signal.pause()")
    row = processes.read_row(child.pid)
    assert (row.parent, row.group) == (os.getpid(), os.getpgid(child.pid))


def test_pid_files(tmp_path):
    path = tmp_path / "x.pid"
    assert processes.read_pid_file(path) is None
    processes.write_pid_file(path, processes.this_process())
    assert processes.read_pid_file(path) == processes.this_process()
    assert [found.name for found in tmp_path.iterdir()] == ["x.pid"]
    for content in ("", "1", "one two", "1 2 3"):
        path.write_text(content)
        assert processes.read_pid_file(path) is None


FAMILY = (
    "import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']);"
    "print(c.pid, flush=True); import signal; signal.pause()"
)


def test_a_group_is_killed_also_when_its_leader_is_gone(start):
    leader = start(FAMILY, start_new_session=True)
    process, member = identity(leader.pid), identity(int(leader.said))
    assert sorted(processes.group_members(process)) == sorted([leader.pid, member.pid])
    leader.kill()
    leader.wait()
    assert processes.group_members(process) == [member.pid]
    assert processes.kill_group(process)
    assert processes.wait_until(lambda: not member.alive(), 5)
    assert not processes.kill_group(process)


def test_a_group_of_the_same_number_but_another_leader_is_left_alone(start):
    child = start(start_new_session=True)
    earlier = processes.Process(child.pid, processes.start_of(child.pid) - 5)
    assert not processes.kill_group(earlier)
    assert child.poll() is None


def test_sessions_below_are_found_and_the_groups_own_are_not(start):
    nested = FAMILY.replace("signal.pause()'])", "signal.pause()'], start_new_session=True)")
    leader = start(nested, start_new_session=True)
    assert processes.sessions_below({leader.pid}) == [int(leader.said)]
    os.kill(int(leader.said), signal.SIGKILL)


def test_end_all_goes_on_to_the_next_signal(start):
    stubborn = start("import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()")
    process = identity(stubborn.pid)
    assert processes.end_all(
        lambda: [stubborn.pid] if process.alive() else [], ((signal.SIGTERM, 0.1), (signal.SIGKILL, 5.0))
    )
    assert stubborn.wait() == -9


def launched(*program, parent=None):
    prefix = [sys.executable, "-I", "-S", launch.__file__, str(parent or os.getpid()), str(int(signal.SIGTERM)), "-"]
    return [*prefix, sys.executable, *program]


def test_launch_gives_a_session_of_its_own():
    done = subprocess.run(
        launched("-c", "import os; print(os.getpid() == os.getsid(0))"), capture_output=True, text=True, check=True
    )
    assert done.stdout == "True\n"


def test_a_launched_program_ends_with_its_parent(start):
    outer = (
        f"import subprocess, sys; c = subprocess.Popen({launched('-c', PAUSE)!r}[:4] + [str(__import__('os').getpid())]"
    )
    outer += f" + {launched('-c', PAUSE)[5:]!r}, stdout=subprocess.PIPE); c.stdout.readline();"
    outer += "print(c.pid, flush=True); c.wait()"
    parent = start(outer)
    child = identity(int(parent.said))
    parent.kill()
    parent.wait()
    assert processes.wait_until(lambda: not child.alive(), 5)


def test_launch_leaves_when_the_parent_is_gone_already():
    done = subprocess.run(
        launched("-c", "print('ran')", parent=os.getpid() + 1), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_launch_becomes_the_user_for_good():
    program = [
        sys.executable,
        "-I",
        "-S",
        launch.__file__,
        str(os.getpid()),
        "15",
        "nobody",
        "/bin/cat",
        "/proc/self/status",
    ]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    status = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
    assert set(status["Uid"].split()) == {"65534"}
    assert status["Groups"].strip() == ""
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
