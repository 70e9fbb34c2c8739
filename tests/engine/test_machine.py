"""Hundreds of steps in the life of a chain, thousands in `make soak`: see machine.py."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from repositories.engine import storing
from tests import soak
from tests.engine.machine import Machine

WORKS = ("backup", "synthetic full", "merge", "settle", "prune", "deletion", "rewrap")
QUIET = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint stands between batches: small ones let a small tree have many."""
    monkeypatch.setattr(storing, "_BATCH_ENTRIES", 3)


def test_a_chain_survives_hundreds_of_steps(tmp_path: Path) -> None:
    happened: Counter[str] = Counter()
    run(tmp_path, happened, 4, settings(QUIET, max_examples=8, stateful_step_count=40, phases=[Phase.generate]))
    assert sum(count for what, count in happened.items() if what.endswith("killed")) > 10, happened


@pytest.mark.soak
def test_a_chain_survives_thousands_of_steps(tmp_path: Path) -> None:
    happened: Counter[str] = Counter()
    run(tmp_path, happened, soak.seed(), settings(QUIET, max_examples=soak.rounds(60), stateful_step_count=80))
    assert all(happened[f"{work} {end}"] for work in WORKS for end in ("done", "killed")), happened
    assert happened["resumed"] > 10, happened


def run(folder: Path, happened: Counter[str], number: int, how: settings) -> None:
    class Seeded(Machine):
        def __init__(self) -> None:
            super().__init__(folder, happened)

    run_state_machine_as_test(seed(number)(Seeded), settings=how)
