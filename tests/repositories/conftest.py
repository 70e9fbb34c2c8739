"""Chains with real files: written by the engine, registered by the catalogue."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from django.utils import timezone

from keys.crypto_recipients import PasswordRecipient
from keys.models import PasswordVersion
from keys.passwords import costs_of, kek_of
from repositories.catalogue import SealedFile, SlotFor, instant, register
from repositories.engine.backup import BackupOrder, FreeSpace, Level, ParentPoint, Written, write_backup
from repositories.engine.backup import Kind as EngineKind
from repositories.engine.observer import Silent
from repositories.models import Chain, Kind, RestorePoint
from repositories.reading import file_key_of
from tests.factories import make_chain, make_job, make_password, make_repository


class Writer:
    """Writes the next file of a chain; `write` leaves it without a row, `add` registers it as well."""

    def __init__(self, chain: Chain, source: Path, version: PasswordVersion | None) -> None:
        self.chain = chain
        self.source = source
        self.version = version

    def add(self, kind: Kind = Kind.INCREMENTAL) -> RestorePoint:
        return register(self.chain, self.write(kind))

    def write(self, kind: Kind = Kind.INCREMENTAL) -> SealedFile:
        newest = self.chain.newest()
        kind = kind if newest else Kind.FULL
        order = BackupOrder(
            root=self.chain.repository.root,
            chain_id=self.chain.uuid,
            file_id=uuid.uuid4(),
            sequence=newest.sequence + 1 if newest else 1,
            kind=EngineKind(kind),
            reason="test",
            started_at_ns=time.time_ns(),
            sources=(bytes(self.source),),
            recipients=self.recipients(),
            parent=ParentPoint(newest.path, file_key_of(newest)) if newest else None,
            level=Level.FAST,
            reserve=FreeSpace(0, 0.0),
            job_name=self.chain.job_name,
        )
        return self.sealed_file(order, write_backup(order, Silent()), newest)

    def recipients(self) -> tuple[PasswordRecipient, ...]:
        if self.version is None:
            return ()
        version = self.version
        salt, kek = bytes(version.salt), kek_of(version)
        return (PasswordRecipient(version.record.uuid, version.number, salt, costs_of(version), kek, ""),)

    def sealed_file(self, order: BackupOrder, written: Written, newest: RestorePoint | None) -> SealedFile:
        return SealedFile(
            file_id=written.file_id,
            sequence=written.sequence,
            kind=written.kind.value,
            parent_id=newest.uuid if newest and written.kind is EngineKind.INCREMENTAL else None,
            started_at=instant(order.started_at_ns),
            sealed_at=timezone.now(),
            length=written.length,
            source_bytes=written.source_bytes,
            read_bytes=written.read_bytes,
            files=written.files,
            seal_hash=written.seal_hash,
            head_generation=written.head_generation,
            recipients=tuple(SlotFor(r.record, r.version) for r in order.recipients),
            file_key=written.file_key,
        )


MakeWriter = Callable[..., Writer]


@pytest.fixture
def make_writer(tmp_path: Path, db: None) -> MakeWriter:
    def make(*, encrypted: bool = True) -> Writer:
        source = tmp_path / "source"
        source.mkdir(exist_ok=True)
        (source / "file").write_bytes(b"content\n" * 100)
        repository = make_repository(tmp_path / f"repository-{uuid.uuid4().hex[:6]}")
        password = make_password() if encrypted else None
        job = make_job(repository=repository, password=password, encryption="password" if encrypted else "off")
        chain = make_chain(job)
        repository.root.mkdir()
        return Writer(chain, source, password.newest() if password else None)

    return make


@pytest.fixture
def writer(make_writer: MakeWriter) -> Writer:
    return make_writer()
