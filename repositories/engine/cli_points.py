"""The restore points of one folder as the command line sees them: found, numbered from 1, and opened.

Numbers run through all chains, the oldest chain first. A chain's age is what its oldest point says of itself when it
opens, else the time of its file. A secret (a password, a recovery key, a KMS) is tried on the newest point first,
which opens all earlier ones of its chain; an older point that it does not reach opens with what it was written with.

What a command then does with a point is left to the command.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from keys.crypto_argon2 import derive_kek_for_file
from keys.crypto_errors import KdfRefused
from keys.crypto_password import MAX_DERIVATIONS_AN_ATTEMPT, KdfParameters
from keys.crypto_slots import Slot, SlotKind
from repositories.engine.chains import ChainOnDisk, FileOnDisk, scan, scan_chain
from repositories.engine.errors import CannotUnwrap, EngineError, PlainRefused, damaged, text
from repositories.engine.head import Head
from repositories.engine.keyring import known_keys
from repositories.engine.reader import FileKey, Kek, Point, Secret, SlotSecrets, inspect, open_point
from repositories.engine.salvage import open_best_effort


class NoPoints(EngineError):
    """A folder or file without restore points. Fields: path."""

    code = "no-points"


class NoSuchPoint(EngineError):
    """A number that no restore point has. Fields: path, number, points."""

    code = "no-such-point"


@dataclass(frozen=True, slots=True)
class Listed:
    """One file of one chain under its number."""

    number: int
    chain_id: UUID
    file: FileOnDisk

    @property
    def encrypted(self) -> bool | None:
        """None where the head cannot be read."""
        return self.file.head.encrypted if self.file.head else None


class Opener:
    """Opens points with one password, with secrets of other slots in the order given, and with the file keys that the
    points opened so far brought along.

    Keys are derived once for each salt. Nothing of them is shown by repr.
    """

    def __init__(self, password: bytes | None, others: tuple[SlotSecrets, ...] = ()) -> None:
        self.password = password
        self.others = others
        self._file_keys: dict[UUID, bytes] = {}
        self._keks: dict[tuple[bytes, KdfParameters], bytes] = {}

    @property
    def has_secret(self) -> bool:
        return self.password is not None or bool(self.others)

    def open(self, file: FileOnDisk, *, best_effort: bool = False) -> Point:
        """Raises CannotUnwrap, KmsFailed, and what the reader raises for damage. A plain point gets no secret."""
        head = file.head
        if head is None:
            raise file.problem or damaged(file.path, "head")
        if not head.encrypted:
            return self._open(file.path, None, best_effort)
        known = known_keys(head, self._file_keys)
        if known:
            return self._learn(self._open(file.path, FileKey(known[0]), best_effort))
        return self._open_by_slot(file.path, head, best_effort)

    def _open_by_slot(self, path: Path, head: Head, best_effort: bool) -> Point:
        try:
            return self.open_with_password(path, head, best_effort=best_effort)[0]
        except CannotUnwrap:
            for secrets in self.others:
                with suppress(CannotUnwrap):
                    return self._learn(self._open(path, secrets, best_effort))
            raise

    def _open(self, path: Path, secret: Secret | None, best_effort: bool) -> Point:
        return open_best_effort(path, secret, self._file_keys) if best_effort else open_point(path, secret)

    def open_with_password(self, path: Path, head: Head, *, best_effort: bool = False) -> tuple[Point, Slot]:
        """Open by the password alone; also tells which slot it opened. Raises CannotUnwrap."""
        slots = [slot for slot in head.slots if slot.kind is SlotKind.PASSWORD][:MAX_DERIVATIONS_AN_ATTEMPT]
        for slot in slots if self.password is not None else ():
            with suppress(CannotUnwrap, KdfRefused):  # a slot that wants too much is none that opens
                return self._learn(self._open(path, Kek(self.kek(slot)), best_effort)), slot
        raise CannotUnwrap(
            f"{text(path)} does not open with what was given. Give the password that it was written with, a "
            "recovery key, or what opens a newer point of its chain.",
            path=text(path),
        )

    def kek(self, slot: Slot) -> bytes:
        """The key encryption key that the password gives with the slot's salt. Raises KdfRefused out of bounds."""
        if self.password is None or slot.kdf_parameters is None:
            raise CannotUnwrap("There is no password for this key slot.")
        salted = (slot.kdf_salt, slot.kdf_parameters)
        if salted not in self._keks:
            self._keks[salted] = derive_kek_for_file(self.password, salt=slot.kdf_salt, parameters=slot.kdf_parameters)
        return self._keks[salted]

    def _learn(self, point: Point) -> Point:
        if point.file_key is not None:
            self._file_keys[point.head.file_id] = point.file_key
        self._file_keys.update(point.earlier_file_keys)
        return point


class Shelf:
    """Everything that stands in one folder, or one file alone."""

    def __init__(self, place: Path, opener: Opener) -> None:
        self.place = place
        self.opener = opener
        self.chains = self._in_order(_chains_at(place))
        files = ((chain, file) for chain in self.chains for file in chain.files)
        self.points = [Listed(number, chain.chain_id, file) for number, (chain, file) in enumerate(files, start=1)]

    def newest(self) -> Listed:
        if not self.points:
            found = "There is no restore point in" if self.place.exists() else "There is nothing called"
            raise NoPoints(f"{found} {text(self.place)}. Check the name of the folder.", path=text(self.place))
        return self.points[-1]

    def numbered(self, number: int | None) -> Listed:
        """The point with this number; None is the newest. Raises NoPoints, NoSuchPoint."""
        newest = self.newest()
        if number is None:
            return newest
        if not 1 <= number <= newest.number:
            raise NoSuchPoint(
                f"There is no restore point {number} in {text(self.place)}; they are numbered 1 to {newest.number}.",
                path=text(self.place),
                number=number,
                points=newest.number,
            )
        return self.points[number - 1]

    def is_encrypted(self) -> bool:
        """Whether the newest readable point is encrypted; a folder in which none can be read counts as encrypted."""
        known = [listed.encrypted for listed in self.points if listed.encrypted is not None]
        return known[-1] if known else bool(self.points)

    def open(self, listed: Listed, *, best_effort: bool = False) -> Point:
        """Open one point, if need be by way of the newest later point of its chain that opens.

        With best effort (salvage.py) damage of its file does not keep it closed.
        """
        if listed.encrypted:
            self._unlock(listed, best_effort=best_effort)
        return self.opener.open(listed.file, best_effort=best_effort)

    def _unlock(self, listed: Listed, *, best_effort: bool) -> None:
        """Learn file keys from later points of the chain, the newest first, until one opens."""
        later = [other for other in self.points if other.chain_id == listed.chain_id and other.number > listed.number]
        for other in reversed(later):
            try:
                self.opener.open(other.file, best_effort=best_effort).close()
            except EngineError:
                continue  # damage or another password there does not say anything about the point that is wanted
            return

    def _in_order(self, chains: list[ChainOnDisk]) -> list[ChainOnDisk]:
        if len(chains) < 2:
            return chains
        for chain in chains:
            self._try_newest(chain)
        return sorted(chains, key=self._age_ns)

    def _try_newest(self, chain: ChainOnDisk) -> None:
        try:
            self.opener.open(chain.files[-1]).close()
        except EngineError:
            return  # the command that needs this point will say why it does not open

    def _age_ns(self, chain: ChainOnDisk) -> int:
        try:
            with self.opener.open(chain.files[0]) as point:
                return point.summary.started_at_ns
        except EngineError:
            return chain.files[0].path.stat().st_mtime_ns


def absolute(path: Path) -> Path:
    """A path as it was meant where it was typed; only `..` makes it necessary to look at links."""
    return path.resolve() if ".." in path.parts else path.absolute()


def _chains_at(place: Path) -> list[ChainOnDisk]:
    """Every chain with a file: of a repository, of one chain's folder, or of one file alone."""
    if place.is_file():
        head = inspect(place)
        file = FileOnDisk(place, head.sequence, place.stat().st_size, head)
        return [ChainOnDisk(head.chain_id, place.parent, (file,))]
    if not place.is_dir():
        return []
    chains = [scan_chain(place)] if _is_uuid(place.name) else scan(place)
    return [chain for chain in chains if chain.files]


def _is_uuid(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


def check_reader_access(shelf: Shelf, wanted: Listed | None, *, plain_accepted: bool) -> None:
    """The rules for readers: a plain point is no answer to somebody who gave a secret, unless that was said.

    `wanted` is the point to be read, None for all of them. Raises PlainRefused.
    """
    if wanted is None or plain_accepted or not shelf.opener.has_secret or wanted.encrypted is not False:
        return
    raise PlainRefused(
        f"Restore point {wanted.number} in {text(shelf.place)} is not encrypted, although a key was given: "
        "anybody who can write there could have made it. Give --plain to take it nevertheless.",
        path=text(wanted.file.path),
    )


def distinct_job_names(shelf: Shelf) -> Iterator[str]:
    """The jobs of a console whose points stand here, as far as they open."""
    seen = set()
    for chain in shelf.chains:
        try:
            with shelf.opener.open(chain.files[-1]) as point:
                name = point.summary.job_name
        except EngineError:
            continue
        if name not in seen:
            seen.add(name)
            yield name
