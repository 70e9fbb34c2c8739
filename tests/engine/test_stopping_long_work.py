"""Everything that works long asks whether to go on between any two parts of its work, and stops cleanly when told so.

The pulse of the engine asks at most every 0.2 seconds; here it asks at every beat, so the beats can be counted.
"""

import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from repositories.engine import storing, writer
from repositories.engine.backup import CheckpointInterval
from repositories.engine.errors import Cancelled, Interrupted
from repositories.engine.layout import ItemKind
from repositories.engine.merging import MergeOrder, merge
from repositories.engine.order import ParentPoint
from repositories.engine.restore import RestoreOrder, restore
from repositories.engine.settling import settle
from repositories.engine.synthetic import SyntheticOrder, write_synthetic_full
from repositories.engine.verify import verify
from tests.engine.lab import (
    NO_RESERVE,
    Chain,
    Recorder,
    end_segments_often,
    facts_in_point,
    facts_on_disk,
    inside,
    later,
    recipient,
    write_tree,
)

OFTEN = CheckpointInterval(bytes=40_000, seconds=3600.0)
POINTS = 4


@pytest.fixture(autouse=True)
def beat_by_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repositories.engine.observer.PROGRESS_INTERVAL_SECONDS", 0.0)
    end_segments_often(monkeypatch, 6)
    monkeypatch.setattr(storing, "_BATCH_ENTRIES", 10)


class Asked(Recorder):
    """Counts the questions, and says stop at the n-th."""

    def __init__(self, stop_at: int | None = None, error: type[Exception] = Cancelled) -> None:
        super().__init__()
        self.count = self.count_when_resumed = 0
        self._stop_at, self._error = stop_at, error

    def cancelled(self) -> bool:
        self.count += 1
        if self.count != self._stop_at:
            return False
        if self._error is Interrupted:
            raise Interrupted("the master is gone")
        return True

    def note(self, code: str, message: str) -> None:
        if code == "resumed":
            self.count_when_resumed = self.count

    @property
    def stages(self) -> set[str]:
        return {report.stage for report in self.reports}


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    """Four points of some segments each."""
    source = tmp_path / "source"
    write_tree(source, {f"{number % 4}/{number}": b"%d" % number * 500 for number in range(120)})
    chain = Chain(tmp_path / "repository", source)
    for number in range(POINTS):
        write_tree(source, {f"1/new {number}": b"new %d" % number, f"large {number}": os.urandom(700_000)})
        chain.write()
    return chain


def segments_of(chain: Chain) -> int:
    with chain.open() as point:
        return len(point.root.segments)


def newest(chain: Chain) -> ParentPoint:
    return ParentPoint(chain.points[-1].path, chain.points[-1].file_key)


def merge_order(chain: Chain, sequence: int = 3) -> MergeOrder:
    return MergeOrder(
        root=chain.root, chain_id=chain.chain_id, file_id=uuid4(), sequence=sequence, newest=newest(chain),
        recipients=(recipient(),), reserve=NO_RESERVE, clock=later,
    )  # fmt: skip


def synthetic_order(chain: Chain) -> SyntheticOrder:
    return SyntheticOrder(
        root=chain.root, chain_id=chain.chain_id, file_id=uuid4(), sequence=POINTS + 1, reason="due",
        parent=newest(chain), recipients=(recipient(),), reserve=NO_RESERVE, clock=later,
    )  # fmt: skip


def restore_into(chain: Chain, into: Path, observer: Recorder, *paths: bytes) -> None:
    with chain.open() as point:
        restore(RestoreOrder(point=point, into=into, paths=paths, helpers=0), observer)


def verify_newest(chain: Chain, observer: Recorder) -> None:
    with chain.open() as point:
        verify(point, "full", observer)


def unfinished(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a kill leaves of the next point, some checkpoints far."""
    write_tree(chain.source, {f"2/more {number}": os.urandom(5_000) for number in range(60)})
    states: list[bytes] = []
    paths: list[Path] = []
    whole = writer.FileWriter._write_at

    def write_at(file: writer.FileWriter, offset: int, parts: tuple[bytes, ...]) -> None:
        whole(file, offset, parts)
        states.append(file.path.read_bytes())
        paths.append(file.path)

    with monkeypatch.context() as patch:
        patch.setattr(writer.FileWriter, "_write_at", write_at)
        chain.write(checkpoints=OFTEN).path.unlink()
    chain.points.pop()
    paths[0].write_bytes(states[-6])
    return paths[0]


def test_questions_are_asked_between_all_parts(chain: Chain, tmp_path: Path) -> None:
    """At least one for every segment, block, group of files and point that is gone through."""
    segments = segments_of(chain)
    assert segments >= 4
    runs: dict[str, tuple[int, Callable[[Recorder], object]]] = {
        "verify": (segments, lambda observer: verify_newest(chain, observer)),
        "restore": (segments, lambda observer: restore_into(chain, tmp_path / "into", observer)),
        "count": (
            segments // 4,
            lambda observer: restore_into(chain, tmp_path / "some", observer, inside(chain.source, "1")),
        ),
        "merge": (POINTS + segments, lambda observer: merge(merge_order(chain), observer)),
    }
    for stage, (least, run) in runs.items():
        observer = Asked()
        run(observer)
        assert observer.count >= least, stage
        assert stage in observer.stages
    (merged,) = (path for path in chain.folder.iterdir() if "." in path.name)
    observer = Asked()
    settle(merged, newest(chain), observer)
    assert observer.count >= segments and observer.stages == {"settle"}
    observer = Asked()
    written = write_synthetic_full(synthetic_order(chain), observer)
    assert observer.count >= segments + 120 and {"synthesize", "seal"} <= observer.stages
    assert written.path.exists()


def every_few(count: int) -> range:
    return range(1, count + 1, max(count // 12, 1))


@pytest.mark.parametrize("what", ["backup", "merge", "synthetic"])
def test_what_writes_leaves_nothing_when_it_is_stopped(chain: Chain, what: str) -> None:
    write_tree(chain.source, {f"3/more {number}": os.urandom(2_000) for number in range(40)})
    runs: dict[str, Callable[[Recorder], object]] = {
        "backup": lambda observer: chain.write(observer=observer),
        "merge": lambda observer: merge(merge_order(chain), observer),
        "synthetic": lambda observer: write_synthetic_full(synthetic_order(chain), observer),
    }
    before = chain.names()
    patient = Asked(10**6)
    runs[what](patient)
    for name in set(chain.names()) - set(before):
        (chain.folder / name).unlink()
    del chain.points[POINTS:]
    for at in every_few(patient.count):
        with pytest.raises(Cancelled):
            runs[what](Asked(at))
        assert chain.names() == before
    with chain.open() as point:
        assert verify(point, "full", Recorder()).sound


def test_settling_that_is_stopped_is_done_again(chain: Chain) -> None:
    merged = merge(merge_order(chain), Recorder())
    before = chain.names()
    for at in (1, 2, POINTS, POINTS + 3):
        with pytest.raises(Cancelled):
            settle(merged.path, newest(chain), Asked(at))
        assert chain.names() == before, "nothing is removed before all is proved"
    settle(merged.path, newest(chain), Asked())
    assert chain.names() == ["3", "4"]


def test_a_restore_that_is_stopped_has_no_unfinished_file(chain: Chain, tmp_path: Path) -> None:
    patient = Asked()
    restore_into(chain, tmp_path / "whole", patient, inside(chain.source, "1"), inside(chain.source, "2"))
    truth = {path.relative_to(tmp_path / "whole"): path.read_bytes() for path in files_in(tmp_path / "whole")}
    for at in every_few(patient.count):
        into = tmp_path / f"into {at}"
        with pytest.raises(Cancelled):
            restore_into(chain, into, Asked(at), inside(chain.source, "1"), inside(chain.source, "2"))
        for path in files_in(into):
            assert path.read_bytes() == truth[path.relative_to(into)]


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("error", [Cancelled, Interrupted])
def test_a_resume_that_is_stopped_while_it_reads_the_unfinished_file_leaves_it(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """A stop is not damage: the file stays, its lock is free, and the next session goes on with it."""
    path = unfinished(chain, monkeypatch)
    raw = path.read_bytes()
    descriptors = len(os.listdir("/proc/self/fd"))
    patient = Asked()
    chain.write(observer=patient, checkpoints=OFTEN).path.unlink()
    chain.points.pop()
    path.write_bytes(raw)
    assert patient.count_when_resumed > 10
    for at in range(1, patient.count_when_resumed + 1, 3):
        with pytest.raises(error):
            chain.write(observer=Asked(at, error), checkpoints=OFTEN)
        assert path.read_bytes() == raw
    assert len(os.listdir("/proc/self/fd")) == descriptors
    asked = Asked()
    written = chain.write(observer=asked, checkpoints=OFTEN)
    assert written.resumed and "resume" in asked.stages
    with chain.open() as point:
        assert len(point.container.index.own.of_kind(ItemKind.CHECKPOINT)) > 2
        assert facts_in_point(point) == facts_on_disk(chain.source)
