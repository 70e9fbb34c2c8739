"""What lies in a local repository: chains, their files, leftovers; and how a file is removed.

    <repository>/<chain id>/<sequence>                  a sealed backup file
    <repository>/<chain id>/<sequence>.<file id>        a merged one, until what it replaces is gone
    <repository>/<chain id>/<sequence>.<file id>.part   one that is being written; its writer holds an exclusive lock
    <repository>/<chain id>/<sequence>.deleting         one whose deletion was begun

Heads are read without any key, so what is said here is authentic only once a point was opened. Which file may be
deleted is left to the callers.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from repositories.engine.errors import AnotherWriter, CorruptFile, EngineError, MissingFile, damaged, text
from repositories.engine.head import Head, open_for_reading, read_heads
from repositories.engine.records import has_checkpoint
from repositories.engine.writer import UNFINISHED_SUFFIX, fsync_folder, unwritable

DELETING_SUFFIX = ".deleting"
ADOPTABLE_NS = 24 * 3600 * 1_000_000_000
_SEALED = re.compile(r"([1-9][0-9]{0,18})(?:\.([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}))?")


@dataclass(frozen=True, slots=True)
class FileOnDisk:
    """One file with a sequence number for a name. Without a readable head, `problem` says why."""

    path: Path
    sequence: int
    length: int
    head: Head | None
    problem: EngineError | None = None


@dataclass(frozen=True, slots=True)
class ChainOnDisk:
    chain_id: UUID
    folder: Path
    files: tuple[FileOnDisk, ...]  # by sequence
    replaced: tuple[FileOnDisk, ...] = ()  # still there though a merged file among `files` stands for them


def scan(root: Path) -> list[ChainOnDisk]:
    """The heads of every file, chains ordered by id. Raises MissingFile if the repository is not there."""
    return [chain for folder in _chain_folders(root) if (chain := scan_chain(folder)).files]


def scan_chain(folder: Path) -> ChainOnDisk:
    """A file whose head says another chain or number than its place has a `problem`, and no head."""
    chain_id = UUID(folder.name)
    found = [_file(folder / name, chain_id, sequence_of(name)) for name in sealed_names(folder)]
    files = _once_each(found)
    replaced = _replaced(files)
    return ChainOnDisk(
        chain_id,
        folder,
        tuple(file for file in files if file not in replaced),
        tuple(replaced),
    )


def _once_each(found: list[FileOnDisk]) -> list[FileOnDisk]:
    """A merged file has two names while it gets its final one."""
    seen: set[UUID] = set()
    files = []
    for file in found:
        if file.head is None or file.head.file_id not in seen:
            files.append(file)
        if file.head is not None:
            seen.add(file.head.file_id)
    return files


def _replaced(files: list[FileOnDisk]) -> list[FileOnDisk]:
    """Files that a newer one names as replaced; what is itself replaced replaces nothing."""
    gone: set[UUID] = set()
    replaced: list[FileOnDisk] = []
    for file in sorted(files, key=lambda file: (-file.sequence, not (file.head and file.head.replaces))):
        if file.head is None:
            continue
        if file.head.file_id in gone:
            replaced.append(file)
        else:
            gone.update(file.head.replaces)
    return replaced[::-1]


def sealed_names(folder: Path, *, with_deleting: bool = False) -> list[str]:
    """The names of sealed files in a chain's folder, by sequence; a plain number before a merged file's name."""
    suffix = DELETING_SUFFIX if with_deleting else ""
    names = [name for name in os.listdir(folder) if _SEALED.fullmatch(name.removesuffix(suffix))]
    return sorted(names, key=lambda name: (sequence_of(name), name))


def sequence_of(name: str) -> int:
    return int(name.partition(".")[0])


def merged_name(sequence: int, file_id: UUID) -> str:
    return f"{sequence}.{file_id}"


def is_merged_name(name: str) -> bool:
    return "." in name and _SEALED.fullmatch(name) is not None


def file_path(root: Path, chain_id: UUID, sequence: int) -> Path:
    return root / str(chain_id) / str(sequence)


def delete_file(path: Path) -> None:
    """Rename to `.deleting`, unlink, fsync of the folder. A file that is gone already is fine.

    A deletion that was interrupted after the rename is finished. Raises RepositoryUnwritable; it can be done again.
    """
    doomed = path if path.name.endswith(DELETING_SUFFIX) else path.with_name(path.name + DELETING_SUFFIX)
    try:
        if doomed != path:
            with contextlib.suppress(FileNotFoundError):
                os.rename(path, doomed)
                fsync_folder(path.parent)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(doomed)
            fsync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error


def leftovers(root: Path, clock: Callable[[], int] = time.time_ns, *, adoptable_too: bool = False) -> list[Path]:
    """Unfinished files that no writer holds, and files whose deletion was interrupted.

    Files that a next session may write on (is_adoptable) are none, unless they are asked for.
    """
    found = []
    for folder in _chain_folders(root):
        for name in sorted(os.listdir(folder)):
            path = folder / name
            if name.endswith(DELETING_SUFFIX):
                found.append(path)
            elif name.endswith(UNFINISHED_SUFFIX) and (adoptable_too or not is_adoptable(path, clock())):
                found += [] if _is_held(path) else [path]
    return found


def remove_leftovers(root: Path, clock: Callable[[], int] = time.time_ns, *, adoptable_too: bool = False) -> list[Path]:
    """Remove them; returns what was removed. A file that a living writer holds stays."""
    removed = []
    for path in leftovers(root, clock, adoptable_too=adoptable_too):
        if path.name.endswith(DELETING_SUFFIX):
            delete_file(path)
            removed.append(path)
        elif (fd := lock_unfinished(path)) is not None:
            remove_locked(fd, path)
            removed.append(path)
    return removed


def remove_unfinished(folder: Path, *, but: Path) -> None:
    """Remove what an interrupted writer left in a chain's folder. Raises AnotherWriter if one is at work.

    A file that a next session may write on stays.
    """
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if not name.endswith(UNFINISHED_SUFFIX) or path == but or not path.exists():
            continue
        fd = lock_unfinished(path)
        if fd is None:
            raise AnotherWriter(f"Another writer has {text(path)} open.", path=text(path))
        if is_adoptable(path, time.time_ns()):
            os.close(fd)
        else:
            remove_locked(fd, path)


def is_adoptable(path: Path, now_ns: int) -> bool:
    """Whether a session may write on in an unfinished file, as far as that can be told without a key.

    It has a checkpoint, its last one is younger than 24 hours, and its point is not there yet.
    """
    named = unfinished_name(path.name)
    if named is None or not _is_uuid(path.parent.name) or named[0] in map(sequence_of, sealed_names(path.parent)):
        return False
    try:
        fd = open_for_reading(path)
    except EngineError:
        return False
    try:
        head = read_heads(fd, path)[0]
        told = (head.sequence, head.file_id, head.chain_id) == (*named, UUID(path.parent.name))
        return told and now_ns - os.fstat(fd).st_mtime_ns < ADOPTABLE_NS and has_checkpoint(fd)
    except EngineError:
        return False
    finally:
        os.close(fd)


def adoptable_files(folder: Path, clock: Callable[[], int] = time.time_ns) -> list[Path]:
    """Those of one chain that no writer holds; a folder that is not there has none."""
    try:
        paths = [folder / name for name in sorted(os.listdir(folder)) if name.endswith(UNFINISHED_SUFFIX)]
    except OSError:
        return []
    return [path for path in paths if is_adoptable(path, clock()) and not _is_held(path)]


def unfinished_name(name: str) -> tuple[int, UUID] | None:
    """The sequence and the file id in the name of an unfinished file."""
    sequence, _, rest = name.partition(".")
    file_id = rest.removesuffix(UNFINISHED_SUFFIX)
    if not (name.endswith(UNFINISHED_SUFFIX) and _SEALED.fullmatch(sequence) and _is_uuid(file_id)):
        return None
    return int(sequence), UUID(file_id)


def _chain_folders(root: Path) -> Iterator[Path]:
    try:
        names = sorted(os.listdir(root))
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFile(f"The repository {text(root)} does not exist, or is not a folder.", path=text(root)) from None
    for name in names:
        if _is_uuid(name) and (root / name).is_dir():
            yield root / name


def _is_uuid(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


def _file(path: Path, chain_id: UUID, sequence: int) -> FileOnDisk:
    length = 0
    try:
        fd = open_for_reading(path)
        try:
            length = os.fstat(fd).st_size
            head = read_heads(fd, path)[0]
        finally:
            os.close(fd)
        check_place(path, head)
    except EngineError as error:
        return FileOnDisk(path, sequence, length, None, error)
    except OSError as error:
        return FileOnDisk(path, sequence, length, None, damaged(path, "file", error.strerror or ""))
    return FileOnDisk(path, sequence, length, head)


def check_place(path: Path, head: Head) -> None:
    """Raises CorruptFile if a file in a chain's folder belongs to another chain or has another number.

    A file with another kind of name, copied out of its repository, is taken as it is.
    """
    named = _SEALED.fullmatch(path.name)
    if not _is_uuid(path.parent.name) or named is None:
        return
    if (
        UUID(path.parent.name) != head.chain_id
        or int(named[1]) != head.sequence
        or named[2] not in (None, str(head.file_id))
    ):
        raise CorruptFile(
            f"The file {text(path)} is point {head.sequence} of chain {head.chain_id}, so it lies in a wrong place: "
            "it was renamed or exchanged. Put it back to its place.",
            path=text(path),
            part="name",
        )


def _is_held(path: Path) -> bool:
    """Whether a writer has the lock; a file that is gone is held by nobody, and is no leftover either."""
    fd = lock_unfinished(path)
    if fd is None:
        return True
    os.close(fd)
    return False


def remove_locked(fd: int, path: Path) -> None:
    """Unlink while holding the lock, so that no writer can have it; `fd` is closed. Raises RepositoryUnwritable."""
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        fsync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        os.close(fd)


def lock_unfinished(path: Path) -> int | None:
    """Open a file with the exclusive lock that its writer has for life; None if another one has it, or it is gone."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    if not _is_still(fd, path):  # published or removed between opening and locking
        os.close(fd)
        return None
    return fd


def _is_still(fd: int, path: Path) -> bool:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(fd))
