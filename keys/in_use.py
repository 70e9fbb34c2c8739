"""What refuses the deletion of key records: how many rows of each kind need them, and the first names.

Found through the relations that protect them, so that nothing here knows the apps above; counted, because a recovery
key has a slot in every restore point. What the rows are to a job or a chain is shown in `jobs`.
"""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import QuerySet

MOST_NAMED = 10
Holders = list[tuple[str, int, list[str]]]


def holders_of(rows: QuerySet[Any]) -> Holders:
    """Return what would have to go first: (kind, number, names); nothing where the rows can be deleted."""
    found: Holders = []
    for relation in rows.model._meta.related_objects:
        held = relation.related_model._base_manager.filter(**{f"{relation.field.name}__in": rows.order_by()})
        if relation.on_delete is models.CASCADE:
            found += holders_of(held)
        elif relation.on_delete is models.PROTECT and (number := held.count()):
            kind = str(relation.related_model._meta.verbose_name_plural)
            found.append((kind, number, [str(row) for row in held.order_by("pk")[:MOST_NAMED]]))
    return sorted(found)
