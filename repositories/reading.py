"""Opening a catalogued restore point for the console: browse, download, and what a session hands to its process.

The file key comes from the catalogue, sealed under the instance key, so that nobody has to type a password. What is in
a point, and whether it is whole, is said by the engine; whether this user may look is decided in the views.
"""

from __future__ import annotations

from uuid import UUID

from keys.sealing import seal_for, unseal_for
from repositories.engine import reader
from repositories.engine.errors import CannotUnwrap, CorruptFile
from repositories.engine.reader import FileKey, Point
from repositories.models import RestorePoint


def open_point(point: RestorePoint) -> Point:
    """Open the file of a catalogued point; a context manager.

    Raises the engine's errors (MissingFile, CorruptFile, ...) and keys.crypto_sealed.CannotOpenSealed. A file that
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

    Raises CannotOpenSealed, CannotUnwrap when the catalogue has none.
    """
    if not point.chain.encrypted:
        return None
    if point.file_key_sealed is None:
        raise CannotUnwrap(f"The catalogue holds no key for {point}: rescan the repository.", point=str(point.uuid))
    return unseal_for(point, "file_key_sealed", point.uuid)


def seal_file_key(point: RestorePoint, file_key: bytes) -> None:
    """Store the key of a point whose row exists: the sealed value is bound to its primary key and its file id."""
    point.file_key_sealed = seal_for(point, "file_key_sealed", file_key, point.uuid)
    point.save(update_fields=["file_key_sealed"])


def check_is(opened: Point, point: RestorePoint) -> None:
    problem = mismatch(opened.head.chain_id, opened.head.file_id, opened.head.generation, point)
    if not problem and bytes(opened.seal_hash) != bytes(point.seal_hash):
        problem = "its seal is not the one that was catalogued"
    if problem:
        raise CorruptFile(f"The backup file {point.path} is not {point}: {problem}.", path=str(point.path), part="head")


def mismatch(chain_id: UUID, file_id: UUID, generation: int, point: RestorePoint) -> str:
    """Say how what a head claims differs from the catalogue; empty when it doesn't."""
    if chain_id != point.chain.uuid:
        return "it belongs to another chain"
    if file_id != point.uuid:
        return "it is another file"
    if generation < point.head_generation:
        known = point.head_generation
        return f"its head is of generation {generation}, the catalogue knows {known}: an old copy was put back"
    return ""
