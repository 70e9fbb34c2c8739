"""The instance key ring as text and as a file: how it is read, and how one ring takes the place of another.

The text is JSON: {"active": "<id, hex>", "keys": {"<id, hex>": "<key, base64>"}}, the keys in the order in which they
were added. A file is complete and synced before it has its name, so that there is never a moment with none or with half
of one. When a ring changes is decided in `keys.rotation`, where it is kept in `keys.sealing`.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from keys.crypto_sealed import KeyRing

MODE = 0o600


def ring_text(ring: KeyRing) -> str:
    keys = {i.hex(): base64.b64encode(k).decode() for i, k in ring.keys.items()}
    return json.dumps({"active": ring.active.hex(), "keys": keys})


def parse_ring(text: str, source: str) -> KeyRing:
    """Raises ImproperlyConfigured, naming the source, never with key bytes."""
    try:
        data = json.loads(text)
        keys = {bytes.fromhex(i): base64.b64decode(k, validate=True) for i, k in data["keys"].items()}
        return KeyRing(bytes.fromhex(data["active"]), keys)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ImproperlyConfigured(
            f"The instance keys in {source} are not a key ring (see docs/operations.md)."
        ) from None


def read_ring(path: Path) -> KeyRing:
    """Raises ImproperlyConfigured."""
    try:
        return parse_ring(path.read_text(), str(path))
    except OSError as error:
        raise ImproperlyConfigured(f"The instance keys cannot be read from {path}: {error.strerror}.") from error


def make_ring_file(path: Path, ring: KeyRing) -> None:
    """Write the first ring; never over an existing one: of two starts one makes it. Raises FileExistsError."""
    temporary = _written_beside(path, ring)
    try:
        os.link(temporary, path)
    finally:
        temporary.unlink()
    _sync_folder(path)


def replace_ring_file(path: Path, ring: KeyRing) -> None:
    """Put another ring in the place of the file's, for the same owner; readers find the one or the other."""
    path = path.resolve()  # a link to a file elsewhere stays one
    old = path.stat()
    temporary = _written_beside(path, ring)
    try:
        os.chown(temporary, old.st_uid, old.st_gid)  # root may rotate what another user reads
        os.replace(temporary, path)
    except OSError:
        temporary.unlink()
        raise
    _sync_folder(path)


def remove_leftovers(path: Path) -> None:
    """Remove what a killed writer left beside the ring. Only while nobody else writes a ring."""
    for leftover in path.resolve().parent.glob(f".{path.resolve().name}.*"):
        leftover.unlink()


def _written_beside(path: Path, ring: KeyRing) -> Path:
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")  # in a container every start has the same pid
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
    with os.fdopen(descriptor, "w") as file:
        file.write(ring_text(ring))
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
