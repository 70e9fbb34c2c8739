"""The process of one session: reads a request from standard input, runs the engine, writes events to standard output.

No Django and no database here: what it needs comes through the pipe, what becomes of it is told through the pipe and
stored by the worker that started it (`jobs.supervising`). SIGTERM stops it cleanly; so does the end of that worker, and
then an unfinished backup file stays for the next session.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import BinaryIO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from jobs import protocol
from jobs.process_rewrap import rewrap_chain
from jobs.protocol import (
    BackupRequest,
    End,
    Event,
    Failed,
    PointFile,
    Request,
    RestoreRequest,
    RewrapRequest,
    VerifyRequest,
)
from repositories.engine.backup import BackupOrder, FreeSpace, Kind, Level, ParentPoint, write_backup
from repositories.engine.chains import remove_leftovers
from repositories.engine.encrypted_only import mark
from repositories.engine.errors import (
    BadTarget,
    Cancelled,
    CorruptFile,
    EngineError,
    Fenced,
    Interrupted,
    NothingToRestore,
    text,
)
from repositories.engine.expectation import Expected, check_point
from repositories.engine.observer import Progress
from repositories.engine.own_process import keep_freed_memory
from repositories.engine.reader import FileKey, Point, open_point
from repositories.engine.restore import RestoreOrder, restore
from repositories.engine.target import Existing
from repositories.engine.verify import VerifyReport, verify

GRACE_SECONDS = 5  # after SIGTERM, for removing what is unfinished; whoever is stuck then is ended by SIGALRM


class Pipe:
    """The worker, seen from here. The engine's Observer."""

    def __init__(self, answers: BinaryIO, events: BinaryIO) -> None:
        self._answers = answers
        self._events = events
        self._lock = threading.Lock()
        self._stop = False

    def send(self, event: Event) -> None:
        with self._lock:
            try:
                self._events.write(protocol.line_of(event))
                self._events.flush()
            except BrokenPipeError:
                self._stop = True  # nobody listens any more

    def stop(self, *_: object) -> None:
        self._stop = True
        signal.alarm(GRACE_SECONDS)

    def progress(self, p: Progress) -> None:
        self.send(
            protocol.Progressed(
                stage=p.stage,
                files_done=p.files_done,
                files_total=p.files_total,
                bytes_processed=p.bytes_processed,
                bytes_total=p.bytes_total,
                bytes_read=p.bytes_read,
                bytes_written=p.bytes_written,
                current_path=p.current_path,
                busy_seconds=p.busy_seconds,
            )
        )

    def warn(self, code: str, path: bytes, message: str) -> None:
        name = text(path)
        self.send(protocol.Noted("warning", code, message if name in message else f"{name}: {message}"))

    def note(self, code: str, message: str) -> None:
        self.send(protocol.Noted("info", code, message))

    def cancelled(self) -> bool:
        """Raises Interrupted when it is the worker that is gone: what was written is kept for the next session."""
        if self._stop and self._is_alone():
            raise Interrupted("The session's worker is gone. What was written is kept for the next session.")
        return self._stop

    def _is_alone(self) -> bool:
        poll = select.poll()
        poll.register(self._answers, 0)
        return any(event & select.POLLHUP for _, event in poll.poll(0))

    def before_seal(self) -> None:
        if self.cancelled():
            raise Cancelled("The session was stopped before its backup file was sealed; nothing was published.")
        self.send(protocol.MaySeal())
        if not protocol.read_answer(self._answers.readline()):
            raise Fenced("The session lost its lease before the backup file was sealed; nothing was published.")


def main() -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash writes no keys to a disk
    keep_freed_memory()
    events = _own_output()
    pipe = Pipe(sys.stdin.buffer, events)
    signal.signal(signal.SIGTERM, pipe.stop)
    try:
        end = _run(protocol.read_request(sys.stdin.buffer.readline()), pipe)
    except EngineError as error:
        end = Failed(error.code, dict(error.fields), str(error))
    except OSError as error:
        end = _failed_system_call(error)
    except Exception as error:  # noqa: BLE001 - told to the worker, which stores it
        traceback.print_exc()
        end = Failed("internal-error", {"type": type(error).__name__}, _internal(error))
    pipe.send(end)
    return 1 if isinstance(end, Failed) else 0


def _own_output() -> BinaryIO:
    """Keep standard output for events alone: whatever else is printed goes to standard error."""
    events = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return events


def _run(request: Request, pipe: Pipe) -> End:
    match request:
        case BackupRequest():
            return _backup(request, pipe)
        case RestoreRequest():
            return _restore(request, pipe)
        case VerifyRequest():
            return _verify(request, pipe)
        case RewrapRequest():
            return rewrap_chain(request, pipe)


def _backup(request: BackupRequest, pipe: Pipe) -> protocol.Written:
    order = order_of(request)
    for path in remove_leftovers(order.root) if order.root.is_dir() else ():
        pipe.note("leftover-removed", f"The unfinished file {path.name} of an earlier session was removed.")
    if not order.plain_allowed and order.root.is_dir():
        mark(order.root)  # a repository that was copied or required encryption earlier may lack its marker
    written = write_backup(order, pipe)
    return protocol.Written(
        file_id=written.file_id,
        length=written.length,
        seal_hash=written.seal_hash,
        head_generation=written.head_generation,
        file_key=written.file_key,
        files=written.files,
        directories=written.directories,
        others=written.others,
        source_bytes=written.source_bytes,
        read_bytes=written.read_bytes,
        written_bytes=written.written_bytes,
        new_files=written.new_files,
        changed_files=written.changed_files,
        unchanged_files=written.unchanged_files,
        warnings=written.warnings,
    )


def order_of(request: BackupRequest) -> BackupOrder:
    parent = ParentPoint(_path(request.parent_path), request.parent_key) if request.parent_path is not None else None
    return BackupOrder(
        root=_path(request.root),
        chain_id=request.chain_id,
        file_id=request.file_id,
        sequence=request.sequence,
        kind=Kind(request.kind),
        reason=request.reason,
        started_at_ns=request.started_at_ns,
        sources=request.sources,
        recipients=request.recipients.all(),
        file_key=request.file_key,
        unfinished_key=request.unfinished_key,
        parent=parent,
        include=request.include,
        exclude=request.exclude,
        never=request.never,
        level=Level(request.level),
        reserve=FreeSpace(request.reserve_bytes, request.reserve_share),
        job_name=request.job_name,
        signer=Ed25519PrivateKey.from_private_bytes(request.signer) if request.signer else None,
        plain_allowed=request.plain_allowed,
    )


def _restore(request: RestoreRequest, pipe: Pipe) -> protocol.Restored:
    with open_known(request.point) as point:
        for folder in request.kept_out:
            _keep_out(point, request, folder)
        restored = restore(
            RestoreOrder(
                point=point,
                into=_path(request.into),
                paths=request.paths,
                existing=Existing(request.existing),
                below=_path(request.below) if request.below is not None else None,
                reserve=FreeSpace(request.reserve_bytes, request.reserve_share),
            ),
            pipe,
        )
    return protocol.Restored(
        files=restored.files,
        directories=restored.directories,
        others=restored.others + restored.links,
        skipped=restored.skipped,
        failed=restored.failed_count,
        bytes_written=restored.bytes_written,
        warnings=restored.warnings,
    )


def open_known(known: PointFile) -> Point:
    """Open the file and make sure that it is the catalogued one. Raises the engine's errors."""
    path = _path(known.path)
    point = open_point(path, FileKey(known.file_key) if known.file_key is not None else None)
    try:
        check_point(point, Expected(known.file_id, known.seal_hash, known.head_generation))
    except CorruptFile:
        point.close()
        raise
    return point


def _keep_out(point: Point, request: RestoreRequest, folder: bytes) -> None:
    """Refuse a restore that would write into `folder`: a repository or the state folder, somewhere below the target."""
    into = request.into.rstrip(b"/") + b"/"
    if not folder.startswith(into):
        return
    inside = folder[len(into) :]
    if request.paths and not any(_touches(path, inside) for path in request.paths):
        return
    try:
        entries = sum(1 for _, entry in zip(range(2), point.walk(inside), strict=False) if entry.path)
    except NothingToRestore:
        return
    if entries > 1:
        raise BadTarget(
            f"The selection would be restored into {text(folder)}, which is a repository or the console's state "
            "folder: choose another folder, or leave it out.",
            path=text(folder),
            reason="kept-out",
        )


def _touches(path: bytes, inside: bytes) -> bool:
    """Whether restoring `path` puts something into `inside`: one of them lies within the other."""
    return path == inside or inside.startswith(path + b"/") or path.startswith(inside + b"/")


def _verify(request: VerifyRequest, pipe: Pipe) -> protocol.Verified:
    with open_known(request.point) as point:
        report = verify(point, "full" if request.depth == "full" else "quick", pipe)
    _name_damage(report, pipe)
    return protocol.Verified(
        damage=" ".join(damage.sentence for damage in report.damages[:3]),
        damages=len(report.damages),
        damaged_files=report.damaged_files_count,
        notes=len(report.notes),
        bytes_checked=report.bytes_checked,
        blocks_checked=report.blocks_checked,
    )


def _name_damage(report: VerifyReport, pipe: Pipe) -> None:
    for damage in report.damages:
        pipe.send(protocol.Noted("error", "damaged-part", damage.sentence))
    for path in report.damaged_files:
        pipe.send(protocol.Noted("error", "damaged-file", f"{text(path)} cannot be restored from this point."))
    for sentence in report.notes:
        pipe.note("verify-note", sentence)


def _failed_system_call(error: OSError) -> Failed:
    path = text(os.fsencode(error.filename)) if isinstance(error.filename, str | bytes) else ""
    reason = error.strerror or type(error).__name__
    message = f"{path or 'The system'}: {reason}. Nothing was published; put it right and start again."
    return Failed("system-error", {"path": path, "reason": reason}, message)


def _internal(error: Exception) -> str:
    return f"The session's process met a fault of its own ({type(error).__name__}); the session's log file says where."


def _path(raw: bytes) -> Path:
    return Path(os.fsdecode(raw))


if __name__ == "__main__":
    sys.exit(main())
