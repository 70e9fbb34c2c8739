"""The instance key ring of this console: where it is kept, and sealing a model's columns with it.

The ring is outside Postgres: in BACKUPSITE_INSTANCE_KEYS, or in the file `instance-keys` (mode 0600) of the state
folder. Both hold JSON: {"active": "<id, hex>", "keys": {"<id, hex>": "<key, base64>"}}. The bytes of a sealed value
are decided in `keys.crypto_sealed`.
"""

from __future__ import annotations

import base64
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import models

from keys.crypto_sealed import KeyRing, check_vouched, seal, unseal, vouch


def ring_path() -> Path:
    path: Path = settings.BACKUPSITE.instance_keys_path
    return path


@cache
def ring() -> KeyRing:
    """Return the key ring. Raises ImproperlyConfigured, naming what is wrong and where, never with key bytes."""
    text = settings.BACKUPSITE.instance_keys
    source = "BACKUPSITE_INSTANCE_KEYS"
    if text is None:
        source = str(ring_path())
        try:
            text = ring_path().read_text()
        except OSError as error:
            raise ImproperlyConfigured(f"The instance keys cannot be read from {source}: {error.strerror}.") from error
    return parse_ring(text, source)


def parse_ring(text: str, source: str) -> KeyRing:
    try:
        data = json.loads(text)
        keys = {bytes.fromhex(i): base64.b64decode(k, validate=True) for i, k in data["keys"].items()}
        return KeyRing(bytes.fromhex(data["active"]), keys)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ImproperlyConfigured(
            f"The instance keys in {source} are not a key ring (see docs/operations.md)."
        ) from None


def ring_exists() -> bool:
    return settings.BACKUPSITE.instance_keys is not None or ring_path().exists()


def ensure_ring() -> bool:
    """Make a ring file if there is none; return whether one was made. The file and its folder are synced before it
    counts.
    """
    if ring_exists():
        return False
    new = KeyRing.new()
    keys = {i.hex(): base64.b64encode(k).decode() for i, k in new.keys.items()}
    _write_new(ring_path(), json.dumps({"active": new.active.hex(), "keys": keys}).encode())
    return True


def _write_new(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # never over an existing ring: two starts make one
    finally:
        temporary.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def place(row: models.Model, column: str) -> tuple[str, ...]:
    """Name the place of a column's value: table, column, primary key, and what else must not be swapped under it.

    A model says for each sealed column what that is: SEALED = {"column": lambda row: (...)}. The row must be saved.
    """
    bound = getattr(type(row), "SEALED", {}).get(column)
    also = bound(row) if bound else ()
    return (row._meta.db_table, column, str(row.pk), *(str(part) for part in also))


def seal_for(row: models.Model, column: str, value: bytes) -> bytes:
    return seal(ring(), value, place(row, column))


def unseal_for(row: models.Model, column: str) -> bytes:
    """Raises CannotOpenSealed, also when what the value is bound to was changed from outside."""
    return unseal(ring(), bytes(getattr(row, column) or b""), place(row, column))


def vouch_for(row: models.Model, column: str) -> bytes:
    """Return the proof that this console wrote the row's statement.

    A model says for each proof what that is: VOUCHED = {"column": lambda row: {...}}, plain JSON values.
    """
    return vouch(ring(), _canonical(_statement(row, column)), place(row, column))


def check_vouched_row(row: models.Model, column: str) -> None:
    """Raise CannotOpenSealed unless the row's proof is for its statement."""
    proof = bytes(getattr(row, column) or b"")
    check_vouched(ring(), proof, _canonical(_statement(row, column)), place(row, column))


def _statement(row: models.Model, column: str) -> dict[str, Any]:
    statement: dict[str, Any] = type(row).VOUCHED[column](row)  # type: ignore[attr-defined]
    return statement


def _canonical(statement: dict[str, Any]) -> bytes:
    return json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
