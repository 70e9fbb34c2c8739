"""The instance key ring of this console: where it is kept, and sealing a model's columns with it.

The ring is outside Postgres: in BACKUPSITE_INSTANCE_KEYS, or in the file `instance-keys` (mode 0600) of the state
folder. A process notices a new file at its next use of the ring, so that a ring which is in place before the first
value is sealed with it opens that value everywhere. The bytes of a ring are decided in `keys.ring_file`, those of a
sealed value in `keys.crypto_sealed`; how one key follows another in `keys.rotation`.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import models

from keys.crypto_sealed import KeyRing, check_vouched, key_id_of, seal, unseal, vouch
from keys.ring_file import make_ring_file, parse_ring, read_ring

VARIABLE = "BACKUPSITE_INSTANCE_KEYS"
Stamp = tuple[int, int, int, int]


def ring_path() -> Path:
    path: Path = settings.BACKUPSITE.instance_keys_path
    return path


def in_environment() -> bool:
    return settings.BACKUPSITE.instance_keys is not None


def ring() -> KeyRing:
    """Return the key ring as it is now. Raises ImproperlyConfigured, naming what is wrong and where, never with key
    bytes.
    """
    if in_environment():
        return _of_text(settings.BACKUPSITE.instance_keys)
    path = ring_path()
    return _of_file(path, _stamp(path))


@lru_cache(maxsize=1)
def _of_text(text: str) -> KeyRing:
    return parse_ring(text, VARIABLE)


@lru_cache(maxsize=1)
def _of_file(path: Path, stamp: Stamp) -> KeyRing:
    """Return the ring of a file; the stamp is of before, so that a file which is replaced meanwhile is read again."""
    return read_ring(path)


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError as error:
        raise ImproperlyConfigured(f"The instance keys cannot be read from {path}: {error.strerror}.") from error
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _ring_for(value: bytes) -> KeyRing:
    """Return the ring to open a value with: read again if it names a key that is not on the one in memory."""
    found = ring()
    if key_id_of(value) in found.keys:
        return found
    _of_file.cache_clear()  # a file system with a slow cache of attributes
    return ring()


def ring_exists() -> bool:
    return in_environment() or ring_path().exists()


def ensure_ring() -> bool:
    """Make a ring file if there is none; return whether one was made. The file and its folder are synced before it
    counts.
    """
    if ring_exists():
        return False
    make_ring_file(ring_path(), KeyRing.new())
    return True


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
    sealed = bytes(getattr(row, column) or b"")
    return unseal(_ring_for(sealed), sealed, place(row, column))


def vouch_for(row: models.Model, column: str) -> bytes:
    """Return the proof that this console wrote the row's statement.

    A model says for each proof what that is: VOUCHED = {"column": lambda row: {...}}, plain JSON values.
    """
    return vouch(ring(), _canonical(_statement(row, column)), place(row, column))


def check_vouched_row(row: models.Model, column: str) -> None:
    """Raise CannotOpenSealed unless the row's proof is for its statement."""
    proof = bytes(getattr(row, column) or b"")
    check_vouched(_ring_for(proof), proof, _canonical(_statement(row, column)), place(row, column))


def vouch_for_fact(fact: dict[str, Any], place: str) -> bytes:
    """Return the proof that this console said so, for a fact that has no row of its own; it outlives no rotation."""
    return vouch(ring(), _canonical(fact), (place,))


def check_vouched_fact(proof: bytes, fact: dict[str, Any], place: str) -> None:
    """Raise CannotOpenSealed unless `proof` is for the fact."""
    check_vouched(ring(), proof, _canonical(fact), (place,))


def _statement(row: models.Model, column: str) -> dict[str, Any]:
    statement: dict[str, Any] = type(row).VOUCHED[column](row)  # type: ignore[attr-defined]
    return statement


def _canonical(statement: dict[str, Any]) -> bytes:
    return json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
