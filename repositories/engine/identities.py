"""Which content is stored already: keyed identities of chunks, in sorted arrays of 40 bytes an entry.

A run is a sorted array of identities that one point added, or several merged. Identity = first 24 bytes of
BLAKE3 keyed with a key derived from the chain key, over the raw chunk; a collision would need 2^96 chunks, and nobody
without the key can make or recognise one.

Raw content of an IDENTITIES item (a part of a run, at most 65,536 entries):

    u32 number of origins, u32 number of entries, each origin: 16 file id
    first 8 bytes of each identity as u64 (big-endian value), sorted; the other 16 bytes of each;
    of each: origin u32 (index above), block number u32, offset u32, length u32

When runs are loaded and merged is decided here; which runs a point has stands in its root (manifest.py).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from blake3 import blake3

from keys import crypto
from repositories.engine.columns import Array
from repositories.engine.layout import Malformed
from repositories.engine.sealing import INFO

IDENTITY_BYTES = 24
PART_ENTRIES = 65_536
MAX_ENTRIES = 3_000_000
MAX_RUNS = 8
RECENT_ENTRIES = 65_536

_COUNTS = struct.Struct("<II")
_KEY = np.dtype(">u8")
_REST = np.dtype("V16")
_ADDRESS = np.dtype("<u4")

Address = tuple[int, int, int, int]  # origin (index in the session's table), block number, offset, length


def identity_key(chain_key: bytes) -> bytes:
    return crypto.hkdf(chain_key, salt=b"", info=INFO + b"identities")


def identity(key: bytes, chunk: bytes | memoryview) -> bytes:
    return bytes(blake3(chunk, key=key).digest(length=IDENTITY_BYTES))


@dataclass(frozen=True, slots=True)
class Run:
    """Sorted by `keys`. `rest` is 16 opaque bytes an entry, `addresses` has four columns."""

    keys: Array
    rest: Array
    addresses: Array

    def __len__(self) -> int:
        return len(self.keys)


def make_run(identities: bytes, addresses: Array) -> Run:
    """From identities joined in any order, and their addresses in the same order."""
    table = np.frombuffer(identities, dtype=np.uint8).reshape(-1, IDENTITY_BYTES)
    keys = np.ascontiguousarray(table[:, :8]).view(_KEY).reshape(-1).astype(np.uint64)
    rest = np.ascontiguousarray(table[:, 8:]).view(_REST).reshape(-1)
    order = np.argsort(keys, kind="stable")
    return Run(keys[order], rest[order], addresses.reshape(-1, 4).astype(_ADDRESS)[order])


def merge(runs: list[Run]) -> Run:
    keys = np.concatenate([run.keys for run in runs])
    order = np.argsort(keys, kind="stable")
    return Run(
        keys[order],
        np.concatenate([run.rest for run in runs])[order],
        np.concatenate([run.addresses for run in runs])[order],
    )


def without(run: Run, gone: Array) -> Run:
    """The run but for the entries that `gone` says."""
    if not gone.any():
        return run
    return Run(run.keys[~gone], run.rest[~gone], run.addresses[~gone])


def join(parts: list[Run]) -> Run:
    """One run from its parts in order."""
    if not parts:
        return make_run(b"", np.zeros((0, 4), _ADDRESS))
    return Run(
        np.concatenate([part.keys for part in parts]),
        np.concatenate([part.rest for part in parts]),
        np.concatenate([part.addresses for part in parts]),
    )


class Identities:
    """All identities of a session: the runs of the parent, and what this session adds. Origin 0 is the own file.

    `load` gives the parent's runs; it is called when the first chunk must be looked up, or
    what was added is to be merged with them. `adopted` are runs that an
    earlier process added to the same file.
    """

    def __init__(self, load: Callable[[], list[Run]], adopted: Sequence[Run] = ()) -> None:
        self._load = load
        self._loaded: list[Run] | None = None
        self._fresh: list[Run] = [merge(list(adopted))] if adopted else []
        self._recent: dict[bytes, Address] = {}

    def find(self, identities: list[bytes]) -> list[Address | None]:
        recent = self._recent
        found: list[Address | None] = [recent.get(identity) for identity in identities]
        if self.loaded or self._fresh:
            self._find_in_runs(identities, found)
        return found

    def add_all(self, fresh: dict[bytes, Address]) -> None:
        self._recent.update(fresh)
        if len(self._recent) >= RECENT_ENTRIES:
            self._roll()

    def fresh(self) -> Run | None:
        """What this session added, as one run; None if nothing."""
        if self._recent:
            self._roll()
        if not self._fresh:
            return None
        if len(self._fresh) > 1:
            self._fresh = [merge(self._fresh)]
        return self._fresh[0]

    def fresh_from(self, block: int) -> Run | None:
        """What was added with blocks of the own file from this number on; None if nothing."""
        if self._recent:
            self._roll()
        parts = [_select(run, run.addresses[:, 1] >= block) for run in self._fresh]
        found = [part for part in parts if len(part)]
        return merge(found) if found else None

    def _roll(self) -> None:
        """Turn the recent ones into a run, and merge runs of similar size, so that there are few."""
        addresses = np.array(list(self._recent.values()), dtype=_ADDRESS)
        self._fresh.append(make_run(b"".join(self._recent), addresses))
        self._recent = {}
        while len(self._fresh) > 1 and len(self._fresh[-2]) < 2 * len(self._fresh[-1]):
            self._fresh[-2:] = [merge(self._fresh[-2:])]

    @property
    def loaded(self) -> list[Run]:
        """The parent's runs as load() gives them; it is called now if nothing was looked up."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def _find_in_runs(self, identities: list[bytes], found: list[Address | None]) -> None:
        joined = np.frombuffer(b"".join(identities), dtype=np.uint8).reshape(-1, IDENTITY_BYTES)
        keys = np.ascontiguousarray(joined[:, :8]).view(_KEY).reshape(-1).astype(np.uint64)
        rest = np.ascontiguousarray(joined[:, 8:]).view(_REST).reshape(-1)
        for run in (*self._fresh, *self.loaded):
            at = np.searchsorted(run.keys, keys)
            at[at == len(run.keys)] = 0
            hits = np.flatnonzero((run.keys[at] == keys) & (run.rest[at] == rest))
            for hit in hits.tolist():
                if found[hit] is None:
                    origin, block, offset, length = run.addresses[at[hit]].tolist()
                    found[hit] = (origin, block, offset, length)


def _select(run: Run, chosen: Array) -> Run:
    return Run(run.keys[chosen], run.rest[chosen], run.addresses[chosen])


def pack_parts(run: Run, origins: list[UUID]) -> Iterator[tuple[int, bytes]]:
    """The run cut into items: (entries, raw content) each."""
    for start in range(0, len(run), PART_ENTRIES):
        part = slice(start, start + PART_ENTRIES)
        addresses = run.addresses[part].copy()
        used, addresses[:, 0] = np.unique(addresses[:, 0], return_inverse=True)
        yield (
            len(addresses),
            b"".join(
                (
                    _COUNTS.pack(len(used), len(addresses)),
                    *(origins[origin].bytes for origin in used.tolist()),
                    run.keys[part].astype("<u8").tobytes(),
                    run.rest[part].tobytes(),
                    addresses.T.tobytes(),
                )
            ),
        )


def parse_part(raw: bytes, origin_number: dict[UUID, int]) -> Run:
    """Origins become numbers in `origin_number`, which grows as needed. Raises Malformed."""
    if len(raw) < _COUNTS.size:
        raise Malformed("the identities are cut off")
    origin_count, count = _COUNTS.unpack_from(raw)
    if len(raw) != _COUNTS.size + 16 * origin_count + 40 * count or count > PART_ENTRIES:
        raise Malformed("the identities have a wrong length")
    at = _COUNTS.size
    ids = [UUID(bytes=raw[at + 16 * i : at + 16 * i + 16]) for i in range(origin_count)]
    at += 16 * origin_count
    keys = np.frombuffer(raw, dtype="<u8", count=count, offset=at)
    rest = np.frombuffer(raw, dtype=_REST, count=count, offset=at + 8 * count)
    addresses = np.frombuffer(raw, dtype=_ADDRESS, count=4 * count, offset=at + 24 * count).reshape(4, count).T.copy()
    if count and int(addresses[:, 0].max()) >= origin_count:
        raise Malformed("the identities name an unknown origin")
    table = np.array([origin_number.setdefault(file_id, len(origin_number)) for file_id in ids], dtype=_ADDRESS)
    if count:
        addresses[:, 0] = table[addresses[:, 0]]
    return Run(keys, rest, addresses)
