"""Whether the instance key ring fits the database: asked at every start, before anything is opened with it.

The newest value of every sealed column and every proof is opened. A ring that lacks its key, or opens none of those
that name one of its keys, is the wrong ring. A single value that does not open beside others that do was changed or
damaged: whoever needs it gets the error, and the start goes on with a warning.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from keys.crypto_sealed import CannotOpenSealed, KeyRing
from keys.sealed_columns import Column, columns
from keys.sealing import ring


class RingDoesNotFit(Exception):
    """The database was sealed with other instance keys."""


@dataclass
class _Seen:
    """What the newest values say of one key of the ring."""

    opened: int = 0
    closed: list[str] = field(default_factory=list)


def anything_sealed() -> Column | None:
    """Return a column that holds a value, if there is one."""
    return next((column for column in columns() if column.rows().exists()), None)


def check_fits() -> list[str]:
    """Return warnings, each a sentence. Raises RingDoesNotFit."""
    found = ring()
    seen: dict[bytes, _Seen] = defaultdict(_Seen)
    warnings = []
    for column in columns():
        warnings += _look_at(column, found, seen)
    for key_id, told in seen.items():
        if not told.opened:
            raise RingDoesNotFit(
                f"The instance key {key_id.hex()} of this ring is not the one that sealed this database: "
                f"{told.closed[0]} Put the ring back that belongs to this database."
            )
        warnings += told.closed
    return warnings


def _look_at(column: Column, found: KeyRing, seen: dict[bytes, _Seen]) -> list[str]:
    """Note how the newest value does; return what is to be said of older ones whose key is not there."""
    row = column.newest()
    if row is None:
        return []
    newest = bytes(row.instance_key)  # type: ignore[attr-defined]
    if newest not in found.keys:
        raise RingDoesNotFit(_missing(column, newest, column.key_ids()[newest], found))
    try:
        column.check(row)
        seen[newest].opened += 1
    except CannotOpenSealed as error:
        seen[newest].closed.append(str(error))
    others = column.key_ids().items()
    return [_missing(column, key_id, count, found) for key_id, count in others if key_id not in found.keys]


def _missing(column: Column, key_id: bytes, count: int, found: KeyRing) -> str:
    here = ", ".join(key.hex() for key in found.keys)
    return (
        f"The instance keys do not fit this database: {count} values of {column} are sealed with the key "
        f"{key_id.hex()}, and the ring has {here}. Put the ring back that belongs to this database."
    )
