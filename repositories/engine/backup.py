"""Writing one restore point: the steps from the walk to the published file.

What is ordered, and which orders are refused, stands in order.py. How files become blocks is left to storing.py and
content.py, the file itself to writer.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from uuid import UUID

from keys import crypto
from repositories.engine.adoption import adopt, settings_of
from repositories.engine.careful import CarefulReader
from repositories.engine.chain_keys import first_keyring, new_slots, next_keyring
from repositories.engine.checkpoint import Checkpointer, Settings
from repositories.engine.compare import compare
from repositories.engine.content import ContentReader, Packer
from repositories.engine.cutting import Cutting
from repositories.engine.entries import order_key
from repositories.engine.errors import Interrupted
from repositories.engine.head import Head
from repositories.engine.identities import MAX_ENTRIES as MAX_IDENTITIES
from repositories.engine.identities import MAX_RUNS as MAX_IDENTITY_RUNS
from repositories.engine.identities import Identities, Run, identity_key, merge, pack_parts
from repositories.engine.keyring import Keyring, pack_keyring
from repositories.engine.layout import NO_ITEM, VERSION, ItemKind
from repositories.engine.manifest import Facts, ManifestBuilder, Root, RunRow, SegmentRow, boundary_key, pack_root
from repositories.engine.observer import Busy, Observer, Progress, Pulse
from repositories.engine.order import (
    BackupOrder,
    CheckpointInterval,
    FreeSpace,
    Kind,
    Level,
    ParentPoint,
    Written,
    check_order,
)
from repositories.engine.pace import Pace
from repositories.engine.patterns import Patterns
from repositories.engine.read_ahead import ReadAhead
from repositories.engine.reader import FileKey, Point, open_point
from repositories.engine.seal import NO_HASH, NO_PARENT, plain_chain_key
from repositories.engine.sealing import ZSTD_LEVELS
from repositories.engine.segments import Segment
from repositories.engine.small_files import Keys
from repositories.engine.storing import Storer
from repositories.engine.unfinished import Unfinished
from repositories.engine.walk import Walk, clean_sources
from repositories.engine.writer import FileWriter, SealParts

__all__ = ["BackupOrder", "CheckpointInterval", "FreeSpace", "Kind", "Level", "ParentPoint", "Written", "write_backup"]


def write_backup(order: BackupOrder, observer: Observer) -> Written:
    """Write and publish one restore point, if it can be in the unfinished file of an earlier session.

    Nothing is left behind when it raises an EngineError, but the unfinished file when the observer raises Interrupted.
    """
    with ExitStack() as stack:
        parent = None
        if order.parent is not None:
            secret = None if order.parent.file_key is None else FileKey(order.parent.file_key)
            parent = stack.enter_context(open_point(order.parent.path, secret))
        check_order(order, parent)
        refused = (os.fsencode(order.root.resolve()),)
        sources = clean_sources(order.sources, (*refused, *order.never))
        settings = settings_of(order, sources, parent)
        unfinished = adopt(order, settings, parent, observer)
        try:
            session = _Session(order, observer, parent, settings, refused, unfinished)
        except BaseException:
            if unfinished is not None:
                os.close(unfinished.fd)
            raise
        return session.run()


class _CountingObserver:
    """Passes everything on, and counts the warnings."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.warnings = 0
        self.progress, self.cancelled, self.before_seal = observer.progress, observer.cancelled, observer.before_seal
        self.note = observer.note

    def warn(self, code: str, path: bytes, message: str) -> None:
        self.warnings += 1
        self._observer.warn(code, path, message)


class _Session:
    """One backup being written; run() once."""

    def __init__(
        self,
        order: BackupOrder,
        observer: Observer,
        parent: Point | None,
        settings: Settings,
        refused: tuple[bytes, ...],
        unfinished: Unfinished | None,
    ) -> None:
        self._order, self._parent, self._settings, self._unfinished = order, parent, settings, unfinished
        self._base = parent if order.kind is Kind.INCREMENTAL else None  # what is shared with
        self._never = (*order.never, *refused)
        self._observer = _CountingObserver(observer)
        self._pulse = Pulse(self._observer, time.monotonic)
        self._stage = "walk+write"
        self._file_key = (order.file_key or crypto.random_key()) if order.recipients else None
        if unfinished is not None:
            self._file_key = unfinished.file_key
        self._keyring = self._new_keyring()
        self._chain_key = self._keyring.chain_key if self._keyring else plain_chain_key(order.chain_id)
        self._head = self._new_head() if unfinished is None else unfinished.head
        self._origin_number: dict[UUID, int] = {self._head.file_id: 0}

    def run(self) -> Written:
        keys = Keys(identity_key(self._chain_key), boundary_key(self._chain_key))
        with closing(ReadAhead(keys, self._beat)) as self._ahead:
            return self._run(keys)

    def _run(self, keys: Keys) -> Written:
        order, head, unfinished = self._order, self._head, self._unfinished
        threads = max(2, min(8, len(os.sched_getaffinity(0))))
        self._writer = writer = FileWriter(
            order.root / str(order.chain_id),
            head,
            self._file_key,
            ZSTD_LEVELS[order.level.value],
            order.reserve,
            threads,
            None if unfinished is None else (unfinished.fd, unfinished.part),
        )
        if order.limit is not None:
            writer.pace = Pace(order.limit, self._beat)
        try:
            self._prepare(keys)
            self._store_everything()
            seal_hash, length = self._close_file()
            self._observer.before_seal()
            writer.publish()
        except Interrupted:
            writer.close()
            raise
        except BaseException:
            writer.abort()
            raise
        writer.close()
        return self._written(seal_hash, length)

    def _new_head(self) -> Head:
        order = self._order
        return Head(
            version=VERSION,
            encrypted=self._file_key is not None,
            chain_id=order.chain_id,
            file_id=order.file_id,
            sequence=order.sequence,
            generation=1,
            slots=new_slots(order.recipients, self._file_key, chain_id=order.chain_id, file_id=order.file_id),
        )

    def _new_keyring(self) -> Keyring | None:
        """The chain key of an unfinished first file is the one that its identities were made with."""
        if self._parent is not None:
            return next_keyring(self._parent)
        if self._file_key is None:
            return None
        begun = self._unfinished.checkpoint if self._unfinished else None
        return Keyring(begun.chain_key, {}) if begun else first_keyring()

    def _prepare(self, keys: Keys) -> None:
        writer = self._writer
        unfinished, clock = self._unfinished, self._order.clock
        self._identities = Identities(self._load_runs, unfinished.identity_runs() if unfinished else [])
        self._packer = Packer(writer, self._identities, keys.identities)
        begun = unfinished.begun(self._origin_number) if unfinished else {}
        cutting = Cutting(self._chain_key, Patterns(self._order.disk_images))
        self._content = ContentReader(self._packer, cutting, clock, self._beat, self._pause, begun)
        self._builder = ManifestBuilder(writer, keys.boundaries, self._origin_number)
        careful = CarefulReader(self._content, self._settings.sources, self._observer, self._beat)
        self._storer = Storer(
            self._builder, careful, self._packer, self._ahead, self._observer, clock, self._beat, self._pause
        )
        chain_key = self._keyring.chain_key if self._keyring else b""
        self._checkpointer = Checkpointer(
            writer, self._settings, chain_key, self._order.checkpoints, clock, time.monotonic
        )

    def _pause(self) -> None:
        self._checkpointer.pause(
            self._packer, self._builder, self._content, self._storer.news, self._identities, self._origin_number
        )

    def _load_runs(self) -> list[Run]:
        """The parent's runs, oldest first; the oldest are left out where they are too many."""
        if self._base is None:
            return []
        self._runs_loaded_from, entries = len(self._base.root.runs), 0
        for run in reversed(self._base.root.runs):
            entries += run.entries
            if entries > MAX_IDENTITIES:
                break
            self._runs_loaded_from -= 1
        loaded = []
        for run in self._base.root.runs[self._runs_loaded_from :]:
            self._beat()
            loaded.append(self._base.identity_run(run, self._origin_number))
        return loaded

    def _store_everything(self) -> None:
        order = self._order
        walk = Walk(
            self._settings.sources,
            Patterns(order.include),
            Patterns(order.exclude),
            self._never,
            self._observer,
            self._beat,
            order.options,
        )
        self._beat()
        with closing(iter(walk)) as found:  # whose folders are not to stay open until an error is forgotten
            self._storer.take_all(compare(found, self._known_segments(), self._beat))
        self._packer.flush()

    def _known_segments(self) -> Iterator[tuple[SegmentRow | None, Segment]]:
        """What an unfinished file knows of the new manifest, and behind it the parent's."""
        covered = b""
        if self._unfinished is not None:
            covered = self._unfinished.covered()
            for manifest, known, segment in self._unfinished.segments(self._base):
                self._beat()
                yield known and self._adopt(known, [origin.bytes for origin in manifest.origins]), segment
        if self._base is None:
            return
        for number, row in enumerate(self._base.root.segments):
            if order_key(row.last) <= covered:
                continue
            self._beat()
            yield self._adopt(row, self._base.root.origins), self._base.segment(number)

    def _adopt(self, row: SegmentRow, origins: list[bytes]) -> SegmentRow:
        """The parent's row with its origin numbered as in this file's root."""
        origin = self._number_of(UUID(bytes=origins[row.origin]))
        return SegmentRow(origin, row.number, row.tag, row.entries, row.first, row.last)

    def _number_of(self, origin: UUID) -> int:
        return self._origin_number.setdefault(origin, len(self._origin_number))

    def _close_file(self) -> tuple[bytes, int]:
        self._stage = "seal"
        self._beat()
        writer, order, parent = self._writer, self._order, self._parent
        rows = self._builder.finish(writer.tag)
        runs = self._write_runs()
        root = Root(self._facts(), [origin.bytes for origin in self._origin_number], rows, runs)
        keyring_number = NO_ITEM
        if self._keyring is not None:
            keyring_number = writer.add_metadata(ItemKind.KEYRING, pack_keyring(self._keyring))
        root_number = writer.add_metadata(ItemKind.ROOT, pack_root(root))
        return writer.finish(
            SealParts(
                sequence=order.sequence,
                parent_id=parent.head.file_id if parent else NO_PARENT,
                parent_seal_hash=parent.seal_hash if parent else NO_HASH,
                chain_key=self._chain_key,
                signer=order.signer,
                keyring=keyring_number,
                root=root_number,
            )
        )

    def _write_runs(self) -> list[RunRow]:
        """The parent's runs and what is new; the youngest are merged where there are too many, or they are small."""
        known = [self._adopt_run(run) for run in self._base.root.runs] if self._base else []
        fresh = self._identities.fresh()
        if fresh is None:
            return known
        loaded = list(self._identities.loaded())  # also where all that is new was adopted, and nothing was looked up
        known = known[self._runs_loaded_from :] if self._base else known
        while loaded and (len(loaded[-1]) <= 2 * len(fresh) or len(loaded) >= MAX_IDENTITY_RUNS):
            if len(loaded[-1]) + len(fresh) > MAX_IDENTITIES and len(loaded) < MAX_IDENTITY_RUNS:
                break
            fresh = merge([loaded.pop(), fresh])
            known.pop()
        return [*known, self._write_run(fresh)]

    def _adopt_run(self, run: RunRow) -> RunRow:
        origins = self._base.root.origins if self._base else []
        parts = [(self._number_of(UUID(bytes=origins[origin])), number, tag) for origin, number, tag in run.parts]
        return RunRow(run.entries, parts)

    def _write_run(self, run: Run) -> RunRow:
        writer, origins = self._writer, list(self._origin_number)
        numbers = [writer.add_metadata(ItemKind.IDENTITIES, raw) for _, raw in pack_parts(run, origins)]
        return RunRow(len(run), [(0, number, writer.tag(number)) for number in numbers])

    def _facts(self) -> Facts:
        order, counts = self._order, self._storer.counts
        return Facts(
            kind=order.kind.value,
            reason=order.reason,
            job_name=order.job_name,
            level=order.level.value,
            started_at_ns=order.started_at_ns,
            finished_at_ns=order.clock(),
            sources=self._settings.sources,
            include=list(order.include),
            exclude=list(order.exclude),
            files=counts.files,
            directories=counts.directories,
            others=counts.others,
            source_bytes=counts.source_bytes,
            read_bytes=self._content.bytes_read,
            new_files=counts.new_files,
            changed_files=counts.changed_files,
            unchanged_files=counts.unchanged_files,
            warnings=self._observer.warnings,
            options=self._settings.options,
        )

    def _beat(self) -> None:
        self._pulse.beat(self._progress)

    def _progress(self) -> Progress:
        storer, writer, counts = self._storer, self._writer, self._storer.counts
        base = self._base.summary if self._base else None
        return Progress(
            stage=self._stage,
            files_done=counts.files,
            files_total=base.files if base else None,
            bytes_processed=counts.source_bytes,
            bytes_total=base.source_bytes if base else None,
            bytes_read=self._content.bytes_read,
            bytes_written=writer.position,
            current_path=storer.current_path,
            busy=Busy(storer.source_seconds, writer.proxy_seconds, writer.repository_seconds),
        )

    def _written(self, seal_hash: bytes, length: int) -> Written:
        counts, head = self._storer.counts, self._head
        return Written(
            file_id=head.file_id,
            sequence=head.sequence,
            kind=self._order.kind,
            path=self._writer.final,
            length=length,
            seal_hash=seal_hash,
            head_generation=head.generation,
            file_key=self._file_key,
            files=counts.files,
            directories=counts.directories,
            others=counts.others,
            source_bytes=counts.source_bytes,
            read_bytes=self._content.bytes_read,
            written_bytes=length,
            new_files=counts.new_files,
            changed_files=counts.changed_files,
            unchanged_files=counts.unchanged_files,
            warnings=self._observer.warnings,
            resumed=self._unfinished is not None,
        )
