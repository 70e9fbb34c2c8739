"""What a rewrap would mean, before anything starts: which points, what opens them before and after, what cannot be
rewritten.

The catalogue's rows are asked, and each file whether it can be written, without changing it. What the session then does
is decided in `jobs.rewrapping`; the digest tells whether what was shown is still so.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from django.db.models import QuerySet

from jobs.key_map import Secret, Span, named
from jobs.rewrap_orders import Order, RecordVersion
from jobs.rewrap_scope import Planned, Scope
from jobs.secret_names import stranger
from repositories.engine.rewrap_many import obstacle
from repositories.models import Chain, PointState, RestorePoint, Slot


@dataclass(frozen=True)
class Obstacle:
    """Points of a chain that cannot be rewritten, with the code of `repositories.engine.rewrap_many.obstacle`."""

    chain: Chain
    code: str
    sequences: tuple[int, ...]

    @property
    def numbers(self) -> str:
        """Return which points: 1 to 9, 12."""
        runs: list[list[int]] = []
        for number in self.sequences:
            if runs and number == runs[-1][-1] + 1:
                runs[-1].append(number)
            else:
                runs.append([number])
        return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


@dataclass(frozen=True)
class ChainRow:
    """One chain: its points in question, how many are to be written, and how many have no key in the cache."""

    chain: Chain
    why_not: str
    points: Span = field(default_factory=Span)
    to_write: int = 0
    uncached: int = 0


@dataclass
class SecretRow:
    """One secret over all chains in question: points with a slot, and points that it opens, before and after."""

    secret: Secret
    slots_before: int = 0
    slots_after: int = 0
    opens_before: int = 0
    opens_after: int = 0

    @property
    def change(self) -> str:
        if self.slots_before == self.slots_after:
            return "same"
        return "added" if self.slots_after > self.slots_before else "removed"

    @property
    def still_through_keyring(self) -> int:
        """How many points it opens afterwards although it has no slot in them."""
        return self.opens_after - self.slots_after

    @property
    def place(self) -> str:
        return f"{self.secret.record}:{self.secret.version}"


@dataclass(frozen=True)
class Preview:
    chains: tuple[ChainRow, ...]
    secrets: tuple[SecretRow, ...]
    obstacles: tuple[Obstacle, ...]
    digest: str

    @property
    def points(self) -> Span:
        return sum((row.points for row in self.chains if not row.why_not), Span())

    @property
    def to_write(self) -> int:
        return sum(row.to_write for row in self.chains)

    @property
    def uncached(self) -> int:
        return sum(row.uncached for row in self.chains)

    @property
    def closed(self) -> int:
        """Return how many points cannot be rewritten."""
        return sum(len(obstacle.sequences) for obstacle in self.obstacles)

    @property
    def as_wanted(self) -> int:
        """Return how many points have the wanted slots already."""
        return self.points.points - self.to_write - self.closed

    @property
    def left_out(self) -> tuple[ChainRow, ...]:
        return tuple(row for row in self.chains if row.why_not)

    @property
    def taken(self) -> tuple[SecretRow, ...]:
        return tuple(row for row in self.secrets if row.change == "removed")

    @property
    def only_recovery_left(self) -> bool:
        """Tell whether nothing but recovery keys would open the points."""
        opening = [row for row in self.secrets if row.slots_after]
        return bool(opening) and all(row.secret.kind == "recovery" for row in opening)


@dataclass
class _Chain:
    """The rows of one chain: all its points, and those in question, by sequence."""

    planned: Planned
    points: list[RestorePoint]
    slots: dict[int, set[RecordVersion]]  # by the point's key
    in_question: list[RestorePoint] = field(default_factory=list)
    obstacles: dict[int, str] = field(default_factory=dict)  # by sequence

    @property
    def writable(self) -> list[RestorePoint]:
        return [point for point in self.in_question if point.sequence not in self.obstacles]


def preview(scope: Scope, plans: list[Planned]) -> Preview:
    chains = [_read(scope, plan) for plan in plans]
    kinds = _kinds(chains)
    rows = _secret_rows(chains, kinds)
    obstacles = tuple(found for one in chains for found in _obstacles(one))
    return Preview(tuple(_chain_row(one) for one in chains), tuple(rows), obstacles, _digest(chains))


def _read(scope: Scope, plan: Planned) -> _Chain:
    points = list(plan.chain.points.sealed().order_by("sequence").defer("seal_hash"))
    slots: dict[int, set[RecordVersion]] = defaultdict(set)
    for pk, record, version in _slots(plan.chain).values_list("point", "record_uuid", "version"):
        slots[pk].add((record, version))
    for point in points:
        point.chain = plan.chain
    wanted = [p for p in points if scope.having is None or any(r == scope.having for r, _ in slots[p.pk])]
    found = _Chain(plan, points, slots, wanted)
    if plan.order is not None:
        found.obstacles = {p.sequence: code for p in wanted if (code := obstacle(p.path))}
    return found


def _obstacles(one: _Chain) -> Iterable[Obstacle]:
    by_code: dict[str, list[int]] = defaultdict(list)
    for sequence, code in sorted(one.obstacles.items()):
        by_code[code].append(sequence)
    return (Obstacle(one.planned.chain, code, tuple(sequences)) for code, sequences in sorted(by_code.items()))


def _slots(chain: Chain) -> QuerySet[Slot]:
    return Slot.objects.filter(point__chain=chain, point__state=PointState.SEALED)


def _chain_row(one: _Chain) -> ChainRow:
    order = one.planned.order
    span = sum((Span(1, p.size_bytes, p.started_at, p.started_at) for p in one.in_question), Span())
    if order is None:
        return ChainRow(one.planned.chain, one.planned.why_not, span)
    to_write = [point for point in one.writable if _after(one.slots[point.pk], order) != one.slots[point.pk]]
    uncached = sum(point.file_key_sealed is None for point in to_write)
    return ChainRow(one.planned.chain, "", span, len(to_write), uncached)


def _after(slots: set[RecordVersion], order: Order) -> set[RecordVersion]:
    return (slots | {one.place for one in order.add}) - set(order.remove)


def _secret_rows(chains: list[_Chain], kinds: dict[RecordVersion, tuple[str, str]]) -> Iterable[SecretRow]:
    known = named({record for record, _ in kinds})
    rows = {place: SecretRow(known.get(place) or _stranger(place, *kind)) for place, kind in kinds.items()}
    for one in chains:
        before = {point.sequence: one.slots[point.pk] for point in one.points}
        order = one.planned.order
        changed = {p.sequence: _after(one.slots[p.pk], order) for p in one.writable} if order else {}
        _count(rows, before, after={**before, **changed})
    return sorted(rows.values(), key=lambda row: (row.secret.kind == "recovery", row.secret.name))


def _count(
    rows: dict[RecordVersion, SecretRow], before: dict[int, set[RecordVersion]], after: dict[int, set[RecordVersion]]
) -> None:
    """Add what one chain has: a secret opens every point up to the newest one with a slot for it."""
    sequences = sorted(before)
    for place, row in rows.items():
        old = [sequence for sequence in sequences if place in before[sequence]]
        new = [sequence for sequence in sequences if place in after[sequence]]
        row.slots_before += len(old)
        row.slots_after += len(new)
        row.opens_before += bisect_right(sequences, old[-1]) if old else 0
        row.opens_after += bisect_right(sequences, new[-1]) if new else 0


def _kinds(chains: list[_Chain]) -> dict[RecordVersion, tuple[str, str]]:
    """Return every secret there is or shall be, with its kind and hint."""
    found: dict[RecordVersion, tuple[str, str]] = {}
    for one in chains:
        for record, version, kind, hint in (
            _slots(one.planned.chain).values_list("record_uuid", "version", "kind", "hint").order_by().distinct()
        ):
            found.setdefault((record, version), (kind, hint))
        for wanted in one.planned.order.add if one.planned.order else ():
            found.setdefault(wanted.place, (wanted.kind, ""))
    return found


def _stranger(place: RecordVersion, kind: str, hint: str) -> Secret:
    record, version = place
    return Secret(kind, record, version, stranger(kind, str(record), version, hint), state="no record here")


def _digest(chains: list[_Chain]) -> str:
    """Return the fingerprint of what was shown: the orders, and which point has which slots."""
    facts = [
        (repr(one.planned.order), [(p.pk, sorted((str(r), v) for r, v in one.slots[p.pk])) for p in one.in_question])
        for one in chains
    ]
    return hashlib.sha256(repr(facts).encode()).hexdigest()
