"""Instance key rings of a test's own: in the environment, or in a file of a temporary state folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from keys.crypto_sealed import KeyRing
from keys.ring_file import make_ring_file, ring_text


def use_ring(settings: Any, ring: KeyRing) -> KeyRing:
    """Let the console use this ring, as if it stood in its environment."""
    settings.BACKUPSITE = replace(settings.BACKUPSITE, instance_keys=ring_text(ring))
    return ring


def use_ring_file(settings: Any, home: Path) -> Path:
    """Let the console use a new ring in a file of this folder; return the file."""
    settings.BACKUPSITE = replace(settings.BACKUPSITE, home=home, instance_keys=None)
    path: Path = settings.BACKUPSITE.instance_keys_path
    make_ring_file(path, KeyRing.new())
    return path
