"""Chains that the catalogue does not know, or not wholly: what can be said of them without a key, and opening them.

This happens where the repository's folder is (`jobs.answering_chains` asks for it); nothing is stored. Which files
belong together is decided in `repositories.engine.takeover`, what the catalogue takes of them in
`repositories.importing`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from keys.crypto_slots import Slot as SlotOnDisk
from keys.crypto_slots import SlotKind
from repositories.catalogue import RepositoryAway, SealedFile, kms_version_of, sealed_file_of, version_of
from repositories.engine.chains import ChainOnDisk, FileOnDisk, scan, scan_chain
from repositories.engine.errors import Cancelled, text
from repositories.engine.takeover import Judged, SecretOf, Standing, TypedPassword, in_turn, is_encrypted, take_over
from repositories.models import Chain, PointState, Repository, RestorePoint
from repositories.own_secrets import OwnSecrets
from repositories.reading import expected, file_key_of

CHAINS_AT_MOST = 200
OPENING_SECONDS = 25  # a quick question is given up after 30


@dataclass(frozen=True)
class SeenSlot:
    """A key slot as it stands in the files. Of those of a chain: whether this console has what opens it, and in how
    many files it is.
    """

    kind: str
    record: UUID
    version: int
    hint: str = ""
    key_id: str = ""
    here: bool = False
    files: int = 1


@dataclass(frozen=True)
class SeenFile:
    """One file of a chain. Without `sealed` it was not opened, and what its head says is not proven."""

    sequence: int
    length: int
    modified_at: datetime
    file_id: UUID | None = None
    encrypted: bool | None = None
    generation: int = 0
    slots: tuple[SeenSlot, ...] = ()
    problem: str = ""
    standing: str = ""  # empty: nothing was opened
    sealed: SealedFile | None = None
    job_name: str = ""
    signer: str = ""


@dataclass(frozen=True)
class SeenChain:
    """A chain in a folder: its files by sequence, and the secrets that its slots name, the newest file's first."""

    chain_id: UUID
    encrypted: bool
    files: tuple[SeenFile, ...]
    slots: tuple[SeenSlot, ...]
    replaced: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ListedChain:
    """A chain in the list of a repository: sums instead of files. `elsewhere`: the repository that it is known in."""

    chain_id: UUID
    encrypted: bool
    files: int
    unreadable: int
    length: int
    first_at: datetime
    last_at: datetime
    slots: tuple[SeenSlot, ...]
    elsewhere: str = ""


@dataclass(frozen=True)
class RightPassword:
    """What a typed password was right for: enough to make a record of it."""

    record: UUID
    version: int
    salt: bytes
    memory_kib: int
    iterations: int
    lanes: int
    hint: str
    kek: bytes

    def __repr__(self) -> str:
        return f"RightPassword({self.record}, version {self.version})"


@dataclass(frozen=True)
class OpenedChain:
    chain: SeenChain
    passwords: tuple[RightPassword, ...] = ()


class NothingThere(Exception):
    """The chain has no file in the folder; str() says where."""


def unknown_chains(repository: Repository) -> list[ListedChain]:
    """Return the chains in the folder that the catalogue does not have there. Raises RepositoryAway.

    The newest 200 are said; heads alone are read.
    """
    root = _root(repository)
    known = dict(Chain.objects.values_list("uuid", "repository__name"))
    here = set(Chain.objects.filter(repository=repository).values_list("uuid", flat=True))
    found = [_listed(chain, known.get(chain.chain_id, "")) for chain in scan(root) if chain.chain_id not in here]
    return sorted(found, key=lambda chain: chain.last_at, reverse=True)[:CHAINS_AT_MOST]


def look(repository: Repository, chain_id: UUID) -> SeenChain:
    """Say what is in a chain's folder, by its heads; of a chain in the catalogue also what belongs to it, by its keys.

    Raises RepositoryAway, NothingThere if there is no such chain.
    """
    chain = on_disk(repository, chain_id)
    if not RestorePoint.objects.filter(chain__uuid=chain_id, chain__repository=repository).exists():
        return _seen(chain, [_seen_file(file) for file in chain.files])
    return _judged(repository, chain, lambda *_: None)


def open_chain(
    repository: Repository,
    chain_id: UUID,
    *,
    password: bytes | None = None,
    wanted: tuple[UUID, int] | None = None,
    secret_of: SecretOf | None = None,
) -> OpenedChain:
    """Open every file with a typed password, with secrets that were answered, and with what this console has.

    Raises RepositoryAway, NothingThere, Cancelled when it takes too long.
    """
    chain = on_disk(repository, chain_id)
    typed = TypedPassword(password, wanted) if password is not None else None
    own = OwnSecrets(forgiving=True)
    sources = [*([typed.of] if typed else []), *([secret_of] if secret_of else []), own.of]
    seen = replace(_judged(repository, chain, in_turn(sources)), notes=tuple(own.notes))
    return OpenedChain(seen, tuple(_right(slot, kek) for slot, kek in typed.right.values()) if typed else ())


def _judged(repository: Repository, chain: ChainOnDisk, secret_of: SecretOf) -> SeenChain:
    points = RestorePoint.objects.filter(chain__uuid=chain.chain_id, chain__repository=repository)
    rows = list(points.select_related("chain"))
    known = [expected(row) for row in rows if row.state == PointState.SEALED]
    judged = take_over(chain, secret_of, known, _cached_keys(rows), _until(OPENING_SECONDS, chain))
    noted = rows[0].chain.set_apart or {} if rows else {}
    return _seen(chain, [_judged_file(_as_noted(one, noted)) for one in judged])


def _as_noted(judged: Judged, noted: dict[str, list[str]]) -> Judged:
    """Say of a file that does not open now what was found when it did."""
    head = judged.file.head
    if judged.standing is not Standing.CLOSED or head is None or str(head.file_id) not in noted:
        return judged
    standing, because = noted[str(head.file_id)]
    return replace(judged, standing=Standing(standing), because=because)


def _cached_keys(rows: list[RestorePoint]) -> dict[UUID, bytes]:
    return {row.uuid: key for row in rows if row.file_key_sealed is not None and (key := file_key_of(row))}


def _until(seconds: float, chain: ChainOnDisk) -> Callable[[], None]:
    deadline = time.monotonic() + seconds

    def beat() -> None:
        if time.monotonic() > deadline:
            raise Cancelled(
                f"Opening {len(chain.files):,} files of the chain {chain.chain_id} took longer than {seconds:.0f} "
                "seconds, so it was stopped. Try again when the repository's disk is less busy."
            )

    return beat


def _root(repository: Repository) -> Path:
    if not repository.root.is_dir():
        raise RepositoryAway(repository.root)
    return repository.root


def on_disk(repository: Repository, chain_id: UUID) -> ChainOnDisk:
    """Read the heads of a chain. Raises RepositoryAway, NothingThere."""
    folder = _root(repository) / str(chain_id)
    chain = scan_chain(folder) if folder.is_dir() else None
    if chain is None or not chain.files:
        raise NothingThere(f"There is no backup file in {text(folder)}.")
    return chain


def _listed(chain: ChainOnDisk, elsewhere: str) -> ListedChain:
    times = [_modified(file) for file in chain.files]
    return ListedChain(
        chain_id=chain.chain_id,
        encrypted=is_encrypted(chain),
        files=len(chain.files),
        unreadable=sum(file.head is None for file in chain.files),
        length=sum(file.length for file in chain.files),
        first_at=min(times),
        last_at=max(times),
        slots=_slots_of(chain),
        elsewhere=elsewhere,
    )


def _seen(chain: ChainOnDisk, files: list[SeenFile]) -> SeenChain:
    return SeenChain(
        chain_id=chain.chain_id,
        encrypted=is_encrypted(chain),
        files=tuple(files),
        slots=_slots_of(chain),
        replaced=len(chain.replaced),
    )


def _slots_of(chain: ChainOnDisk) -> tuple[SeenSlot, ...]:
    """Return each secret once, the newest file's first, with the number of files that have a slot for it."""
    slots = [slot for file in reversed(chain.files) if file.head for slot in file.head.slots]
    count = Counter((slot.kind, slot.record, slot.version) for slot in slots)
    newest = {(slot.kind, slot.record, slot.version): slot for slot in reversed(slots)}
    return tuple(
        replace(_seen_slot(newest[place]), files=number, here=_is_here(newest[place]))
        for place, number in count.items()
    )


def _seen_file(file: FileOnDisk) -> SeenFile:
    seen = SeenFile(file.sequence, file.length, _modified(file), problem=str(file.problem or ""))
    if file.head is None:
        return seen
    return replace(
        seen,
        file_id=file.head.file_id,
        encrypted=file.head.encrypted,
        generation=file.head.generation,
        slots=tuple(_seen_slot(slot) for slot in file.head.slots),
        problem="Its two heads differ: a rewrap was interrupted, or one is damaged." if file.head.copies_differ else "",
    )


def _judged_file(judged: Judged) -> SeenFile:
    seen = replace(_seen_file(judged.file), standing=judged.standing.value)
    if judged.because:
        seen = replace(seen, problem=judged.because)
    if judged.opened is None:
        return seen
    summary = judged.opened.summary
    try:
        sealed = sealed_file_of(judged.opened)
    except (OverflowError, ValueError, OSError):
        return replace(seen, standing=Standing.DAMAGED.value, problem="It says that it was made at no possible time.")
    return replace(seen, sealed=sealed, job_name=_one_line(summary.job_name), signer=summary.signer.hex())


def _seen_slot(slot: SlotOnDisk) -> SeenSlot:
    kind = slot.kind.name.lower()
    return SeenSlot(kind, slot.record, slot.version, text(slot.hint), text(slot.key_id))


def _is_here(slot: SlotOnDisk) -> bool:
    match slot.kind:
        case SlotKind.PASSWORD:
            return version_of(slot.record, slot.version) is not None
        case SlotKind.KMS:
            return kms_version_of(slot.record, slot.version) is not None
    return False  # of a recovery key there is the public half only


def _right(slot: SlotOnDisk, kek: bytes) -> RightPassword:
    costs = slot.kdf_parameters
    assert costs is not None, "a password that was right was derived"
    return RightPassword(
        slot.record, slot.version, slot.kdf_salt, costs.memory_kib, costs.iterations, costs.lanes, slot.hint, kek
    )


def _modified(file: FileOnDisk) -> datetime:
    try:
        return datetime.fromtimestamp(file.path.stat().st_mtime, UTC)
    except FileNotFoundError:  # removed between looking and asking
        return datetime.fromtimestamp(0, UTC)


def _one_line(name: str) -> str:
    """Return a name from a file as the catalogue keeps it."""
    return text(name)[: Chain._meta.get_field("job_name").max_length]
