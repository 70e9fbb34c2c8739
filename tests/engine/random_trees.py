"""A tree that is edited at random: every kind of change that a source may have between two sessions.

An edit is three numbers: what is done, where, and how. They mean something in every tree, so that a shorter list of
edits is a valid one, too.
"""

import hashlib
import os
import random
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.engine.lab import facts_on_disk

NAMES = (b"a", b"b", b"\xff\xfe", b"new\nline", b" ", b"-rf", b"*", "ü".encode(), b"\x01", b"x" * 200, b"..a", b"#")
DEPTH_MAX, LARGE_MAX = 4, 3
LARGE_BYTES, HOLE_BYTES = 600_000, 5 << 18
Edit = tuple[str, int, int]


@dataclass(frozen=True)
class Truth:
    """What a restore must bring back: every entry by its path below the source, and which names are one file.

    Of contents there are digests, since a model remembers many trees.
    """

    facts: dict[bytes, tuple]
    same_files: frozenset[frozenset[bytes]]


def below(top: bytes, facts: dict[bytes, tuple]) -> dict[bytes, tuple]:
    """The facts of everything below a folder, by the path in it."""
    return {
        path[len(top) :]: (*fact[:-1], fact[-1] and hashlib.sha256(fact[-1]).digest()) for path, fact in facts.items()
    }


def truth_of(folder: Path) -> Truth:
    top = os.fsencode(folder)[1:]
    facts = below(top, facts_on_disk(folder))
    names: dict[int, set[bytes]] = {}
    for path, fact in facts.items():
        if stat.S_ISREG(fact[0]):
            names.setdefault(os.lstat(b"/" + top + path).st_ino, set()).add(path)
    return Truth(facts, frozenset(frozenset(same) for same in names.values() if len(same) > 1))


class RandomTree:
    """A folder and its edits. Made small, it stays small: what would be too much is left out."""

    def __init__(self, folder: Path) -> None:
        self._top = os.fsencode(folder)
        os.mkdir(self._top)
        self._made = 0

    def edit(self, kind: str, where: int, how: int) -> None:
        EDITS[kind](self, where, how)

    def new_file(self, where: int, how: int) -> None:
        self._write(self._new_path(where, how), self._content(how, how % 5_000))

    def new_large_file(self, where: int, how: int) -> None:
        """Cut into chunks, not read as a whole."""
        if sum(os.lstat(path).st_size > LARGE_BYTES for path in self._files()) < LARGE_MAX:
            self._write(self._new_path(where, how), self._content(how, LARGE_BYTES + how * 100))

    def new_sparse_file(self, where: int, how: int) -> None:
        path = self._new_path(where, how)
        self._write(path, b"head")
        with open(path, "r+b") as file:
            file.truncate(HOLE_BYTES)
            if how % 2:
                file.seek(HOLE_BYTES // 2)
                file.write(self._content(how, 10_000))

    def new_folder(self, where: int, how: int) -> None:
        os.mkdir(self._new_path(where, how), 0o750)

    def new_link(self, where: int, how: int) -> None:
        os.symlink(NAMES[how % len(NAMES)], self._new_path(where, how))

    def new_fifo(self, where: int, how: int) -> None:
        os.mkfifo(self._new_path(where, how), 0o640)

    def hard_link(self, where: int, how: int) -> None:
        for path in self._chosen(self._files(), where):
            os.link(path, self._new_path(how, where))

    def move(self, where: int, how: int) -> None:
        """A file or a folder, into another folder or under another name."""
        for path in self._chosen(self._entries(), where):
            target = self._new_path(how, where)
            if not target.startswith(path + b"/") and self._depth(path) + self._depth(target) <= DEPTH_MAX:
                os.rename(path, target)

    def copy(self, where: int, how: int) -> None:
        for path in self._chosen(self._files(), where):
            shutil.copyfile(path, self._new_path(how, where))

    def overwrite(self, where: int, how: int) -> None:
        for path in self._chosen(self._files(), where):
            self._write(path, self._content(how, how % 3_000))

    def change_in_place(self, where: int, how: int) -> None:
        """Equal size, and the time of the last change set back: only the ctime tells."""
        for path in self._chosen(self._files(), where):
            before = os.lstat(path)
            with open(path, "r+b") as file:
                file.seek(before.st_size // 2)
                file.write(self._content(how, min(300, before.st_size - before.st_size // 2)))
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def append(self, where: int, how: int) -> None:
        for path in self._chosen(self._files(), where):
            if os.lstat(path).st_size < 4 * LARGE_BYTES:
                with open(path, "ab") as file:
                    file.write(self._content(how, 1 + how % 900))

    def shorten(self, where: int, _how: int) -> None:
        for path in self._chosen(self._files(), where):
            os.truncate(path, os.lstat(path).st_size // 2)

    def touch(self, where: int, how: int) -> None:
        for path in self._chosen(self._entries(), where):
            os.utime(path, ns=(0, how * 1_000_000_007 - 10**12), follow_symlinks=False)

    def change_mode(self, where: int, how: int) -> None:
        for path in self._chosen([path for path in self._entries() if not os.path.islink(path)], where):
            os.chmod(path, (0o700 if os.path.isdir(path) else 0o400) | (how & 0o177))

    def set_attribute(self, where: int, how: int) -> None:
        for path in self._chosen(self._files(), where):
            os.setxattr(path, b"user.note", self._content(how, 1 + how % 100))

    def delete(self, where: int, _how: int) -> None:
        for path in self._chosen(self._entries(), where):
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)

    def become_another_kind(self, where: int, how: int) -> None:
        """A file where a folder was, and the other way round."""
        for path in self._chosen(self._entries(), where):
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
                self._write(path, self._content(how, 20))
            else:
                os.unlink(path)
                os.mkdir(path)

    def _entries(self) -> list[bytes]:
        return [path for folder, folders, files in self._walk() for path in self._sorted(folder, folders + files)]

    def _files(self) -> list[bytes]:
        return [path for path in self._entries() if stat.S_ISREG(os.lstat(path).st_mode)]

    def _folders(self) -> list[bytes]:
        """Those in which something new may be made."""
        return [folder for folder, _, _ in self._walk() if self._depth(folder) < DEPTH_MAX]

    def _walk(self) -> list[tuple[bytes, list[bytes], list[bytes]]]:
        return sorted(os.walk(self._top))

    @staticmethod
    def _sorted(folder: bytes, names: list[bytes]) -> list[bytes]:
        return [folder + b"/" + name for name in sorted(names)]

    def _depth(self, path: bytes) -> int:
        return path[len(self._top) :].count(b"/")

    @staticmethod
    def _chosen(paths: list[bytes], where: int) -> list[bytes]:
        """One of them, or none if there is none."""
        return [paths[where % len(paths)]] if paths else []

    def _new_path(self, where: int, how: int) -> bytes:
        """Nothing has it; often it is one that something had."""
        folders = self._folders()
        folder, name = folders[where % len(folders)], NAMES[how % len(NAMES)]
        path = folder + b"/" + name
        while os.path.lexists(path):
            self._made += 1
            path = folder + b"/" + name[:180] + b"%d" % self._made
        return path

    @staticmethod
    def _write(path: bytes, content: bytes) -> None:
        Path(os.fsdecode(path)).write_bytes(content)

    @staticmethod
    def _content(how: int, length: int) -> bytes:
        """The same number gives the same bytes, so that some of it is stored already."""
        return random.Random(how % 50).randbytes(length)


EDITS: dict[str, Callable[[RandomTree, int, int], None]] = {
    name: function
    for name, function in vars(RandomTree).items()
    if callable(function) and not name.startswith("_") and name != "edit"
}
