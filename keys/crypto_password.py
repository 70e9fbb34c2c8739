"""From a password to a key encryption key: the bytes of a password, Argon2id, and the bounds of its parameters.

Parameters for writing come from our own records; those of a file to be opened are hostile until they are inside the
bounds here, and are derived by crypto_argon2.py, one at a time on the host, in a child with a memory limit. Which slot
a key encryption key opens is left to crypto_slots.py.
"""

from __future__ import annotations

import os
import threading
import unicodedata
from dataclasses import dataclass

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from keys.crypto import KEY_BYTES
from keys.crypto_errors import BadPassword, KdfRefused

SALT_BYTES = 16
MIN_MEMORY_KIB = 8 * 1024
MAX_MEMORY_KIB = 1024 * 1024
MAX_ITERATIONS = 16
MAX_LANES = 8
MAX_DERIVATIONS_AN_ATTEMPT = 4
MAX_PASSWORD_BYTES = 4096

one_at_a_time = threading.Lock()  # derivations in this process, its children included


@dataclass(frozen=True, slots=True)
class KdfParameters:
    """Argon2id costs. The default takes about 0.2 s and 64 MiB."""

    memory_kib: int = 64 * 1024
    iterations: int = 3
    lanes: int = 1

    def check(self) -> None:
        """Raises KdfRefused outside 8 MiB <= memory <= 1 GiB, 1 <= iterations <= 16, 1 <= lanes <= 8."""
        if not MIN_MEMORY_KIB <= self.memory_kib <= MAX_MEMORY_KIB:
            raise KdfRefused(
                f"A key derivation that wants {self.memory_kib} KiB of memory is refused (8 MiB to 1 GiB)."
            )
        if not 1 <= self.iterations <= MAX_ITERATIONS:
            raise KdfRefused(f"A key derivation with {self.iterations} iterations is refused (1 to {MAX_ITERATIONS}).")
        if not 1 <= self.lanes <= MAX_LANES:
            raise KdfRefused(f"A key derivation with {self.lanes} lanes is refused (1 to {MAX_LANES}).")


def password_bytes(typed: str) -> bytes:
    """What is derived from: Unicode NFC, UTF-8, no trimming. Raises BadPassword if empty or not encodable."""
    try:
        encoded = unicodedata.normalize("NFC", typed).encode("utf-8")
    except UnicodeEncodeError:
        raise BadPassword("The password has characters that cannot be written as UTF-8.") from None
    return _checked(encoded)


def password_bytes_from_file(content: bytes) -> bytes:
    """The same from a file's content: exactly one trailing LF or CRLF is removed, and nothing else."""
    for ending in (b"\r\n", b"\n"):
        if content.endswith(ending):
            content = content[: -len(ending)]
            break
    try:
        return password_bytes(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise BadPassword("The password file is not UTF-8 text.") from None


def _checked(encoded: bytes) -> bytes:
    if not encoded:
        raise BadPassword("The password is empty.")
    if len(encoded) > MAX_PASSWORD_BYTES:
        raise BadPassword(f"The password is longer than {MAX_PASSWORD_BYTES} bytes.")
    return encoded


def new_salt() -> bytes:
    return os.urandom(SALT_BYTES)


def derive_kek(password: bytes, *, salt: bytes, parameters: KdfParameters) -> bytes:
    """The key encryption key of a password version: Argon2id, 32 bytes. One derivation at a time in this process.

    For parameters of our own records. `password` are the bytes of password_bytes(). Raises KdfRefused for parameters
    outside the bounds.
    """
    parameters.check()
    if len(salt) != SALT_BYTES:
        raise KdfRefused(f"A password salt has {SALT_BYTES} bytes, not {len(salt)}.")
    with one_at_a_time:
        return Argon2id(
            salt=salt,
            length=KEY_BYTES,
            iterations=parameters.iterations,
            lanes=parameters.lanes,
            memory_cost=parameters.memory_kib,
        ).derive(password)
