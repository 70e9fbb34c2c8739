"""Downloading one file of a restore point: a stream whose end is checked, and its two audit events.

The first event is written before the first byte, so that no crash hides a download; the second only when it did not
arrive whole. The names of encrypted points stay out of the trail, as out of all of Postgres.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import chain

from django.http import Http404, HttpRequest, StreamingHttpResponse

from backupsite import audit
from backupsite.models import Severity
from jobs.byte_paths import disposition
from repositories.engine.entries import Entry
from repositories.engine.errors import EngineError, NothingToRestore, text
from repositories.engine.reader import Point
from repositories.models import RestorePoint
from repositories.reading import open_point


def start_download(request: HttpRequest, point: RestorePoint, path: bytes) -> StreamingHttpResponse:
    """Return the stream. Raises what opening the point, or reading its first part, raises; Http404 if there is no such
    file.
    """
    opening = open_point(point)
    opened = opening.__enter__()
    try:
        entry = _file_at(opened, path)
        parts = opened.read(entry)
        first = next(iter(parts), b"")
    except BaseException:
        opening.__exit__(None, None, None)
        raise
    audit.record(request, "download", point, after=_said(point, entry))
    response = StreamingHttpResponse(
        _stream(request, point, entry, opening, chain([first], parts)), content_type="application/octet-stream"
    )
    response["Content-Length"] = str(entry.size)
    response["Content-Disposition"] = disposition(entry.name)
    return response


def _file_at(opened: Point, path: bytes) -> Entry:
    try:
        entry = opened.entry(path)
    except (NothingToRestore, KeyError) as error:
        raise Http404("The restore point has no such file.") from error
    if not entry.is_file:
        raise Http404("Only files can be downloaded; restore folders to a directory.")
    return entry


def _stream(
    request: HttpRequest,
    point: RestorePoint,
    entry: Entry,
    opening: AbstractContextManager[Point],
    parts: Iterator[bytes],
) -> Iterator[bytes]:
    """Yield the content; an error in the middle is raised on, which breaks the connection before Content-Length is
    reached.
    """
    sent = 0
    why = "closed by the receiver"
    try:
        for part in parts:
            yield part
            sent += len(part)
    except EngineError as error:
        why = error.code
        raise
    finally:
        opening.__exit__(None, None, None)
        if sent < entry.size:
            said = {**_said(point, entry), "outcome": "incomplete", "sent_bytes": sent, "why": why}
            audit.record(request, "download incomplete", point, after=said, severity=Severity.NOTICE)


def _said(point: RestorePoint, entry: Entry) -> dict[str, str | int]:
    name = {} if point.chain.encrypted else {"path": text(entry.path)}
    return {"bytes": entry.size, **name}
