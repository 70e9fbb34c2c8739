"""Paths inside a restore point, in URLs and on pages.

A path is bytes without a leading slash. In a URL and in a form's value it is percent-encoded byte by byte, so that a
name that is not UTF-8 survives; on a page undecodable bytes and control characters are escaped, so that it stays on one
line and nobody mistakes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, quote_from_bytes, unquote_to_bytes

from django.http import HttpRequest

from repositories.engine.errors import text

BYTES_ONE_TO_ONE = "latin-1"


@dataclass(frozen=True)
class Crumb:
    name: str
    quoted: str


def quoted(path: bytes) -> str:
    return quote_from_bytes(path, safe="/")


def unquoted(value: str) -> bytes:
    """Return the bytes of a form's value; raises ValueError for what no path can be."""
    path = unquote_to_bytes(value).strip(b"/")
    if b"\0" in path or any(part in (b"", b".", b"..") for part in path.split(b"/") if path):
        raise ValueError("not a path inside a restore point")
    return path


def path_of(request: HttpRequest, name: str = "path") -> bytes:
    """Read the raw query string: Django's own reading would replace bytes that are not UTF-8."""
    fields = parse_qs(request.META.get("QUERY_STRING", ""), encoding=BYTES_ONE_TO_ONE)
    return unquoted(quote_from_bytes(fields.get(name, [""])[0].encode(BYTES_ONE_TO_ONE)))


def crumbs(path: bytes) -> list[Crumb]:
    """Return every folder on the way to `path`, itself included."""
    parts = path.split(b"/") if path else []
    return [Crumb(text(part), quoted(b"/".join(parts[: depth + 1]))) for depth, part in enumerate(parts)]


def disposition(name: bytes) -> str:
    """Return a Content-Disposition for any name: nothing of it can end the header or leave the quotes (RFC 6266)."""
    plain = "".join(
        c if c.isascii() and (c.isalnum() or c in " ._-+()") else "_" for c in name.decode("utf-8", "replace")
    )
    return f"attachment; filename=\"{plain or 'file'}\"; filename*=UTF-8''{quote_from_bytes(_as_utf8(name), safe='')}"


def _as_utf8(name: bytes) -> bytes:
    return name.decode("utf-8", "replace").encode()
