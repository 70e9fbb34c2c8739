"""A chain that lives through everything that may happen to one, beside a model of what it must hold.

The model is a list of points, each with what the source was when it was written. Whatever writes into the repository
is done by a child process, which a real kill -9 may end at any call; then the chain must be as it was before, or as
it was to be, or at a step between the two that the engine documents.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from repositories.engine import chains
from repositories.engine.backup import BackupOrder, CheckpointInterval, Kind, Level, ParentPoint, Written, write_backup
from repositories.engine.errors import CannotUnwrap
from repositories.engine.keyring import known_keys
from repositories.engine.merging import MergeOrder, merge
from repositories.engine.reader import FileKey, Kek, Secret, inspect, open_point
from repositories.engine.restore import RestoreOrder, restore
from repositories.engine.rewrap import rewrap
from repositories.engine.settling import settle, unsettled
from repositories.engine.synthetic import SyntheticOrder, write_synthetic_full
from repositories.engine.verify import verify
from tests.engine.children import Killed, in_child
from tests.engine.disk_calls import killed, killed_in_the_middle, watched
from tests.engine.lab import NO_RESERVE, Chain, Recorder, facts_in_point, inside, later, recipient
from tests.engine.random_trees import EDITS, Edit, RandomTree, Truth, below, truth_of

FIRST, SECOND = "correct horse", "battery staple"
numbers = st.integers(0, 999)
edits = st.lists(st.tuples(st.sampled_from(sorted(EDITS)), numbers, numbers), max_size=6)
Kill = tuple[int, bool] | None  # at which call it is killed, and whether before it or in its middle


def kills(calls: int) -> st.SearchStrategy[Kill]:
    """For a work that makes about so many calls."""
    return st.none() | st.tuples(st.integers(0, calls), st.booleans())


@dataclass(frozen=True)
class Kept:
    """A point of the model."""

    sequence: int
    truth: Truth
    is_full: bool
    passwords: frozenset[str]
    is_torn: bool = False  # a rewrap was killed, so that the copies of its head may differ


class Machine(RuleBasedStateMachine):
    """`happened` counts what came of the works, over all runs."""

    def __init__(self, folder: Path, happened: Counter[str]) -> None:
        super().__init__()
        self._folder, self._happened = folder / uuid4().hex, happened
        self._folder.mkdir()
        self._source = self._folder / "source"
        self._tree = RandomTree(self._source)
        self._points: list[Kept] = []
        self._has_parts = self._has_deleting = self._begun_as_full = False
        self._steps = 0

    @initialize(encrypted=st.booleans(), edits=edits)
    def begin(self, encrypted: bool, edits: list[Edit]) -> None:
        self._passwords = (FIRST,) if encrypted else ()
        self._chain = Chain(self._folder / "repository", self._source, self._passwords)
        self._edit(edits)

    def teardown(self) -> None:
        self._check(self._points)
        if self._points:
            self._restore(-1)
        shutil.rmtree(self._folder)

    # What adds points

    @rule(edits=edits, is_full=st.sampled_from([False, False, False, True]), kill=kills(36), often=st.booleans())
    def back_up(self, edits: list[Edit], is_full: bool, kill: Kill, often: bool) -> None:
        """`often`: with checkpoints, so that a killed one is written on; all files count as racy without them.

        One that was killed is tried again as what it was, but for a full that is wanted in its place.
        """
        self._edit(edits)
        is_full = is_full or self._begun_as_full or not self._points
        order = BackupOrder(
            **self._common(),
            sequence=self._next(),
            kind=Kind.FULL if is_full else Kind.INCREMENTAL,
            reason="changes-since-parent",
            started_at_ns=time.time_ns(),
            sources=(os.fsencode(self._source),),
            level=Level.NONE,
            parent=self._newest(),
            clock=later if often else time.time_ns,
            checkpoints=CheckpointInterval(bytes=1, seconds=3600.0) if often else CheckpointInterval(),
        )
        point = Kept(self._next(), truth_of(self._source), is_full, frozenset(self._passwords))
        written = self._work("backup", kill, lambda: write_backup(order, Recorder()), [*self._points, point])
        if isinstance(written, Written):
            self._happened["resumed"] += written.resumed
            assert written.warnings == 0
        self._has_parts = written is None
        self._begun_as_full = is_full and self._next() == order.sequence
        self._check(self._points[-1:])
        let_the_clock_move(self._folder / "clock")

    @precondition(lambda self: self._points and len(self._runs()[-1]) > 2)
    @rule(kill=kills(16))
    def synthesize(self, kill: Kill) -> None:
        newest = self._newest()
        assert newest is not None
        order = SyntheticOrder(
            **self._common(), sequence=self._next(), reason="due", parent=newest, level=Level.NONE, clock=later
        )
        point = replace(
            self._points[-1],
            sequence=self._next(),
            is_full=True,
            passwords=frozenset(self._passwords),
            is_torn=False,
        )
        done = self._work(
            "synthetic full", kill, lambda: write_synthetic_full(order, Recorder()), [*self._points, point]
        )
        self._has_parts |= done is None
        self._check(self._points[-1:])

    # What takes points away

    @precondition(lambda self: self._mergeable() and not self._unsettled())
    @rule(which=numbers, kill=kills(20))
    def merge(self, which: int, kill: Kill) -> None:
        candidates = self._mergeable()
        at = candidates[which % len(candidates)]
        start = max(number for number in range(at + 1) if self._points[number].is_full)
        newest = self._newest()
        assert newest is not None
        order = MergeOrder(**self._common(), sequence=self._points[at].sequence, newest=newest, clock=later)
        point = replace(self._points[at], is_full=True, passwords=frozenset(self._passwords), is_torn=False)
        after = [*self._points[:start], point, *self._points[at + 1 :]]
        done = self._work("merge", kill, lambda: merge(order, Recorder()), after)
        self._has_parts |= done is None
        self._check(self._points)

    @precondition(lambda self: self._unsettled())
    @rule(kill=kills(12))
    def settle(self, kill: Kill) -> None:
        (path,), newest = self._unsettled(), self._newest()
        assert newest is not None
        done = self._work("settle", kill, lambda: settle(path, newest), self._points)
        self._has_deleting |= done is None
        self._check(self._points)

    @precondition(lambda self: len(self._runs()) > 1 and not self._unsettled())
    @rule(kill=kills(8))
    def prune(self, kill: Kill) -> None:
        """The oldest run goes as a whole, its newest point first."""
        doomed = self._runs()[0]
        steps = [[*doomed[:kept], *self._points[len(doomed) :]] for kept in reversed(range(len(doomed)))]
        self._delete("prune", [point.sequence for point in reversed(doomed)], kill, steps)

    @precondition(lambda self: len(self._points) > 4 and not self._unsettled())
    @rule(kill=kills(4))
    def delete_the_newest(self, kill: Kill) -> None:
        self._delete("deletion", [self._points[-1].sequence], kill, [self._points[:-1]])

    # What changes who opens them

    @precondition(lambda self: self._passwords)
    @rule()
    def change_the_password(self) -> None:
        self._passwords = (SECOND,) if self._passwords == (FIRST,) else (FIRST,)

    @precondition(lambda self: self._passwords and self._points)
    @rule(which=numbers, add=st.sampled_from([FIRST, SECOND]), take_away=st.booleans(), kill=kills(4))
    def rewrap(self, which: int, add: str, take_away: bool, kill: Kill) -> None:
        """Killed, it may leave two copies of the head that differ: what opens one of them opens the point.

        The next one begins with the newer copy.
        """
        at = which % len(self._points)
        point, path, secret = self._points[at], self._paths()[at], self._secret(self._points[at])
        assert secret is not None
        other, added = SECOND if add == FIRST else FIRST, (recipient(add),)
        removed = ((recipient(other).record, 1),) if take_away else ()
        records = {slot.record for slot in inspect(path).slots}
        before = frozenset(password for password in (FIRST, SECOND) if recipient(password).record in records)
        assert before <= point.passwords if point.is_torn else before == point.passwords
        after = (before | {add}) - (frozenset((other,)) if take_away else frozenset())
        done = self._run("rewrap", kill, lambda: rewrap(path, secret, added, removed).generation)
        opened_by = self._opened_by(path)
        if done:
            assert opened_by == after
        else:
            assert opened_by <= after | point.passwords and (opened_by >= before or opened_by >= after)
        self._points[at] = replace(point, passwords=opened_by, is_torn=done is None)
        self._check([self._points[at]])

    # What looks and tidies

    @precondition(lambda self: self._points)
    @rule(which=numbers, how=st.sampled_from(["restore", "check", "open", "tidy", "tidy all"]))
    def look(self, which: int, how: str) -> None:
        at = which % len(self._points)
        if how == "restore":
            self._restore(at)
        elif how == "check":
            self._check([self._points[at]])
        elif how == "open":
            self._open_everything_with_the_newest()
        else:
            chains.remove_leftovers(self._chain.root, adoptable_too=how == "tidy all")
            self._has_deleting, self._has_parts = False, self._has_parts and how == "tidy"

    @invariant()
    def the_folder_has_the_points_and_nothing_else(self) -> None:
        self._steps += 1
        for name in self._chain.names() if hasattr(self, "_chain") else ():
            if name.endswith(".part"):
                assert self._has_parts, name
            elif name.endswith(".deleting"):
                assert self._has_deleting, name
            elif not self._unsettled():
                assert name in {str(point.sequence) for point in self._points}

    # How it is done

    def _edit(self, edits: list[Edit]) -> None:
        for kind, where, how in edits:
            self._tree.edit(kind, where, how)

    def _restore(self, at: int) -> None:
        point, into = self._points[at], self._folder / "restored"
        with open_point(self._paths()[at], self._secret(point)) as opened:
            observer = Recorder()
            restore(RestoreOrder(opened, into, (inside(self._source),), helpers=0), observer)
            assert observer.warnings == []
        found = truth_of(into / self._source.relative_to("/"))
        assert found == point.truth, f"point {point.sequence}"
        shutil.rmtree(into)

    def _open_everything_with_the_newest(self) -> None:
        with open_point(self._paths()[-1], self._secret(self._points[-1])) as newest:
            keys = {**newest.earlier_file_keys, newest.head.file_id: newest.file_key}
        for file in chains.scan_chain(self._chain.folder).files:
            assert file.head is not None
            (known, *_) = known_keys(file.head, keys) if self._passwords else (None,)
            with open_point(file.path, FileKey(known) if known else None) as point:
                assert point.head.sequence == file.sequence

    def _work(self, name: str, kill: Kill, work: Callable[[], Any], *steps: list[Kept]) -> Any:
        """Do it in a child; None if it was killed. The chain is as before then, or as after one of the steps.

        A work that ended is behind the last step.
        """
        done = self._run(name, kill, work)
        found = chains.scan_chain(self._chain.folder).files if self._chain.folder.exists() else ()
        assert all(file.problem is None for file in found)
        offered = [file.sequence for file in found]
        states = [self._points, *steps] if done is None else [steps[-1]]
        matching = [state for state in states if [point.sequence for point in state] == offered]
        assert matching, f"{offered} is offered after: {name}, which was {'killed' if done is None else 'done'}"
        self._points = matching[-1]
        return done

    def _run(self, name: str, kill: Kill, work: Callable[[], Any]) -> Any:
        def watched_work() -> Any:
            if kill is None:
                return work()
            with watched(kill[0], killed_in_the_middle if kill[1] else killed):
                return work()

        try:
            done = in_child(watched_work)
        except Killed:
            done = None
        self._happened[f"{name} killed" if done is None else f"{name} done"] += 1
        return done

    def _delete(self, name: str, sequences: list[int], kill: Kill, steps: list[list[Kept]]) -> None:
        paths = dict(zip([point.sequence for point in self._points], self._paths(), strict=True))

        def work() -> bool:
            for sequence in sequences:
                chains.delete_file(paths[sequence])
            return True

        self._has_deleting |= self._work(name, kill, work, *steps) is None
        self._check(self._points)

    def _check(self, points: list[Kept]) -> None:
        """Each holds what the source was, and verifies."""
        paths = dict(zip([point.sequence for point in self._points], self._paths(), strict=True))
        top = inside(self._source)
        for point in points:
            with open_point(paths[point.sequence], self._secret(point)) as opened:
                assert below(top, facts_in_point(opened, top)) == point.truth.facts, f"point {point.sequence}"
                damages = verify(opened, "full", Recorder()).damages
                assert all(point.is_torn and damage.part == "head" for damage in damages), damages

    def _common(self) -> dict[str, Any]:
        return {
            "root": self._chain.root,
            "chain_id": self._chain.chain_id,
            "file_id": uuid4(),
            "recipients": tuple(recipient(password) for password in self._passwords),
            "reserve": NO_RESERVE,
        }

    def _next(self) -> int:
        return self._points[-1].sequence + 1 if self._points else 1

    def _newest(self) -> ParentPoint | None:
        if not self._points:
            return None
        path = self._paths()[-1]
        with open_point(path, self._secret(self._points[-1])) as point:
            return ParentPoint(path, point.file_key)

    def _paths(self) -> list[Path]:
        return [file.path for file in chains.scan_chain(self._chain.folder).files] if self._points else []

    def _unsettled(self) -> list[Path]:
        return unsettled(self._chain.folder) if self._chain.folder.exists() else []

    def _secret(self, point: Kept) -> Secret | None:
        return Kek(recipient(min(point.passwords)).kek) if point.passwords else None

    def _opened_by(self, path: Path) -> frozenset[str]:
        found = set()
        for password in (FIRST, SECOND):
            with suppress(CannotUnwrap), open_point(path, Kek(recipient(password).kek)):
                found.add(password)
        return frozenset(found)

    def _runs(self) -> list[list[Kept]]:
        runs: list[list[Kept]] = []
        for point in self._points:
            if point.is_full:
                runs.append([])
            runs[-1].append(point)
        return runs

    def _mergeable(self) -> list[int]:
        """The places of points that have earlier ones in their run."""
        return [at for at, point in enumerate(self._points) if not point.is_full]


def let_the_clock_move(probe: Path) -> None:
    """Until a change gets another time than one made before: times of files have ticks of some milliseconds."""
    probe.touch()
    before = probe.stat().st_mtime_ns
    while probe.stat().st_mtime_ns == before:
        os.utime(probe)
