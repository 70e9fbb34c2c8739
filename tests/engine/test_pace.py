"""A limited run moves no more bytes a second than it may, by a clock that only sleeping moves; it can be stopped."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from repositories.engine import observer
from repositories.engine.errors import Cancelled
from repositories.engine.merging import MergeOrder, merge
from repositories.engine.order import ParentPoint
from repositories.engine.pace import STEP_SECONDS, Limit, Pace
from repositories.engine.restore import RestoreOrder, restore
from repositories.engine.synthetic import SyntheticOrder, write_synthetic_full
from repositories.engine.verify_chain import PointToVerify, verify_chain
from tests.engine.lab import NO_RESERVE, Chain, Recorder, later, recipient, write_tree

MIB = 1024 * 1024


class Time:
    """A clock that stands still while nobody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.naps: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds

    def limit(self, bytes_per_second: int) -> Limit:
        return Limit(bytes_per_second, self.clock, self.sleep)

    @property
    def passed(self) -> float:
        return self.now - 1000.0


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    write_tree(tmp_path / "source", {f"{number}": os.urandom(3 * MIB) for number in range(6)})
    return Chain(tmp_path / "repository", tmp_path / "source")


class TestPace:
    def test_what_is_spent_is_waited_for_in_short_steps(self) -> None:
        time, beats = Time(), []
        pace = Pace(time.limit(1000), lambda: beats.append(time.now))
        pace.wait()
        assert time.passed == 0
        pace.spend(2500)
        pace.wait()
        assert time.passed == pytest.approx(2.5)
        assert max(time.naps) <= STEP_SECONDS
        assert len(beats) >= 25

    def test_idle_time_is_not_made_up_for(self) -> None:
        time = Time()
        pace = Pace(time.limit(1000), lambda: None)
        time.now += 3600
        pace.spend(1000)
        pace.wait()
        assert 0.7 <= time.passed - 3600 <= 1.0

    def test_a_beat_ends_the_waiting(self) -> None:
        time = Time()

        def stop() -> None:
            if time.passed > 1:
                raise Cancelled("stopped")

        pace = Pace(time.limit(1), stop)
        pace.spend(10**9)
        with pytest.raises(Cancelled):
            pace.wait()
        assert time.passed < 1.5

    def test_no_bytes_at_all_are_no_limit(self) -> None:
        with pytest.raises(ValueError):
            Limit(0)


def assert_within(time: Time, moved_bytes: int, bytes_per_second: int) -> None:
    """The time that the bytes need by the limit; the last blocks are in flight when the run ends."""
    needed = moved_bytes / bytes_per_second
    in_flight = 12 * 4 * MIB / bytes_per_second
    assert needed - in_flight <= time.passed <= needed + 1
    assert time.passed > 0


def test_a_backup_writes_as_fast_as_it_may(chain: Chain) -> None:
    time = Time()
    written = chain.write(limit=time.limit(MIB))
    assert_within(time, written.length, MIB)
    assert time.passed > 3


def test_restore_and_verify_read_as_fast_as_they_may(chain: Chain, tmp_path: Path) -> None:
    written = chain.write()
    time = Time()
    with chain.open() as point:
        restore(RestoreOrder(point=point, into=tmp_path / "into", limit=time.limit(MIB)), Recorder())
    assert_within(time, written.length, MIB)
    time = Time()
    report = verify_chain([PointToVerify(1, chain.open)], "full", Recorder(), limit=time.limit(MIB))
    assert report.sound
    assert_within(time, written.length, MIB)


def test_merge_and_synthetic_full_write_as_fast_as_they_may(chain: Chain) -> None:
    chain.write()
    (chain.source / "more").write_bytes(os.urandom(2 * MIB))
    newest = chain.write()
    parent = ParentPoint(newest.path, newest.file_key)
    common = {"root": chain.root, "chain_id": chain.chain_id, "recipients": (recipient(),), "reserve": NO_RESERVE}
    time = Time()
    merged = merge(
        MergeOrder(file_id=recipient().record, sequence=2, newest=parent, limit=time.limit(MIB), **common), Recorder()
    )
    assert_within(time, merged.length, MIB)
    time = Time()
    order = SyntheticOrder(
        file_id=recipient("b").record, sequence=3, reason="due", parent=parent, clock=later, limit=time.limit(MIB),
        **common,
    )  # fmt: skip
    assert_within(time, write_synthetic_full(order, Recorder()).length, MIB)


@pytest.mark.parametrize("what", ["backup", "restore", "verify"])
def test_a_limited_run_is_stopped_while_it_waits(
    chain: Chain, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte a second: without a stop each of them would sleep for months."""
    if what != "backup":
        chain.write()
    time = Time()

    class Impatient(Recorder):
        def cancelled(self) -> bool:
            return time.passed > 5

    def sleep(seconds: float) -> None:
        time.sleep(seconds)
        assert time.passed < 20, "the beat is not asked while waiting"

    limit = Limit(1, time.clock, sleep)
    runs: dict[str, Callable[[], object]] = {
        "backup": lambda: chain.write(limit=limit, observer=Impatient()),
        "restore": lambda: _restore(chain, tmp_path / "into", limit, Impatient()),
        "verify": lambda: verify_chain([PointToVerify(1, chain.open)], "full", Impatient(), limit=limit),
    }
    monkeypatch.setattr(observer, "PROGRESS_INTERVAL_SECONDS", 0.0)
    with pytest.raises(Cancelled):
        runs[what]()
    assert chain.names() == ([] if what == "backup" else ["1"])
    assert not [path for path in (tmp_path / "into").rglob("*") if path.is_file()]


def _restore(chain: Chain, into: Path, limit: Limit, watcher: Recorder) -> None:
    with chain.open() as point:
        restore(RestoreOrder(point=point, into=into, limit=limit), watcher)
