"""The end of a merge: the files that a merged one replaces are removed, and it gets its final name.

Everything here can be done again after a crash, from where it stopped. Before anything is removed it is proved that the
merged file has every item that a point of its run needs. Whether somebody still reads the replaced files is left to the
callers.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from repositories.engine.chains import delete_file, is_merged_name, sealed_names, sequence_of
from repositories.engine.container import Container
from repositories.engine.errors import AlreadyExists, BadOrder, EngineError, damaged, text
from repositories.engine.head import Head
from repositories.engine.observer import Observer, Progress, Pulse, Silent
from repositories.engine.order import ParentPoint
from repositories.engine.reader import inspect
from repositories.engine.run_of_chain import RunOfChain, find_run, needed_items
from repositories.engine.writer import fsync_folder, unwritable


def unsettled(folder: Path) -> list[Path]:
    """The merged files of a chain's folder that have not got their final name."""
    return [folder / name for name in sealed_names(folder) if is_merged_name(name)]


def settle(path: Path, newest: ParentPoint, observer: Observer | None = None) -> Path:
    """Remove what the merged file `path` replaces, newest first, then give it its number for a name; returns that path.

    `newest` is the newest point of the chain, perhaps the merged file itself. Raises CorruptFile, and removes nothing,
    if the merged file does not have what it should; Cancelled, before anything is removed; RepositoryUnwritable.
    """
    pulse = Pulse(observer or Silent(), time.monotonic)
    head = _proved(path, newest, lambda: pulse.beat(lambda: Progress(stage="settle")))
    try:
        for doomed in _replaced_files(path, head):
            delete_file(doomed)
        return _give_final_name(path)
    except OSError as error:
        raise unwritable(path, error) from error


def _proved(path: Path, newest: ParentPoint, beat: Callable[[], None]) -> Head:
    """The authenticated head, of a file that has everything. Raises CorruptFile, BadOrder."""
    said = inspect(path)
    run = find_run(newest, said.sequence, beat)
    with run.open(run.files[0]) as merged:
        if merged.head.file_id != said.file_id or not merged.head.replaces:
            raise BadOrder(f"{text(path)} does not stand for the oldest points of its run.", path=text(path))
        if _replaced_files(path, merged.head):
            _check_complete(merged.container, run, beat)
        return merged.head


def _check_complete(merged: Container, run: RunOfChain, beat: Callable[[], None]) -> None:
    """Every item that a point of the run needs is in the merged file, or in a file that stays."""
    staying = {file.head.file_id for file in run.files[1:] if file.head}
    for (origin, kind), wanted in needed_items(run, run.files, beat).items():
        part = merged.index.part(origin)
        lost = wanted - set(part[1].of_kind(kind).tolist()) if part else wanted if origin not in staying else set()
        if lost:
            raise damaged(merged.path, f"{kind.name.lower()} {min(lost)}", f"it was not copied from {origin}")


def _replaced_files(path: Path, head: Head) -> list[Path]:
    """The files that it names, newest first, those among them whose deletion was begun."""
    names = sealed_names(path.parent, with_deleting=True)
    older = [path.parent / name for name in names if sequence_of(name) <= head.sequence and name != path.name]
    return [one for one in reversed(older) if _file_id(one) in head.replaces]


def _file_id(path: Path) -> UUID | None:
    with contextlib.suppress(EngineError):
        return inspect(path).file_id
    return None


def _give_final_name(path: Path) -> Path:
    final = path.with_name(str(sequence_of(path.name)))
    if final == path:
        return path
    with contextlib.suppress(FileExistsError):
        os.link(path, final)
    if not path.samefile(final):
        raise AlreadyExists(
            f"{text(final)} is in the way of {text(path)}, which does not replace it. Rescan the repository.",
            path=text(final),
        )
    fsync_folder(path.parent)
    os.unlink(path)
    fsync_folder(path.parent)
    return final
