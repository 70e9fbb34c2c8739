"""Every sealed column and every proof of every model: found by the convention, looked at, and renewed row by row.

A model declares SEALED and VOUCHED (see `keys.sealing`), so that nothing here knows the apps above. When rows are
renewed, and what must have happened before, is decided in `keys.rotation`; whether a ring fits, in `keys.ring_check`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from django.apps import apps
from django.db import models
from django.db.models import BinaryField, Count, QuerySet
from django.db.models.functions import Substr

from keys.crypto_sealed import KEY_ID_BYTES, CannotOpenSealed, key_id_of
from keys.sealing import check_vouched_row, seal_for, unseal_for, vouch_for

ROWS_AT_ONCE = 500
NAMED = 20


@dataclass(frozen=True)
class Column:
    """One column of one model that the instance key protects."""

    model: type[models.Model]
    name: str
    is_proof: bool

    def __str__(self) -> str:
        return f"{self.model._meta.db_table}.{self.name}"

    def rows(self) -> QuerySet[Any]:
        """Return the rows that hold a value, with the id of the key that it names as `instance_key`."""
        named = Substr(self.name, 2, KEY_ID_BYTES, output_field=BinaryField())
        held = self.model._base_manager.exclude(**{self.name: None}).exclude(**{self.name: b""})
        rows: QuerySet[Any] = held.annotate(instance_key=named).order_by("pk")
        return rows

    def key_ids(self) -> dict[bytes, int]:
        """Return how many rows name each key."""
        counts = self.rows().order_by().values_list("instance_key").annotate(Count("pk"))
        return {bytes(key_id): count for key_id, count in counts}

    def newest(self) -> models.Model | None:
        row: models.Model | None = self.rows().last()
        return row

    def check(self, row: models.Model) -> None:
        """Raises CannotOpenSealed."""
        if self.is_proof:
            check_vouched_row(row, self.name)
        else:
            unseal_for(row, self.name)

    def renewed(self, row: models.Model) -> bytes:
        """Return the row's value under the active key. Raises CannotOpenSealed: nothing is vouched for that was not."""
        if self.is_proof:
            check_vouched_row(row, self.name)
            return vouch_for(row, self.name)
        return seal_for(row, self.name, unseal_for(row, self.name))


@dataclass
class Renewal:
    """What one pass over all columns did; `closed` are the rows that do not open: they are left as they are."""

    renewed: int = 0
    overtaken: int = 0  # somebody else wrote the row meanwhile: the next pass looks at it again
    closed: int = 0
    named: list[str] = field(default_factory=list)
    closed_keys: set[bytes] = field(default_factory=set)  # that they name

    @property
    def found(self) -> int:
        return self.renewed + self.overtaken

    def leave(self, row: models.Model, key_id: bytes, error: CannotOpenSealed) -> None:
        self.closed += 1
        self.closed_keys.add(key_id)
        if len(self.named) < NAMED:
            self.named.append(f"{row} ({row._meta.verbose_name} {row.pk}): {error}")


def columns() -> list[Column]:
    """Return them in the order of the apps, none twice."""
    found = []
    for model in apps.get_models():
        if not model._meta.proxy:
            found += [Column(model, name, False) for name in getattr(model, "SEALED", {})]
            found += [Column(model, name, True) for name in getattr(model, "VOUCHED", {})]
    return found


def keys_in_use() -> set[bytes]:
    """Return every key that a value in the database names."""
    return {key_id for column in columns() for key_id in column.key_ids()}


def renew_all(active: bytes, report: Callable[[str], None]) -> Renewal:
    """Renew every value that names another key than the active one, where it opens."""
    total = Renewal()
    for column in columns():
        for batch in _batches(column, active):
            for row in batch:
                _renew(column, row, total)
            report(f"{column}: up to row {batch[-1].pk}, {total.renewed} renewed")
    return total


def _batches(column: Column, active: bytes) -> Iterator[list[Any]]:
    last = None
    while True:
        rows = column.rows().exclude(instance_key=active)
        batch = list((rows if last is None else rows.filter(pk__gt=last))[:ROWS_AT_ONCE])
        if not batch:
            return
        yield batch
        last = batch[-1].pk


def _renew(column: Column, row: models.Model, total: Renewal) -> None:
    """Put the renewed value in the place of the one that was read; one row a statement, so that nobody waits long."""
    old = bytes(getattr(row, column.name))
    try:
        value = column.renewed(row)
    except CannotOpenSealed as error:
        total.leave(row, key_id_of(old), error)
        return
    same = column.model._base_manager.filter(**{"pk": row.pk, column.name: old})
    if same.update(**{column.name: value}):
        total.renewed += 1
    else:
        total.overtaken += 1
