"""An unfinished backup file, as a killed process leaves it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.process import order_of
from jobs.protocol import BackupRequest
from repositories.engine.backup import write_backup
from repositories.engine.observer import Silent
from repositories.engine.order import CheckpointInterval
from repositories.engine.writer import FileWriter, SealParts


def leave_unfinished(request: BackupRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of this request as a kill behind a checkpoint leaves it."""
    order = replace(order_of(request), checkpoints=CheckpointInterval(bytes=1, seconds=3600.0))
    copy = tmp_path / "killed"
    with monkeypatch.context() as patch:
        whole = FileWriter.finish

        def finish(writer: FileWriter, parts: SealParts) -> tuple[bytes, int]:
            shutil.copy2(writer.path, copy)
            return whole(writer, parts)

        patch.setattr(FileWriter, "finish", finish)
        written = write_backup(order, Silent())
    written.path.unlink()
    return Path(shutil.copy2(copy, written.path.with_name(f"1.{request.file_id}.part")))
