"""Taking over a chain that nobody here knows: which of its files open with what is given, and which belong together.

The newest files are opened first, since their keyrings open the earlier ones; the chain's key is the one that most of
the files that opened were sealed with. Then the chain is walked from its oldest file: what was written behind the point
before it belongs to it, and everything else is said and left alone. What is stored of it, and who may do this, is left
to the callers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from keys.crypto_argon2 import derive_kek_for_file
from keys.crypto_errors import KdfRefused, UnwrapFailed
from keys.crypto_password import MAX_DERIVATIONS_AN_ATTEMPT
from keys.crypto_slots import Slot, SlotKind, unwrap
from repositories.engine.chains import ChainOnDisk, FileOnDisk
from repositories.engine.errors import CannotUnwrap, EngineError, damaged, text
from repositories.engine.expectation import Expected, difference
from repositories.engine.head import Head
from repositories.engine.order import Kind
from repositories.engine.reader import FileKey, Point, SlotSecrets, Summary, open_point

SecretOf = Callable[[Slot, UUID, UUID], bytes | None]


class Standing(StrEnum):
    """What a file is to the chain."""

    JOINED = "joined"  # it opens, and was written behind the point before it
    CLOSED = "closed"  # no secret that was given opens it
    DAMAGED = "damaged"
    FOREIGN = "foreign"  # put there by somebody else: plain, another key, or in the place of a known one
    FORK = "fork"  # written behind a point that another file was written behind
    ORPHAN = "orphan"  # what it needs is not there


@dataclass(frozen=True, slots=True)
class Opened:
    """What is kept of a point that opened. `aliases` are the seal hashes of this file and of those that it replaced."""

    head: Head
    summary: Summary
    length: int
    seal_hash: bytes
    aliases: Mapping[UUID, bytes]
    file_key: bytes | None = field(repr=False)
    chain_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Judged:
    file: FileOnDisk
    standing: Standing
    because: str = ""
    opened: Opened | None = None


class TypedPassword:
    """Secrets of password slots, derived from one password: at most 4 salts in its life.

    With `wanted` (record, version) only that slot is tried, so that hostile slots do not use up the derivations.
    `right` are the slots that it opened, with the key that it gives for them.
    """

    def __init__(self, password: bytes, wanted: tuple[UUID, int] | None = None) -> None:
        self._password, self._wanted = password, wanted
        self._keks: dict[object, bytes | None] = {}
        self.right: dict[tuple[UUID, int], tuple[Slot, bytes]] = {}

    def __repr__(self) -> str:
        return f"TypedPassword(right for {len(self.right)} slots)"

    def of(self, slot: Slot, chain_id: UUID, file_id: UUID) -> bytes | None:
        """The key for a slot that it opens, else None. Raises KdfFailed."""
        place = (slot.record, slot.version)
        if slot.kind is not SlotKind.PASSWORD or self._wanted not in (None, place):
            return None
        kek = self._kek(slot)
        if kek is None or not _opens(slot, kek, chain_id, file_id):
            return None
        self.right[place] = (slot, kek)
        return kek

    def _kek(self, slot: Slot) -> bytes | None:
        salted = (slot.kdf_salt, slot.kdf_parameters)
        if salted in self._keks:
            return self._keks[salted]
        if slot.kdf_parameters is None or len(self._keks) >= MAX_DERIVATIONS_AN_ATTEMPT:
            return None
        try:
            kek = derive_kek_for_file(self._password, salt=slot.kdf_salt, parameters=slot.kdf_parameters)
        except KdfRefused:
            kek = None
        self._keks[salted] = kek
        return kek


def _opens(slot: Slot, secret: bytes, chain_id: UUID, file_id: UUID) -> bool:
    try:
        unwrap(slot, secret, chain_id=chain_id, file_id=file_id)
    except UnwrapFailed:
        return False
    return True


def in_turn(sources: Iterable[SecretOf]) -> SecretOf:
    """Ask one source after the other: the first that has a secret for the slot is taken."""
    asked = tuple(sources)

    def of(slot: Slot, chain_id: UUID, file_id: UUID) -> bytes | None:
        return next((secret for source in asked if (secret := source(slot, chain_id, file_id)) is not None), None)

    return of


def take_over(
    chain: ChainOnDisk,
    secret_of: SecretOf,
    known: Iterable[Expected] = (),
    file_keys: Mapping[UUID, bytes] | None = None,
    beat: Callable[[], None] = lambda: None,
) -> list[Judged]:
    """Every file of a chain, by sequence, and what it is to the chain.

    `known` are the points that are in a catalogue already: they belong to the chain as they are. `file_keys` are keys
    of files that are known. What `secret_of` and `beat` raise is raised.
    """
    opened = _open_all(chain, secret_of, file_keys or {}, beat)
    return _Line(chain, opened, {point.file_id: point for point in known}).judge()


def _open_all(
    chain: ChainOnDisk, secret_of: SecretOf, file_keys: Mapping[UUID, bytes], beat: Callable[[], None]
) -> dict[int, Opened | EngineError]:
    """By sequence, the newest first, each with the keys that the later ones brought along."""
    learned = {file_id: [key] for file_id, key in file_keys.items()}
    encrypted = is_encrypted(chain)
    opened: dict[int, Opened | EngineError] = {}
    for file in reversed(chain.files):
        beat()
        try:
            opened[file.sequence] = _open(file, secret_of, learned, encrypted=encrypted)
        except EngineError as error:
            opened[file.sequence] = error
    return opened


def is_encrypted(chain: ChainOnDisk) -> bool:
    """A chain with one encrypted file is encrypted: a plain one among them was put there."""
    return any(file.head.encrypted for file in chain.files if file.head)


def _open(file: FileOnDisk, secret_of: SecretOf, learned: dict[UUID, list[bytes]], *, encrypted: bool) -> Opened:
    head = file.head
    if head is None:
        raise file.problem or damaged(file.path, "head")
    if not head.encrypted:
        if encrypted:
            raise _PlainAmongEncrypted(f"{text(file.path)} is not encrypted, unlike its chain.")
        with open_point(file.path, None) as point:
            return _kept(point)
    for key in [key for file_id in (head.file_id, *head.replaces[-1:]) for key in learned.get(file_id, ())]:
        try:
            with open_point(file.path, FileKey(key)) as point:
                return _learn(point, learned)
        except CannotUnwrap:
            continue  # a keyring of somebody else's file; the slots are tried next
    with open_point(file.path, SlotSecrets(secret_of)) as point:
        return _learn(point, learned)


class _PlainAmongEncrypted(EngineError):
    """A plain file in an encrypted chain."""

    code = "plain-among-encrypted"


def _learn(point: Point, learned: dict[UUID, list[bytes]]) -> Opened:
    for file_id, key in point.earlier_file_keys.items():
        if key not in learned.setdefault(file_id, []):
            learned[file_id].append(key)
    return _kept(point)


def _kept(point: Point) -> Opened:
    own = {point.head.file_id: point.seal_hash}
    replaced = {file_id: point.container.seal_hash_of(file_id) for file_id in point.head.replaces}
    return Opened(
        head=point.head,
        summary=point.summary,
        length=point.length,
        seal_hash=point.seal_hash,
        aliases={**replaced, **own},
        file_key=point.file_key,
        chain_key=point.keyring.chain_key if point.keyring else b"",
    )


class _Line:
    """The points that belong together, from the oldest on; judge() once."""

    def __init__(
        self, chain: ChainOnDisk, opened: dict[int, Opened | EngineError], known: Mapping[UUID, Expected]
    ) -> None:
        self._files, self._opened, self._known = chain.files, opened, known
        self._chain_key = self._choose_chain_key()
        self._line: list[Mapping[UUID, bytes]] = []  # of each point: the ids that a child may name, with seal hashes
        self._left: dict[UUID, tuple[int, Standing]] = {}  # what does not belong to it, by id
        there = {file.head.file_id for file in chain.files if file.head}
        gone = [point for file_id, point in known.items() if file_id not in there]
        self._missing = sorted(gone, key=lambda point: point.sequence or 0)

    def judge(self) -> list[Judged]:
        return [self._judged(file) for file in self._files]

    def _pass_missing(self, sequence: int) -> None:
        """Known points before this number whose files are gone: what was written behind them still belongs to them."""
        while self._missing and (self._missing[0].sequence or 0) < sequence:
            gone = self._missing.pop(0)
            self._line.append({gone.file_id: gone.seal_hash})

    def _choose_chain_key(self) -> bytes:
        """That of the known points, else the one that most files have; of two the newer one's."""
        points = [point for point in self._opened.values() if isinstance(point, Opened)]  # the newest first
        known = [point.chain_key for point in points if point.head.file_id in self._known]
        counted = Counter(known or [point.chain_key for point in points]).most_common(1)
        return counted[0][0] if counted else b""

    def _judged(self, file: FileOnDisk) -> Judged:
        self._pass_missing(file.sequence)
        opened = self._opened[file.sequence]
        point = opened if isinstance(opened, Opened) else None
        standing, because = self._standing(file, opened)
        if standing is Standing.JOINED and file.head is not None:
            self._line.append(self._names(file.head.file_id, point))
        elif file.head is not None:
            self._left[file.head.file_id] = (file.sequence, standing)
        return Judged(file, standing, because, point)

    def _names(self, file_id: UUID, point: Opened | None) -> Mapping[UUID, bytes]:
        return point.aliases if point else {file_id: self._known[file_id].seal_hash}

    def _standing(self, file: FileOnDisk, opened: Opened | EngineError) -> tuple[Standing, str]:
        if file.head is None:
            return Standing.DAMAGED, str(opened)
        if file.head.file_id in self._known:
            return self._of_known(file, file.head, opened)
        taken = next((one for one in self._known.values() if one.sequence == file.sequence), None)
        if taken is not None:
            return Standing.FOREIGN, f"It stands in the place of point {file.sequence}, which is known."
        match opened:
            case Opened():
                return self._of_opened(file, opened)
            case CannotUnwrap():
                return Standing.CLOSED, ""
            case _PlainAmongEncrypted():
                return Standing.FOREIGN, "It is not encrypted, unlike its chain: anybody could have put it there."
        return Standing.DAMAGED, str(opened)

    def _of_known(self, file: FileOnDisk, head: Head, opened: Opened | EngineError) -> tuple[Standing, str]:
        known = self._known[head.file_id]
        problem = difference(head, file.length, known)
        if not problem and isinstance(opened, Opened) and opened.seal_hash != known.seal_hash:
            problem = "its seal is another one"
        if problem:
            return Standing.FOREIGN, f"It is not the file that is known: {problem}."
        if isinstance(opened, EngineError) and not isinstance(opened, CannotUnwrap):
            return Standing.DAMAGED, str(opened)
        return Standing.JOINED, ""

    def _of_opened(self, file: FileOnDisk, point: Opened) -> tuple[Standing, str]:
        if point.chain_key != self._chain_key:
            return Standing.FOREIGN, "It was not sealed with the key of this chain: somebody else made it."
        if file.path.name != str(file.sequence):
            return Standing.ORPHAN, "A merge of the chain was not finished; run it again where it was begun."
        return self._behind(point)

    def _behind(self, point: Opened) -> tuple[Standing, str]:
        """Whether it was written behind the newest point so far."""
        parent = point.summary.parent_id
        if parent is None:
            return self._beginning()
        if self._line and parent in self._line[-1]:
            if self._line[-1][parent] == point.summary.parent_seal_hash:
                return Standing.JOINED, ""
            return Standing.FOREIGN, "The point before it is not the one that it was written behind."
        if any(parent in names for names in self._line):
            return Standing.FORK, "It was written behind a point that another file was written behind before."
        return self._without_parent(point, parent)

    def _beginning(self) -> tuple[Standing, str]:
        if not self._line:
            return Standing.JOINED, ""
        return Standing.FORK, "It says that it is the first of its chain, and it is not."

    def _without_parent(self, point: Opened, parent: UUID) -> tuple[Standing, str]:
        """A full needs no other file; an incremental needs its parent, and a branch goes with where it begins."""
        place, standing = self._left.get(parent, (None, None))
        if standing in (Standing.FORK, Standing.FOREIGN):
            return Standing.FORK, f"It was written behind point {place}, which does not belong to the chain."
        if point.summary.kind == Kind.FULL.value:
            return Standing.JOINED, "The point that it was written behind is not there." if self._line else ""
        if place is None:
            return Standing.ORPHAN, "Its parent is not there."
        return Standing.ORPHAN, f"Its parent, point {place}, {_WHY_NOT[standing or Standing.CLOSED]}."


_WHY_NOT = {
    Standing.CLOSED: "does not open",
    Standing.DAMAGED: "is damaged",
    Standing.ORPHAN: "lacks its own",
}
