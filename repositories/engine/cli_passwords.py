"""Where a command gets its passwords: a file, or the person at the terminal. Never an argument or the environment.

Which bytes of a file are the password is decided in `keys.crypto_password`.
"""

from __future__ import annotations

import getpass
import sys
from pathlib import Path

from keys.crypto_password import MAX_PASSWORD_BYTES, password_bytes, password_bytes_from_file
from repositories.engine.errors import EngineError, text


class PasswordNeeded(EngineError):
    """An encrypted point, and no password to open it. Fields: path."""

    code = "password-needed"


class PasswordFileUnreadable(EngineError):
    """The file with the password cannot be read. Fields: path, reason."""

    code = "password-file-unreadable"


def from_file(path: Path) -> bytes:
    """The password in a file; exactly one line ending at its end is not part of it. Raises BadPassword too."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_PASSWORD_BYTES + len("\r\n") + 1)
    except OSError as error:
        reason = error.strerror or "unknown"
        sentence = f"The password file {text(path)} cannot be read: {reason}. Check the name and its rights."
        raise PasswordFileUnreadable(sentence, path=text(path), reason=reason) from error
    return password_bytes_from_file(content)


def may_ask() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask(place: Path) -> bytes:
    """Ask the person at the terminal. Raises PasswordNeeded where there is none, or where nothing was typed."""
    if may_ask():
        typed = getpass.getpass(f"Password for {text(place)}: ", stream=sys.stderr)
        if typed:
            return password_bytes(typed)
    raise PasswordNeeded(
        f"{text(place)} is encrypted. Give its password with --password-file, or what else opens it; --plain opens "
        "only what is not.",
        path=text(place),
    )
