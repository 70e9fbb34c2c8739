"""What a stranger, or somebody with the key, may write into a file: every parser answers with a named error, in bounded
memory and time.

The parsers and valid bytes for each are in hostile_bytes.py. Values are changed where they mean something (lengths,
counts, numbers, the structure of messages, the columns of segments and indexes), and bytes anywhere.
"""

import base64
import dataclasses
import hashlib
import json
import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repositories.engine import segment_codec, segments
from repositories.engine.index import Epoch, ItemIndex, Origin, pack_index
from repositories.engine.layout import BODY_OFFSET, MAX_RAW_BYTES, ItemKind, Malformed
from repositories.engine.sealing import MAX_WINDOW_LOG, ZSTD_LEVELS, pack_payload, unpack_payload
from tests.engine.hostile_bytes import (
    FILE,
    KEY,
    MESSAGES,
    OTHER,
    PARSERS,
    a_segment,
    outcome,
    table,
    valid,
    with_checksum,
)

PROJECT = Path(__file__).resolve().parents[2]
EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture)
SHORT = settings(max_examples=120, deadline=None, derandomize=True, database=None, suppress_health_check=QUIET)
LONG = settings(max_examples=5_000, deadline=None, database=None, print_blob=True, suppress_health_check=QUIET)

integers = st.sampled_from(EXTREMES) | st.integers(0, 2**64 - 1)


@st.composite
def changed_bytes(draw: st.DrawFn, raw: bytes) -> bytes:
    """The bytes with a few changes: bits, numbers of each width, pieces cut out, doubled, or put in."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(raw)))
        match draw(st.sampled_from(("bit", "number", "number", "cut", "double", "insert", "end"))):
            case "bit" if raw and at < len(raw):
                raw = raw[:at] + bytes([raw[at] ^ 1 << draw(st.integers(0, 7))]) + raw[at + 1 :]
            case "number":
                width = draw(st.sampled_from((1, 2, 4, 8)))
                number = draw(integers) % (1 << 8 * width)
                raw = raw[:at] + number.to_bytes(width, "little") + raw[at + width :]
            case "cut":
                raw = raw[:at] + raw[at + draw(st.integers(1, 64)) :]
            case "double":
                raw = raw[: at + draw(st.integers(1, 64))] + raw[at:]
            case "insert":
                raw = raw[:at] + draw(st.binary(max_size=16)) + raw[at:]
            case "end":
                raw = raw[:at]
    return raw


def parsing(name: str) -> Callable[[bytes], None]:
    def parse(raw: bytes) -> None:
        outcome(name, raw)

    return parse


@pytest.mark.parametrize("name", PARSERS)
def test_changed_bytes_give_named_errors(name: str) -> None:
    SHORT(given(changed_bytes(valid(name)))(parsing(name)))()


@pytest.mark.soak
@pytest.mark.parametrize("name", PARSERS)
def test_changed_bytes_give_named_errors_long(name: str) -> None:
    LONG(given(changed_bytes(valid(name)) | st.binary(max_size=600))(parsing(name)))()


def parts_of(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """The paths to everything in a message, itself included."""
    found = [path]
    if isinstance(value, list):
        found += [inner for at, part in enumerate(value) for inner in parts_of(part, (*path, at))]
    if isinstance(value, dict):
        found += [inner for key, part in value.items() for inner in parts_of(part, (*path, key))]
    return found


def put(value: object, path: tuple[object, ...], new: object) -> object:
    if not path:
        return new
    if isinstance(value, list):
        return [put(part, path[1:], new) if at == path[0] else part for at, part in enumerate(value)]
    assert isinstance(value, dict)
    return {key: put(part, path[1:], new) if key == path[0] else part for key, part in value.items()}


values = st.recursive(
    st.integers(-(2**63), 2**64 - 1)
    | st.sampled_from(EXTREMES)
    | st.binary(max_size=40)
    | st.text(max_size=5)
    | st.none()
    | st.booleans()
    | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 5) | st.binary(max_size=3), inner),
    max_leaves=6,
)


@st.composite
def changed_message(draw: st.DrawFn, raw: bytes) -> bytes:
    """A MessagePack value with another part, one more, or one less somewhere inside."""
    message = msgspec.msgpack.decode(raw)
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(parts_of(message)))
        part = message
        for step in path:
            part = part[step]
        if isinstance(part, list) and draw(st.booleans()):
            at = draw(st.integers(0, len(part)))
            new: object = [*part[:at], draw(st.sampled_from(part) | values if part else values), *part[at:]]
            new = draw(st.sampled_from((new, part[:-1], part[::-1])))
        else:
            new = draw(values)
        message = put(message, path, new)
    return msgspec.msgpack.encode(message)


@pytest.mark.parametrize("name", MESSAGES)
def test_changed_messages_give_named_errors(name: str) -> None:
    SHORT(given(changed_message(valid(name)))(parsing(name)))()


@pytest.mark.soak
@pytest.mark.parametrize("name", MESSAGES)
def test_changed_messages_give_named_errors_long(name: str) -> None:
    LONG(given(changed_message(valid(name)))(parsing(name)))()


names = st.binary(max_size=4) | st.sampled_from((b"a", b"b", b"c", b"..", b".", b"a/b", b"\xff", b""))
folders = st.sampled_from((b"", b"a/", b"a/b/", b"/", b"../", b"a//", b"a", b"a/../", b"/etc/", b"a\0/"))


@st.composite
def segment_of_anything(draw: st.DrawFn) -> bytes:
    """A segment in the right form, whose columns and extras hold what nobody would write."""
    known = a_segment()
    changes: dict[str, object] = {}
    for column in draw(st.sets(st.sampled_from([field.name for field in dataclasses.fields(known)]), max_size=3)):
        old = getattr(known, column)
        if column == "chunks":
            rows = draw(st.lists(st.tuples(*(st.sampled_from(EXTREMES[:11]),) * 4), max_size=6))
            changes[column] = np.array(rows, np.uint32).reshape(-1, 4)
        elif isinstance(old, np.ndarray):
            limit = int(np.iinfo(old.dtype).max)
            numbers = [draw(integers) & limit for _ in old]
            changes[column] = np.array(numbers, old.dtype)
        elif column == "names":
            changes[column] = [draw(names) for _ in old]
        elif column == "folders":
            changes[column] = [draw(folders) for _ in old]
        elif column in ("targets", "rdevs", "xattrs"):
            inner = {"targets": st.binary(max_size=4), "rdevs": integers, "xattrs": pairs_of_anything}[column]
            changes[column] = draw(st.dictionaries(st.integers(-2, 7), inner, max_size=2))
    return segment_codec.pack(dataclasses.replace(known, **changes))


pairs_of_anything = st.lists(st.tuples(st.binary(max_size=3), st.binary(max_size=3)), max_size=2).map(tuple)


@SHORT
@given(segment_of_anything())
def test_segments_of_anything_give_named_errors(raw: bytes) -> None:
    outcome("segment", raw)


@pytest.mark.soak
@LONG
@given(segment_of_anything())
def test_segments_of_anything_give_named_errors_long(raw: bytes) -> None:
    outcome("segment", raw)


@st.composite
def index_of_anything(draw: st.DrawFn) -> bytes:
    item = st.tuples(
        st.integers(0, 9) | st.just(2**32 - 1),
        st.integers(0, 11),
        st.integers(BODY_OFFSET - 1, BODY_OFFSET + 2_000) | integers,
        st.integers(0, 600) | st.sampled_from((2**31, 2**32 - 1)),
    )
    epochs = st.lists(
        st.builds(Epoch, st.integers(0, 3), st.integers(0, 5) | st.just(2**32 - 1), st.just(KEY)), max_size=3
    )
    parts = [
        (Origin(file_id, tuple(draw(epochs)), key, seal_hash), table(*draw(st.lists(item, max_size=4))))
        for file_id, key, seal_hash in ((FILE, None, b""), (draw(st.sampled_from((OTHER, FILE))), KEY, KEY))
    ]
    return pack_index(ItemIndex(*parts[0], tuple(parts[1:])))


@SHORT
@given(index_of_anything())
def test_indexes_of_anything_give_named_errors(raw: bytes) -> None:
    outcome("index", raw)


@pytest.mark.soak
@LONG
@given(index_of_anything())
def test_indexes_of_anything_give_named_errors_long(raw: bytes) -> None:
    outcome("index", raw)


def entries_in(change) -> bytes:
    segment = a_segment()
    change(segment)
    return segment_codec.pack(segment)


def named(*new: bytes):
    def change(segment: segments.Segment) -> None:
        segment.names = list(new)

    return change


@pytest.mark.parametrize(
    "name_list",
    [
        (b"a", b"b", b"b", b"d", b"z"),
        (b"a", b"c", b"b", b"d", b"z"),
        (b"b", b"b", b"c", b"d", b"z"),
        (b"a", b"b", b"c", b"..", b"z"),
        (b"a", b"b", b"c", b".", b"z"),
        (b"a", b"b", b"c", b"", b"z"),
        (b"a", b"b", b"c", b"d/e", b"z"),
        (b"a", b"b", b"c", b"d", b"a"),
    ],
    ids=["twice", "unsorted", "child before", "dot dot", "dot", "empty", "slash", "behind its children"],
)
def test_names_that_no_honest_segment_has(name_list: tuple[bytes, ...]) -> None:
    with pytest.raises(Malformed, match=r"in order|impossible path"):
        segment_codec.parse(entries_in(named(*name_list)))
    assert outcome("segment", entries_in(named(b"a", b"b", b"c", b"d", b"z"))) == ""


@pytest.mark.parametrize("folder", [b"/", b"../", b"a/../", b"/etc/", b"a//", b"a\0b/", b"./"])
def test_folders_that_no_honest_segment_has(folder: bytes) -> None:
    def change(segment: segments.Segment) -> None:
        segment.folders = [b"", folder]

    with pytest.raises(Malformed, match="impossible path"):
        segment_codec.parse(entries_in(change))


def first_words(raw: bytes) -> list[bytes]:
    """Every number of four or eight bytes in the first 128, at its largest: lengths, counts and offsets are there."""
    return [
        raw[:at] + b"\xff" * width + raw[at + width :]
        for at in range(0, min(len(raw), 128), 2)
        for width in (4, 8)
        if at + width <= len(raw)
    ]


def huge_messages() -> list[tuple[str, bytes]]:
    """Arrays, maps and bytes of 4 GiB by their headers, and nesting without end, at each place of a message."""
    found = []
    for name in MESSAGES:
        raw = valid(name)
        for head in (
            b"\xdd\xff\xff\xff\xff",
            b"\xdf\xff\xff\xff\xff",
            b"\xc6\xff\xff\xff\xff",
            b"\xdb\xff\xff\xff\xff",
        ):
            found += [(name, raw[:at] + head + raw[at:]) for at in range(min(len(raw), 40))]
        found += [(name, raw[:at] + b"\x91" * 100_000) for at in range(0, 40, 3)]
        found.append((name, bytes([raw[0] + 1]) + raw[1:] + b"\x91" * 100_000 + b"\xc0"))
    return found


def swollen() -> list[tuple[str, bytes]]:
    """Small when compressed and within the bounds of their kinds, but gigabytes if each element became an object."""

    def many(count: int, element: bytes) -> bytes:
        return b"\xdd" + count.to_bytes(4, "big") + element * count

    pack = msgspec.msgpack.encode
    facts, origins, rows, runs = msgspec.msgpack.decode(valid("root"))
    row, part = pack([0, 1, b"", 1, b"", b""]), pack([0, 1, KEY[:16]])
    checkpoint = [pack(part) for part in msgspec.msgpack.decode(valid("checkpoint"))]
    segment = valid("segment")
    length = struct.unpack_from("<I", segment, 12)[0]
    extras = [pack(part) for part in msgspec.msgpack.decode(segment[-length:])]

    def with_extras(number: int, new: bytes) -> bytes:
        raw = b"\x96" + b"".join([*extras[:number], new, *extras[number + 1 :]])
        return segment[:12] + struct.pack("<I", len(raw)) + segment[16:-length] + raw

    return [
        ("root", b"\x94" + pack(facts) + pack(origins) + many(4_000_000, row) + pack(runs)),
        ("root", b"\x94" + pack(facts) + many(8_000_000, b"\xc4\0") + pack(rows) + pack(runs)),
        ("root", b"\x94" + pack(facts) + pack(origins) + pack(rows) + b"\x91\x92\x09" + many(3_000_000, part)),
        ("checkpoint", b"\x99" + b"".join([*checkpoint[:4], many(4_000_000, row), *checkpoint[5:]])),
        ("segment", with_extras(0, many(30_000_000, b"\xc4\0"))),
        ("segment", with_extras(1, many(30_000_000, b"\0"))),
        ("segment", with_extras(2, many(8_000_000, b"\xc4\0"))),
        ("segment", with_extras(5, b"\x81\0" + many(8_000_000, b"\x92\xc4\0\xc4\0"))),
    ]


def frame(window_log: int, blocks: bytes) -> bytes:
    """A zstd frame by hand: no content size, a window as large as it says."""
    return struct.pack("<I", zstd_magic()) + b"\x00" + bytes([(window_log - 10) << 3]) + blocks


def zstd_magic() -> int:
    return struct.unpack("<I", zstd.compress(b"")[:4])[0]


def run_of(byte: int, length: int, *, last: bool) -> bytes:
    """A block of one byte repeated."""
    return (length << 3 | 1 << 1 | last).to_bytes(3, "little") + bytes([byte])


def payload(raw_length: int, data: bytes, method: int = 1) -> bytes:
    return struct.pack("<BxxxI", method, raw_length) + data


def bombs() -> dict[str, bytes]:
    many = 128 * 1024
    gibibyte = b"".join(run_of(0, many, last=number == 8191) for number in range(8192))
    honest = zstd.compress(bytes(5000))
    return {
        "more than it says": payload(4_999, honest),
        "less than it says": payload(5_001, honest),
        "a GiB in a block of 8 MiB": payload(8 << 20, frame(17, gibibyte)),
        "a GiB and nothing said": payload(0, frame(17, gibibyte)),
        "a length that cannot be": payload(2**32 - 1, frame(17, gibibyte)),
        "a window of 128 MiB": payload(many, frame(27, run_of(1, many, last=True))),
        "a window of 2 GiB": payload(many, frame(31, run_of(1, many, last=True))),
        "two frames": payload(5_000, honest + honest),
        "something behind the frame": payload(5_000, honest + b"x"),
        "no end": payload(5_000, honest[:-1]),
        "empty blocks without end": payload(100, frame(17, b"\0\0\0" * 300_000)),
        "an unknown method": payload(5_000, honest, method=2),
        "stored, more than it says": payload(4, b"12345", method=0),
        "no frame": payload(5, b"12345"),
        "cut off": b"\1\0\0\0",
    }


def test_no_count_decides_how_much_memory_is_taken() -> None:
    """Each in one child with little memory: a number at its largest, structures that say 4 GiB, and zstd bombs."""
    cases: list[tuple[str, bytes, bool]] = []
    for name in PARSERS:
        raw = valid(name)
        cases += [(name, changed, False) for changed in first_words(raw)]
        if name == "head":
            cases += [(name, with_checksum(changed), False) for changed in first_words(raw)]
    cases += [(name, raw, True) for name, raw in huge_messages()]
    cases += [(name, raw, True) for name, raw in swollen()]
    cases += [("payload", raw, True) for raw in bombs().values()]
    cases.append(("payload", payload(128 * 1024, frame(MAX_WINDOW_LOG, run_of(1, 128 * 1024, last=True))), False))
    lines = [json.dumps([name, base64.b64encode(zlib.compress(raw, 1)).decode()]) for name, raw, _ in cases]
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.hostile_bytes"],
        input="\n".join(lines),
        capture_output=True,
        cwd=PROJECT,
        env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(cases)
    for (name, raw, must_fail), (became, seconds) in zip(cases, answers, strict=True):
        assert not became.endswith("!"), f"{name} raised {became} for {raw[:200]!r}"
        assert became or not must_fail, f"{name} took {raw[:200]!r}"
        assert seconds < 2
    assert answers[-1][0] == ""


@pytest.mark.parametrize("name", bombs())
def test_a_bomb_is_malformed(name: str) -> None:
    for kind in (ItemKind.BLOCK, ItemKind.SEAL):
        with pytest.raises(Malformed):
            unpack_payload(kind, bombs()[name])


def test_what_the_writer_packs_needs_no_larger_window_than_a_reader_gives() -> None:
    content = random.Random(1).randbytes(64 * 1024) * 160  # 10 MiB: above the largest window, below nothing
    for level in (level for level in ZSTD_LEVELS.values() if level is not None):
        packed = pack_payload(content, level)
        descriptor = packed[8 + 5]
        assert not packed[8 + 4] & 0x20, "it is a single segment, whose window is its content"
        assert 10 + (descriptor >> 3) <= MAX_WINDOW_LOG
        assert hashlib.sha256(unpack_payload(ItemKind.SEGMENT, packed)).digest() == hashlib.sha256(content).digest()
    for kind, most in MAX_RAW_BYTES.items():
        assert most <= 512 << 20, f"{kind} may not grow without a look at how it is compressed"
