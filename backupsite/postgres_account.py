"""Whom Postgres runs as, and how a program is started as that user.

What is started, and where its data is, is decided in `postgres`.
"""

import contextlib
import os
import pwd
import signal
import sys
from dataclasses import dataclass

from backupsite import launch


class PostgresError(Exception):
    """The embedded Postgres cannot run. str() is one line: what, where, what to do."""


@dataclass(frozen=True)
class Account:
    """Whom Postgres runs as: ourselves, or an unprivileged user when we are root."""

    name: str
    uid: int
    gid: int
    switch: bool


def choose_account() -> Account:
    """Return whom Postgres runs as. Raises PostgresError when there is nobody."""
    if os.geteuid() != 0:
        try:
            own = pwd.getpwuid(os.geteuid())
        except KeyError:
            raise PostgresError(
                f"The user {os.geteuid()} is not in /etc/passwd, which Postgres needs: add it, or set DATABASE_URL."
            ) from None
        return Account(own.pw_name, own.pw_uid, own.pw_gid, switch=False)
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            return Account(found.pw_name, found.pw_uid, found.pw_gid, switch=True)
    raise PostgresError(
        "Postgres does not run as root, and there is no user postgres or nobody: add one, or set DATABASE_URL."
    )


def launched(account: Account, number: signal.Signals, command: list[str]) -> list[str]:
    """Return the command that starts `command` as `account` and ends it by `number` when this process ends."""
    user = account.name if account.switch else "-"
    return [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(int(number)), user, *command]


def bare_environment() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
