"""Real backup files with their rows, for tests of what reads them: the engine writes, the catalogue registers."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

from jobs.models import Encryption, Job
from keys.crypto_recipients import PasswordRecipient
from keys.passwords import costs_of, kek_of
from repositories.catalogue import register, sealed_file_of
from repositories.engine.backup import BackupOrder, FreeSpace, Kind, ParentPoint, write_backup
from repositories.engine.reader import FileKey, open_point
from repositories.models import Chain, RestorePoint
from repositories.reading import file_key_of
from tests.engine.lab import Recorder
from tests.factories import make_chain


def write_point(job: Job, chain: Chain | None = None) -> RestorePoint:
    """Back the job's sources up into its chain (made if there is none), and register the file."""
    chain = chain or job.current_chain() or make_chain(job)
    newest = chain.newest()
    key = file_key_of(newest) if newest else None
    written = write_backup(
        BackupOrder(
            root=Path(job.repository.path),
            chain_id=chain.uuid,
            file_id=uuid.uuid4(),
            sequence=newest.sequence + 1 if newest else 1,
            kind=Kind.INCREMENTAL if newest else Kind.FULL,
            reason="first-session",
            started_at_ns=time.time_ns(),
            sources=tuple(os.fsencode(source) for source in job.sources),
            recipients=recipients_of(job),
            parent=ParentPoint(newest.path, key) if newest else None,
            reserve=FreeSpace(bytes=0, share=0),
            job_name=job.name,
        ),
        Recorder(),
    )
    with open_point(written.path, FileKey(written.file_key) if written.file_key else None) as opened:
        return register(chain, sealed_file_of(opened))


def recipients_of(job: Job) -> tuple[PasswordRecipient, ...]:
    if job.encryption == Encryption.OFF:
        return ()
    version = job.password.newest()
    return (
        PasswordRecipient(
            record=job.password.uuid,
            version=version.number,
            salt=bytes(version.salt),
            parameters=costs_of(version),
            kek=kek_of(version),
            hint=job.password.hint,
        ),
    )
