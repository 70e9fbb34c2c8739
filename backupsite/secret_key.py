"""Django's secret key: one file of the state folder, made at the first start. It signs sessions, forms and queue rows,
and opens no backup.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def secret_key(home: Path) -> str:
    """Return the key of this state folder, made with mode 0600 if there is none; of two starts one makes it."""
    path = home / "secret-key"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".secret-key.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(64))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass  # another process was first: its key counts
    finally:
        temporary.unlink()
    return path.read_text().strip()
