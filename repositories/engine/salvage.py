"""Best effort: opening a restore point whose own file is damaged or cut off, for whatever of it is still whole.

    the head, in one of its two copies   needed: without it nobody knows whose file it is, and nothing opens
    trailer, seal, index                 found by walking the records (rebuilt.py)
    keyring                              found as an item; else files of the chain open with keys that the caller knows
    root                                 found as an item; else the list of files is put together (salvage_manifest.py)

Everything is authenticated as always, so nothing that is brought out is wrong; but it may be less than the point held,
and where the seal is lost nobody can say who wrote it. A seal that can be read and does not fit the chain is no damage,
and is refused. What is then restored, and how the loss is told, is left to the callers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

from repositories.engine import segments
from repositories.engine.container import Container
from repositories.engine.errors import CorruptFile, EngineError, damaged
from repositories.engine.keyring import Keyring, parse_keyring
from repositories.engine.layout import ItemKind, Malformed
from repositories.engine.manifest import Facts, Root, parse_root
from repositories.engine.reader import Point, Secret, open_head, open_point, read_keyring, sealed_item
from repositories.engine.rebuilt import has_unknown_seal, whole_or_rebuilt
from repositories.engine.salvage_manifest import Part, found_parts, root_of_parts
from repositories.engine.seal import check_chain_mac, plain_chain_key
from repositories.engine.segment_reader import read_segment
from repositories.engine.segments import Segment

_NOTHING = Facts("partial", "best-effort", "", "", 0, 0, [], [], [], 0, 0, 0, 0, 0, 0, 0, 0, 0)


class SalvagedPoint(Point):
    """A point of which something is lost: `findings` says what; `complete` whether the list of files is whole.

    Only for reading; of a point whose list is not complete the summary counts what was found.
    """

    def __init__(self, container: Container, keyring: Keyring | None, root: Root | None) -> None:
        super().__init__(container, keyring, root or Root(_NOTHING, [container.file_id.bytes], [], []), rebuild=True)
        self.findings: list[str] = []
        self.complete = root is not None
        self._parts: list[Part] = []
        if root is None:
            self._parts = found_parts(self, self.findings)
            self._take_root(root_of_parts(self._parts, container))

    @property
    def has_seal(self) -> bool:
        return not has_unknown_seal(self.container)

    def segment(self, number: int) -> Segment:
        if self.complete:
            return super().segment(number)
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        part = self._parts[number]
        whole = part.tail or read_segment(self.container_of(part.origin), part.row, part.origin)
        segment = whole if len(whole) == part.end - part.start else segments.concat([(whole, part.start, part.end)])
        self._last = (number, segment)
        return segment


def open_best_effort(path: Path, secret: Secret | None, known_keys: Mapping[UUID, bytes]) -> Point:
    """The point as it is, or a SalvagedPoint; of damaged files beside it what can be found is taken in both cases.

    `known_keys` are file keys of the chain that the caller has from other points. Raises what open_point() raises for
    all but damage, and for damage of which nothing comes out.
    """
    try:
        return open_point(path, secret, rebuild=True)
    except CorruptFile as error:
        return _salvaged(path, secret, known_keys, error)


def _salvaged(path: Path, secret: Secret | None, known_keys: Mapping[UUID, bytes], error: CorruptFile) -> SalvagedPoint:
    fd, _, head, file_key = open_head(path, secret)
    try:
        container = whole_or_rebuilt(fd, path, head, file_key)
    except BaseException:
        os.close(fd)
        raise
    try:
        keyring = _keyring(container, known_keys)
        point = SalvagedPoint(container, keyring, _root(container))
    except BaseException:
        container.close()
        raise
    if not point.root.segments:
        point.close()
        raise CorruptFile(f"{error} Also with best effort no list of its files was found in it.", **error.fields)
    point.findings[:0] = [str(error), *_lost(point)]
    return point


def _lost(point: Point) -> list[str]:
    lost = []
    if has_unknown_seal(point.container):
        lost.append("Its seal is lost too, so nobody can say who signed it, or whether something of it was cut off.")
    if point.keyring is not None and not point.keyring.chain_key:
        lost.append("Its keyring is lost, so files of the chain open only if other points gave their keys.")
    return lost


def _keyring(container: Container, known_keys: Mapping[UUID, bytes]) -> Keyring | None:
    """Raises CorruptFile where the seal can be read and does not fit the chain."""
    if not container.head.encrypted:
        _check_seal(container, plain_chain_key(container.head.chain_id))
        return None
    found = _found_keyring(container)
    if found is None:
        return Keyring(b"", dict(known_keys))
    _check_seal(container, found.chain_key)
    return Keyring(found.chain_key, {**known_keys, **found.file_keys})


def _check_seal(container: Container, chain_key: bytes) -> None:
    if has_unknown_seal(container):
        return
    try:
        check_chain_mac(container.seal, chain_key)
    except Malformed as error:
        raise damaged(container.path, "seal", str(error)) from None


def _found_keyring(container: Container) -> Keyring | None:
    try:
        if not has_unknown_seal(container):
            return read_keyring(container)[0]
        for number in container.index.own.of_kind(ItemKind.KEYRING).tolist():
            return parse_keyring(container.read(number, ItemKind.KEYRING))
    except (EngineError, Malformed):
        return None
    return None


def _root(container: Container) -> Root | None:
    try:
        if not has_unknown_seal(container):
            return parse_root(sealed_item(container, ItemKind.ROOT))
        for number in container.index.own.of_kind(ItemKind.ROOT).tolist():
            return parse_root(container.read(number, ItemKind.ROOT))
    except (EngineError, Malformed):
        return None
    return None
