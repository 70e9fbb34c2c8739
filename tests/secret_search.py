"""Looking for secrets where none may be: every table, every file of a folder, every page, in every spelling.

What is packed (gzip, Django's signed and compressed values, hexadecimal or base64 of something that holds a secret) is
unpacked first.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, quote_plus

from django.db import connection

# A run of letters that may be base64 of more than a secret; Django puts a dot before what it compressed.
PACKED = re.compile(rb"[A-Za-z0-9_+/-]{24,}={0,2}")


@dataclass(frozen=True)
class Find:
    secret: str
    spelling: str
    place: str


def spellings(secret: bytes) -> dict[str, bytes]:
    """Return the ways in which a secret may stand somewhere, by name; none shorter than 6 bytes."""
    found = {"raw": secret, "hex": secret.hex().encode(), "HEX": secret.hex().upper().encode()}
    for shift in range(3):
        for name, encode in (("base64", base64.b64encode), ("urlsafe base64", base64.urlsafe_b64encode)):
            found[f"{name}, shifted by {shift}"] = _inner(encode(b"\0" * shift + secret), shift, len(secret))
    found["bytes literal"] = repr(secret)[2:-1].encode()
    found["list of numbers"] = json.dumps(list(secret))[1:-1].encode()
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        text = secret.decode("latin-1")  # as a careless program would make text of it
        found["as latin-1"] = text.encode()
    found["JSON"] = json.dumps(text)[1:-1].encode()
    found["JSON, not ASCII"] = json.dumps(text, ensure_ascii=False)[1:-1].encode()
    found["HTML"] = html.escape(text).encode()
    found["URL"], found["form"] = quote(text, safe="").encode(), quote_plus(text).encode()
    return {name: value for name, value in found.items() if len(value) >= 6}


def _inner(encoded: bytes, shift: int, length: int) -> bytes:
    """Return the letters that depend on the secret alone, whatever stands before and after it."""
    first = -(-8 * shift // 6)  # the first letter without a bit of what stands before
    last = (8 * (shift + length)) // 6
    return encoded[first:last]


class Search:
    """Patterns of all secrets, and what was looked at: `places` of each kind, so that nothing was looked at in vain."""

    def __init__(self, secrets: Mapping[str, bytes]) -> None:
        short = [name for name, secret in secrets.items() if len(secret) < 8]
        assert not short, f"too short to be found for certain: {short}"
        pairs = [(name, *pair) for name, secret in secrets.items() for pair in spellings(secret).items()]
        self._patterns = {(name, spelling): value for name, spelling, value in pairs}
        self.places: dict[str, int] = {}

    def look(self, kind: str, place: str, content: bytes) -> list[Find]:
        self.places[kind] = self.places.get(kind, 0) + 1
        finds = []
        for text in unpacked(content):
            for (name, spelling), value in self._patterns.items():
                if value in text:
                    finds.append(Find(name, spelling, place))
        return finds

    def tables(self) -> list[Find]:
        """Look at every row of every table of this database, Django's and the queue's too."""
        return [find for table in tables() for find in self.look("table", table, b"\n".join(values(table)))]

    def folder(self, folder: Path, *, but: Iterable[Path] = ()) -> list[Find]:
        files = [path for path in folder.rglob("*") if path.is_file() and path not in set(but)]
        return [find for path in files for find in self.look("file", str(path), path.read_bytes())]


def tables() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1")
        return [name for (name,) in cursor.fetchall()]


def values(table: str) -> Iterator[bytes]:
    """Return each value of each row: bytes as they are, everything else as Postgres writes it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT column_name, data_type FROM information_schema.columns"
            " WHERE table_schema = current_schema() AND table_name = %s",
            [table],
        )
        columns = [f'"{name}"' if kind == "bytea" else f'"{name}"::text' for name, kind in cursor.fetchall()]
        cursor.execute(f'SELECT {", ".join(columns)} FROM "{table}"')
        for row in cursor.fetchall():
            for value in row:
                if value is not None:
                    yield value.encode() if isinstance(value, str) else bytes(value)


def unpacked(content: bytes) -> Iterator[bytes]:
    """Return the content, and what is packed in it, two layers deep."""
    yield content
    if content[:2] == b"\x1f\x8b":
        yield from unpacked(gzip.decompress(content))
        return
    inner = b"\n".join(part for found in PACKED.findall(content) for part in _opened(found))
    if inner:
        yield inner
        yield b"\n".join(part for found in PACKED.findall(inner) for part in _opened(found))


def _opened(packed: bytes) -> Iterator[bytes]:
    padded = packed.rstrip(b"=").replace(b"+", b"-").replace(b"/", b"_")
    try:
        raw = base64.urlsafe_b64decode(padded + b"=" * (-len(padded) % 4))
    except ValueError:
        return
    yield raw
    try:
        yield zlib.decompress(raw)
    except zlib.error:
        return
