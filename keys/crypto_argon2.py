"""Deriving a key with parameters that come from a file: within bounds, one at a time on the host, in a child with a
memory limit.

What a file says is hostile until it is authenticated, and its parameters are used before that. The bounds of
KdfParameters allow a gibibyte; the child sees that no more is taken, and that where even this is not there the child
ends, not the session or the console beside it (it offers itself to the kernel as the first to go). A process of its own
and not a limit in this one: a limit on address space would hold for everything that runs here, and a fork without exec
is not safe where there are threads, which is everywhere in the engine. It costs about 60 ms, once for each salt. What
our own records say is derived in the process (crypto_password.derive_kek): those parameters we chose.

One at a time: an exclusive lock on a file of this user, in the user's runtime folder or the temporary one. It belongs
to the user and not to the host, since a file that several users can lock is one that any of them can keep locked for
ever; where somebody else has taken its name there is no lock, rather than none of our derivations. The child inherits
the lock, so it is held as long as memory is, also when this process is killed.
"""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cryptography

from keys import crypto_argon2_child as child
from keys.crypto import KEY_BYTES
from keys.crypto_errors import KdfFailed, KdfRefused
from keys.crypto_password import SALT_BYTES, KdfParameters, one_at_a_time

LOCK_WAIT_SECONDS = 600.0
_POLL_SECONDS = 0.02
_CHILD_SECONDS = child.CPU_SECONDS + 60
_PACKAGES = Path(cryptography.__file__).parents[1]


def derive_kek_for_file(password: bytes, *, salt: bytes, parameters: KdfParameters) -> bytes:
    """The key encryption key for a slot of a file that is to be opened: Argon2id, 32 bytes.

    Raises KdfRefused for parameters outside the bounds, KdfFailed if there is no result.
    """
    parameters.check()
    if len(salt) != SALT_BYTES:
        raise KdfRefused(f"A password salt has {SALT_BYTES} bytes, not {len(salt)}.")
    header = child.HEADER.pack(KEY_BYTES, parameters.memory_kib, parameters.iterations, parameters.lanes, salt)
    with one_at_a_time, _lock() as descriptor:
        return _run(header + password, parameters, descriptor)


def _run(order: bytes, parameters: KdfParameters, lock: int | None) -> bytes:
    try:
        done = subprocess.run(
            [sys.executable, "-P", child.__file__],
            input=order,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.defpath, "PYTHONPATH": str(_PACKAGES), "MALLOC_ARENA_MAX": "1"},
            pass_fds=() if lock is None else (lock,),
            timeout=_CHILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise KdfFailed(f"A key derivation did not end within {_CHILD_SECONDS} seconds, and was stopped.") from None
    except OSError as error:
        raise KdfFailed(f"The process for a key derivation could not be started: {error.strerror}.") from error
    if done.returncode == 0 and len(done.stdout) == KEY_BYTES:
        return done.stdout
    raise _failed(done.returncode, parameters)


def _failed(code: int, parameters: KdfParameters) -> KdfFailed:
    memory = f"{parameters.memory_kib // 1024} MiB of memory"
    if code == child.OUT_OF_MEMORY:
        return KdfFailed(f"A key derivation of a backup file needs {memory}, which this machine did not give.")
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    return KdfFailed(
        f"The process for a key derivation of a backup file, with {memory}, {how}. Perhaps there is too little memory: "
        "make room and try again."
    )


@contextmanager
def _lock() -> Iterator[int | None]:
    """The lock of this user's derivations, held; None where there can be none. Raises KdfFailed if it does not come."""
    descriptor = _lock_file()
    if descriptor is None:
        yield None
        return
    try:
        _wait_for(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int) -> None:
    deadline_seconds = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_seconds:
                raise KdfFailed(
                    f"Another key derivation of this user has not ended for {LOCK_WAIT_SECONDS:.0f} seconds; see which "
                    "process holds it, and try again."
                ) from None
            time.sleep(_POLL_SECONDS)


def _lock_file() -> int | None:
    """Open; only if it is a file of ours alone, so that nobody else can hold it."""
    path = _folder() / f"backupsite-argon2-{os.geteuid()}.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError:
        return None
    found = os.fstat(descriptor)
    private = stat.S_ISREG(found.st_mode) and not found.st_mode & 0o077 and found.st_nlink == 1
    if private and found.st_uid == os.geteuid():
        return descriptor
    os.close(descriptor)
    return None


def _folder() -> Path:
    mine = Path(f"/run/user/{os.geteuid()}")
    return mine if os.access(mine, os.W_OK) else Path(tempfile.gettempdir())
