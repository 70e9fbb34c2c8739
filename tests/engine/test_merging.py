"""The oldest points of a run become one: every point that stays is as it was, and what nobody needs is gone."""

import errno
import fcntl
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from repositories.engine import chains, merging, settling
from repositories.engine.backup import FreeSpace, Kind, ParentPoint, Written
from repositories.engine.errors import (
    AnotherWriter,
    BadOrder,
    Cancelled,
    CannotUnwrap,
    CorruptFile,
    EngineError,
    Fenced,
    MissingFile,
    OutOfSpace,
    PlainRefused,
)
from repositories.engine.head import Head, pack_head
from repositories.engine.layout import HEAD_COPY_BYTES, ItemKind
from repositories.engine.merging import Merged, MergeOrder, merge
from repositories.engine.reader import FileKey, Kek, inspect, open_point
from repositories.engine.rewrap import rewrap
from repositories.engine.settling import settle, unsettled
from repositories.engine.verify import verify
from tests.engine.lab import (
    NO_RESERVE,
    Chain,
    Recorder,
    content_of,
    facts_in_point,
    facts_on_disk,
    inside,
    later,
    recipient,
    write_tree,
)
from tests.engine.second_reader import SecondReader

Facts = dict[bytes, tuple]


class History:
    """A chain, and what the source was when each point was written, by sequence."""

    def __init__(self, folder: Path, passwords: tuple[str, ...] = ("correct horse",)) -> None:
        self.source, self.dice = folder / "source", random.Random(3)
        self.chain = Chain(folder / "repository", self.source, passwords)
        self.truth: dict[int, Facts] = {}
        write_tree(self.source, {f"folder {i % 3}/{i}": self.dice.randbytes(200 + i * 400) for i in range(24)})
        write_tree(self.source, {"large": self.dice.randbytes(1_400_000)})
        self.write()

    def write(self, **fields: object) -> Written:
        written = self.chain.write(**fields)
        self.truth[written.sequence] = facts_on_disk(self.source)
        return written

    def edit(self, number: int) -> None:
        """Something new, something changed, something gone, something that comes back in the next but one."""
        write_tree(
            self.source, {f"new {number}": self.dice.randbytes(30_000), f"folder 1/{1 + 3 * (number % 8)}": b"c"}
        )
        (self.source / f"folder 0/{3 * number}").unlink(missing_ok=True)
        away, back = self.source / "large", self.source / "large again"
        (away if away.exists() else back).rename(back if away.exists() else away)

    def write_more(self, count: int) -> None:
        for number in range(count):
            self.edit(len(self.truth) + number)
            self.write()

    @property
    def newest(self) -> ParentPoint:
        return ParentPoint(self.chain.points[-1].path, self.chain.points[-1].file_key)

    def order(self, sequence: int, **fields: object) -> MergeOrder:
        values = {
            "root": self.chain.root,
            "chain_id": self.chain.chain_id,
            "file_id": uuid4(),
            "sequence": sequence,
            "newest": self.newest,
            "recipients": tuple(recipient(password) for password in self.chain.passwords),
            "reserve": NO_RESERVE,
            "clock": later,
        }
        return MergeOrder(**{**values, **fields})

    def merge(self, sequence: int, **fields: object) -> Merged:
        merged = merge(self.order(sequence, **fields), Recorder())
        self.truth = {number: facts for number, facts in self.truth.items() if number >= sequence}
        return merged

    def settle(self) -> None:
        (path,) = unsettled(self.chain.folder)
        head = inspect(path)
        newest = self.newest if self.newest.path.exists() else ParentPoint(path, self.newest.file_key)
        final = settle(path, newest)
        for number, point in enumerate(self.chain.points):
            if point.sequence == head.sequence:
                self.chain.points[number] = _renamed(point, final, head.file_id)

    def path(self, sequence: int) -> Path:
        files = chains.scan_chain(self.chain.folder).files
        return next(file.path for file in files if file.sequence == sequence)

    def secret(self) -> Kek | None:
        return Kek(recipient(self.chain.passwords[0]).kek) if self.chain.passwords else None

    def check(self, sequence: int | None = None) -> None:
        """Every point, or one, is what the source was."""
        for number in self.truth if sequence is None else [sequence]:
            with open_point(self.path(number), self.secret()) as point:
                report = verify(point, "full", Recorder())
                assert report.sound, report.damages
                assert facts_in_point(point) == self.truth[number], f"point {number}"


def _renamed(point: Written, path: Path, file_id: UUID) -> Written:
    with open_point(path, FileKey(point.file_key) if point.file_key else None) as merged:
        fields = {name: getattr(point, name) for name in point.__slots__}
        return Written(**{**fields, "path": path, "file_id": file_id, "seal_hash": merged.seal_hash})


@pytest.fixture(params=["encrypted", "plain"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> History:
    history = History(tmp_path, ("correct horse",) if request.param == "encrypted" else ())
    history.write_more(4)
    return history


@pytest.fixture
def sealed(tmp_path: Path) -> History:
    history = History(tmp_path)
    history.write_more(3)
    return history


def test_every_point_that_stays_is_as_it_was(history: History) -> None:
    signer = Ed25519PrivateKey.generate()
    untouched = {number: history.path(number).read_bytes() for number in (3, 4, 5)}
    before = [point.file_id for point in history.chain.points]
    merged = history.merge(2, signer=signer)
    assert merged.replaces == tuple(before[:2]) and merged.path.name == f"2.{merged.file_id}"
    history.check()
    history.settle()
    assert history.chain.names() == ["2", "3", "4", "5"]
    history.check()
    assert {number: history.path(number).read_bytes() for number in untouched} == untouched
    head = inspect(history.path(2))
    assert (head.file_id, head.sequence, head.replaces, head.generation) == (merged.file_id, 2, merged.replaces, 1)
    with open_point(history.path(2), history.secret()) as point:
        assert (point.summary.kind, point.summary.reason, point.summary.parent_id) == ("full", "merged", None)
        assert point.seal_hash == merged.seal_hash and point.file_key == history.chain.points[1].file_key
        assert point.length == merged.length and point.summary.signer
        assert verify(point, "full", Recorder()).notes == ()
    with open_point(history.path(3), history.secret()) as point:
        report = verify(point, "full", Recorder())
        assert report.sound and report.notes == ("The point is unsigned.",), "the parent's seal is known to the merge"


def test_both_at_the_same_time(history: History) -> None:
    """Published, nothing removed: old files and the merged one open, and each point is offered once."""
    first, second = (point.path for point in history.chain.points[:2])
    truth = dict(history.truth)
    merged = history.merge(2)
    chain = chains.scan_chain(history.chain.folder)
    assert [(file.sequence, file.path.name) for file in chain.files] == [
        (2, merged.path.name),
        (3, "3"),
        (4, "4"),
        (5, "5"),
    ]
    assert [file.path for file in chain.replaced] == [first, second]
    for path, number in ((first, 1), (second, 2), (merged.path, 2)):
        with open_point(path, history.secret()) as point:
            assert facts_in_point(point) == truth[number]
            assert verify(point, "full", Recorder()).sound
    with pytest.raises(BadOrder):
        history.merge(3)


def test_the_second_reader_reads_it(history: History) -> None:
    history.merge(3)
    password = history.chain.passwords[0] if history.chain.passwords else None
    for settled in (False, True):
        if settled:
            history.settle()
        for number, truth in history.truth.items():
            found = SecondReader(history.path(number), password).files()
            assert {path: fact[2] for path, fact in found.items() if path in truth} == {
                path: fact[6] or b"" for path, fact in truth.items()
            }


def test_what_only_dropped_points_needed_is_left_out(tmp_path: Path) -> None:
    history = History(tmp_path)
    for number in range(3):
        history.chain.source.joinpath("only here").write_bytes(history.dice.randbytes(9_000_000))
        history.write()
        (history.source / "only here").unlink()
        history.edit(number)
    history.write()
    sizes = sum(point.length for point in history.chain.points[:4])
    merged = history.merge(4)
    assert merged.left_out_bytes > 8_000_000 and merged.length < sizes - 8_000_000
    history.settle()
    history.check()


def test_a_chain_is_kept_to_three_points_for_long(history: History) -> None:
    for number in range(7):
        history.edit(number + 10)
        history.write()
        history.merge(max(history.truth) - 2)
        history.settle()
        assert len(history.chain.names()) == 3
    history.check()
    password = history.chain.passwords[0] if history.chain.passwords else None
    newest = max(history.truth)
    found = SecondReader(history.path(newest), password).files()
    assert {path: fact[2] for path, fact in found.items() if path in history.truth[newest]} == {
        path: fact[6] or b"" for path, fact in history.truth[newest].items()
    }
    with open_point(history.path(newest), history.secret()) as point:
        assert len(point.earlier_file_keys) == (3 if history.chain.passwords else 0)


def test_a_chain_can_become_one_point_and_go_on(history: History) -> None:
    newest = max(history.truth)
    history.merge(newest)
    history.settle()
    assert history.chain.names() == [str(newest)]
    history.check()
    history.write_more(2)
    history.check()
    history.merge(newest + 1)
    history.settle()
    history.check()
    with open_point(history.path(newest + 2), history.secret()) as point:
        assert verify(point, "full", Recorder()).sound


@pytest.mark.parametrize("settled", [True, False], ids=["settled", "published"])
def test_content_that_was_left_out_and_comes_back_is_stored_again(history: History, settled: bool) -> None:
    """The identities of dropped blocks are known to later points; nothing may refer to these blocks any more."""
    gone = history.dice.randbytes(11_000_000)
    (history.source / "gone").write_bytes(gone)
    history.write(kind=Kind.FULL)
    (history.source / "gone").unlink()
    history.write()
    history.edit(50)
    history.write()
    full = max(history.truth) - 2
    history.truth = {number: facts for number, facts in history.truth.items() if number > full}
    merged = history.merge(full + 1)
    assert merged.left_out_bytes > 3_000_000
    if settled:
        history.settle()
    (history.source / "gone").write_bytes(gone)
    back = history.write()
    assert back.length > 3_000_000
    if not settled:
        history.settle()
    history.check()
    (history.source / "gone twice").write_bytes(gone)
    assert history.write().length < 600_000
    history.check()


def test_only_the_run_of_the_point_is_merged(history: History) -> None:
    history.edit(30)
    history.write(kind=Kind.FULL)
    history.write_more(2)
    history.merge(7)
    history.settle()
    assert history.chain.names() == ["1", "2", "3", "4", "5", "7", "8"]
    history.check()
    with open_point(history.path(7), history.secret()) as point:
        assert point.summary.parent_id == history.chain.points[4].file_id
        assert verify(point, "quick", Recorder()).sound
    for sequence in (1, 2, 3, 4, 5):
        chains.delete_file(history.chain.folder / str(sequence))
    history.check()


def test_old_secrets_open_what_they_opened(tmp_path: Path) -> None:
    """The merged file is wrapped for whom the order says, under the file key of the point whose place it takes."""
    history = History(tmp_path, ("one",))
    for password in ("two", "three", "four"):
        history.edit(len(password))
        history.write(passwords=(password,))
    history.chain.passwords = ("four",)
    history.merge(2, recipients=(recipient("four"), recipient("two")))
    history.settle()
    for password, number in (("two", 2), ("four", 2), ("three", 3), ("four", 4)):
        with open_point(history.path(number), Kek(recipient(password).kek)) as point:
            assert facts_in_point(point) == history.truth[number]
    with pytest.raises(EngineError):
        open_point(history.path(2), Kek(recipient("one").kek))
    with open_point(history.path(4), Kek(recipient("four").kek)) as point:
        replaced, third = inspect(history.path(2)).replaces, history.chain.points[2].file_id
        assert set(point.earlier_file_keys) == {*replaced, third}


def test_a_merged_file_can_be_rewrapped(sealed: History) -> None:
    merged = sealed.merge(2)
    sealed.settle()
    new = recipient("new")
    old = recipient(sealed.chain.passwords[0])
    head = rewrap(sealed.path(2), Kek(old.kek), add=(new,), remove=((old.record, old.version),))
    assert head.replaces == merged.replaces
    with open_point(sealed.path(2), Kek(new.kek)) as point:
        assert facts_in_point(point) == sealed.truth[2]
    sealed.check(3)
    with pytest.raises(CannotUnwrap):
        sealed.check(2)


def test_a_merged_file_alone_is_enough_for_its_point(history: History, tmp_path: Path) -> None:
    history.merge(3)
    history.settle()
    copy = tmp_path / "carried away"
    shutil.copy(history.path(3), copy)
    shutil.rmtree(history.chain.folder)
    with open_point(copy, history.secret()) as point:
        assert facts_in_point(point) == history.truth[3]


def test_an_open_reader_goes_on(history: History) -> None:
    """Opened before the merge, it finds the replaced files in the merged one."""
    with open_point(history.path(5), history.secret()) as point:
        assert point.list_folder(b"")
        history.merge(3)
        history.settle()
        assert facts_in_point(point) == history.truth[5]


def test_damage_is_not_copied(history: History) -> None:
    with open_point(history.path(1), history.secret()) as point:
        place = point.container.index.place(int(point.container.index.own.of_kind(ItemKind.BLOCK)[0]))
    assert place is not None
    with open(history.path(1), "r+b") as file:
        file.seek(place.offset + 200)
        file.write(b"damage")
    before = history.chain.names()
    with pytest.raises(CorruptFile, match="block"):
        history.merge(2)
    assert history.chain.names() == before


def test_a_flip_in_a_merged_file_is_found(sealed: History) -> None:
    merged = sealed.merge(2)
    sealed.settle()
    path, dice = sealed.path(2), random.Random(1)
    whole = path.read_bytes()
    for position in [*dice.sample(range(196_608, merged.length), 150), *range(merged.length - 700, merged.length, 3)]:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        try:
            with open_point(path, sealed.secret()) as point:
                assert not verify(point, "full", Recorder()).sound, position
        except CorruptFile:
            pass


def test_what_is_refused_leaves_nothing(history: History) -> None:
    class Stop(Recorder):
        def cancelled(self) -> bool:
            return True

    class Fence(Recorder):
        def before_seal(self) -> None:
            raise Fenced("The lease ran out.")

    before = history.chain.names()
    wrong = () if history.chain.passwords else (recipient("one"),)
    refused: list[tuple[type[EngineError], Callable[[], Merged]]] = [
        (BadOrder, lambda: history.merge(1)),
        (BadOrder, lambda: history.merge(9)),
        (PlainRefused, lambda: history.merge(2, recipients=wrong)),
        (OutOfSpace, lambda: history.merge(2, reserve=FreeSpace(bytes=1 << 60))),
        (Cancelled, lambda: merge(history.order(2), Stop())),
        (Fenced, lambda: merge(history.order(2), Fence())),
    ]
    for error, attempt in refused:
        with pytest.raises(error):
            attempt()
        assert history.chain.names() == before
    history.check()


def test_a_gap_is_refused(history: History) -> None:
    history.path(3).rename(history.chain.root / "aside")
    for sequence in (2, 4):
        with pytest.raises(BadOrder, match="missing"):
            history.merge(sequence)


def test_an_unfinished_file_goes_and_a_writer_at_work_is_not_disturbed(sealed: History) -> None:
    """A resumed session could refer to blocks that the merge left out, so there is nothing to resume behind it."""
    left = sealed.chain.folder / f"5.{uuid4()}.part"
    left.write_bytes(b"unfinished")
    with open(left, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(AnotherWriter):
            sealed.merge(2)
        assert left.exists() and not unsettled(sealed.chain.folder)
    sealed.merge(2)
    assert not left.exists()


def test_nothing_is_removed_if_something_was_not_copied(sealed: History, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = merging.needed_items

    def forgetful(*args: object) -> dict:
        needs = needed(*args)
        for (_, kind), numbers in needs.items():
            if kind is ItemKind.BLOCK:
                numbers.discard(min(numbers))
        return needs

    monkeypatch.setattr(merging, "needed_items", forgetful)
    merged = sealed.merge(2)
    before = sealed.chain.names()
    with pytest.raises(CorruptFile, match="not copied"):
        settle(merged.path, sealed.newest)
    assert sealed.chain.names() == before


def test_a_head_alone_removes_nothing(sealed: History, tmp_path: Path) -> None:
    """Somebody without a key writes a file that claims to replace others."""
    other = History(tmp_path / "other")
    other.write_more(1)
    other.merge(2)
    stranger = unsettled(other.chain.folder)[0]
    shutil.copy(stranger, sealed.chain.folder / f"2.{inspect(stranger).file_id}")
    before = sealed.chain.names()
    with pytest.raises(EngineError):
        settle(unsettled(sealed.chain.folder)[0], sealed.newest)
    assert sealed.chain.names() == before
    sealed.check()


def test_a_forged_merge_does_not_stop_the_chain(sealed: History) -> None:
    """A merged file whose key is not the chain's: backups go on, and its removal leaves everything as it was."""
    forged = Head(0, False, sealed.chain.chain_id, uuid4(), 2, 1, (), tuple(p.file_id for p in sealed.chain.points[:2]))
    path = sealed.chain.folder / f"2.{forged.file_id}"
    encrypted = replace(forged, encrypted=True, slots=inspect(sealed.path(2)).slots)
    raw = pack_head(encrypted, bytes(32)).ljust(HEAD_COPY_BYTES, b"\0")
    path.write_bytes(raw + raw + b"\0" * 500)
    sealed.edit(70)
    sealed.write()
    with sealed.chain.open() as point:
        assert facts_in_point(point) == sealed.truth[5]
    with pytest.raises(EngineError):
        settle(path, sealed.newest)
    path.unlink()
    sealed.check()


STEPS = ("write", "pwrite", "pwritev", "fsync", "link", "unlink", "rename")


def run_killed_at(step: int, action: Callable[[], object]) -> bool:
    """Run in a child that dies before its n-th write, fsync, link, unlink or rename; whether it came through."""
    child = os.fork()
    if not child:
        left = [step]

        def dying(real: Callable[..., object]) -> Callable[..., object]:
            def call(*args: object, **named: object) -> object:
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)
                return real(*args, **named)

            return call

        status = 1
        try:
            for name in STEPS:
                setattr(os, name, dying(getattr(os, name)))
            action()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), "it failed in another way"
    return status == 0


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
@pytest.mark.parametrize("through", [2, 4], ids=["oldest-two", "all"])
def test_killed_at_any_step_every_point_stays_restorable(tmp_path: Path, through: int) -> None:
    history = History(tmp_path)
    history.write_more(3)
    start, truth, points = tmp_path / "start", dict(history.truth), list(history.chain.points)
    folder = history.chain.folder
    shutil.copytree(folder, start)
    step, finished, states = 0, False, set()
    while not finished:
        shutil.rmtree(folder)
        shutil.copytree(start, folder)
        history.truth, history.chain.points = dict(truth), list(points)
        finished = run_killed_at(step, lambda: (history.merge(through), history.settle()))
        step += 1
        states.add(tuple(name.split("-")[0] for name in history.chain.names()))
        assert_everything_opens(history, through)
        recover(history, through)
        assert history.chain.names() == [str(number) for number in range(through, 5)]
        assert_everything_opens(history, through)
    assert step > 25 and len(states) > 5


def fails_at(step: int, action: Callable[[], object]) -> bool:
    """Run while the n-th write, fsync, link, unlink or rename fails as on a broken disk; whether it came through."""
    left = [step]

    def failing(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **named: object) -> object:
            left[0] -= 1
            if left[0] == -1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*args, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, failing(getattr(os, name)))
        try:
            action()
        except EngineError:
            return False
    return left[0] >= 0


def test_a_fault_at_any_step_is_named_and_every_point_stays_restorable(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.write_more(3)
    start, truth, points = tmp_path / "start", dict(history.truth), list(history.chain.points)
    folder = history.chain.folder
    shutil.copytree(folder, start)
    step, finished = 0, False
    while not finished:
        shutil.rmtree(folder)
        shutil.copytree(start, folder)
        history.truth, history.chain.points = dict(truth), list(points)
        finished = fails_at(step, lambda: (history.merge(3), history.settle()))
        step += 1
        history.truth = dict(truth)
        assert_everything_opens(history, 3)
        recover(history, 3)
        assert history.chain.names() == ["3", "4"]
        assert_everything_opens(history, 3)
    assert step > 25


def assert_everything_opens(history: History, through: int) -> None:
    """Every point that stays, and those that go as long as they are offered."""
    files = {file.sequence: file for file in chains.scan_chain(history.chain.folder).files}
    assert {number for number in history.truth if number >= through} <= set(files)
    for number, file in files.items():
        with open_point(file.path, history.secret()) as point:
            assert facts_in_point(point) == history.truth[number]
            assert verify(point, "quick", Recorder()).sound


def recover(history: History, through: int) -> None:
    """What whoever comes next does: remove what was left, settle what was published, else merge again."""
    chains.remove_leftovers(history.chain.root)
    if not unsettled(history.chain.folder) and "1" in history.chain.names():
        history.merge(through)
    while unsettled(history.chain.folder):
        history.settle()
    history.truth = {number: facts for number, facts in history.truth.items() if number >= through}


def test_a_missing_replaced_file_is_said(sealed: History) -> None:
    sealed.merge(3)
    sealed.settle()
    sealed.path(3).rename(sealed.chain.root / "aside")
    with open_point(sealed.path(4), sealed.secret()) as point, pytest.raises(MissingFile):
        content_of(point, inside(sealed.source, "folder 2/2"))
    assert settling.unsettled(sealed.chain.folder) == []


def test_a_run_of_identities_of_which_a_merge_left_nothing_is_passed_over(tmp_path: Path) -> None:
    """All that the full had is gone: its identities are still listed, and name blocks that are nowhere."""
    history = History(tmp_path)
    shutil.rmtree(history.source)
    write_tree(history.source, {"new": b"what alone is there now"})
    history.write()
    assert history.merge(2).left_out_bytes > 1_000_000
    history.settle()
    with history.chain.open() as point:
        first, second = point.root.runs
        assert first.entries > 20 and len(point.identity_run(first, {})) == 0 and second.entries == 1
    write_tree(history.source, {"newer": b"what must be looked up"})
    assert history.write().new_files == 1
    history.check()
