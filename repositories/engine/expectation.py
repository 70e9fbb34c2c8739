"""What somebody knows of a chain (a catalogue, or a note of the newest point) beside what lies in the repository.

A file proves itself, so whatever is exchanged, changed or cut within it is found when it is opened. What a bare folder
cannot show is an older state of the whole: a newest point that was taken away, an older file or head put back, a second
child of one parent. Here it is compared with what was known before. What is done then is left to the callers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from repositories.engine.chains import ChainOnDisk, FileOnDisk, file_path
from repositories.engine.errors import CorruptFile, Forked, MissingFile, UnknownPoint, damaged, text
from repositories.engine.head import Head
from repositories.engine.reader import Point
from repositories.engine.seal import NO_PARENT


@dataclass(frozen=True, slots=True)
class Expected:
    """One point as it is known. `head_generation` is the highest that was seen; None is not known."""

    file_id: UUID
    seal_hash: bytes
    head_generation: int
    chain_id: UUID | None = None
    sequence: int | None = None
    length: int | None = None
    encrypted: bool | None = None


def expected_of(point: Point) -> Expected:
    """What to remember of an open point, to compare with later."""
    head = point.head
    return Expected(
        file_id=head.file_id,
        seal_hash=point.seal_hash,
        head_generation=head.generation,
        chain_id=head.chain_id,
        sequence=head.sequence,
        length=point.length,
        encrypted=head.encrypted,
    )


def difference(head: Head, length: int, expected: Expected) -> str:
    """How a file is another one than expected, as far as its head says it without a key; empty if it is not.

    Read as: "the file of point 3 is foreign: " and this.
    """
    said, known = head.generation, expected.head_generation
    for differs, sentence in (
        (
            expected.encrypted is not None and head.encrypted != expected.encrypted,
            f"it is {'encrypted' if head.encrypted else 'not encrypted'}, unlike its chain",
        ),
        (expected.chain_id is not None and head.chain_id != expected.chain_id, "it belongs to another chain"),
        (head.file_id != expected.file_id, "it is another file"),
        (expected.sequence is not None and head.sequence != expected.sequence, f"it is point {head.sequence}"),
        (said < known, f"its head is of generation {said}, and {known} was seen before: an old copy was put back"),
        (
            expected.length is not None and length != expected.length,
            f"it has {length} bytes instead of {expected.length}",
        ),
    ):
        if differs:
            return sentence
    return ""


def check_point(point: Point, expected: Expected) -> None:
    """Raises CorruptFile if an open point is not the expected one, or its head is an older one than was seen."""
    problem = difference(point.head, point.length, expected)
    if not problem and point.seal_hash != expected.seal_hash:
        problem = "its seal is another one"
    if problem:
        raise _foreign(point.path, problem)


def check_newest(root: Path, chain: ChainOnDisk, newest: Expected) -> None:
    """The newest point that is known is the newest that is there, as far as heads say it; `newest` has all fields.

    Raises MissingFile if it is not there (the repository is behind), CorruptFile if another one has its place,
    UnknownPoint if there is a newer one (the repository is ahead).
    """
    if newest.chain_id is None or newest.sequence is None:
        raise ValueError("the newest point is known with its chain and its number")
    file = next((file for file in chain.files if file.sequence == newest.sequence), None)
    if file is None:
        raise _behind(file_path(root, newest.chain_id, newest.sequence), chain, newest)
    if file.head is None:
        raise file.problem or damaged(file.path, "head")
    problem = difference(file.head, file.length, newest)
    if problem:
        raise _foreign(file.path, problem)
    ahead = [file for file in chain.files if file.sequence > newest.sequence]
    if ahead:
        raise _ahead(ahead[0], newest.sequence)


def check_child(point: Point, newest: Expected) -> None:
    """Raises Forked if an open point was not written behind the newest one that is known."""
    parent, seal_hash = point.summary.parent_id or NO_PARENT, point.summary.parent_seal_hash
    if (parent, seal_hash) == (newest.file_id, newest.seal_hash):
        return
    place = "" if newest.sequence is None else f" {newest.sequence}"
    raise Forked(
        f"{text(point.path)} was not written behind point{place}, the newest that is known, but behind another one: "
        "the chain has a fork, as when two copies of a repository are written. Move the file away; what is in it can "
        "still be restored from there.",
        path=text(point.path),
        file_id=str(point.head.file_id),
    )


def check_unforked(points: Iterable[Point]) -> None:
    """Raises Forked if two open points of a chain have the same parent, or both have none."""
    children: dict[UUID | None, Path] = {}
    for point in points:
        first = children.setdefault(point.summary.parent_id, point.path)
        if first != point.path:
            raise Forked(
                f"{text(first)} and {text(point.path)} were both written behind the same point: the chain has a fork, "
                "as when two copies of a repository are written. Move one of them away; what is in it can still be "
                "restored from there.",
                path=text(point.path),
                file_id=str(point.head.file_id),
            )


def _foreign(path: Path, problem: str) -> CorruptFile:
    return CorruptFile(
        f"The backup file {text(path)} is not the one that is known: {problem}. It was exchanged, or an older one was "
        "put back; bring the known one back from a copy of the repository.",
        path=text(path),
        part="head",
    )


def _behind(path: Path, chain: ChainOnDisk, newest: Expected) -> MissingFile:
    there = chain.files[-1].sequence if chain.files else 0
    ends = f"ends with point {there}" if there else "has no point"
    return MissingFile(
        f"The newest point that is known, {newest.sequence}, is missing: {text(path)} is not there, and the chain "
        f"{ends}. It was deleted, or an older state of the repository was put back. Bring it back from a copy of the "
        "repository.",
        path=text(path),
        file_id=str(newest.file_id),
    )


def _ahead(file: FileOnDisk, newest: int) -> UnknownPoint:
    return UnknownPoint(
        f"{text(file.path)} is newer than point {newest}, the newest that is known. Rescan the repository; nothing is "
        "written before.",
        path=text(file.path),
        sequence=file.sequence,
    )
