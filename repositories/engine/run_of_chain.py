"""One run of a chain, a full and the incrementals that depend on it: its files in order, and what its points need.

Everything is opened by the keyring of the chain's newest point. What is done with a run is left to merging.py and
settling.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np

from repositories.engine.chains import FileOnDisk, scan_chain
from repositories.engine.errors import BadOrder, CannotUnwrap, damaged, text
from repositories.engine.keyring import known_keys
from repositories.engine.layout import ItemKind
from repositories.engine.order import Kind, ParentPoint
from repositories.engine.reader import FileKey, Point, open_point
from repositories.engine.segments import HOLE

Need = tuple[UUID, ItemKind]  # of which origin, and what


@dataclass(frozen=True, slots=True)
class RunOfChain:
    files: tuple[FileOnDisk, ...]  # the full first
    file_keys: Mapping[UUID, bytes] = field(repr=False)

    def open(self, file: FileOnDisk) -> Point:
        """Raises what is wrong with its head, and what open_point() raises."""
        return _open(file, self.file_keys)


def find_run(newest: ParentPoint, sequence: int, beat: Callable[[], None]) -> RunOfChain:
    """The run that the point with this number belongs to.

    Raises BadOrder if there is no such point, or a point between is missing; and what opening a point raises.
    """
    with open_point(newest.path, None if newest.file_key is None else FileKey(newest.file_key)) as point:
        keys = dict(point.earlier_file_keys)
        if point.file_key is not None:
            keys[point.head.file_id] = point.file_key
    files = scan_chain(newest.path.parent).files
    at = next((number for number, file in enumerate(files) if file.sequence == sequence), None)
    if at is None:
        raise BadOrder(f"There is no point {sequence} in {text(newest.path.parent)}; rescan the repository.")
    start = at
    while not _is_full(files[start], keys):
        beat()
        if not start:
            raise BadOrder(f"The run of point {sequence} in {text(newest.path.parent)} has no full point.")
        start -= 1
    end = at + 1
    while end < len(files) and not _is_full(files[end], keys):
        beat()
        end += 1
    run = RunOfChain(files[start:end], keys)
    _check_links(run, beat)
    return run


def _is_full(file: FileOnDisk, keys: Mapping[UUID, bytes]) -> bool:
    with _open(file, keys) as point:
        return point.summary.kind == Kind.FULL.value


def _open(file: FileOnDisk, keys: Mapping[UUID, bytes]) -> Point:
    if file.head is None:
        raise file.problem or damaged(file.path, "head")
    if not file.head.encrypted:
        return open_point(file.path, None)
    known = known_keys(file.head, keys)
    if not known:
        raise CannotUnwrap(f"The newest point of the chain has no key for {text(file.path)}.", path=text(file.path))
    return open_point(file.path, FileKey(known[0]))


def _check_links(run: RunOfChain, beat: Callable[[], None]) -> None:
    """Every point's parent is the point before it, or a file that this one replaced."""
    for before, file in zip(run.files, run.files[1:], strict=False):
        beat()
        with run.open(before) as earlier, run.open(file) as point:
            parent = point.summary.parent_id
            if parent is None or earlier.container.seal_hash_of(parent) != point.summary.parent_seal_hash:
                raise BadOrder(
                    f"{text(file.path)} does not follow {text(before.path)}: a point between them is missing, or was "
                    "exchanged. Verify the chain.",
                    path=text(file.path),
                )


def needed_items(run: RunOfChain, files: Iterable[FileOnDisk], beat: Callable[[], None]) -> dict[Need, set[int]]:
    """The numbers of all segments, identities and blocks that these points need, by origin and kind."""
    needs: dict[Need, set[int]] = defaultdict(set)
    for file in files:
        with run.open(file) as point:
            _add_needs(point, needs, beat)
    return needs


def _add_needs(point: Point, needs: dict[Need, set[int]], beat: Callable[[], None]) -> None:
    origins = [UUID(bytes=origin) for origin in point.root.origins]
    for index, row in enumerate(point.root.segments):
        known = needs[origins[row.origin], ItemKind.SEGMENT]
        if row.number in known:
            continue
        beat()
        segment = point.segment(index)
        chunks = segment.chunks[segment.chunks[:, 0] != HOLE]
        for origin in np.unique(chunks[:, 0]).tolist():
            numbers = np.unique(chunks[chunks[:, 0] == origin, 1])
            needs[segment.origins[origin], ItemKind.BLOCK].update(numbers.tolist())
        known.add(row.number)
    for origin, number, _tag in (part for run in point.root.runs for part in run.parts):
        needs[origins[origin], ItemKind.IDENTITIES].add(number)
