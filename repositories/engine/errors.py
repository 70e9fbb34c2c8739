"""What can go wrong in the engine, each error named after the decision that its catcher takes.

Every error has a `code` (class level, stable, for the catalogue of sentences elsewhere) and `fields`; str() is a full
sentence: what, which object, what to do. How an error is shown to whom is left to the command line and the console.
No error carries key bytes or content.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

Field = str | int


class EngineError(Exception):
    """The root of the family. `fields` are plain values, ready to be stored as JSON."""

    code: ClassVar[str] = "engine-error"

    def __init__(self, sentence: str, **fields: Field) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.fields: dict[str, Field] = fields


class CannotUnwrap(EngineError):
    """No slot of the file opens with the secret that was given, or an older file's key is not known."""

    code = "cannot-unwrap"


class CorruptFile(EngineError):
    """A file is damaged, truncated, misplaced or was tampered with. Fields: path, part."""

    code = "corrupt-file"


class MissingFile(EngineError):
    """A backup file that is needed does not exist. Fields: path or file_id."""

    code = "missing-file"


class UnknownVersion(EngineError):
    """The file was written by another version of the format. Fields: path, version."""

    code = "unknown-version"


class PlainRefused(EngineError):
    """A plain file where a key was given, or plain and encrypted in one chain. Fields: path."""

    code = "plain-refused"


class PlaintextRefused(EngineError):
    """A plain file for a repository that takes encrypted ones only. Fields: repository (its path)."""

    code = "plaintext-refused"


class Forked(EngineError):
    """A point that was not written behind the newest one: two children of one parent. Fields: path, file_id."""

    code = "forked-chain"


class UnknownPoint(EngineError):
    """The repository has a newer point than is known. Fields: path, sequence."""

    code = "unknown-point"


class Cancelled(EngineError):
    """The observer asked to stop; nothing was published."""

    code = "cancelled"


class Interrupted(EngineError):
    """Whoever ordered the work is gone; nothing was published, and what was written stays to be written on."""

    code = "interrupted"


class Fenced(EngineError):
    """The writer lost its right to seal (its lease ran out); nothing was published."""

    code = "fenced"


class OutOfSpace(EngineError):
    """The file system has, or would have, less room than the reserve. Fields: path, free_bytes, needed_bytes."""

    code = "out-of-space"


class RepositoryUnwritable(EngineError):
    """The repository's folder cannot be made or written. Fields: path, reason."""

    code = "repository-unwritable"


class RepositoryUnreadable(EngineError):
    """A backup file cannot be opened: rights, or the disk. Fields: path, reason."""

    code = "repository-unreadable"


class SourceMissing(EngineError):
    """A source does not exist. Fields: path."""

    code = "source-missing"


class SourceUnreadable(EngineError):
    """A source exists and cannot be read. Fields: path, reason."""

    code = "source-unreadable"


class SourceRefused(EngineError):
    """A source that must not be backed up: relative, or inside the repository. Fields: path."""

    code = "source-refused"


class BadPattern(EngineError):
    """An include or exclude pattern that cannot be understood. Fields: pattern."""

    code = "bad-pattern"


class BadOrder(EngineError):
    """An order that contradicts the rules of the chain (wrong chain, wrong parent, wrong sequence)."""

    code = "bad-order"


class AlreadyExists(EngineError):
    """The sequence number is taken: of two writers the other one sealed first. Fields: path, sequence."""

    code = "already-exists"


class AnotherWriter(EngineError):
    """Another process holds the file that is being written. Fields: path."""

    code = "another-writer"


class NothingToRestore(EngineError):
    """No entry of the point matches what was asked for. Fields: path."""

    code = "nothing-to-restore"


class BadTarget(EngineError):
    """The folder to restore into cannot be used. Fields: path, reason."""

    code = "bad-target"


DAMAGES = (CorruptFile, MissingFile, CannotUnwrap, UnknownVersion)  # what is lost in a file; the others go on


def text(path: bytes | str | Path) -> str:
    """A path for a sentence: undecodable bytes and control characters are escaped, so that it stays on one line."""
    raw = path if isinstance(path, bytes) else str(path).encode("utf-8", "surrogateescape")
    decoded = raw.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in decoded)


def damaged(path: bytes | str | Path, part: str, detail: str = "") -> CorruptFile:
    """The error for damage: `part` is a short stable name (head, trailer, seal, index, root, segment 3, block 17)."""
    name = text(path)
    because = f" ({detail})" if detail else ""
    return CorruptFile(
        f"The backup file {name} is damaged: its {part} does not verify{because}. "
        "Restore it from a copy of the repository, or verify the chain to see which files are touched.",
        path=name,
        part=part,
    )
