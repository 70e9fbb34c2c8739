"""Opening a catalogued restore point for the console: browse, download, and what a session hands to its process.

The file key comes from the catalogue, sealed under the instance key, so that nobody has to type a password. Where none
is kept (strict custody) the slots of the file are opened with what the console has, which asks the KMS; if its own pair
is gone, those of the newest point of the chain, whose keyring has the key. What is in a point, and whether it is whole,
is said by the engine; whether this user may look is decided in the views.
"""

from __future__ import annotations

from contextlib import closing

from keys.kms.interface import KmsKeyGone
from keys.sealing import seal_for, unseal_for
from repositories.engine import reader
from repositories.engine.errors import CannotUnwrap
from repositories.engine.expectation import Expected, check_point
from repositories.engine.keyring import known_keys
from repositories.engine.reader import FileKey, Point, open_container
from repositories.models import RestorePoint
from repositories.own_secrets import own_secrets


def open_point(point: RestorePoint) -> Point:
    """Open the file of a catalogued point; a context manager.

    Raises the engine's errors (MissingFile, CorruptFile, ...), keys.crypto_sealed.CannotOpenSealed and
    keys.kms.interface.KmsError. A file that
    authenticates but is not the one of the catalogue, or whose head is older than the catalogue knows, is a
    CorruptFile: it was swapped or put back.
    """
    key = file_key_of(point)
    opened = reader.open_point(point.path, FileKey(key) if key is not None else None)
    try:
        check_is(opened, point)
    except BaseException:
        opened.close()
        raise
    return opened


def file_key_of(point: RestorePoint) -> bytes | None:
    """Return the file key; None for a plain point.

    Raises CannotOpenSealed; where none is kept, also KmsError, CannotUnwrap when nothing of ours opens the file, and
    the engine's errors about a file that cannot be read.
    """
    if not point.chain.encrypted:
        return None
    if point.file_key_sealed is not None:
        return unseal_for(point, "file_key_sealed")
    try:
        return key_from_slots(point)
    except (CannotUnwrap, KmsKeyGone):
        key = _key_from_newest(point)
        if key is None:
            raise
        return key


def key_from_slots(point: RestorePoint) -> bytes | None:
    """Return what the slots of the file give, whatever the catalogue keeps. Raises as `file_key_of` does."""
    with closing(open_container(point.path, own_secrets())) as container:
        return container.file_key


def _key_from_newest(point: RestorePoint) -> bytes | None:
    """Return what the keyring of the newest point of the chain has for an earlier one."""
    newest = point.chain.newest()
    if newest is None or newest.pk == point.pk:
        return None
    with open_point(newest) as opened:
        return next(iter(known_keys(reader.inspect(point.path), opened.earlier_file_keys)), None)


def seal_file_key(point: RestorePoint, file_key: bytes) -> None:
    """Store the key of a point whose row exists: the sealed value is bound to its primary key and its file id."""
    point.file_key_sealed = seal_for(point, "file_key_sealed", file_key)
    point.save(update_fields=["file_key_sealed"])


def check_is(opened: Point, point: RestorePoint) -> None:
    """Raises CorruptFile if it is not the catalogued one."""
    check_point(opened, expected(point))


def expected(point: RestorePoint) -> Expected:
    """Return what the catalogue knows of a point's file."""
    return Expected(
        file_id=point.uuid,
        seal_hash=bytes(point.seal_hash),
        head_generation=point.head_generation,
        chain_id=point.chain.uuid,
        sequence=point.sequence,
        length=point.size_bytes,
        encrypted=point.chain.encrypted,
    )
