"""The repository's disk fails at every call in turn: the chain is as good as before, and the next session works."""

import errno
import gc
import hashlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from repositories.engine import chains, storing
from repositories.engine.backup import CheckpointInterval, FreeSpace, Kind, ParentPoint
from repositories.engine.errors import EngineError, OutOfSpace, RepositoryUnwritable
from repositories.engine.merging import merge
from repositories.engine.reader import Kek, open_point
from repositories.engine.rewrap import rewrap
from repositories.engine.settling import settle, unsettled
from repositories.engine.synthetic import SyntheticOrder, write_synthetic_full
from repositories.engine.verify import verify
from tests.engine.children import Killed, in_child
from tests.engine.disk_calls import Fault, cut_short, failing, full_in_the_middle, killed, watched
from tests.engine.lab import (
    NO_RESERVE,
    Chain,
    Recorder,
    facts_in_point,
    facts_on_disk,
    inside,
    later,
    recipient,
    write_tree,
)
from tests.engine.test_merging import History

BOUND = 200  # calls, more than any of these works makes
OFTEN = CheckpointInterval(bytes=1, seconds=3600.0)


@dataclass(frozen=True)
class Disk:
    """How it fails: at one call, or from that one on."""

    fault: Fault
    lasting: bool = False


DISKS = {
    "one error": Disk(failing(errno.EIO)),
    "dead": Disk(failing(errno.EIO), lasting=True),
    "full": Disk(failing(errno.ENOSPC, but=("unlink", "rmdir", "ftruncate", "fsync")), lasting=True),
    "full in the middle of a write": Disk(full_in_the_middle),
    "short writes": Disk(cut_short),
}

LONG = ("full",)  # finds what a dead one and one that is full in the middle find
# Of works that write as a full does, the two disks that find most; the others run with the long tests.
SHORT_OF = dict.fromkeys(("resume", "synthetic full", "incremental"), ("dead", "full in the middle of a write"))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint stands between batches: small ones let a small tree have some."""
    monkeypatch.setattr(storing, "_BATCH_ENTRIES", 5)


class ShortHistory(History):
    """Three points of a few small files, and a source that changed since."""

    def __init__(self, folder: Path) -> None:
        self.source, self.truth = folder / "source", {}
        self.chain = Chain(folder / "repository", self.source)
        write_tree(self.source, {f"folder/{number}": b"%d" % number * 900 for number in range(9)})
        for number in range(3):
            write_tree(self.source, {f"new {number}": b"new %d" % number * 500, "folder/3": b"%d" % number})
            self.write()
        write_tree(self.source, {"last": b"the last one" * 300, "folder/3": b"changed again"})
        (self.source / "new 1").unlink()

    def offered(self) -> tuple[int, ...]:
        return tuple(file.sequence for file in chains.scan_chain(self.chain.folder).files)

    def newest_on_disk(self) -> ParentPoint:
        path = chains.scan_chain(self.chain.folder).files[-1].path
        with open_point(path, self.secret()) as point:
            return ParentPoint(path, point.file_key)


def back_up(history: ShortHistory, kind: Kind) -> None:
    history.chain.write(kind=kind, sequence=4, parent=history.newest_on_disk(), checkpoints=OFTEN)


def write_incremental(history: ShortHistory) -> None:
    back_up(history, Kind.INCREMENTAL)


def write_full(history: ShortHistory) -> None:
    back_up(history, Kind.FULL)


def leave_unfinished(history: ShortHistory) -> None:
    """A point 4 that was killed behind some of its checkpoints."""

    def work() -> None:
        with watched(16, killed):
            write_full(history)

    with pytest.raises(Killed):
        in_child(work)
    assert len(chains.adoptable_files(history.chain.folder)) == 1


def merge_oldest(history: ShortHistory) -> None:
    merge(history.order(2), Recorder())


def settle_merged(history: ShortHistory) -> None:
    for path in unsettled(history.chain.folder):
        settle(path, history.newest)


def synthesize(history: ShortHistory) -> None:
    order = SyntheticOrder(
        root=history.chain.root,
        chain_id=history.chain.chain_id,
        file_id=uuid4(),
        sequence=4,
        reason="synthetic-full-due",
        parent=history.newest,
        recipients=(recipient(),),
        reserve=NO_RESERVE,
        clock=later,
    )
    write_synthetic_full(order, Recorder())


def exchange_slots(history: ShortHistory) -> None:
    rewrap(history.path(2), Kek(recipient().kek), (recipient("another"),))


def delete_newest(history: ShortHistory) -> None:
    chains.delete_file(history.chain.folder / "3")


def nothing(_history: ShortHistory) -> None:
    pass


@dataclass(frozen=True)
class Work:
    prepare: Callable[[ShortHistory], None]
    do: Callable[[ShortHistory], None]
    before: tuple[int, ...]  # what is offered
    after: tuple[int, ...]
    can_repeat: bool = False  # also when it is done
    rewrites: int = 0  # the point whose head it exchanges


WORKS = {
    "full": Work(nothing, write_full, (1, 2, 3), (1, 2, 3, 4)),
    "incremental": Work(nothing, write_incremental, (1, 2, 3), (1, 2, 3, 4)),
    "resume": Work(leave_unfinished, write_full, (1, 2, 3), (1, 2, 3, 4)),
    "merge": Work(nothing, merge_oldest, (1, 2, 3), (2, 3)),
    "settle": Work(merge_oldest, settle_merged, (2, 3), (2, 3), can_repeat=True),
    "synthetic full": Work(nothing, synthesize, (1, 2, 3), (1, 2, 3, 4)),
    "rewrap": Work(nothing, exchange_slots, (1, 2, 3), (1, 2, 3), can_repeat=True, rewrites=2),
    "delete": Work(nothing, delete_newest, (1, 2, 3), (1, 2), can_repeat=True),
}


class FailingEverywhere:
    """The work with a fault at each of its calls, on the repository as it was; again without; and a session.

    Where all sealed files of before have the same bytes as before, their points are as good, and only others are read.
    """

    def __init__(self, history: ShortHistory, work: Work, disk: Disk) -> None:
        self._history, self._work, self._disk = history, work, disk
        self._folder, self._kept = history.chain.folder, history.chain.root.with_name("as it was")
        self._points = list(history.chain.points)
        told, now = dict(history.truth), facts_on_disk(history.source)
        self._truth = {**told, 4: told[3] if work.do is synthesize else now}
        self._known = self._sealed()
        self.failed = self.ended = 0

    def run(self) -> None:
        shutil.copytree(self._folder, self._kept)
        for at in range(BOUND):
            descriptors = os.listdir("/proc/self/fd")
            with watched(at, self._disk.fault, lasting=self._disk.lasting) as watch:
                ended = self._try()
            gc.collect()  # the memory that is shared with a reading process is named in the frames of the error
            assert os.listdir("/proc/self/fd") == descriptors, f"call {at}: {watch.made[at:]}"
            if len(watch.made) <= at:
                assert ended
                return
            if watch.struck:
                self.ended, self.failed = self.ended + ended, self.failed + (not ended)
                self._look(ended, can_tidy=not self._disk.lasting and watch.made[at] not in ("unlink", "rmdir"))
            self._put_back()
        raise AssertionError("it makes more calls than there can be")

    def _try(self) -> bool:
        """Whatever else it raises ends the test."""
        try:
            self._work.do(self._history)
        except EngineError as error:
            assert type(error) is not EngineError and error.code in ("repository-unwritable", "out-of-space")
            return False
        return True

    def _look(self, ended: bool, can_tidy: bool) -> None:
        work, history = self._work, self._history
        found = history.offered()
        assert found == work.after if ended else found in (work.before, work.after)
        if can_tidy and not ended:
            assert self._parts() <= {path.name for path in self._kept.glob("*.part")}
        self._read(found, may_be_torn=not ended)
        if found != work.after or work.can_repeat:
            work.do(history)
        self._read(work.after)
        if work.after[-1] != 4 or self._parts():
            written = history.chain.write(sequence=work.after[-1] + 1, parent=history.newest_on_disk())
            assert history.offered() == (*work.after, written.sequence)
        assert not self._parts()

    def _read(self, numbers: tuple[int, ...], may_be_torn: bool = False) -> None:
        assert self._history.offered() == numbers
        sealed = self._sealed()
        unchanged = {name for name, _ in sealed & self._known} if self._known <= sealed else set()
        for number in numbers:
            path = self._history.path(number)
            if path.name in unchanged:
                continue
            with open_point(path, self._history.secret()) as point:
                assert facts_in_point(point) == self._truth[number], f"point {number}"
                damages = verify(point, "full", Recorder()).damages
                assert all(may_be_torn and number == self._work.rewrites and one.part == "head" for one in damages)

    def _sealed(self) -> set[tuple[str, bytes]]:
        names = chains.sealed_names(self._folder)
        return {(name, hashlib.sha256((self._folder / name).read_bytes()).digest()) for name in names}

    def _parts(self) -> set[str]:
        return {path.name for path in self._folder.glob("*.part")}

    def _put_back(self) -> None:
        shutil.rmtree(self._folder)
        shutil.copytree(self._kept, self._folder)
        self._history.chain.points[:] = self._points


def is_long(name: str, disk: str) -> bool:
    return disk in LONG or disk not in SHORT_OF.get(name, DISKS)


@pytest.mark.parametrize(
    ("name", "disk"),
    [
        pytest.param(name, disk, marks=[pytest.mark.soak] * is_long(name, disk))
        for name, disk in itertools.product(WORKS, DISKS)
    ],
)
def test_a_fault_at_every_call_leaves_the_chain_as_good_as_before(tmp_path: Path, name: str, disk: str) -> None:
    history = ShortHistory(tmp_path)
    WORKS[name].prepare(history)
    run = FailingEverywhere(history, WORKS[name], DISKS[disk])
    run.run()
    writes_nothing = name in ("settle", "delete") and disk in ("short writes", "full in the middle of a write")
    assert (run.failed == 0) == (disk == "short writes" or writes_nothing), "a short write goes on behind what it wrote"


@pytest.mark.parametrize("disk", DISKS)
def test_a_fault_at_every_call_of_the_first_session_leaves_no_chain_or_a_whole_one(tmp_path: Path, disk: str) -> None:
    """Not even an empty folder, where the disk lets it go."""
    write_tree(tmp_path / "source", {f"folder/{number}": b"%d" % number * 900 for number in range(9)})
    for at in range(BOUND):
        chain = Chain(tmp_path / "repositories" / "the first", tmp_path / "source")
        with watched(at, DISKS[disk].fault, lasting=DISKS[disk].lasting) as watch, suppress(EngineError):
            chain.write(checkpoints=OFTEN)
        if len(watch.made) <= at:
            break
        assert chain.points or chain.names() in ([], ["1"]) or DISKS[disk].lasting
        assert chain.names() or not chain.folder.exists() or DISKS[disk].lasting
        if not chain.points and "1" not in chain.names():
            chain.write()
        with open_point(chain.folder / "1", chain.secret()) as point:
            assert facts_in_point(point, inside(chain.source)) == facts_on_disk(chain.source)
        assert chain.names() == ["1"] or chain.points == []
        shutil.rmtree(chain.root.parent)
    assert 10 < at < BOUND - 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB; the tests that want one are skipped where it cannot be mounted."""
    if os.geteuid():
        pytest.skip("only root mounts a file system")
    place = tmp_path / "small disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.fixture
def on_small_disk(tmp_path: Path, small_disk: Path) -> ShortHistory:
    """The repository alone lies on it."""
    history = ShortHistory(tmp_path)
    shutil.copytree(history.chain.root, small_disk / "repository")
    history.chain.root = small_disk / "repository"
    for point in history.chain.points:
        object.__setattr__(point, "path", history.chain.folder / str(point.sequence))
    return history


def files_of(history: ShortHistory) -> dict[str, bytes]:
    return {name: (history.chain.folder / name).read_bytes() for name in history.chain.names()}


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("checkpoints", [CheckpointInterval(), CheckpointInterval(bytes=300_000)], ids=["none", "some"])
def test_a_disk_that_gets_full_costs_the_session_and_nothing_else(
    on_small_disk: ShortHistory, kind: Kind, checkpoints: CheckpointInterval
) -> None:
    """The reserve is switched off, so that only the disk itself says when there is no more room."""
    history = on_small_disk
    before, large = files_of(history), history.source / "large"
    large.write_bytes(os.urandom(6 << 20))
    with pytest.raises(RepositoryUnwritable, match="No space left on device"):
        history.chain.write(kind=kind, checkpoints=checkpoints)
    assert files_of(history) == before
    large.write_bytes(os.urandom(1 << 20))
    history.write(kind=kind, checkpoints=checkpoints)
    history.check()


def test_the_reserve_stops_a_session_before_the_disk_is_full(on_small_disk: ShortHistory) -> None:
    before = files_of(on_small_disk)
    with pytest.raises(OutOfSpace, match="must stay free"):
        on_small_disk.chain.write(reserve=FreeSpace(bytes=5 << 20, share=0.0))
    assert files_of(on_small_disk) == before


@pytest.mark.parametrize("do", [write_incremental, write_full, merge_oldest, synthesize], ids=lambda do: do.__name__)
def test_on_a_full_disk_nothing_is_lost_and_deleting_makes_room(
    on_small_disk: ShortHistory, do: Callable[[ShortHistory], None]
) -> None:
    """A rewrap needs no room, since the head has its place."""
    history = on_small_disk
    filler = history.chain.root.parent / "filler"
    with pytest.raises(OSError, match="No space left"), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    before = files_of(history)
    with pytest.raises(RepositoryUnwritable, match="No space left on device"):
        do(history)
    assert files_of(history) == before
    exchange_slots(history)
    history.check()
    filler.unlink()
    do(history)
    assert history.offered() != (1, 2, 3)
