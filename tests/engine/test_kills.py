"""A merge, its settling and a synthetic full, killed by a real kill -9 at every call that changes the repository."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from repositories.engine import chains
from repositories.engine.merging import merge
from repositories.engine.settling import settle, unsettled
from repositories.engine.synthetic import SyntheticOrder, write_synthetic_full
from tests.engine.children import Killed, in_child
from tests.engine.disk_calls import Fault, killed, killed_in_the_middle, watched
from tests.engine.lab import NO_RESERVE, Recorder, later, recipient
from tests.engine.test_merging import History

BOUND = 200  # calls, more than any of these works makes
HOW = [
    pytest.param(("correct horse",), killed, id="encrypted, before the call"),
    pytest.param((), killed_in_the_middle, id="plain, in its middle"),
    pytest.param(("correct horse",), killed_in_the_middle, id="encrypted, in its middle", marks=pytest.mark.soak),
    pytest.param((), killed, id="plain, before the call", marks=pytest.mark.soak),
]


def make_history(folder: Path, passwords: tuple[str, ...]) -> History:
    """Four small points: what is shared, what is gone, what came back."""
    history = History(folder, passwords)
    history.write_more(3)
    return history


def merge_and_settle(history: History) -> None:
    """As a session does it that may follow one that was killed."""
    folder = history.chain.folder
    if not unsettled(folder) and offered(history)[0] == 1:
        merge(history.order(3), Recorder())
    for path in unsettled(folder):
        settle(path, history.newest)
    chains.remove_leftovers(history.chain.root, adoptable_too=True)


def synthesize(history: History) -> None:
    order = SyntheticOrder(
        root=history.chain.root,
        chain_id=history.chain.chain_id,
        file_id=uuid4(),
        sequence=5,
        reason="synthetic-full-due",
        parent=history.newest,
        recipients=tuple(recipient(password) for password in history.chain.passwords),
        reserve=NO_RESERVE,
        clock=later,
    )
    if 5 not in offered(history):
        write_synthetic_full(order, Recorder())
    chains.remove_leftovers(history.chain.root, adoptable_too=True)


def offered(history: History) -> list[int]:
    return [file.sequence for file in chains.scan_chain(history.chain.folder).files]


class KilledEverywhere:
    """The work killed at each of its calls, on the repository as it was, and done again after each kill.

    After both it is looked whether every point that is offered is what the source was. Sealed files that are the same
    ones as after an earlier kill are not read again.
    """

    def __init__(self, history: History, work: Callable[[History], None], fault: Fault) -> None:
        self._history, self._work, self._fault = history, work, fault
        self._told = dict(history.truth)
        self._folder = history.chain.folder
        self._read: set[frozenset[tuple[str, int]]] = set()
        self.offered_after_kills: list[list[int]] = []
        self.offered_at_the_end: list[list[int]] = []

    def run(self) -> int:
        """Returns how often it was killed."""
        kept = self._history.chain.root.with_name("as it was")
        shutil.copytree(self._folder, kept, copy_function=os.link)
        for at in range(BOUND):
            try:
                in_child(lambda at=at: self._watched(at))
            except Killed:
                self._look_and_end()
                shutil.rmtree(self._folder)
                shutil.copytree(kept, self._folder, copy_function=os.link)
            else:
                return at
        raise AssertionError("it makes more calls than there can be")

    def _watched(self, at: int) -> None:
        with watched(at, self._fault):
            self._work(self._history)

    def _look_and_end(self) -> None:
        self.offered_after_kills.append(offered(self._history))
        state = self._sealed_files()
        is_new = state not in self._read
        self._read.add(state)
        if is_new:
            self._check()
        self._work(self._history)
        self.offered_at_the_end.append(offered(self._history))
        if is_new:
            self._check()

    def _sealed_files(self) -> frozenset[tuple[str, int]]:
        """Nothing is ever written into one, so a name and an inode tell what it is."""
        names = chains.sealed_names(self._folder) + chains.sealed_names(self._folder, with_deleting=True)
        return frozenset((name, (self._folder / name).stat().st_ino) for name in names)

    def _check(self) -> None:
        self._history.truth = {number: self._told.get(number, self._told[4]) for number in offered(self._history)}
        self._history.check()


@pytest.mark.parametrize("passwords, fault", HOW)
def test_a_merge_killed_at_every_call_loses_no_point(tmp_path: Path, passwords: tuple[str, ...], fault: Fault) -> None:
    """Before it is published all points are there; afterwards those that stay, and doing it again ends it."""
    history = make_history(tmp_path, passwords)
    run = KilledEverywhere(history, merge_and_settle, fault)
    assert run.run() > 20
    before = run.offered_after_kills.count([1, 2, 3, 4])
    assert run.offered_after_kills == [[1, 2, 3, 4]] * before + [[3, 4]] * (len(run.offered_after_kills) - before)
    assert 10 < before < len(run.offered_after_kills) - 10, "it was killed on both sides of the publishing"
    assert all(numbers == [3, 4] for numbers in run.offered_at_the_end)
    merge_and_settle(history)
    assert history.chain.names() == ["3", "4"]


@pytest.mark.parametrize("passwords, fault", HOW)
def test_a_synthetic_full_killed_at_every_call_loses_no_point(
    tmp_path: Path, passwords: tuple[str, ...], fault: Fault
) -> None:
    history = make_history(tmp_path, passwords)
    run = KilledEverywhere(history, synthesize, fault)
    assert run.run() > 10
    before = run.offered_after_kills.count([1, 2, 3, 4])
    after = len(run.offered_after_kills) - before
    assert run.offered_after_kills == [[1, 2, 3, 4]] * before + [[1, 2, 3, 4, 5]] * after and before > 5 and after > 1
    assert all(numbers == [1, 2, 3, 4, 5] for numbers in run.offered_at_the_end)
    synthesize(history)
    assert history.chain.names() == ["1", "2", "3", "4", "5"]
