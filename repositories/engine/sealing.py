"""Sealing and opening items: which key, which nonce, which AAD, and the compression inside.

A sealed item is payload header | data, encrypted with AES-256-GCM, tag at the end. The payload header is 1 byte
method (0 stored, 1 zstd), 3 zero bytes, 4 bytes raw length. In plain chains the same bytes stand unencrypted, and the
tag is the first 16 bytes of BLAKE3(AAD | bytes): it finds damage, not tampering.

    block key    = HKDF-SHA256(file key, salt = epoch random, info = "backupsite 1|block|"    + file id)
    metadata key = HKDF-SHA256(file key, salt = epoch random, info = "backupsite 1|metadata|" + file id)
    nonce        = item number - first item number of the epoch, 96 bits, big-endian
    AAD          = version u16 | kind u8 | chain id | file id | epoch u16 | item number u32
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Mapping
from uuid import UUID

from backports import zstd
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keys import crypto
from repositories.engine.layout import (
    MAX_RAW_BYTES,
    OVERHEAD_BYTES,
    PAYLOAD_HEADER_BYTES,
    TAG_BYTES,
    VERSION,
    Epoch,
    ItemKind,
    Malformed,
)

INFO = b"backupsite 1|"
_AAD = struct.Struct("<HB16s16sHI")
_PAYLOAD = struct.Struct("<BxxxI")
_STORED, _ZSTD = 0, 1

Level = Mapping[int, int] | None  # parameters of zstd; None: not compressed

METADATA_LEVEL: Level = {zstd.CompressionParameter.compression_level: 3}
# Measured on 1.8 GiB of system files, a thread: fast 610 MB/s and 38.0 %, balanced 540 MB/s and 36.1 %; zstd's own
# level 2, which is the nearest, has 440 MB/s and 35.5 %.
ZSTD_LEVELS: dict[str, Level] = {
    "none": None,
    "fast": {zstd.CompressionParameter.compression_level: 1},
    "balanced": {
        zstd.CompressionParameter.compression_level: 1,
        zstd.CompressionParameter.strategy: zstd.Strategy.fast,
        zstd.CompressionParameter.window_log: 22,
        zstd.CompressionParameter.hash_log: 15,
        zstd.CompressionParameter.min_match: 6,
    },
    "strong": {zstd.CompressionParameter.compression_level: 9},
}
MAX_WINDOW_LOG = 23  # 8 MiB: more than the levels here use, and all the memory that a frame may ask for
_compressors = threading.local()


class EpochSealer:
    """Seals and opens the items of one epoch of one file, from any thread; `file_key` is None in plain chains."""

    def __init__(self, file_key: bytes | None, chain_id: UUID, file_id: UUID, epoch: Epoch) -> None:
        self._chain_id, self._file_id, self._epoch = chain_id.bytes, file_id.bytes, epoch
        self._block = self._metadata = None
        if file_key is not None:
            self._block = AESGCM(self._key(file_key, b"block|"))
            self._metadata = AESGCM(self._key(file_key, b"metadata|"))

    def _key(self, file_key: bytes, purpose: bytes) -> bytes:
        return crypto.hkdf(file_key, salt=self._epoch.random, info=INFO + purpose + self._file_id)

    def _aad(self, kind: ItemKind, number: int) -> bytes:
        return _AAD.pack(VERSION, kind, self._chain_id, self._file_id, self._epoch.number, number)

    def seal(self, kind: ItemKind, number: int, payload: bytes) -> bytes:
        """`payload` comes from pack_payload(). The result is sent as it is; a number is never sealed twice."""
        cipher = self._block if kind is ItemKind.BLOCK else self._metadata
        aad = self._aad(kind, number)
        if cipher is None:
            return payload + _plain_tag(aad, payload)
        return cipher.encrypt(crypto.counter_nonce(number - self._epoch.first_item), payload, aad)

    def open(self, kind: ItemKind, number: int, sealed: bytes) -> bytes:
        """Return the raw content. Raises Malformed for damage, a wrong place, or a content outside the bounds."""
        return unpack_payload(kind, self.authenticate(kind, number, sealed))

    def authenticate(self, kind: ItemKind, number: int, sealed: bytes) -> bytes:
        """Return the payload, not unpacked. Raises Malformed for damage or a wrong place."""
        if not OVERHEAD_BYTES <= len(sealed) <= MAX_RAW_BYTES[kind] + OVERHEAD_BYTES:
            raise Malformed("a sealed item has an impossible length")
        if number < self._epoch.first_item:
            raise Malformed("a sealed item does not belong to its epoch")
        cipher = self._block if kind is ItemKind.BLOCK else self._metadata
        aad = self._aad(kind, number)
        if cipher is None:
            return _open_plain(aad, sealed)
        try:
            return cipher.decrypt(crypto.counter_nonce(number - self._epoch.first_item), sealed, aad)
        except InvalidTag:
            raise Malformed("the authentication tag is wrong") from None


def pack_payload(raw: bytes | memoryview, level: Level) -> bytes:
    """Compress and put the payload header in front; content that does not shrink is stored."""
    if level is not None:
        packed = _compressor(level).compress(raw, zstd.ZstdCompressor.FLUSH_FRAME)
        if len(packed) < len(raw):
            return _PAYLOAD.pack(_ZSTD, len(raw)) + packed
    return b"".join((_PAYLOAD.pack(_STORED, len(raw)), raw))


def _compressor(level: Mapping[int, int]) -> zstd.ZstdCompressor:
    """One for each thread and level, since making its tables costs as much as compressing a megabyte."""
    known: dict[int, zstd.ZstdCompressor] = _compressors.__dict__.setdefault("known", {})
    if id(level) not in known:
        known[id(level)] = zstd.ZstdCompressor(options=dict(level))
    return known[id(level)]


def unpack_payload(kind: ItemKind, payload: bytes) -> bytes:
    """Raises Malformed for what is not exactly a payload of this kind."""
    if len(payload) < PAYLOAD_HEADER_BYTES:
        raise Malformed("a sealed item is cut off")
    method, raw_length = _PAYLOAD.unpack_from(payload)
    data = memoryview(payload)[PAYLOAD_HEADER_BYTES:]
    if raw_length > MAX_RAW_BYTES[kind] or method not in (_STORED, _ZSTD) or any(payload[1:4]):
        raise Malformed("a sealed item has an impossible header")
    raw = bytes(data) if method == _STORED else _decompress(data, raw_length)
    if len(raw) != raw_length:
        raise Malformed("a sealed item has not the length that it says")
    return raw


def _decompress(data: memoryview, raw_length: int) -> bytes:
    """Exactly one frame; never more than a byte beyond `raw_length`, whatever the frame says of itself."""
    decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG})
    try:
        raw = decompressor.decompress(data, raw_length + 1)
    except zstd.ZstdError as error:
        raise Malformed(f"a sealed item does not decompress: {error}") from None
    if not decompressor.eof or decompressor.unused_data:
        raise Malformed("a sealed item is not exactly one compressed frame")
    return raw


def _plain_tag(aad: bytes, payload: bytes) -> bytes:
    return bytes(blake3(aad).update(payload).digest(length=TAG_BYTES))


def _open_plain(aad: bytes, sealed: bytes) -> bytes:
    payload, tag = sealed[:-TAG_BYTES], sealed[-TAG_BYTES:]
    if _plain_tag(aad, payload) != tag:
        raise Malformed("the checksum is wrong")
    return payload
