"""One tree that has everything that a file system can hold: backed up, restored and compared, as root and not."""

import errno
import fcntl
import os
import random
import shutil
import stat
import struct
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from repositories.engine.entries import Entry
from repositories.engine.layout import MIB
from repositories.engine.restore import RestoreOrder, restore
from tests.engine.lab import Chain, Recorder, facts_on_disk, inside, write_tree
from tests.engine.nobody import NOBODY, as_nobody, as_root

EVERY_BYTE = bytes(byte for byte in range(1, 256) if byte != ord("/"))
NAMES = (
    EVERY_BYTE,
    EVERY_BYTE[::-1],
    *(bytes([byte]) for byte in EVERY_BYTE if byte != ord(".")),
    b"...",
    b"new\nline",
    b"latin-1 \xe9\xff",
    b"*?[x]",
    b" space ",
    b"-rf",
    b"x" * 255,
    "ü".encode() * 127,
)
TIMES_NS = (0, 1, -1, -1_000_000_001, 1_234_567_890_123_456_789, -(2**31) * 10**9, (2**32 + 17) * 10**9 + 999_999_999)
MODES = (0o000, 0o111, 0o222, 0o400, 0o644, 0o1666, 0o2755, 0o4755, 0o6711, 0o7777)
_LONG = struct.calcsize("l") << 16
GET_FLAGS, SET_FLAGS, IMMUTABLE = 0x80006601 | _LONG, 0x40006602 | _LONG, 0x10

# tag, permissions, id: the owner, user 12345, the group, the mask, others
ANYBODY = 0xFFFFFFFF


def acl(owner: int) -> bytes:
    rows = ((1, owner, ANYBODY), (2, 4, 12345), (4, 4, ANYBODY), (0x10, 6, ANYBODY), (0x20, 0, ANYBODY))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)


ACL, FOLDER_ACL = acl(6), acl(7)
CAPABILITY = struct.pack("<IIIII", 0x02000000 | 1, 1 << 10, 0, 0, 0)  # cap_net_bind_service, effective


def make_ordinary(top: Path) -> None:
    """What everybody can make."""
    dice = random.Random(12)
    write_tree(
        top,
        {
            "empty": b"",
            "small": b"small",
            "at the limit": dice.randbytes(512 * 1024),
            "large": dice.randbytes(3 * MIB + 1),
            "deep/er/and/deeper/file": b"deep",
            "linked": b"several names",
            "large and linked": dice.randbytes(MIB),
        },
    )
    raw = os.fsencode(top)
    (top / "names").mkdir()
    for name in NAMES:
        Path(os.fsdecode(raw + b"/names/" + name)).write_bytes(name)
    for number, mode in enumerate(MODES):
        (top / f"mode {number}").write_bytes(b"mode")
        (top / f"mode {number}").chmod(mode | (0o400 if os.geteuid() else 0))  # who is not root must be able to read
        (top / f"folder {number}").mkdir()
        (top / f"folder {number}" / "in it").write_bytes(b"in a folder")
        (top / f"folder {number}").chmod(mode | (0o500 if os.geteuid() else 0))
    for number, time_ns in enumerate(TIMES_NS):
        (top / f"time {number}").write_bytes(b"time")
        (top / f"time of a folder {number}").mkdir()
        (top / f"time of a link {number}").symlink_to("time")
        for name in (f"time {number}", f"time of a folder {number}", f"time of a link {number}"):
            os.utime(top / name, ns=(0, time_ns), follow_symlinks=False)
    os.link(top / "linked", top / "deep" / "linked too")
    os.link(top / "linked", top / "second name")
    os.link(top / "large and linked", top / "names" / "large second name")
    for name, target in (("link", b"small"), ("dangling", b"/no\xffwhere\nat all"), ("loop", b"loop"), ("up", b"..")):
        os.symlink(target, raw + b"/" + os.fsencode(name))
    (top / "long link").symlink_to("t" * 4_095)
    os.link(top / "dangling", top / "deep" / "dangling too", follow_symlinks=False)
    os.mkfifo(top / "fifo", 0o620)
    os.link(top / "fifo", top / "second fifo")
    for name, shape in (("hole at head", "-d"), ("hole at end", "d-"), ("holes", "-d-d-"), ("all hole", "--")):
        make_sparse(top / name, shape)
    for name in ("small", "large", "deep"):
        os.setxattr(top / name, "user.colour", b"\0blue\xff")
        os.setxattr(top / name, "user.empty", b"")
    os.setxattr(top / "mode 4", "user.large", b"v" * 2_000)
    os.setxattr(top / "small", "system.posix_acl_access", ACL)
    os.setxattr(top / "deep", "system.posix_acl_access", FOLDER_ACL)
    os.setxattr(top / "deep", "system.posix_acl_default", FOLDER_ACL)


def make_sparse(path: Path, shape: str) -> None:
    with open(path, "wb") as file:
        for piece in shape:
            if piece == "d":
                file.write(b"data" * (16 * 1024))
            else:
                file.seek(MIB, os.SEEK_CUR)
        file.truncate()


def make_privileged(top: Path) -> None:
    """What only root can make."""
    for number, owner in enumerate(((12345, 54321), (NOBODY, NOBODY), (2**32 - 2, 2**32 - 2), (0, NOBODY))):
        path = top / f"owned {number}"
        path.write_bytes(b"owned")
        (top / f"owned folder {number}").mkdir()
        (top / f"owned link {number}").symlink_to("owned")
        for name in (path.name, f"owned folder {number}", f"owned link {number}"):
            os.chown(top / name, *owner, follow_symlinks=False)
    (top / "owned 0").chmod(0o6755)
    os.chown(top / "fifo", 12345, 54321)
    os.mknod(top / "null", stat.S_IFCHR | 0o640, os.makedev(1, 3))
    os.link(top / "null", top / "null too")
    os.mknod(top / "disk", stat.S_IFBLK | 0o600, os.makedev(259, 1_000_000))
    (top / "able").write_bytes(b"\x7fELF")
    os.setxattr(top / "able", "security.capability", CAPABILITY)
    for name in ("large", "deep", "link", "fifo", "null"):
        os.setxattr(top / name, "trusted.backupsite", b"\x01\0\xff", follow_symlinks=False)
    os.setxattr(top / "fifo", "system.posix_acl_access", ACL)


@dataclass
class Place:
    """A folder that an ordinary user reaches, on a file system with extended attributes."""

    folder: Path
    observer: Recorder = field(default_factory=Recorder)

    def __post_init__(self) -> None:
        self.source = self.folder / "source"
        self.source.mkdir()
        self.chain = Chain(self.folder / "repository", self.source)

    def restored(self) -> Path:
        return self.folder / "into" / self.source.relative_to("/")

    def restore(self) -> tuple[int, dict[str, int], list[tuple[bytes, str]]]:
        """Complete files, losses, and what failed."""
        with self.chain.open() as point:
            done = restore(RestoreOrder(point, self.folder / "into", helpers=0), self.observer)
        return done.files, done.losses, [(failure.path, failure.code) for failure in done.failed]


def find_place() -> Path:
    for folder in (None, "/dev/shm", "/var/tmp"):
        place = Path(tempfile.mkdtemp(prefix="backupsite-test-", dir=folder))
        try:
            os.setxattr(place, "user.probe", b"1")
            os.setxattr(place, "system.posix_acl_access", ACL)
            os.removexattr(place, "system.posix_acl_access")
        except OSError as error:
            shutil.rmtree(place)
            assert error.errno in (errno.ENOTSUP, errno.EPERM)
        else:
            place.chmod(0o755)
            return place
    pytest.skip("no file system here has extended attributes and ACLs")


@pytest.fixture
def place() -> Iterator[Place]:
    folder = find_place()
    yield Place(folder)
    for path, _, _ in os.walk(folder):  # whoever is not root cannot remove what is in a folder without rights
        os.chmod(path, 0o700)
    shutil.rmtree(folder)


def foreign_above(place: Place, user: int) -> int:
    """How many folders above the source somebody else has: a restore makes them too."""
    return sum(folder.stat().st_uid != user for folder in place.source.parents if folder != Path("/"))


def relative(facts: dict[bytes, tuple], top: Path) -> dict[bytes, tuple]:
    return {path[len(inside(top)) :]: fact for path, fact in facts.items()}


def shapes(top: Path) -> tuple[set[frozenset[str]], dict[str, int]]:
    """Which names are one file, and how many KiB the sparse files take at least by their data."""
    names: dict[int, set[str]] = {}
    for folder, _, files in os.walk(top):
        for name in files:
            path = os.path.join(folder, name)
            names.setdefault(os.lstat(path).st_ino, set()).add(os.path.relpath(path, top))
    sparse = {name: (top / name).stat().st_blocks // 2 for name in ("hole at head", "hole at end", "holes", "all hole")}
    return {frozenset(group) for group in names.values() if len(group) > 1}, sparse


def check_equal(place: Place) -> None:
    before, after = (relative(facts_on_disk(top), top) for top in (place.source, place.restored()))
    assert after == before
    assert shapes(place.restored()) == shapes(place.source)
    assert len(shapes(place.source)[0]) == (5 if (place.source / "null").exists() else 4)


@as_root
def test_as_root_everything_comes_back(place: Place) -> None:
    make_ordinary(place.source)
    try:
        make_privileged(place.source)
    except PermissionError:
        pytest.skip("this container may not make devices, or set all attributes")
    place.chain.write(observer=place.observer)
    again = place.chain.write(observer=place.observer)
    assert (again.new_files, again.changed_files, again.read_bytes) == (0, 1, 4), "one has a time in the future"
    files, losses, failed = place.restore()
    assert (losses, failed, place.observer.warnings) == ({}, [], [])
    assert files == again.files - 3, "further names of a file are links"
    check_equal(place)


@as_root
def test_an_ordinary_user_gets_all_of_his_own_back(place: Place) -> None:
    os.chown(place.folder, NOBODY, NOBODY)
    os.chown(place.source, NOBODY, NOBODY)

    def act() -> tuple[dict[str, int], list, list]:
        make_ordinary(place.source)
        place.chain.write(observer=place.observer)
        _, losses, failed = place.restore()
        return losses, failed, place.observer.warnings

    foreign = foreign_above(place, NOBODY)
    losses, failed, warnings = as_nobody(act)
    assert losses == ({"owner-not-set": foreign} if foreign else {}) and not failed
    assert [code for code, *_ in warnings] == list(losses), warnings
    check_equal(place)


def test_whoever_runs_this_gets_all_of_his_own_back(place: Place) -> None:
    make_ordinary(place.source)
    place.chain.write(observer=place.observer)
    foreign = foreign_above(place, os.geteuid()) if os.geteuid() else 0
    assert place.restore()[1:] == ({"owner-not-set": foreign} if foreign else {}, [])
    check_equal(place)


def expected_losses(entries: list[Entry]) -> tuple[Counter[str], list[tuple[bytes, str]]]:
    """What user and group 65534 cannot set, entry by entry; and what cannot be made."""
    losses: Counter[str] = Counter()
    failed = []
    seen: set[tuple[int, int]] = set()
    for entry in entries:
        if stat.S_ISCHR(entry.mode) or stat.S_ISBLK(entry.mode):
            failed.append((entry.path, "device-not-made"))
            continue
        if entry.hard_linked and (entry.device, entry.inode) in seen:
            continue
        seen.add((entry.device, entry.inode))
        foreign = (entry.uid, entry.gid) != (NOBODY, NOBODY)
        losses["owner-not-set"] += foreign
        losses["special-bits-dropped"] += bool(
            foreign and entry.mode & (stat.S_ISUID | stat.S_ISGID) and not stat.S_ISLNK(entry.mode)
        )
        losses["attributes-not-set"] += any(name.startswith((b"security.", b"trusted.")) for name, _ in entry.xattrs)
    return losses, failed


@as_root
def test_what_an_ordinary_user_cannot_restore_is_counted(place: Place) -> None:
    make_ordinary(place.source)
    try:
        make_privileged(place.source)
    except PermissionError:
        pytest.skip("this container may not make devices, or set all attributes")
    place.chain.write()
    for path, folders, files in os.walk(place.folder / "repository"):
        for name in (*folders, *files):
            os.chown(os.path.join(path, name), NOBODY, NOBODY)
    for folder in (place.folder, place.folder / "repository"):
        os.chown(folder, NOBODY, NOBODY)
    with place.chain.open() as point:
        expected = expected_losses(list(point.walk()))
    _, losses, failed = as_nobody(place.restore)
    assert (Counter(losses), failed) == expected
    assert losses["special-bits-dropped"] == 2 * 4 + 1 and losses["attributes-not-set"] == 5 and len(failed) == 3
    check_as_nobody(place, {path for path, _ in failed})


def check_as_nobody(place: Place, missing: set[bytes]) -> None:
    before = relative({p: f for p, f in facts_on_disk(place.source).items() if p not in missing}, place.source)
    after = relative(facts_on_disk(place.restored()), place.restored())
    assert after.keys() == before.keys()
    for path, (mode, uid, gid, mtime_ns, rdev, xattrs, content) in before.items():
        owned = (uid, gid) == (NOBODY, NOBODY)
        wanted_mode = mode if owned or stat.S_ISLNK(mode) else mode & ~(stat.S_ISUID | stat.S_ISGID)
        wanted_xattrs = tuple(pair for pair in xattrs if not pair[0].startswith((b"security.", b"trusted.")))
        assert after[path] == (wanted_mode, NOBODY, NOBODY, mtime_ns, rdev, wanted_xattrs, content)
    groups, sparse = shapes(place.source)
    assert shapes(place.restored()) == (groups - {frozenset(("null", "null too"))}, sparse)


@as_root
def test_what_an_ordinary_user_cannot_read_is_a_warning_each(place: Place) -> None:
    write_tree(place.source, {"own": b"1", "own closed": b"2", "closed": b"3", "shut/in": b"4", "large": bytes(MIB)})
    write_tree(place.source, {"own shut/in": b"5", "no way/in": b"6"})
    for path in place.source.rglob("*"):
        os.chown(path, NOBODY, NOBODY)
    for name, owner, mode in (
        ("own closed", NOBODY, 0o000),
        ("closed", 0, 0o600),
        ("large", 0, 0o600),
        ("shut", 0, 0o700),
        ("own shut", NOBODY, 0o000),
        ("no way", 0, 0o744),  # names can be listed, and nothing can be reached
    ):
        os.chown(place.source / name, owner, owner)
        (place.source / name).chmod(mode)
    os.setxattr(place.source / "own shut", "user.unreadable", b"x")
    os.chown(place.folder, NOBODY, NOBODY)

    def act() -> list[tuple[str, bytes]]:
        place.chain.write(observer=place.observer)
        return [(code, path.rpartition(b"source/")[2]) for code, path, _ in place.observer.warnings]

    assert sorted(as_nobody(act)) == [
        ("unreadable", b"closed"),
        ("unreadable", b"large"),
        ("unreadable", b"no way/in"),
        ("unreadable", b"own closed"),
        ("unreadable", b"own shut"),
        ("unreadable", b"shut"),
        ("xattrs-unreadable", b"own shut"),
    ]


@as_root
def test_an_immutable_file_is_backed_up_and_comes_back_without_the_flag(place: Place) -> None:
    (place.source / "fixed").write_bytes(b"fixed")
    with open(place.source / "fixed") as file:
        flags = bytearray(struct.calcsize("l"))
        try:
            fcntl.ioctl(file, GET_FLAGS, flags)
            fcntl.ioctl(file, SET_FLAGS, struct.pack("l", struct.unpack("l", flags)[0] | IMMUTABLE))
        except OSError:
            pytest.skip("this file system has no immutable files, or root may not make them here")
        try:
            place.chain.write(observer=place.observer)
            assert place.restore()[1:] == ({}, [])
            assert relative(facts_on_disk(place.restored()), place.restored()) == relative(
                facts_on_disk(place.source), place.source
            )
        finally:
            fcntl.ioctl(file, SET_FLAGS, bytes(flags))
    assert place.observer.warnings == []


def test_times_that_no_manifest_holds_are_warnings(place: Place) -> None:
    """Some file systems hold years far from 1970; a point holds nanoseconds in 64 bits."""
    write_tree(place.source, {"future": b"1", "usual": b"2", "folder/large": bytes(MIB)})
    future_ns = 9_300_000_000 * 10**9
    try:
        os.utime(place.source / "future", ns=(0, future_ns))
        os.utime(place.source / "folder", ns=(0, future_ns))
    except (OSError, OverflowError):
        pytest.skip("this system has no times after 2262")
    if (place.source / "future").stat().st_mtime_ns != future_ns:
        pytest.skip("this file system has no times after 2262")
    place.chain.write(observer=place.observer)
    assert {(code, path) for code, path, _ in place.observer.warnings} == {
        ("time-out-of-range", inside(place.source, name)) for name in ("future", "folder")
    }
    again = place.chain.write()
    assert (again.changed_files, again.unchanged_files) == (1, 2)
    with place.chain.open() as point:
        assert point.entry(inside(place.source, "future")).mtime_ns == 2**63 - 1
