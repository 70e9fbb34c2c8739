"""Every parser of the engine under one name, valid bytes for each, and the errors that it may raise.

What is done to the bytes is left to test_hostile_parsers.py. Run as a program this parses what stdin brings, with
little memory, and says what became of it.
"""

import base64
import functools
import hashlib
import json
import os
import resource
import stat
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import msgspec
import numpy as np

from keys.crypto_errors import BadSlot
from keys.crypto_password import KdfParameters
from keys.crypto_recipients import PasswordRecipient
from keys.crypto_slots import read_slots, wrap
from repositories.engine import identities, manifest, segment_codec, segments
from repositories.engine.checkpoint import Begun, Checkpoint, Settings, parse_checkpoint
from repositories.engine.errors import EngineError
from repositories.engine.head import MIN_COPY_BYTES, Head, pack_head, padding_is_zero, read_heads
from repositories.engine.index import ItemIndex, ItemTable, Origin, pack_index, parse_index
from repositories.engine.keyring import Keyring, pack_keyring, parse_keyring
from repositories.engine.layout import (
    BODY_OFFSET,
    EPOCH_RANDOM_BYTES,
    HEAD_B_OFFSET,
    VERSION,
    Epoch,
    ItemKind,
    Malformed,
    Trailer,
    pack_record_header,
    pack_trailer,
    parse_record_header,
    parse_trailer,
)
from repositories.engine.manifest import Facts, Root, RunRow, SegmentRow, folder_segments, pack_root, parse_root
from repositories.engine.records import whole_records
from repositories.engine.seal import NO_HASH, NO_PARENT, Statement, pack_seal, parse_seal
from repositories.engine.sealing import METADATA_LEVEL, pack_payload, unpack_payload
from repositories.engine.unfinished import Manifest, _follow
from repositories.engine.walk import Stat
from tests.engine.rows import Rows, from_rows

CHAIN, FILE, OTHER = (UUID(int=number << 64 | 7) for number in (1, 2, 3))
KEY = bytes(range(32))
BODY_END = 10_000_000
FILE_LENGTH = 20_000_000
MORE_BYTES = 192 << 20  # for the largest honest thing beside the interpreter itself


@contextmanager
def in_memory(*parts: tuple[int, bytes]) -> Iterator[int]:
    """A file with these bytes at these offsets."""
    fd = os.memfd_create("hostile", os.MFD_CLOEXEC)
    try:
        for offset, raw in parts:
            os.pwrite(fd, raw, offset)
        yield fd
    finally:
        os.close(fd)


def with_checksum(raw: bytes) -> bytes:
    """What anybody can do: a head's length and SHA-256 that hold, whatever is between."""
    if len(raw) < MIN_COPY_BYTES:
        return raw
    body = raw[:12] + struct.pack("<I", len(raw)) + raw[16:-32]
    return body + hashlib.sha256(body).digest()


def use_head(raw: bytes) -> None:
    with in_memory((0, raw), (HEAD_B_OFFSET, with_checksum(raw)), (BODY_OFFSET, b"x")) as fd:
        read_heads(fd, Path("hostile"))
        padding_is_zero(fd)


def use_slots(raw: bytes) -> None:
    for count in (1, 2, 64):
        read_slots(raw, count)


def use_records(raw: bytes) -> None:
    with in_memory((BODY_OFFSET, raw)) as fd:
        list(whole_records(fd))
    parse_record_header(raw[:16])


def use_index(raw: bytes) -> None:
    index = parse_index(raw, FILE, BODY_END)
    index.records()
    for origin, table in index.parts():
        for number in (0, 1, 2**32 - 1):
            table.place(number)
            if len(table) and number >= origin.epochs[0].first_item:
                origin.epoch_of(number)


def use_root(raw: bytes) -> None:
    root = parse_root(raw)
    for path in (b"", b"a", b"a/b"):
        list(folder_segments(root, path))
        manifest.segment_at(root, path)


def use_segment(raw: bytes) -> None:
    segment = segment_codec.parse(raw)
    for entry in segment.entries():
        assert entry.type is not None
        assert sum(chunk.length for chunk in entry.chunks) == entry.size
    if len(segment):
        again = segment_codec.parse(segment_codec.pack(segments.concat([(segment, 0, len(segment))])))
        assert again.paths() == segment.paths()


def use_checkpoint(raw: bytes) -> None:
    checkpoint = parse_checkpoint(raw)
    known = _follow(Manifest(), checkpoint)
    with suppress(Malformed):  # what an honest one would not say twice
        _follow(known, checkpoint)


PARSERS: dict[str, Callable[[bytes], object]] = {
    "head": use_head,
    "slots": use_slots,
    "trailer": lambda raw: parse_trailer(raw, FILE_LENGTH),
    "trailer checked": lambda raw: parse_trailer(raw[:72] + hashlib.sha256(raw[:72]).digest()[:24], FILE_LENGTH),
    "records": use_records,
    "seal": parse_seal,
    "index": use_index,
    "keyring": parse_keyring,
    "root": use_root,
    "segment": use_segment,
    "identities": lambda raw: identities.parse_part(raw, {}),
    "checkpoint": use_checkpoint,
    "payload": lambda raw: unpack_payload(ItemKind.BLOCK, raw),
}
MESSAGES = ("keyring", "root", "checkpoint")
ALLOWED = (Malformed, EngineError, BadSlot)


@functools.cache
def valid(name: str) -> bytes:
    """Bytes that the parser takes."""
    raw = _VALID[name]()
    PARSERS[name](raw)
    return raw


def _slots() -> bytes:
    recipient = PasswordRecipient(OTHER, 1, bytes(16), KdfParameters(8192, 1, 1), KEY, "a hint")
    return b"".join(wrap(recipient, KEY, chain_id=CHAIN, file_id=FILE) for _ in range(64))


def _head() -> bytes:
    slots = tuple(read_slots(_slots(), 2)[0])
    return pack_head(Head(VERSION, True, CHAIN, FILE, 3, 1, slots, (OTHER,)), KEY)


def _trailer() -> bytes:
    return pack_trailer(Trailer(Epoch(0, 0, KEY), BODY_OFFSET + 500, 9, 444, FILE_LENGTH))


def _records() -> bytes:
    epoch = pack_record_header(ItemKind.EPOCH, 0, 0, EPOCH_RANDOM_BYTES) + KEY
    return epoch + b"".join(pack_record_header(ItemKind.BLOCK, 0, number, 40) + bytes(40) for number in range(3))


def _seal() -> bytes:
    statement = Statement(CHAIN, FILE, 3, True, NO_PARENT, NO_HASH, 1, 2, 3, BODY_OFFSET, 100, KEY, KEY, KEY)
    return pack_seal(statement, KEY, None)[0]


def table(*items: tuple[int, int, int, int]) -> ItemTable:
    """Of (number, kind, offset, length)."""
    numbers, kinds, offsets, lengths = zip(*items, strict=True) if items else ((), (), (), ())
    return ItemTable(
        np.array(numbers, np.uint32),
        np.array(kinds, np.uint32),
        np.array(offsets, np.uint64),
        np.array(lengths, np.uint32),
    )


def _index() -> bytes:
    own = table(*((number, ItemKind.BLOCK, BODY_OFFSET + 100 * number, 50) for number in range(5)))
    copied = table((1, ItemKind.SEGMENT, BODY_OFFSET + 700, 90), (7, ItemKind.BLOCK, BODY_OFFSET + 900, 90))
    epochs = (Epoch(0, 0, KEY), Epoch(1, 3, KEY[::-1]))
    return pack_index(ItemIndex(Origin(FILE, epochs), own, ((Origin(OTHER, epochs[:1], KEY, KEY), copied),)))


def facts(**changed: object) -> Facts:
    known: dict[str, object] = {
        "kind": "full", "reason": "first-session", "job_name": "a job", "level": "fast", "started_at_ns": 1,
        "finished_at_ns": 2, "sources": [b"/a"], "include": [], "exclude": ["*.tmp"], "files": 2, "directories": 1,
        "others": 1, "source_bytes": 10, "read_bytes": 10, "new_files": 2, "changed_files": 0, "unchanged_files": 0,
        "warnings": 0,
    }  # fmt: skip
    return Facts(**{**known, **changed})  # type: ignore[arg-type]


def _root() -> bytes:
    rows = [SegmentRow(0, 1, KEY[:16], 3, b"a", b"a/b"), SegmentRow(1, 4, KEY[:16], 9, b"a/c", b"z")]
    return pack_root(Root(facts(), [FILE.bytes, OTHER.bytes], rows, [RunRow(70_000, [(0, 2, KEY[:16])])]))


def a_segment() -> segments.Segment:
    """A folder, two files with chunks and a hole, a link, a device."""
    rows = Rows(
        folders=[b"", b"a/", b"a/", b"a/", b""],
        names=[b"a", b"b", b"c", b"d", b"z"],
        stats=[_stat(stat.S_IFDIR), _stat(), _stat(), _stat(stat.S_IFLNK), _stat(stat.S_IFCHR, 0x103)],
        sizes=[0, 9, 70_000, 0, 0],
        flags=[0, 0, segments.HARD_LINKED, 0, 0],
        chunk_counts=[0, 1, 2, 0, 0],
        targets={3: b"b"},
        xattrs={1: ((b"user.a", b"value"),)},
    )
    rows.chunks.extend((0, 5, 0, 9, 0, 5, 9, 4_464, segments.HOLE, 0, 0, 65_536))
    return from_rows(rows, [FILE])


def _stat(kind: int = stat.S_IFREG, device_number: int = 0) -> Stat:
    return SimpleNamespace(  # type: ignore[return-value]
        st_mode=kind | 0o644, st_ino=11, st_dev=3, st_uid=0, st_gid=0, st_mtime_ns=7, st_ctime_ns=8,
        st_rdev=device_number,
    )  # fmt: skip


def _identities() -> bytes:
    names = b"".join(bytes([number]) * 24 for number in (3, 1, 2))
    run = identities.make_run(names, np.arange(12, dtype=np.uint32) % 2)
    return next(raw for _, raw in identities.pack_parts(run, [FILE, OTHER]))


def a_checkpoint() -> Checkpoint:
    return Checkpoint(
        Settings("full", "fast", [b"/a"], [], [], bytes(16), bytes(32)),
        KEY,
        5,
        [FILE.bytes, OTHER.bytes],
        [SegmentRow(0, 1, KEY[:16], 3, b"a", b"a/b")],
        segment_codec.pack(a_segment()),
        [(0, 3), (1, 5)],
        [4, 5],
        [Begun(b"z/large", (1, 2, 3, 4, 5), 0, struct.pack("<8I", 0, 1, 2, 3, 0xFFFFFFFF, 0, 0, 9))],
    )


_VALID: dict[str, Callable[[], bytes]] = {
    "head": _head,
    "slots": _slots,
    "trailer": _trailer,
    "trailer checked": _trailer,
    "records": _records,
    "seal": _seal,
    "index": _index,
    "keyring": lambda: pack_keyring(Keyring(KEY, {FILE: KEY, OTHER: KEY})),
    "root": _root,
    "segment": lambda: segment_codec.pack(a_segment()),
    "identities": _identities,
    "checkpoint": lambda: msgspec.msgpack.encode(a_checkpoint()),
    "payload": lambda: pack_payload(b"some content " * 100, METADATA_LEVEL),
}


def outcome(name: str, raw: bytes) -> str:
    """Empty if the parser took it, or the name of the error that it may raise. Everything else is raised."""
    try:
        PARSERS[name](raw)
    except ALLOWED as error:
        assert str(error)
        return type(error).__name__
    return ""


def main() -> None:
    """Each line of stdin is [parser, raw as base64 of zlib]; each line of stdout [what became of it, CPU seconds]."""
    for name in PARSERS:
        valid(name)
    now_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now_bytes + MORE_BYTES,) * 2)
    for line in sys.stdin:
        name, packed = json.loads(line)
        raw = zlib.decompress(base64.b64decode(packed))
        began = time.process_time()
        try:
            became = outcome(name, raw)
        except Exception as error:  # the test says which of them it was
            became = f"{type(error).__name__}!"
        print(json.dumps([became, time.process_time() - began]), flush=True)


if __name__ == "__main__":
    main()
