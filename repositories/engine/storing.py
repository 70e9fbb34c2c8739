"""What the comparison says becomes rows and blocks: files are read in batches, and the order of entries is kept.

A batch ends at 4 MiB of content, 1,000 entries or 8 segments; only then its rows go to the manifest. Counting and
warning happen here; what a chunk is, and whether it is stored already, is left to content.py.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from repositories.engine.compare import Keep, Store
from repositories.engine.content import ContentReader, Packer
from repositories.engine.errors import text
from repositories.engine.layout import BLOCK_TARGET_BYTES
from repositories.engine.manifest import ManifestBuilder
from repositories.engine.observer import Observer
from repositories.engine.segments import ANCESTOR, HARD_LINKED, RACY, TORN, Rows, Xattrs
from repositories.engine.walk import Found, Stat

RACY_NS = 2_000_000_000
_BATCH_ENTRIES = 1_000
_BATCH_SEGMENTS = 8
_NO_XATTRS = frozenset((errno.ENOTSUP, errno.EPERM, errno.EACCES))
_GONE = (FileNotFoundError, NotADirectoryError)


@dataclass(slots=True)
class Counts:
    files: int = 0
    directories: int = 0
    others: int = 0
    source_bytes: int = 0
    new_files: int = 0
    changed_files: int = 0
    unchanged_files: int = 0


class _Row(NamedTuple):
    folder: bytes
    name: bytes
    stat: Stat
    size: int
    flags: int
    data: bytes | None
    chunks: array[int] | None
    target: bytes
    xattrs: Xattrs


class Storer:
    """Takes the events of compare() in order; flush() at the end. `clock` is the time of day in ns."""

    def __init__(
        self,
        builder: ManifestBuilder,
        reader: ContentReader,
        packer: Packer,
        observer: Observer,
        clock: Callable[[], int],
    ) -> None:
        self.counts = Counts()
        self.current_path = b""
        self.source_seconds = 0.0
        self._builder, self._reader, self._packer = builder, reader, packer
        self._observer, self._clock = observer, clock
        self._batch: list[_Row | Keep] = []
        self._batch_bytes = self._batch_segments = 0
        self._now = clock()
        self._without_xattrs: set[int] = set()
        self._linked: dict[tuple[int, int], tuple[Stat, array[int]]] = {}

    def take(self, event: Keep | Store) -> None:
        if isinstance(event, Store):
            self._store(event)
        elif self._batch:
            self._batch.append(event)
            self._batch_segments += event.end == len(event.segment)
            if self._batch_segments >= _BATCH_SEGMENTS:
                self.flush()
        else:
            self._keep(event)

    def flush(self) -> None:
        """Place the content of the batch, then give its rows to the manifest."""
        if self._batch:
            batch, self._batch, self._batch_bytes, self._batch_segments = self._batch, [], 0, 0
            contents = [event.data for event in batch if isinstance(event, _Row) and event.data]
            addresses = iter(self._packer.place_all(contents))
            for event in batch:
                if isinstance(event, Keep):
                    self._keep(event)
                else:
                    self._add_row(event, next(addresses) if event.data else None)
        self._now = self._clock()

    def _keep(self, event: Keep) -> None:
        segment, start, end, shared = event
        formats = segment.mode[start:end] & np.uint32(0o170000)
        files = int(np.count_nonzero(formats == stat.S_IFREG))
        folders = int(np.count_nonzero(formats == stat.S_IFDIR))
        counts = self.counts
        counts.files += files
        counts.unchanged_files += files
        counts.directories += folders
        counts.others += end - start - files - folders
        counts.source_bytes += int(segment.size[start:end].sum(dtype=np.uint64))
        self.current_path = segment.path(end - 1)
        self._builder.keep(segment, start, end, shared)

    def _store(self, event: Store) -> None:
        found = event.found
        mode = found.stat.st_mode
        try:
            row = self._file(found) if stat.S_ISREG(mode) else self._other(found)
        except OSError as error:
            self._warn_lost(found, error)
            return
        if row is None:
            self._warn(found, "vanished", "turned into something else before it was read")
            return
        self._count(row, event.is_new)
        self._batch.append(row)
        if self._batch_bytes >= BLOCK_TARGET_BYTES or len(self._batch) >= _BATCH_ENTRIES:
            self.current_path = found.folder + found.name
            self.flush()

    def _file(self, found: Found) -> _Row | None:
        """Raises OSError."""
        path = b"/" + found.folder + found.name
        stat_ = found.stat
        size, flags, data, chunks = stat_.st_size, 0, None, None
        if size:
            known = self._linked.get((stat_.st_dev, stat_.st_ino)) if stat_.st_nlink > 1 else None
            if known is not None and known[0] == stat_:
                chunks = known[1]
            else:
                if size >= BLOCK_TARGET_BYTES:
                    self.current_path = found.folder + found.name  # of a small one the end of its batch tells
                start = time.perf_counter()
                read = self._reader.read(path, stat_)
                self.source_seconds += time.perf_counter() - start
                if read is None:
                    return None
                stat_, size, data, chunks = read.stat, read.size, read.data, read.chunks
                if read.torn:
                    flags = TORN | RACY
                    self._warn(found, "changed", "changed while it was read; the next session reads it again")
        if stat_.st_nlink > 1:
            flags |= HARD_LINKED
            if chunks is not None:
                self._linked[stat_.st_dev, stat_.st_ino] = (stat_, chunks)
        if max(stat_.st_mtime_ns, stat_.st_ctime_ns) > self._now - RACY_NS:
            flags |= RACY
        self._batch_bytes += len(data) if data else 0
        return _Row(found.folder, found.name, stat_, size, flags, data, chunks, b"", self._xattrs(path, stat_))

    def _other(self, found: Found) -> _Row:
        """Raises OSError."""
        path = b"/" + found.folder + found.name
        stat_ = found.stat
        if found.ancestor:
            return _Row(found.folder, found.name, stat_, 0, ANCESTOR, None, None, b"", ())
        flags, target = 0, b""
        if not stat.S_ISDIR(stat_.st_mode) and max(stat_.st_mtime_ns, stat_.st_ctime_ns) > self._now - RACY_NS:
            flags = RACY
        if stat.S_ISLNK(stat_.st_mode):
            target = os.readlink(path)
        return _Row(found.folder, found.name, stat_, 0, flags, None, None, target, self._xattrs(path, stat_))

    def _xattrs(self, path: bytes, stat_: Stat) -> Xattrs:
        if stat_.st_dev in self._without_xattrs:
            return ()
        try:
            names = os.listxattr(path, follow_symlinks=False)
            if not names:
                return ()
            return tuple((os.fsencode(name), os.getxattr(path, name, follow_symlinks=False)) for name in sorted(names))
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                self._without_xattrs.add(stat_.st_dev)
            elif error.errno not in _NO_XATTRS and not isinstance(error, _GONE):
                self._observer.warn("xattrs-unreadable", path[1:], f"The attributes of {text(path)} cannot be read.")
        return ()

    def _add_row(self, row: _Row, address: tuple[int, int, int, int] | None) -> None:
        rows: Rows = self._builder.current_rows()
        if row.target:
            rows.targets[len(rows.names)] = row.target
        if row.xattrs:
            rows.xattrs[len(rows.names)] = row.xattrs
        rows.folders.append(row.folder)
        rows.names.append(row.name)
        rows.stats.append(row.stat)
        rows.sizes.append(row.size)
        rows.flags.append(row.flags)
        count = 0
        if address is not None:
            rows.chunks.extend(address)
            count = 1
        elif row.chunks is not None:
            rows.chunks.extend(row.chunks)
            count = len(row.chunks) // 4
        rows.chunk_counts.append(count)
        self._builder.added(row.folder + row.name, count)

    def _count(self, row: _Row, is_new: bool) -> None:
        counts = self.counts
        counts.source_bytes += row.size
        if stat.S_ISREG(row.stat.st_mode):
            counts.files += 1
            if is_new:
                counts.new_files += 1
            else:
                counts.changed_files += 1
        elif stat.S_ISDIR(row.stat.st_mode):
            counts.directories += 1
        else:
            counts.others += 1

    def _warn_lost(self, found: Found, error: OSError) -> None:
        if isinstance(error, _GONE):
            self._warn(found, "vanished", "vanished before it was read")
        else:
            self._warn(found, "unreadable", f"cannot be read: {error.strerror or type(error).__name__}")

    def _warn(self, found: Found, code: str, what: str) -> None:
        path = found.folder + found.name
        self._observer.warn(code, path, f"/{text(path)} {what}.")
