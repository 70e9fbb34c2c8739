"""The letters of a sheet: read as people copy them, and no wrong one goes unnoticed."""

from __future__ import annotations

import itertools
import re
import string

import pytest

from keys.crypto_errors import BadSheet
from keys.crypto_recovery import RecoveryPrivate
from keys.crypto_sheet import looks_private, qr_text, read_sheet, sheet_text, whole_sheet

KEY = RecoveryPrivate(bytes(range(32)))
TEXT = sheet_text(KEY)
LETTERS = "".join(TEXT.split())
ALPHABET = string.ascii_uppercase + "234567"


def refused(text: str) -> bool:
    try:
        read_sheet(text)
    except BadSheet as error:
        assert not [group for group in text.split() if len(group) == 4 and group in str(error)]
        return True
    return False


def test_its_form_stays_the_same() -> None:
    assert TEXT == "AEAA CAQD AQCQ MBYI BEFA\nWDAN BYHR AEIS CMKB KFQX\nDAMR UGY4 DUPB 6SIR O2YA"
    assert re.fullmatch(r"((?:[A-Z2-7]{4} ){4}[A-Z2-7]{4}\n?){3}", TEXT)
    assert qr_text(KEY) == LETTERS and len(LETTERS) == 60


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.lower(),
        LETTERS,
        TEXT.replace(" ", "-"),
        TEXT.replace(" ", "").replace("\n", "\r\n"),
        "\n\t AEAA CAQD AQCQ MBYI BEFA\nWDAN BYHR AEIS CMKB KFQX\nDAMR UGY4 DUPB 6SIR O2YA \n",
        TEXT.replace("O", "0").replace("I", "1").replace("B", "8"),
        "1. one\n" + TEXT + "\nand that was all",
    ],
    ids=["as printed", "lower case", "qr", "hyphens", "lines", "blanks", "misread", "between other lines"],
)
def test_it_is_read_as_people_copy_it(text: str) -> None:
    assert read_sheet(text) == KEY


def test_every_single_wrong_letter_is_found() -> None:
    for at, letter in itertools.product(range(60), ALPHABET):
        if LETTERS[at] != letter:
            assert refused(LETTERS[:at] + letter + LETTERS[at + 1 :]), (at, letter)


def test_letters_and_groups_in_another_order_are_found() -> None:
    groups = TEXT.split()
    for first, second in itertools.combinations(range(15), 2):
        swapped = list(groups)
        swapped[first], swapped[second] = swapped[second], swapped[first]
        assert swapped == groups or refused(" ".join(swapped))
    for at in range(59):
        swapped = LETTERS[:at] + LETTERS[at + 1] + LETTERS[at] + LETTERS[at + 2 :]
        assert swapped == LETTERS or refused(swapped)
    lines = TEXT.splitlines()
    assert all(refused("\n".join(order)) for order in itertools.permutations(lines) if list(order) != lines)


def test_what_is_no_sheet_is_refused() -> None:
    for text in (
        "",
        LETTERS[:-1],
        LETTERS + "A",
        TEXT.replace(TEXT[0], "9"),
        "é" * 60,
        "A" * 60,
        "\n".join(TEXT.splitlines()[:2]),
    ):
        assert refused(text)


def test_a_whole_sheet() -> None:
    sheet = whole_sheet(KEY, name="five four inch long nail\nABCD ABCD ABCD ABCD ABCD", made="today")
    assert read_sheet(sheet) == read_sheet(sheet.replace("\n", "\r\n")) == KEY
    assert read_sheet(sheet.lower()) == KEY
    wrong = sheet.replace(TEXT.splitlines()[1], TEXT.splitlines()[1].translate(str.maketrans("ABCD", "BCDA")))
    assert refused(wrong)
    assert "Fingerprint: " in sheet and max(map(len, sheet.splitlines())) <= 120


def test_a_private_half_is_known_when_it_is_seen() -> None:
    wrong = LETTERS[:-1] + ("A" if LETTERS[-1] != "A" else "B")
    for text in (TEXT, LETTERS.lower(), wrong, whole_sheet(KEY, name="a", made="b")[:120]):
        assert looks_private(text)
    for text in ("", "safe in Bonn", "-----BEGIN BACKUPSITE RECOVERY KEY PUBLIC HALF-----\nAAAA"):
        assert not looks_private(text)
