"""What a verification found: each damage once, with the restore points and the files that need what is damaged.

Named are at most so many damages and files; all are counted. What is looked at is decided in verify_chain.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np

from repositories.engine.columns import Array
from repositories.engine.errors import EngineError
from repositories.engine.segments import Segment

MAX_DAMAGES_NAMED = 10_000
MAX_FILES_NAMED = 1_000


def places_in(mask: int) -> Iterator[int]:
    """The numbers of the bits that are set."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


@dataclass(slots=True)
class Finding:
    """One damage. Points are bits of `points`, by their place in the chain."""

    error: EngineError
    points: int = 0
    files: dict[bytes, None] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)  # of files, by point

    def touches(self, points: int, paths: Iterable[bytes], count: int) -> None:
        """So many files of each of these points need it; `paths` are taken while there is room."""
        self.points |= points
        for place in places_in(points):
            self.counts[place] = self.counts.get(place, 0) + count
        for path in paths:
            if len(self.files) >= MAX_FILES_NAMED:
                break
            self.files[path] = None

    @property
    def most_files(self) -> int:
        """How many files it touches in the point that it touches most."""
        return max(self.counts.values(), default=0)


@dataclass(slots=True)
class Touched:
    """The files of one point that cannot be restored."""

    named: list[bytes] = field(default_factory=list)
    count: int = 0

    def add(self, paths: Iterable[bytes], count: int, named_max: int) -> None:
        self.count += count
        self.named += list(paths)[: max(named_max - len(self.named), 0)]


class Findings:
    """All of them; the same error is one finding. Past the most that are named, one nameless finding takes the rest."""

    def __init__(self) -> None:
        self.count = 0
        self._named: dict[str, Finding] = {}
        self._rest = Finding(EngineError("further damages are only counted"))
        self._blocks: dict[UUID, dict[int, Finding]] = {}
        self._origins: dict[UUID, Finding] = {}  # of which no block can be read

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._named.values())

    def add(self, error: EngineError, points: int) -> Finding:
        sentence = str(error)
        found = self._named.get(sentence)
        if found is None:
            self.count += 1
            if len(self._named) >= MAX_DAMAGES_NAMED:
                return self._rest
            found = self._named[sentence] = Finding(error)
        found.points |= points
        return found

    def add_block(self, origin: UUID, number: int, error: EngineError) -> None:
        self._blocks.setdefault(origin, {})[number] = self.add(error, 0)

    def add_origin(self, origin: UUID, error: EngineError) -> None:
        self._origins[origin] = self.add(error, 0)

    def has_bad_blocks(self, origins: Iterable[UUID]) -> bool:
        return any(origin in self._blocks or origin in self._origins for origin in origins)

    def touching(self, place: int) -> int:
        """How many of them touch the point at this place."""
        return sum(finding.points >> place & 1 for finding in (*self._named.values(), self._rest))

    def name_files(self, segment: Segment, points: int) -> tuple[list[bytes], int]:
        """Note which entries of a segment, that these points have, need bad blocks. Returns all of their paths, and how
        many they are.
        """
        rows_by_finding: dict[int, tuple[Finding, set[int]]] = {}
        for row, finding in self._hits(segment):
            rows_by_finding.setdefault(id(finding), (finding, set()))[1].add(row)
        for finding, rows in rows_by_finding.values():
            room = MAX_FILES_NAMED - len(finding.files)
            finding.touches(points, [segment.path(row) for row in sorted(rows)[: max(room, 0)]], len(rows))
        every = sorted(set().union(*(rows for _, rows in rows_by_finding.values())))
        return [segment.path(row) for row in every], len(every)

    def _hits(self, segment: Segment) -> Iterator[tuple[int, Finding]]:
        """Each row that has a chunk in a bad block, with what is wrong there."""
        chunks, starts = segment.chunks, segment.chunk_starts()
        for index, origin in enumerate(segment.origins):
            blocks, lost = self._blocks.get(origin, {}), self._origins.get(origin)
            if lost is None and not blocks:
                continue
            hit = chunks[:, 0] == index
            if lost is None:
                hit &= np.isin(chunks[:, 1], np.fromiter(blocks, np.uint32, len(blocks)))
            at = np.flatnonzero(hit)
            for row, number in zip(_rows(starts, at), chunks[at, 1].tolist(), strict=True):
                yield row, lost or blocks[number]


def _rows(starts: Array, at: Array) -> list[int]:
    """The entry that each of these chunks belongs to."""
    rows: list[int] = (np.searchsorted(starts, at, side="right") - 1).tolist()
    return rows
