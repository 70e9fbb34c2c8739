"""Long chains, quickly: points written through the engine itself by one process, with a key that is derived once.

    python -m tests.bench.growing TREE REPOSITORY PASSWORD_FILE FILES POINTS

makes the tree and the repository as they are before the last of POINTS is written: the tree has FILES small files, and
every point but the last one is there. Each point adds files, the later ones more, so that the newest point refers to
all files of its chain. The last point is left to the command that is measured.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

from keys.crypto_password import KdfParameters, derive_kek, new_salt, password_bytes_from_file
from keys.crypto_recipients import PasswordRecipient
from repositories.engine.backup import BackupOrder, FreeSpace, Kind, ParentPoint, Written, write_backup
from repositories.engine.observer import Silent
from tests.bench.generated import FILES_A_FOLDER, share_out, small_files

GROWTH = 8  # the power: of a chain's files a tenth is there after three quarters of its points
PAST_SETTLING_NS = 10_000_000_000
GENERATED_AT_ONCE = 10_000


@dataclass
class Chain:
    """A chain as the command line would write it: one password, no job."""

    repository: Path
    source: Path
    recipient: PasswordRecipient
    chain_id: UUID = field(default_factory=uuid4)
    points: list[Written] = field(default_factory=list)

    def write(self) -> Written:
        newest = self.points[-1] if self.points else None
        order = BackupOrder(
            root=self.repository,
            chain_id=self.chain_id,
            file_id=uuid4(),
            sequence=len(self.points) + 1,
            kind=Kind.INCREMENTAL if newest else Kind.FULL,
            reason="changes-since-parent" if newest else "first-session",
            started_at_ns=time.time_ns(),
            sources=(os.fsencode(self.source),),
            recipients=(self.recipient,),
            parent=ParentPoint(newest.path, newest.file_key) if newest else None,
            reserve=FreeSpace(bytes=0, share=0.02),
            clock=lambda: time.time_ns() + PAST_SETTLING_NS,
        )
        written = write_backup(order, Silent())
        self.points.append(written)
        return written


def recipient(password: bytes) -> PasswordRecipient:
    salt, parameters = new_salt(), KdfParameters()
    kek = derive_kek(password, salt=salt, parameters=parameters)
    return PasswordRecipient(uuid4(), 1, salt, parameters, kek)


def files_at(point: int, points: int, files: int) -> int:
    return min(files, max(point, int(files * (point / points) ** GROWTH)))


def add_files(source: Path, have: int, wanted: int) -> None:
    source.mkdir(parents=True, exist_ok=True)
    if wanted - have > GENERATED_AT_ONCE:
        share_out(small_files, source, range(have, wanted), FILES_A_FOLDER)
    elif wanted > have:
        small_files(source, have, wanted - have)


def grow(source: Path, repository: Path, password: bytes, files: int, points: int) -> None:
    chain, have = Chain(repository, source, recipient(password)), 0
    for point in range(1, points + 1):
        wanted = files_at(point, points, files)
        add_files(source, have, wanted)
        have = wanted
        if point < points:
            chain.write()


if __name__ == "__main__":
    secret = password_bytes_from_file(Path(sys.argv[3]).read_bytes())
    grow(Path(sys.argv[1]), Path(sys.argv[2]), secret, int(sys.argv[4]), int(sys.argv[5]))
