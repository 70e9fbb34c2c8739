"""Start one child in a process session of its own that ends when its parent ends, then become its program.

Used as `python -I launch.py PARENT SIGNAL USER PROGRAM [ARGUMENT...]`, with "-" for no change of user. A program of its
own, and not a function between fork and exec, because the signal has to be asked for by the child itself after its
change of user (which clears it), and because nothing but the standard library may run there. Decides nothing: who is
started and what follows an end is the supervisor's.
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


def main() -> None:
    parent, number, user, *program = sys.argv[1:]
    os.setsid()
    if user != "-":
        become(user)
    end_with(int(parent), int(number))
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these two, and an ignored signal stays so
        signal.signal(ignored, signal.SIG_DFL)
    os.execv(program[0], program)  # noqa: S606 - this is what the module is for


if __name__ == "__main__":
    main()
