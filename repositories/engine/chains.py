"""What lies in a local repository: chains, their files, leftovers; and how a file is removed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from repositories.engine.errors import EngineError
from repositories.engine.head import Head


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


def scan(root: Path) -> list[ChainOnDisk]:
    """The heads of every file, chains ordered by id. Read without any key, so authentic only once opened."""
    raise NotImplementedError


def scan_chain(folder: Path) -> ChainOnDisk:
    raise NotImplementedError


def file_path(root: Path, chain_id: UUID, sequence: int) -> Path:
    return root / str(chain_id) / str(sequence)


def delete_file(path: Path) -> None:
    """Rename to `.deleting`, unlink, fsync of the folder. A file that is gone already is fine."""
    raise NotImplementedError


def leftovers(root: Path) -> list[Path]:
    """Unfinished files that no writer holds, and files whose deletion was interrupted."""
    raise NotImplementedError


def remove_leftovers(root: Path) -> list[Path]:
    """Remove them; returns what was removed. A file that a living writer holds stays."""
    raise NotImplementedError
