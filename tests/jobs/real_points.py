"""Real backup files with their rows, for tests of what reads them: the engine writes, the catalogue registers.

`many_heads` makes a chain of thousands at once: each file has an authentic head of its own, and the body of the first.
"""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import replace
from pathlib import Path

from jobs.models import Job
from jobs.recipients import recipients_of
from keys.sealing import seal_for
from repositories.catalogue import register, sealed_file_of, slot_for
from repositories.engine.backup import BackupOrder, FreeSpace, Kind, ParentPoint, write_backup
from repositories.engine.chain_keys import new_slots
from repositories.engine.head import pack_head
from repositories.engine.layout import BODY_OFFSET, HEAD_A_OFFSET, HEAD_B_OFFSET
from repositories.engine.reader import FileKey, inspect, open_point
from repositories.heads import slot_rows
from repositories.models import Chain, RestorePoint, Slot
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
            recipients=recipients_of(job).all(),
            parent=ParentPoint(newest.path, key) if newest else None,
            reserve=FreeSpace(bytes=0, share=0),
            job_name=job.name,
        ),
        Recorder(),
    )
    with open_point(written.path, FileKey(written.file_key) if written.file_key else None) as opened:
        return register(chain, sealed_file_of(opened))


def many_heads(job: Job, count: int) -> Chain:
    """Add `count` files to the chain of a job's first point: enough for what looks at heads alone."""
    first = write_point(job)
    raw, head = first.path.read_bytes(), inspect(first.path)
    recipients = recipients_of(job).all()
    points, keys = [], {}
    for sequence in range(2, count + 2):
        file_id, key = uuid.uuid4(), os.urandom(32)
        slots = new_slots(recipients, key, chain_id=head.chain_id, file_id=file_id)
        own = pack_head(replace(head, file_id=file_id, sequence=sequence, slots=slots), key)
        with (first.chain.folder / str(sequence)).open("xb") as file:
            for offset in (HEAD_A_OFFSET, HEAD_B_OFFSET):
                file.seek(offset)
                file.write(own)
            file.seek(BODY_OFFSET)
            file.write(raw[BODY_OFFSET:])
        fields = {field.attname: getattr(first, field.attname) for field in RestorePoint._meta.concrete_fields}
        own_fields = {"id": None, "uuid": file_id, "sequence": sequence, "file_key_sealed": None}
        points.append(RestorePoint(**{**fields, **own_fields}))
        keys[file_id] = key
    for point in RestorePoint.objects.bulk_create(points, batch_size=1000):
        point.file_key_sealed = seal_for(point, "file_key_sealed", keys[point.uuid])
    RestorePoint.objects.bulk_update(points, ["file_key_sealed"], batch_size=1000)
    said = tuple(slot_for(slot) for slot in head.slots)
    Slot.objects.bulk_create(slot_rows((point, said) for point in points), batch_size=1000)
    return first.chain
