"""The file keys of a chain's points, wherever the console can get them: its cache, a newer point's keyring, or a slot.

A key that is out of reach is told with its reason, so that the caller can name the point; nothing is guessed. Who may
use the keys, and for what, is decided by the callers.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from uuid import UUID

from keys.crypto_sealed import CannotOpenSealed
from keys.kms.interface import KmsError
from repositories.engine.errors import CannotUnwrap, EngineError
from repositories.engine.keyring import Keyring, known_keys
from repositories.engine.layout import Malformed
from repositories.engine.reader import FileKey, SlotSecrets, inspect, open_container, read_keyring
from repositories.models import RestorePoint
from repositories.own_secrets import own_secrets
from repositories.reading import file_key_of

OUT_OF_REACH = "No key of it is in the console's reach: not its own, nor one of a later point."


@dataclass
class FileKeys:
    """`known` holds keys by file id, `closed` the reason why there is none."""

    known: dict[UUID, bytes] = field(default_factory=dict, repr=False)
    closed: dict[UUID, str] = field(default_factory=dict)


def file_keys_of(points: Sequence[RestorePoint]) -> FileKeys:
    """Return the keys of all points of a chain, given from the oldest to the newest.

    Slots are opened only for points whose key is not in the cache (a KMS slot by its server), from the newest down; the
    first keyring that opens gives the keys of everything before it.
    """
    keys = FileKeys()
    for point in points:
        _from_cache(keys, point)
    learned = len(keys.known) == len(points)  # nothing to be learned
    secrets = own_secrets()  # one for all: a server that is away is waited for once
    for place in range(len(points) - 1, -1, -1):
        point = points[place]
        if point.uuid not in keys.known:
            _from_slots(keys, point, secrets)
        if not learned and point.uuid in keys.known and any(p.uuid not in keys.known for p in points[:place]):
            learned = _from_keyring(keys, point, points[:place])
    return keys


def _from_cache(keys: FileKeys, point: RestorePoint) -> None:
    if point.file_key_sealed is None:
        return
    try:
        keys.known[point.uuid] = file_key_of(point) or b""
    except CannotOpenSealed as error:
        keys.closed[point.uuid] = str(error)


def _from_keyring(keys: FileKeys, point: RestorePoint, earlier: Sequence[RestorePoint]) -> bool:
    """Learn what the keyring of a point knows of earlier ones; return whether it could be read."""
    try:
        with closing(open_container(point.path, FileKey(keys.known[point.uuid]))) as container:
            keyring, _ = read_keyring(container)
    except (EngineError, Malformed):
        return False  # damage of the file is found, and named, when the point itself is worked on
    for other in earlier:
        if keyring is not None and other.uuid not in keys.known and (key := _in(keyring, other)) is not None:
            keys.known[other.uuid] = key
            keys.closed.pop(other.uuid, None)
    return True


def _in(keyring: Keyring, point: RestorePoint) -> bytes | None:
    """Return what a keyring has for a point: under its own id, or under that of the newest file that it replaced."""
    if point.uuid in keyring.file_keys:
        return keyring.file_keys[point.uuid]
    try:
        return next(iter(known_keys(inspect(point.path), keyring.file_keys)), None)
    except EngineError:
        return None  # it is named when the point itself is worked on


def _from_slots(keys: FileKeys, point: RestorePoint, secrets: SlotSecrets) -> None:
    """Open the file with what the console has for its slots, which asks a KMS."""
    try:
        with closing(open_container(point.path, secrets)) as container:
            if container.file_key is not None:
                keys.known[point.uuid] = container.file_key
                keys.closed.pop(point.uuid, None)
    except CannotUnwrap:
        keys.closed.setdefault(point.uuid, OUT_OF_REACH)
    except (EngineError, CannotOpenSealed, KmsError) as error:
        keys.closed[point.uuid] = str(error)
