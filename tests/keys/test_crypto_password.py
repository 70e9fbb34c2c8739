"""The bytes of a password, and the bounds of its derivation."""

import pytest

from keys.crypto_errors import BadPassword, KdfRefused
from keys.crypto_password import KdfParameters, derive_kek, new_salt, password_bytes, password_bytes_from_file

CHEAP = KdfParameters(memory_kib=8 * 1024, iterations=1, lanes=1)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("secret", b"secret"),
        (" spaces stay  ", b" spaces stay  "),
        ("e\u0301", b"\xc3\xa9"),  # e and a combining accent
        ("\u00e9", b"\xc3\xa9"),  # the same as one character
        ("\u1100\u1161", b"\xea\xb0\x80"),  # Hangul
        ("\ufb01", b"\xef\xac\x81"),  # a ligature stays: NFC, not NFKC
        ("trailing newline stays\n", b"trailing newline stays\n"),
        ("\U0001f511", b"\xf0\x9f\x94\x91"),
    ],
)
def test_the_bytes_of_a_password(typed: str, expected: bytes) -> None:
    assert password_bytes(typed) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"secret", b"secret"),
        (b"secret\n", b"secret"),
        (b"secret\r\n", b"secret"),
        (b"secret\n\n", b"secret\n"),
        (b"secret\r\n\r\n", b"secret\r\n"),
        (b"secret\r", b"secret\r"),
        (b"secret \n", b"secret "),
        (b"\nsecret\n", b"\nsecret"),
        (b"e\xcc\x81\n", b"\xc3\xa9"),
    ],
)
def test_one_line_end_of_a_file_is_removed(content: bytes, expected: bytes) -> None:
    assert password_bytes_from_file(content) == expected


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n", b"\xff\xfe", b"x" * 5000])
def test_files_without_a_usable_password(content: bytes) -> None:
    with pytest.raises(BadPassword):
        password_bytes_from_file(content)


def test_passwords_that_cannot_be() -> None:
    for typed in ("", "\ud800", "x" * 4097):
        with pytest.raises(BadPassword):
            password_bytes(typed)


@pytest.mark.parametrize(
    ("password", "salt", "expected"),
    [
        (b"password", b"somesalt" * 2, "84fb006bbc3cd69895722b64b5bf735251a9e8e9f3ecb93ff595b98aeb7accb7"),
        ("pässword ".encode(), bytes(16), "8fa348992859a9d4168748658ff9412aabb4b3d4736ad199e6ff34848ec2d1f9"),
    ],
)
def test_derivation_is_stable(password: bytes, salt: bytes, expected: str) -> None:
    """Frozen values: files that were written must open forever, non-ASCII and trailing spaces included."""
    assert derive_kek(password, salt=salt, parameters=CHEAP).hex() == expected


def test_everything_counts_in_a_derivation() -> None:
    salt = bytes(16)
    keys = {
        derive_kek(b"a", salt=salt, parameters=CHEAP),
        derive_kek(b"a ", salt=salt, parameters=CHEAP),
        derive_kek(b"a", salt=bytes(15) + b"\1", parameters=CHEAP),
        derive_kek(b"a", salt=salt, parameters=KdfParameters(8 * 1024, 2, 1)),
        derive_kek(b"a", salt=salt, parameters=KdfParameters(9 * 1024, 1, 1)),
        derive_kek(b"a", salt=salt, parameters=KdfParameters(8 * 1024, 1, 2)),
    }
    assert len(keys) == 6 and {len(key) for key in keys} == {32}


@pytest.mark.parametrize(
    "parameters",
    [
        KdfParameters(8 * 1024 - 1, 1, 1),
        KdfParameters(1024 * 1024 + 1, 1, 1),
        KdfParameters(8 * 1024, 0, 1),
        KdfParameters(8 * 1024, 17, 1),
        KdfParameters(8 * 1024, 1, 0),
        KdfParameters(8 * 1024, 1, 9),
    ],
)
def test_parameters_outside_the_bounds_are_refused(parameters: KdfParameters) -> None:
    with pytest.raises(KdfRefused):
        derive_kek(b"a", salt=bytes(16), parameters=parameters)


@pytest.mark.parametrize(
    "parameters", [KdfParameters(), KdfParameters(8 * 1024, 16, 8), KdfParameters(1024 * 1024, 1, 1)]
)
def test_parameters_at_the_bounds_pass(parameters: KdfParameters) -> None:
    parameters.check()


def test_a_salt_of_another_length_is_refused() -> None:
    with pytest.raises(KdfRefused):
        derive_kek(b"a", salt=b"short", parameters=CHEAP)
    assert len(new_salt()) == 16 and new_salt() != new_salt()
