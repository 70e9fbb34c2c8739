"""Sealed points that no walk would write, made by somebody who has the key, with the engine's own parts."""

import stat
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

from keys import crypto
from keys.crypto_slots import Slot
from repositories.engine import segment_codec
from repositories.engine.chain_keys import new_slots
from repositories.engine.head import Head
from repositories.engine.keyring import Keyring, pack_keyring
from repositories.engine.layout import NO_ITEM, VERSION, ItemKind
from repositories.engine.manifest import Facts, Root, SegmentRow, pack_root
from repositories.engine.reader import FileKey, Point, open_point
from repositories.engine.seal import NO_HASH, NO_PARENT, plain_chain_key
from repositories.engine.walk import Stat
from repositories.engine.writer import FileWriter, SealParts
from tests.engine.lab import NO_RESERVE, recipient
from tests.engine.rows import Rows, from_rows

OLD_NS = 1_234_567_890_123_456_789


@dataclass
class Forged:
    """An entry as it is to stand in the manifest. `chunks` says where its content lies; None stores `content`."""

    folder: bytes
    name: bytes
    content: bytes = b""
    kind: int = stat.S_IFREG
    permissions: int = 0o644
    target: bytes = b""
    device_number: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    flags: int = 0
    inode: int = 7
    device: int = 1
    uid: int = 0
    gid: int = 0
    mtime_ns: int = OLD_NS
    ctime_ns: int = OLD_NS
    chunks: tuple[tuple[int, int, int, int], ...] | None = None

    @property
    def path(self) -> bytes:
        return self.folder + self.name

    def stat(self) -> Stat:
        return SimpleNamespace(  # type: ignore[return-value]
            st_mode=self.kind | self.permissions, st_ino=self.inode, st_dev=self.device, st_uid=self.uid,
            st_gid=self.gid, st_mtime_ns=self.mtime_ns, st_ctime_ns=self.ctime_ns, st_rdev=self.device_number,
        )  # fmt: skip


@dataclass
class Forger:
    """Writes one file: a list of segments, each a list of entries. `rows` may lie about them, `facts` about all."""

    root: Path
    encrypted: bool = True
    origins: list[UUID] = field(default_factory=lambda: [uuid4()])
    facts: dict[str, object] = field(default_factory=dict)

    def write(self, parts: list[list[Forged]], rows: list[tuple[bytes, bytes]] | None = None) -> Point:
        chain_id, file_id = uuid4(), self.origins[0]
        key = crypto.random_key() if self.encrypted else None
        head = Head(VERSION, self.encrypted, chain_id, file_id, 1, 1, self._slots(key, chain_id))
        writer = FileWriter(self.root / str(chain_id), head, key, None, NO_RESERVE, 1)
        packed = [self._segment(writer, entries) for entries in parts]
        numbers = [writer.add_metadata(ItemKind.SEGMENT, raw) for raw in packed]
        bounds = rows or [(entries[0].path, entries[-1].path) for entries in parts]
        segment_rows = [
            SegmentRow(0, number, writer.tag(number), len(entries), *bound)
            for number, entries, bound in zip(numbers, parts, bounds, strict=True)
        ]
        chain_key = crypto.random_key() if self.encrypted else plain_chain_key(chain_id)
        keyring = writer.add_metadata(ItemKind.KEYRING, pack_keyring(Keyring(chain_key, {}))) if key else NO_ITEM
        number = writer.add_metadata(
            ItemKind.ROOT, pack_root(Root(self._facts(parts), [file_id.bytes], segment_rows, []))
        )
        writer.finish(SealParts(1, NO_PARENT, NO_HASH, chain_key, None, keyring, number))
        writer.publish()
        writer.close()
        return open_point(writer.final, FileKey(key) if key else None)

    def _slots(self, key: bytes | None, chain_id: UUID) -> tuple[Slot, ...]:
        return new_slots([recipient()] if key else [], key, chain_id=chain_id, file_id=self.origins[0])

    def _segment(self, writer: FileWriter, entries: list[Forged]) -> bytes:
        rows = Rows()
        for row, entry in enumerate(entries):
            rows.folders.append(entry.folder)
            rows.names.append(entry.name)
            rows.stats.append(entry.stat())
            rows.flags.append(entry.flags)
            chunks = entry.chunks if entry.chunks is not None else self._store(writer, entry.content)
            rows.sizes.append(sum(chunk[3] for chunk in chunks))
            rows.chunk_counts.append(len(chunks))
            for chunk in chunks:
                rows.chunks.extend(chunk)
            if entry.target:
                rows.targets[row] = entry.target
            if entry.xattrs:
                rows.xattrs[row] = entry.xattrs
        return segment_codec.pack(from_rows(rows, self.origins))

    def _store(self, writer: FileWriter, content: bytes) -> tuple[tuple[int, int, int, int], ...]:
        if not content:
            return ()
        number = writer.reserve_block()
        writer.add_block(number, memoryview(content), lambda: None)
        return ((0, number, 0, len(content)),)

    def _facts(self, parts: list[list[Forged]]) -> Facts:
        known: dict[str, object] = {
            "kind": "full", "reason": "first-session", "job_name": "", "level": "none", "started_at_ns": 1,
            "finished_at_ns": 2, "sources": [b"/"], "include": [], "exclude": [],
            "files": sum(map(len, parts)), "directories": 0, "others": 0, "source_bytes": 0, "read_bytes": 0,
            "new_files": 0, "changed_files": 0, "unchanged_files": 0, "warnings": 0,
        }  # fmt: skip
        return Facts(**{**known, **self.facts})  # type: ignore[arg-type]
