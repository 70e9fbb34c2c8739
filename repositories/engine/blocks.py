"""Fetching content: opening blocks ahead by threads, and cutting chunks out of them.

Opened blocks are kept in a small cache (at most 8, each at most 8 MiB); what is read ahead counts into it. Which file
holds a block is left to shelf.py; the manifest, to reader.py.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from repositories.engine.entries import BlockAddress, Chunk, Chunks
from repositories.engine.errors import EngineError, damaged
from repositories.engine.layout import ItemKind
from repositories.engine.pace import Pace
from repositories.engine.shelf import Shelf

_CACHED_BLOCKS = 8
_BLOCKS_AHEAD = 3  # of what is read in order; each process of a restore has as many
_BLOCKS_IN_ROW = 6
_EVENTS_AHEAD = 256  # an event may be a group of files with their names


@dataclass(frozen=True, slots=True)
class Hole:
    """`length` zero bytes of a sparse file: seek instead of writing."""

    length: int


Piece = memoryview | Hole
Content = Iterator[Piece]


class Chunked(Protocol):
    """What has content: an entry, or several files together."""

    @property
    def chunks(self) -> Chunks: ...


T = TypeVar("T", bound=Chunked)


class BlockReader:
    """Opened blocks by address, some ahead of their use. For one user at a time."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self.pace: Pace | None = None  # set by who limits the reading
        self._pool: ThreadPoolExecutor | None = None
        self._cache: OrderedDict[BlockAddress, Future[bytes]] = OrderedDict()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._cache.clear()

    def read_many(self, items: Iterable[T]) -> Iterator[tuple[T, Content]]:
        ahead = _Ahead(self, items)
        while (item := ahead.next_item()) is not None:
            yield item, ahead.pieces()

    def blocks(self, addresses: Iterable[BlockAddress]) -> Iterator[tuple[BlockAddress, bytes | Exception]]:
        waiting: deque[tuple[BlockAddress, Future[bytes]]] = deque()
        for address in addresses:
            waiting.append((address, self._submit(address)))
            if len(waiting) > _BLOCKS_IN_ROW:
                yield _outcome(*waiting.popleft())
        while waiting:
            yield _outcome(*waiting.popleft())

    def is_cached(self, address: BlockAddress) -> bool:
        return address in self._cache

    def get(self, address: BlockAddress) -> Future[bytes]:
        """The block, opened already or now by a thread."""
        future = self._cache.get(address)
        if future is not None:
            self._cache.move_to_end(address)
            return future
        future = self._cache[address] = self._submit(address)
        while len(self._cache) > _CACHED_BLOCKS:
            self._cache.popitem(last=False)
        return future

    def cut(self, chunk: Chunk) -> Piece:
        if chunk.block is None:
            return Hole(chunk.length)
        raw = self.get(chunk.block).result()
        end = chunk.offset + chunk.length
        if end > len(raw):
            path = self._shelf.container(chunk.block.origin).path
            raise damaged(path, f"block {chunk.block.number}", "a chunk reaches beyond it")
        return memoryview(raw)[chunk.offset : end]

    def _submit(self, address: BlockAddress) -> Future[bytes]:
        if self._pool is None:
            threads = max(2, min(8, len(os.sched_getaffinity(0))))
            self._pool = ThreadPoolExecutor(threads, thread_name_prefix="opener")
        if self.pace is not None:
            self.pace.wait()
        return self._pool.submit(self._open, address)

    def _open(self, address: BlockAddress) -> bytes:
        container = self._shelf.container(address.origin)
        if self.pace is not None:
            self.pace.spend(container.stored_bytes(address.number, address.origin))
        return container.read(address.number, ItemKind.BLOCK, address.origin)


class _Ahead(Generic[T]):
    """Items and their chunks as one stream, looked at a few blocks ahead of where it is used."""

    def __init__(self, blocks: BlockReader, items: Iterable[T]) -> None:
        self._blocks = blocks
        self._source = _events(items)
        self._events: deque[T | Chunk] = deque()
        self._requested: set[BlockAddress | None] = set()  # asked for ahead, not used yet
        self._exhausted = False

    def next_item(self) -> T | None:
        """The next item; chunks of the one before that were not taken are passed over."""
        while True:
            event = self._next()
            if event is None or not isinstance(event, Chunk):
                return event

    def pieces(self) -> Content:
        while True:
            if not self._events:
                self._look_ahead()
            if not self._events or not isinstance(self._events[0], Chunk):
                return
            chunk = self._next()
            if isinstance(chunk, Chunk):
                yield self._blocks.cut(chunk)

    def _next(self) -> T | Chunk | None:
        if not self._events:
            self._look_ahead()
            if not self._events:
                return None
        event = self._events.popleft()
        if isinstance(event, Chunk) and event.block in self._requested:
            self._requested.discard(event.block)
            self._look_ahead()
        return event

    def _look_ahead(self) -> None:
        """At least one event, and as many more as there may be blocks ahead. Asked for when a new block is reached."""
        while not self._exhausted and (
            not self._events or (len(self._requested) < _BLOCKS_AHEAD and len(self._events) < _EVENTS_AHEAD)
        ):
            event = next(self._source, None)
            if event is None:
                self._exhausted = True
                return
            self._events.append(event)
            if isinstance(event, Chunk) and event.block is not None and not self._blocks.is_cached(event.block):
                self._blocks.get(event.block)
                self._requested.add(event.block)


def _events(items: Iterable[T]) -> Iterator[T | Chunk]:
    for item in items:
        yield item
        yield from item.chunks


def _outcome(address: BlockAddress, future: Future[bytes]) -> tuple[BlockAddress, bytes | Exception]:
    try:
        return address, future.result()
    except EngineError as error:
        return address, error
