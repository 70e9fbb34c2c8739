"""The files of one chain, opened when they are needed: which file holds the items of which origin.

An item's origin is the file that sealed it. It is found in that file, or in a merged file that replaced it; while both
are there, either will do. What is read from a file is left to container.py.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from repositories.engine.chains import sealed_names
from repositories.engine.columns import Array
from repositories.engine.container import Container
from repositories.engine.errors import CannotUnwrap, CorruptFile, EngineError, MissingFile, damaged, text
from repositories.engine.head import Head, authenticates, open_for_reading, read_heads
from repositories.engine.keyring import known_keys
from repositories.engine.layout import ItemKind
from repositories.engine.rebuilt import whole_or_rebuilt


class Shelf:
    """The files beside `own`, and itself. Safe to use from threads."""

    def __init__(self, own: Container, file_keys: dict[UUID, bytes], *, rebuild: bool = False) -> None:
        """With `rebuild`, of a file whose end or index is damaged what can be found in it otherwise is taken."""
        self._own, self._rebuild = own, rebuild
        self._file_keys = file_keys if own.file_key is None else {**file_keys, own.file_id: own.file_key}
        self._files: dict[UUID, Container] = {own.file_id: own}
        self._holders: dict[UUID, Container] = {}
        self._listed: list[tuple[Head, Path]] | None = None
        self._lock = threading.Lock()

    def container(self, origin: UUID) -> Container:
        """The file that holds the items of an origin. Raises MissingFile, CannotUnwrap, CorruptFile."""
        with self._lock:
            found = self._holders.get(origin)
            if found is None:
                found = self._holders[origin] = self._own if self._own.holds(origin) else self._find(origin)
            return found

    def merged_blocks(self, origin: UUID) -> Array | None:
        """The blocks of an origin that a merge kept, by number; None if its file was not replaced.

        A merged file that does not verify replaces nothing that is still there: it would not be settled.
        """
        with self._lock:
            is_there = any(head.file_id == origin for head, _ in self._list())
            for head, path in sorted(self._list(), key=lambda listed: -listed[0].sequence):
                if not head.replaces or head.file_id == origin or not self._may_open(head):
                    continue
                try:
                    part = self._file(head, path).index.part(origin)
                except CorruptFile:
                    if is_there:
                        continue
                    raise
                if part is not None:
                    return part[1].of_kind(ItemKind.BLOCK)
            return None

    def close(self) -> None:
        for container in self._files.values():
            container.close()

    def _find(self, origin: UUID) -> Container:
        """Looks a second time if a file went away meanwhile: a merge replaced it."""
        for _ in range(2):
            error: EngineError | None = None
            for head, path in self._candidates(origin):
                try:
                    container = self._file(head, path)
                    if container.holds(origin):
                        return container
                except EngineError as problem:
                    error = error or problem
            if error is not None and not isinstance(error, MissingFile):
                raise error
            self._listed = None
        raise self._missing(origin)

    def _candidates(self, origin: UUID) -> list[tuple[Head, Path]]:
        """The file itself, then merged files that name it, then other merged ones, whose index may know it."""
        ranks = [
            (0 if head.file_id == origin else 1 if origin in head.replaces else 2, head, path)
            for head, path in self._list()
            if head.file_id == origin or (head.replaces and (origin in head.replaces or self._may_open(head)))
        ]
        return [(head, path) for _, head, path in sorted(ranks, key=lambda rank: rank[0])]

    def _may_open(self, head: Head) -> bool:
        """Whether the keyring has a key for it: a merged file of an earlier run may have none."""
        return not head.encrypted or head.file_id in self._files or bool(known_keys(head, self._file_keys))

    def _list(self) -> list[tuple[Head, Path]]:
        if self._listed is None:
            self._listed = list(_heads_in(self._own.path.parent))
        return self._listed

    def _file(self, head: Head, path: Path) -> Container:
        found = self._files.get(head.file_id)
        if found is None:
            found = self._files[head.file_id] = self._open(head, path)
        return found

    def _open(self, head: Head, path: Path) -> Container:
        own = self._own
        keys: list[bytes | None] = [*known_keys(head, self._file_keys)] if own.head.encrypted else [None]
        if not keys:
            raise CannotUnwrap(f"The keyring of {text(own.path)} has no key for {text(path)}.", path=text(path))
        return _open_authentic(path, head.file_id, own, keys, rebuild=self._rebuild)

    def _missing(self, origin: UUID) -> MissingFile:
        folder = self._own.path.parent
        return MissingFile(
            f"{text(self._own.path)} needs the backup file {origin} of its chain, which is not in {text(folder)}. "
            "Bring it back from a copy of the repository.",
            path=text(folder),
            file_id=str(origin),
        )


def _heads_in(folder: Path) -> Iterator[tuple[Head, Path]]:
    """The readable heads of a folder, oldest first; what cannot be read is missing, and named when it is needed."""
    for name in sealed_names(folder):
        path = folder / name
        with contextlib.suppress(EngineError, OSError):
            fd = open_for_reading(path)
            try:
                heads = read_heads(fd, path)
            finally:
                os.close(fd)
            for head in heads:  # where the copies differ, the one that authenticates is chosen when it is opened
                yield head, path


def _open_authentic(path: Path, file_id: UUID, own: Container, keys: list[bytes | None], *, rebuild: bool) -> Container:
    """Raises CorruptFile if the file is not what the chain knows under this id."""
    fd = open_for_reading(path)
    try:
        for head in read_heads(fd, path):
            for key in keys:
                if authenticates(head, key) and (head.chain_id, head.file_id) == (own.head.chain_id, file_id):
                    return whole_or_rebuilt(fd, path, head, key) if rebuild else Container(fd, path, head, key)
        raise damaged(path, "head", "it does not authenticate as a file of this chain")
    except BaseException:
        os.close(fd)
        raise
