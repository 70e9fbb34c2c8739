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
from keys.crypto_slots import Slot, SlotKind
from keys.kms.interface import KmsAway, KmsError, KmsMissing, KmsUntrusted
from keys.kms_servers import slot_secrets
from keys.passwords import kek_of
from repositories.catalogue import version_of
from repositories.engine.errors import CannotUnwrap, EngineError
from repositories.engine.layout import Malformed
from repositories.engine.reader import FileKey, Kek, Secret, SlotSecrets, inspect, open_container, read_keyring
from repositories.models import RestorePoint
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
    servers = _asked_once()
    for place in range(len(points) - 1, -1, -1):
        point = points[place]
        if point.uuid not in keys.known:
            _from_slots(keys, point, servers)
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
        if keyring is not None and other.uuid not in keys.known and other.uuid in keyring.file_keys:
            keys.known[other.uuid] = keyring.file_keys[other.uuid]
            keys.closed.pop(other.uuid, None)
    return True


def _from_slots(keys: FileKeys, point: RestorePoint, servers: SlotSecrets) -> None:
    reason = keys.closed.get(point.uuid, OUT_OF_REACH)
    try:
        for secret in _secrets(point, servers):
            key = _opened(point, secret)
            if key is not None:
                keys.known[point.uuid] = key
                keys.closed.pop(point.uuid, None)
                return
    except (EngineError, CannotOpenSealed, KmsError) as error:
        reason = str(error)
    keys.closed[point.uuid] = reason


def _secrets(point: RestorePoint, servers: SlotSecrets) -> list[Secret]:
    """Return what the console has for the slots of the file: passwords first, then what needs a server."""
    found: list[Secret] = []
    slots = inspect(point.path).slots
    for slot in slots:
        version = version_of(slot.record, slot.version) if slot.kind is SlotKind.PASSWORD else None
        if version is not None:
            found.append(Kek(kek_of(version)))
    if any(slot.kind is SlotKind.KMS for slot in slots):
        found.append(servers)
    return found


def _asked_once() -> SlotSecrets:
    """A server that is away is not waited for again for each point of a long chain."""
    ask, failed = slot_secrets(), dict[str, KmsError]()  # by the name of the server, as slots have it

    def secret(slot: Slot, chain_id: UUID, file_id: UUID) -> bytes | None:
        if slot.hint in failed:
            raise failed[slot.hint]
        try:
            return ask(slot, chain_id, file_id)
        except (KmsAway, KmsUntrusted, KmsMissing) as error:
            failed[slot.hint] = error
            raise

    return SlotSecrets(secret)


def _opened(point: RestorePoint, secret: Secret) -> bytes | None:
    try:
        with closing(open_container(point.path, secret)) as container:
            return container.file_key
    except CannotUnwrap:
        return None
