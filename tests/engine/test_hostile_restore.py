"""Points sealed by somebody who has the key, to harm whoever restores them: what is hostile is refused and reported,
the rest is restored, and nothing outside of the target is touched.

How single entries are written into a target is in tests/engine_cli/test_target.py; here whole points are restored.
"""

import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from repositories.engine.errors import CorruptFile
from repositories.engine.reader import FileKey, Point, open_point
from repositories.engine.restore import Restored, RestoreOrder, restore
from repositories.engine.segments import HARD_LINKED, HOLE
from repositories.engine.target import Existing
from repositories.engine.verify import verify
from tests.engine.forger import Forged, Forger
from tests.engine.lab import Recorder

NOBODY = 65_534
DIRECTORY, LINK = stat.S_IFDIR, stat.S_IFLNK


@dataclass
class Place:
    """A target, and beside it a folder that must be the same afterwards."""

    top: Path

    @property
    def into(self) -> Path:
        return self.top / "into"

    @property
    def outside(self) -> Path:
        return self.top / "outside"

    def canary(self) -> dict[str, tuple]:
        """Everything beside the target."""
        found = {}
        for path in (self.top, self.outside, *self.outside.rglob("*")):
            facts = os.lstat(path)
            content = path.read_bytes() if path.is_file() else sorted(os.listdir(path))
            times = (facts.st_mtime_ns, facts.st_ctime_ns) if path != self.top else ()
            found[str(path)] = (
                facts.st_mode,
                facts.st_uid,
                facts.st_gid,
                facts.st_nlink,
                facts.st_ino,
                *times,
                content,
            )
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Changed or not is asked after every test."""
    place = Place(tmp_path / "place")
    place.outside.mkdir(parents=True)
    (place.outside / "passwd").write_bytes(b"precious")
    (place.outside / "folder").mkdir(mode=0o750)
    place.into.mkdir()
    before = place.canary()
    yield place
    assert place.canary() == before


@pytest.fixture(params=["encrypted", "plain"])
def forger(request: pytest.FixtureRequest, tmp_path: Path) -> Forger:
    return Forger(tmp_path / "repository", request.param == "encrypted")


def run(point: Point, place: Place, existing: Existing = Existing.SKIP) -> tuple[Restored, list[str]]:
    """The result, and the codes of what was reported, in order."""
    observer = Recorder()
    with point:
        restored = restore(RestoreOrder(point, place.into, existing=existing, helpers=0), observer)
    assert restored.failed_count >= len(restored.failed)
    return restored, [failure.code for failure in restored.failed]


FIRST, LAST = Forged(b"", b"first", b"the first"), Forged(b"", b"zzz last", b"the last")


def rest_is_there(place: Place) -> None:
    assert (place.into / "first").read_bytes() == b"the first"
    assert (place.into / "zzz last").read_bytes() == b"the last"


HOSTILE_LISTS: dict[str, list[Forged]] = {
    "dot dot as a folder": [Forged(b"../", b"outside/evil", b"evil")],
    "dot dot inside": [Forged(b"m/../../outside/", b"evil", b"evil")],
    "an absolute folder": [Forged(b"/tmp/", b"evil", b"evil")],
    "an empty component": [Forged(b"m//", b"evil", b"evil")],
    "a folder with NUL": [Forged(b"m\0/", b"evil", b"evil")],
    "a dot as a folder": [Forged(b"./", b"evil", b"evil")],
    "dot dot as a name": [Forged(b"m/", b"..", kind=DIRECTORY)],
    "a dot as a name": [Forged(b"m/", b".", kind=DIRECTORY)],
    "no name": [Forged(b"m/", b"", b"evil")],
    "a slash in a name": [Forged(b"m/", b"../outside/evil", b"evil")],
    "an absolute name": [Forged(b"", b"/tmp/evil", b"evil")],
    "NUL in a name": [Forged(b"", b"m\0n", b"evil")],
    "a path twice": [Forged(b"", b"m", b"one"), Forged(b"", b"m", b"two")],
    "a link and a folder of one name": [
        Forged(b"", b"m", kind=LINK, target=b"../outside"),
        Forged(b"", b"m", kind=DIRECTORY, permissions=0o777),
    ],
    "out of order": [Forged(b"", b"n", b"one"), Forged(b"", b"m", b"two")],
    "a folder behind what is in it": [Forged(b"m/", b"a", b"one"), Forged(b"", b"m", kind=DIRECTORY)],
    "an unknown type": [Forged(b"", b"m", kind=0o110000)],
    "no type": [Forged(b"", b"m", kind=0)],
    "a link to NUL": [Forged(b"", b"m", kind=LINK, target=b"a\0b")],
    "an attribute with NUL": [Forged(b"", b"m", b"x", xattrs=((b"user.\0", b"v"),))],
    "an attribute without a name": [Forged(b"", b"m", b"x", xattrs=((b"", b"v"),))],
    "a negative device": [Forged(b"", b"m", kind=stat.S_IFCHR, device_number=-1)],
    "a folder with content": [Forged(b"", b"m", b"content", kind=DIRECTORY)],
    "more entries than may be": [Forged(b"m/", b"%05d" % number) for number in range(8_193)],
}


@pytest.mark.parametrize("name", HOSTILE_LISTS)
def test_a_list_that_no_honest_point_has_is_refused(forger: Forger, place: Place, name: str) -> None:
    """As a whole, since nobody can say what it was to mean; the rest is restored."""
    hostile = HOSTILE_LISTS[name]
    if name == "more entries than may be":
        with pytest.raises(CorruptFile) as caught:
            forger.write([[FIRST], hostile, [LAST]], [(b"first", b"first"), (b"m", b"n"), (LAST.path, LAST.path)])
        assert caught.value.fields["part"] == "seal or root"
        return
    rows = [(b"first", b"first"), (b"m", b"n"), (LAST.path, LAST.path)]
    point = forger.write([[FIRST], hostile, [LAST]], rows)
    restored, codes = run(point, place)
    assert codes == ["corrupt-file"] and restored.failed_count == len(hostile) == restored.damaged_count
    for word in (str(point.path), "cannot be read", "Restore it from a copy of the repository"):
        assert word in restored.failed[0].sentence
    assert restored.files == 2
    rest_is_there(place)
    with forger_point(point) as again:
        assert any(one.part.startswith("segment") for one in verify(again, "quick", Recorder()).damages)


def forger_point(point: Point) -> Point:
    return open_point(point.path, None if point.file_key is None else FileKey(point.file_key))


@pytest.mark.parametrize("lie", [(b"m", b"z"), (b"l", b"m"), (b"m", b"m")], ids=["last", "first", "last before"])
def test_a_root_that_lies_about_a_segment(forger: Forger, place: Place, lie: tuple[bytes, bytes]) -> None:
    entries = [Forged(b"", b"m", b"one"), Forged(b"", b"n", b"two")]
    point = forger.write([[FIRST], entries, [LAST]], [(b"first", b"first"), lie, (LAST.path, LAST.path)])
    restored, codes = run(point, place)
    assert codes == ["corrupt-file"] and restored.failed_count == 2
    rest_is_there(place)


@pytest.mark.parametrize(
    "rows",
    [
        [(b"first", b"first"), (b"first", b"m"), (LAST.path, LAST.path)],
        [(b"m", b"m"), (b"first", b"first"), (LAST.path, LAST.path)],
        [(b"first", b"m"), (b"m", b"m"), (LAST.path, LAST.path)],
        [(b"", b"first"), (b"m", b"m"), (LAST.path, LAST.path)],
    ],
    ids=["twice", "out of order", "overlap", "no name"],
)
def test_a_root_whose_segments_are_not_in_order_is_refused(forger: Forger, rows: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(CorruptFile) as caught:
        forger.write([[FIRST], [Forged(b"", b"m", b"x")], [LAST]], rows)
    assert caught.value.fields["part"] == "seal or root"


@pytest.mark.parametrize(
    ("facts", "fine"),
    [
        ({"source_bytes": 2**63 - 1, "files": 2**63 - 1}, True),
        ({"source_bytes": -1}, False),
        ({"started_at_ns": 2**64 - 1}, False),
        ({"kind": "something"}, False),
    ],
    ids=["large", "negative", "after the end of time", "kind"],
)
def test_facts_that_lie(forger: Forger, place: Place, facts: dict[str, object], fine: bool) -> None:
    forger.facts = facts
    if fine:
        assert run(forger.write([[FIRST], [LAST]]), place)[1] == []
        rest_is_there(place)
    else:
        with pytest.raises(CorruptFile, match="impossible facts"):
            forger.write([[FIRST], [LAST]])


def through_link(place: Place) -> list[Forged]:
    """A link out of the target, and entries below it."""
    return [
        Forged(b"", b"m", kind=LINK, target=os.fsencode(place.outside)),
        Forged(b"m/", b"folder", kind=DIRECTORY, permissions=0o777),
        Forged(b"m/folder/", b"evil", b"evil"),
        Forged(b"m/", b"passwd", b"evil", permissions=0o666),
    ]


@pytest.mark.parametrize("split", [False, True], ids=["one list", "across lists"])
@pytest.mark.parametrize("existing", list(Existing))
def test_nothing_is_written_through_a_link_of_the_point(
    forger: Forger, place: Place, existing: Existing, split: bool
) -> None:
    entries = through_link(place)
    parts = [entries[:1], entries[1:]] if split else [entries]
    restored, codes = run(forger.write([[FIRST], *parts, [LAST]]), place, existing)
    rest_is_there(place)
    link = place.into / "m"
    if existing is Existing.SKIP:
        assert codes == ["not-a-folder"] * 3 and restored.failed_count == 3
        assert [failure.path for failure in restored.failed] == [b"m/folder", b"m/folder/evil", b"m/passwd"]
        assert "what belongs below it was left out" in restored.failed[0].sentence
        assert os.readlink(link) == str(place.outside)
        return
    assert codes == []
    made = link if existing is Existing.OVERWRITE else place.into / "m (restored)"
    assert (
        not made.is_symlink() and (made / "passwd").read_bytes() == (made / "folder" / "evil").read_bytes() == b"evil"
    )


def test_a_file_that_is_also_a_folder(forger: Forger, place: Place) -> None:
    entries = [Forged(b"", b"m", b"a file"), Forged(b"m/", b"a", b"in it"), Forged(b"m/b/", b"c", b"deeper")]
    restored, codes = run(forger.write([[FIRST], entries, [LAST]]), place)
    assert codes == ["not-a-folder"] * 2 and restored.files == 3
    assert (place.into / "m").read_bytes() == b"a file"
    rest_is_there(place)


@pytest.mark.parametrize("target", [b"../outside/passwd", b"/etc/passwd", b"..", b"m", b"../" * 40 + b"etc"])
def test_a_link_out_of_the_target_is_a_link_and_is_not_followed(forger: Forger, place: Place, target: bytes) -> None:
    """Honest backups are full of them. It is made with its own owner and time; what it names is not touched."""
    point = forger.write([[FIRST, Forged(b"", b"m", kind=LINK, target=target, permissions=0o777)], [LAST]])
    assert run(point, place)[1] == []
    assert os.readlink(os.fsencode(place.into / "m")) == target
    assert os.lstat(place.into / "m").st_mtime_ns == Forged(b"", b"").mtime_ns
    rest_is_there(place)


@pytest.mark.parametrize("existing", list(Existing))
def test_a_hard_link_to_a_foreign_file_is_a_file_of_its_own(forger: Forger, place: Place, existing: Existing) -> None:
    """Device and inode in a point say which names of it are one file, and lead to nothing on this machine."""
    facts = os.stat(place.outside / "passwd")
    (place.into / "there").write_bytes(b"there")
    here = os.stat(place.into / "there")
    entries = [
        Forged(b"", b"m1", b"evil", flags=HARD_LINKED, inode=facts.st_ino, device=facts.st_dev),
        Forged(b"", b"m2", b"evil", flags=HARD_LINKED, inode=facts.st_ino, device=facts.st_dev),
        Forged(b"", b"n1", b"own", flags=HARD_LINKED, inode=here.st_ino, device=here.st_dev),
    ]
    restored, codes = run(forger.write([[FIRST], entries, [LAST]]), place, existing)
    assert codes == [] and restored.links == 1
    assert (place.into / "m1").stat().st_ino == (place.into / "m2").stat().st_ino != facts.st_ino
    assert (place.into / "m2").read_bytes() == b"evil" and (place.into / "n1").read_bytes() == b"own"
    assert (place.into / "there").stat().st_nlink == 1 and (place.into / "there").read_bytes() == b"there"
    rest_is_there(place)


def test_a_hard_link_to_a_link_is_not_followed(forger: Forger, place: Place) -> None:
    """The first name is a link out of the target, the others say that they are the same file."""
    entries = [
        Forged(b"", b"m1", kind=LINK, target=os.fsencode(place.outside / "passwd"), flags=HARD_LINKED),
        Forged(b"", b"m2", b"evil", flags=HARD_LINKED),
        Forged(b"m2/", b"evil", b"evil"),
    ]
    _, codes = run(forger.write([[FIRST], entries, [LAST]]), place)
    assert codes == ["not-a-folder"]
    assert not (place.into / "m2").is_symlink() and (place.into / "m2").read_bytes() == b"evil"
    rest_is_there(place)


CHUNKS: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "a block that is not there": ((0, 77, 0, 4),),
    "the last block that can be": ((0, 0xFFFFFFFE, 0, 4),),
    "an item that is no block": ((0, 3, 0, 4),),
    "beyond a block": ((0, 0, 5, 5),),
    "far beyond a block": ((0, 0, 0xFFFFFFF0, 0xFFFFFFFF),),
    "a file that is not there": ((1, 0, 0, 4),),
}


@pytest.mark.parametrize("name", CHUNKS)
def test_content_that_is_nowhere_costs_its_file_only(forger: Forger, place: Place, name: str) -> None:
    forger.origins.append(uuid4())
    point = forger.write([[FIRST, Forged(b"", b"m", chunks=CHUNKS[name]), Forged(b"", b"n", b"fine")], [LAST]])
    with forger_point(point) as again:
        named = verify(again, "full", Recorder()).damaged_files
        assert named == ((b"first", b"m") if "beyond" in name else (b"m",))  # then the block is said to be damaged
    restored, codes = run(point, place)
    assert codes in (["corrupt-file"], ["missing-file"]) and restored.damaged_count == 1
    assert sorted(os.listdir(place.into)) == ["first", "n", "zzz last"]
    rest_is_there(place)


def test_values_that_no_file_system_has_are_losses(forger: Forger, place: Place) -> None:
    """The content comes back, and what cannot be set is counted; a hole of 4 GiB takes no room."""
    entries = [
        Forged(b"", b"m1", b"x", uid=2**32 - 1, gid=2**32 - 1),
        Forged(b"", b"m2", b"x", uid=2**32 - 2, gid=2**32 - 2, permissions=0o7777),
        Forged(b"", b"m3", b"x", mtime_ns=2**63 - 1),
        Forged(b"", b"m4", b"x", mtime_ns=-(2**63)),
        Forged(b"", b"m5", b"x", xattrs=((b"nonsense", b"v"), (b"user." + b"n" * 300, b"v" * 70_000))),
        Forged(b"", b"m6", kind=stat.S_IFSOCK),
        Forged(b"", b"m7", chunks=((HOLE, 0, 0, 0xFFFFFFFF),)),
        Forged(b"", b"n" * 300, b"x"),
    ]
    restored, codes = run(forger.write([[FIRST], entries, [LAST]]), place)
    assert codes == ["unknown-type", "not-written"] and restored.files == 8
    assert restored.losses["attributes-not-set"] == 1
    assert (place.into / "m7").stat().st_size == 0xFFFFFFFF and (place.into / "m7").stat().st_blocks < 100
    rest_is_there(place)


@pytest.fixture
def open_place() -> Iterator[Place]:
    """A place that an ordinary user reaches."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        place = Place(Path(folder) / "place")
        for path in (place.outside, place.into):
            path.mkdir(parents=True)
        (place.outside / "passwd").write_bytes(b"precious")
        if os.geteuid() == 0:
            os.chown(place.into, NOBODY, NOBODY)
        before = place.canary()
        yield place
        assert place.canary() == before


def as_ordinary_user(work: Callable[[], dict[str, object]]) -> dict[str, object]:
    """What the work returns, done in a child process by somebody who is not root."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(writer, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        raw = answer.read()
    os.waitpid(child, 0)
    assert raw, "the child raised"
    found: dict[str, object] = json.loads(raw)
    return found


def test_an_ordinary_user_gets_no_device_and_no_foreign_owner(open_place: Place) -> None:
    forger = Forger(open_place.top.parent / "repository")
    entries = [
        Forged(b"", b"m1", kind=stat.S_IFBLK, device_number=0x800, permissions=0o666),
        Forged(b"", b"m2", kind=stat.S_IFCHR, device_number=0x103, permissions=0o666),
        Forged(b"", b"m3", b"a shell", permissions=0o6755),
        Forged(b"", b"m4", kind=stat.S_IFIFO),
        *(Forged(entry.folder.replace(b"m", b"n", 1), entry.name.replace(b"m", b"n"), entry.content, entry.kind,
                 target=entry.target) for entry in through_link(open_place)),
    ]  # fmt: skip
    point = forger.write([[FIRST], entries, [LAST]])
    for folder in (point.path.parent, point.path.parent.parent):
        os.chmod(folder, 0o755)
    os.chmod(point.path, 0o644)

    def work() -> dict[str, object]:
        restored, codes = run(forger_point(point), open_place)
        return {"codes": codes, "losses": restored.losses, "sentence": restored.failed[0].sentence}

    found = as_ordinary_user(work)
    point.close()
    assert found["codes"] == ["device-not-made"] * 2 + ["not-a-folder"] * 3
    assert "The device m1 was not made: only root may" in str(found["sentence"])
    assert sorted(os.listdir(open_place.into)) == ["first", "m3", "m4", "n", "zzz last"]
    facts = (open_place.into / "m3").stat()
    assert facts.st_uid == (NOBODY if os.geteuid() == 0 else os.geteuid()) and facts.st_mode & 0o7000 == 0
    assert isinstance(found["losses"], dict) and found["losses"]["special-bits-dropped"] == 1
    rest_is_there(open_place)
