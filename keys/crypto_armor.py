"""Text that is pasted or carried on a stick: the public half of a recovery key, a custody challenge.

Between two lines that name it stands base64 of the content | the first 4 bytes of SHA-256 over name, a zero byte and
content: a character that was lost or changed on the way is found, and one thing is not taken for another. What the
content is, is its own module's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from keys.crypto_errors import BadText

MOST_CHARACTERS = 16_384
_CHECK_BYTES = 4
_LINE_LETTERS = 64


def armor(name: str, content: bytes) -> str:
    """Lines that end with a line feed."""
    letters = base64.b64encode(content + _check(name, content)).decode()
    lines = [letters[at : at + _LINE_LETTERS] for at in range(0, len(letters), _LINE_LETTERS)]
    return "\n".join([f"-----BEGIN {name}-----", *lines, f"-----END {name}-----", ""])


def unarmor(name: str, text: str, most_characters: int = MOST_CHARACTERS) -> bytes:
    """The content; what stands before and behind it, and how its lines are broken or indented, does not count.

    Without the two lines the text is taken as what stands between them. Raises BadText.
    """
    if len(text) > most_characters:
        raise BadText(f"This is too long to be a {_said(name)}. Take the text from “BEGIN” to “END”.")
    framed = re.search(rf"-----BEGIN {re.escape(name)}-----(.*?)-----END {re.escape(name)}-----", text, re.DOTALL)
    if framed is None and "-----BEGIN" in text:
        raise BadText(f"This is no {_said(name)}, or a part of it is missing. Take the text from “BEGIN” to “END”.")
    raw = _decoded(name, framed.group(1) if framed else text)
    content, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
    if check != _check(name, content):
        raise BadText(f"This {_said(name)} was changed on the way, or a part of it is missing. Copy it once more.")
    return content


def _decoded(name: str, letters: str) -> bytes:
    try:
        return base64.b64decode("".join(letters.split()), validate=True)
    except (binascii.Error, ValueError):
        raise BadText(f"This is no {_said(name)}. Take the text from “BEGIN” to “END”.") from None


def _check(name: str, content: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + content).digest()[:_CHECK_BYTES]


def _said(name: str) -> str:
    return name.removeprefix("BACKUPSITE ").lower()
