"""A recovery key's private half as it is printed and typed: 15 groups of 4 letters and digits, and a sheet around them.

Base32 (RFC 4648) without padding of: version (1 byte, 1) | seed (32) | the first 4 bytes of SHA-256 over both; these 37
bytes give just 60 letters. Case, blanks and hyphens do not count; 0, 1 and 8, which base32 does not have, are read as
O, I and B. A sheet as a page, with its QR code, is the console's (`templates/keys/recovery_sheet.html`).
"""

from __future__ import annotations

import base64
import hashlib
import re

from keys.crypto_errors import BadSheet
from keys.crypto_recovery import RecoveryPrivate, fingerprint_text

GROUPS = 15
GROUP_LETTERS = 4
_VERSION = 1
_CHECK_BYTES = 4
_LETTERS = GROUPS * GROUP_LETTERS
_LINE = re.compile(r"[A-Za-z0-9]{4}(?:[ \t-]+[A-Za-z0-9]{4}){4}")
_MISREAD = str.maketrans("018", "OIB")


def sheet_text(private: RecoveryPrivate) -> str:
    """The private half as groups with blanks between them, five on each of three lines."""
    body = bytes([_VERSION]) + private.seed
    letters = base64.b32encode(body + _check(body)).decode().rstrip("=")
    groups = [letters[at : at + GROUP_LETTERS] for at in range(0, len(letters), GROUP_LETTERS)]
    return "\n".join(" ".join(groups[at : at + 5]) for at in range(0, len(groups), 5))


def qr_text(private: RecoveryPrivate) -> str:
    """What a QR code holds: the letters without blanks, so that it is small; read_sheet() takes them."""
    return "".join(sheet_text(private).split())


def whole_sheet(private: RecoveryPrivate, *, name: str, made: str) -> str:
    """A sheet as a text file: what it is, its letters, and what to do with it. `made` says when, and by whom or what.

    No other line of it looks like one of the letters' lines: the name has a line with a word before it.
    """
    indented = "\n".join("    " + line for line in sheet_text(private).splitlines())
    return _SHEET.format(name=_one_line(name), made=made, fingerprint=fingerprint_text(private.public()), key=indented)


_SHEET = """\
BACKUPSITE RECOVERY KEY, PRIVATE HALF: KEEP IT SECRET

Name:        {name}
Made:        {made}
Fingerprint: {fingerprint}

{key}

Whoever has these 60 letters and digits opens every backup file that has a slot for this key. There is no other copy.
The last letters are a checksum: one that is read or typed wrong is noticed. Capitals do not count, nor do blanks.
0, 1 and 8 do not occur; where you read one, it is O, I or B.

Without the console: python -m repositories.engine recover REPOSITORY --into DIR --recovery-key THIS-FILE
To prove each year that you have it: python -m repositories.engine prove CHALLENGE --recovery-key THIS-FILE
"""


def _one_line(name: str) -> str:
    return " ".join(name.split())


def read_sheet(text: str) -> RecoveryPrivate:
    """The private half from its letters, or from the text of a whole sheet.

    Raises BadSheet, which repeats no letter.
    """
    letters = _letters_in(text)
    raw = base64.b32decode(letters + "=" * (-len(letters) % 8))
    body, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
    if base64.b32encode(raw).decode().rstrip("=") != letters:  # the last letter has bits to spare: it counts whole
        raise BadSheet("The last letter of the recovery key is wrong. Compare it with the sheet.")
    if body[0] != _VERSION:
        raise BadSheet("This recovery key is of another version, or its first letters are wrong. Look at them again.")
    if check != _check(body):
        raise BadSheet(
            "The letters of the recovery key do not fit together: one is wrong. Compare them with the sheet."
        )
    return RecoveryPrivate(body[1:])


def looks_private(text: str) -> bool:
    """Whether a text is a private half or a sheet, also one with wrong letters."""
    try:
        return bool(_letters_in(text))
    except BadSheet:
        return "PRIVATE HALF" in text.upper()


def _letters_in(text: str) -> str:
    """The 60 letters: all that the text has, or those of the lines that are made of five groups. Raises BadSheet."""
    lines = [line.strip() for line in text.splitlines()]
    for candidate in (text, " ".join(line for line in lines if _LINE.fullmatch(line))):
        letters = re.sub(r"[\s-]", "", candidate).upper().translate(_MISREAD)
        if len(letters) == _LETTERS and re.fullmatch("[A-Z2-7]+", letters):
            return letters
    raise BadSheet(
        f"No recovery key was found: it has {GROUPS} groups of {GROUP_LETTERS} letters and digits, on three lines. "
        "Type all of them as they stand on the sheet."
    )


def _check(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_CHECK_BYTES]
