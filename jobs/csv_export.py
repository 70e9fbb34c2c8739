"""Tables as CSV: sent row by row, and so that no spreadsheet takes a name for a formula."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from datetime import datetime

from django.http import StreamingHttpResponse

FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r", "\n")
Cell = str | int | datetime | None


class _Echo:
    """A file whose `write` gives the line back."""

    def write(self, line: str) -> str:
        return line


def csv_response(name: str, head: tuple[str, ...], rows: Iterable[tuple[Cell, ...]]) -> StreamingHttpResponse:
    response = StreamingHttpResponse(_lines(head, rows), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{name}.csv"'
    response["Cache-Control"] = "no-store, private"
    return response


def _lines(head: tuple[str, ...], rows: Iterable[tuple[Cell, ...]]) -> Iterator[str]:
    writer = csv.writer(_Echo())
    yield writer.writerow(head)
    for row in rows:
        yield writer.writerow([shown(cell) for cell in row])


def shown(cell: Cell) -> str:
    """Return a cell as text; what a spreadsheet would compute gets an apostrophe in front."""
    if isinstance(cell, datetime):
        return cell.isoformat()
    if isinstance(cell, int):
        return str(cell)
    text = cell or ""
    return f"'{text}" if text.startswith(FORMULA_BEGINS) else text
