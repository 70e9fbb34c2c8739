"""Start one child in a process session of its own that ends when its parent ends, then become its program.

Used as `python -I launch.py PARENT SIGNAL USER PID_FILE PROGRAM [ARGUMENT...]`, with "-" for no user and no pid file. A
program of its own, and not a function between fork and exec, because the signal has to be asked for by the child itself
after its change of user (which clears it), and because nothing but the standard library may run there. Decides nothing:
who is started and what follows an end is the supervisor's.
"""

import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1


def become(user: str) -> None:
    account = pwd.getpwnam(user)
    os.setgroups([])
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)


def end_with(parent: int, number: int) -> None:
    """Ask the kernel for a signal at the parent's end, and leave if it ended before the kernel knew."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit(1)


def write_pid_file(path: str) -> None:
    """The format is that of `processes`; number and start time stay when the process becomes the program."""
    with open("/proc/self/stat", "rb") as file:
        line = file.read()
    start = line[line.rindex(b")") + 2 :].split()[19].decode()
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w", encoding="ascii") as file:
        file.write(f"{os.getpid()} {start}\n")
    os.replace(temporary, path)


def main() -> None:
    parent, number, user, pid_file, *program = sys.argv[1:]
    os.setsid()
    if pid_file != "-":
        write_pid_file(pid_file)
    if user != "-":
        become(user)
    end_with(int(parent), int(number))
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these two, and an ignored signal stays so
        signal.signal(ignored, signal.SIG_DFL)
    os.execv(program[0], program)  # noqa: S606 - this is what the module is for


if __name__ == "__main__":
    main()
