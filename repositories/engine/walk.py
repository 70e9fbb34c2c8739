"""The walk over the sources: everything that is to be in the point, in manifest order, one lstat each.

Depth first, names sorted as bytes, a folder before its children: memory holds the names of the folders on the way
down, nothing else. What cannot be read is a warning with its path. Sockets are passed over, since
they cannot be restored, and counted.
How an entry compares with the parent is left to compare.py; the content of files, to content.py.

A source that is a symbolic link to a folder is followed (its content is what was meant); links below are not.
Folders above a source are entries of their own, marked as ancestors, so that a restore can make them as they were.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import NamedTuple, Protocol

from repositories.engine.entries import is_below, order_key
from repositories.engine.errors import SourceMissing, SourceRefused, SourceUnreadable, text
from repositories.engine.observer import Observer
from repositories.engine.omissions import CACHE_TAG, NodumpFlags, Omission, is_cache
from repositories.engine.open_folders import OpenFolders
from repositories.engine.patterns import Patterns

ALWAYS_BELOW_ROOT = (b"/proc", b"/sys", b"/dev")  # the folders stay, what is in them is left out
MAX_FOLDER_BYTES = 16 * 1024  # the path of each folder stands in the manifest: without a limit it outgrew its source
_IFMT, _IFREG, _IFDIR, _IFSOCK = 0o170000, stat.S_IFREG, stat.S_IFDIR, stat.S_IFSOCK


class Stat(Protocol):
    """What is used of os.stat_result."""

    @property
    def st_mode(self) -> int: ...
    @property
    def st_uid(self) -> int: ...
    @property
    def st_gid(self) -> int: ...
    @property
    def st_size(self) -> int: ...
    @property
    def st_nlink(self) -> int: ...
    @property
    def st_ino(self) -> int: ...
    @property
    def st_dev(self) -> int: ...
    @property
    def st_rdev(self) -> int: ...
    @property
    def st_mtime_ns(self) -> int: ...
    @property
    def st_ctime_ns(self) -> int: ...


class FixedStat(NamedTuple):
    """Of a folder above a source: only what a restore sets, so that its comings and goings do not change the manifest.
    Of anything: with a time changed.
    """

    st_mode: int
    st_uid: int
    st_gid: int
    st_ino: int
    st_dev: int
    st_size: int = 0
    st_nlink: int = 1
    st_rdev: int = 0
    st_mtime_ns: int = 0
    st_ctime_ns: int = 0


def clamped(found: Stat, least_ns: int, most_ns: int) -> FixedStat:
    """With times between these two."""
    mtime_ns = max(least_ns, min(found.st_mtime_ns, most_ns))
    ctime_ns = max(least_ns, min(found.st_ctime_ns, most_ns))
    facts = (found.st_mode, found.st_uid, found.st_gid, found.st_ino, found.st_dev, found.st_size, found.st_nlink)
    return FixedStat(*facts, found.st_rdev, mtime_ns, ctime_ns)


# (folder, name, stat, is an ancestor): the folder ends with a slash or is empty; folder + name is the path without the
# leading slash. A plain tuple, since there may be a million of them.
Found = tuple[bytes, bytes, Stat, bool]


def clean_sources(sources: Iterable[bytes], refused: Iterable[bytes]) -> list[bytes]:
    """Absolute, normalised, in manifest order, none inside another.

    Raises SourceMissing, and SourceRefused for one that is, or lies in, a folder of `refused`.
    """
    paths = []
    for source in sources:
        if not source.startswith(b"/"):
            raise SourceRefused(f"The source {text(source)} is not an absolute path.", path=text(source))
        path = b"/" + os.path.normpath(source).lstrip(b"/")
        _check_source(path, refused)
        paths.append(path)
    if not paths:
        raise SourceMissing("There is no source: choose at least one folder.", path="")
    chosen: list[bytes] = []
    for path in sorted(set(paths), key=order_key):
        if not chosen or not is_below(path[1:], chosen[-1][1:]):
            chosen.append(path)
    return chosen


def _check_source(path: bytes, refused: Iterable[bytes]) -> None:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise SourceMissing(
            f"The source {text(path)} does not exist. Check the path, or whether its disk is mounted.", path=text(path)
        ) from None
    except OSError as error:
        raise _unreadable(path, error) from None
    real = os.path.realpath(path)
    for folder in refused:
        if is_below(real[1:], folder[1:]):
            raise SourceRefused(
                f"The source {text(path)} lies in {text(folder)}, which no backup reads; choose another one.",
                path=text(path),
            )
    if stat.S_ISDIR(found.st_mode):
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            raise _unreadable(path, error) from None


def _unreadable(path: bytes, error: OSError) -> SourceUnreadable:
    reason = error.strerror or type(error).__name__
    return SourceUnreadable(
        f"The source {text(path)} cannot be read: {reason}. Check the rights of the user that runs the session.",
        path=text(path),
        reason=reason,
    )


class Walk:
    """Iterates over Found. `sources` come from clean_sources(); `never` are absolute paths that are left out whole.

    `beat` is called for every folder. What `omissions` mean stands in omissions.py.
    """

    def __init__(
        self,
        sources: list[bytes],
        include: Patterns,
        exclude: Patterns,
        never: Iterable[bytes],
        observer: Observer,
        beat: Callable[[], None],
        omissions: frozenset[Omission] = frozenset(),
    ) -> None:
        self._sources, self._observer, self._beat = sources, observer, beat
        self._one_file_system = Omission.ONE_FILE_SYSTEM in omissions
        self._skip_caches = Omission.SKIP_CACHES in omissions
        self._nodump = NodumpFlags() if Omission.SKIP_NODUMP in omissions else None
        self._include, self._exclude = include, exclude
        self._never = _identify(never)
        self._hollow = frozenset(path[1:] for path in ALWAYS_BELOW_ROOT if path not in sources)
        self._ancestors: set[bytes] = set()
        self._sockets = 0

    def __iter__(self) -> Generator[Found, None, None]:
        for source in self._sources:
            yield from self._source(source)
        if self._sockets:
            self._observer.note(
                "sockets-skipped",
                f"Sockets that were left out: {self._sockets:,}. They cannot be restored; who listens makes them anew.",
            )

    def _source(self, source: bytes) -> Iterator[Found]:
        path = source[1:]
        yield from self._above(path)
        try:
            found = os.stat(source)
        except OSError as error:
            self._warn_lost(path, error)
            return
        self._device = found.st_dev
        if not path:
            yield from self._below(b"")
            return
        folder, _, name = path.rpartition(b"/")
        if stat.S_ISSOCK(found.st_mode):
            self._sockets += 1
            return
        yield (folder + b"/" if folder else b"", name, found, False)
        if stat.S_ISDIR(found.st_mode):
            yield from self._below(path + b"/")

    def _above(self, path: bytes) -> Iterator[Found]:
        parts = path.split(b"/")[:-1]
        for depth in range(1, len(parts) + 1):
            ancestor = b"/".join(parts[:depth])
            if ancestor not in self._ancestors:
                self._ancestors.add(ancestor)
                folder = b"".join(part + b"/" for part in parts[: depth - 1])
                above = os.stat(b"/" + ancestor)
                only = FixedStat(above.st_mode, above.st_uid, above.st_gid, above.st_ino, above.st_dev)
                yield (folder, parts[depth - 1], only, True)

    def _below(self, folder: bytes) -> Iterator[Found]:
        with OpenFolders() as opened:
            yield from self._folder(folder, opened)

    def _folder(self, folder: bytes, opened: OpenFolders) -> Iterator[Found]:
        """Everything below `folder`, without recursion: a tree may be deeper than Python's stack."""
        filtering = bool(self._include) or bool(self._exclude) or self._nodump is not None
        waiting: list[Found] = []  # folders that are only kept if something below them is included
        stack = [(folder, iter(self._names(folder, b"/" + folder, opened)), not self._include)]
        while stack:
            folder, names, inside = stack[-1]
            lstat, here, included = os.lstat, opened.current, inside
            for name in names:
                try:
                    found = lstat(name, dir_fd=here)
                except OSError as error:
                    self._warn_lost(folder + name, error)
                    continue
                kind = found.st_mode & _IFMT
                if kind == _IFSOCK:
                    self._sockets += not filtering or self._verdict(folder + name, name, False, included) is True
                    continue
                if filtering:
                    verdict = self._verdict(folder + name, name, kind == _IFDIR, included)
                    if verdict is None or self._is_nodump(here, name, found):
                        continue
                    inside = verdict
                    if inside:
                        yield from waiting
                        waiting.clear()
                if kind != _IFDIR:
                    yield (folder, name, found, False)
                    continue
                path = folder + name
                if not self._enterable(path, found):
                    if inside and self._is_hollow(path, found):
                        yield (folder, name, found, False)
                    continue
                if inside:
                    yield (folder, name, found, False)
                else:
                    waiting.append((folder, name, found, False))
                stack.append((path + b"/", iter(self._names(path + b"/", name, opened)), inside))
                break
            else:
                stack.pop()
                if not opened.leave():
                    stack[-1] = (stack[-1][0], iter(()), stack[-1][2])
                    self._warn_moved(stack[-1][0])
                if waiting and waiting[-1][0] + waiting[-1][1] + b"/" == folder:
                    waiting.pop()

    def _verdict(self, path: bytes, name: bytes, is_folder: bool, included: bool) -> bool | None:
        """Whether something is in the point; False for a folder that is so only if something below it is."""
        if self._exclude.match(path, name, is_folder):
            return None
        if included or self._include.match(path, name, is_folder):
            return True
        return False if is_folder else None

    def _enterable(self, path: bytes, found: os.stat_result) -> bool:
        return not self._is_hollow(path, found) and (found.st_dev, found.st_ino) not in self._never

    def _is_hollow(self, path: bytes, found: os.stat_result) -> bool:
        """Whether the folder is kept without what is in it."""
        return path in self._hollow or (self._one_file_system and found.st_dev != self._device)

    def _is_nodump(self, folder: int, name: bytes, found: os.stat_result) -> bool:
        if self._nodump is None or found.st_mode & _IFMT not in (_IFREG, _IFDIR):
            return False
        return self._nodump.has(folder, name, found.st_dev)

    def _names(self, folder: bytes, name: bytes, opened: OpenFolders) -> list[bytes]:
        """Enter a folder, and what is in it, sorted; nothing, after a warning, if that cannot be read."""
        self._beat()
        try:
            names = opened.enter(name)
        except OSError as error:
            self._warn_lost(folder.rstrip(b"/"), error, folder=True)
            return []
        if len(folder) > MAX_FOLDER_BYTES:
            return self._left_out(folder, names)
        if self._skip_caches and CACHE_TAG in names and is_cache(opened.current):
            return [CACHE_TAG]
        names.sort()
        return names

    def _left_out(self, folder: bytes, names: list[bytes]) -> list[bytes]:
        """Nothing, after a warning."""
        if names:
            self._observer.warn(
                "unreadable",
                folder[:-1],
                f"What is in /{text(folder[:-1])} was left out: its path has more than {MAX_FOLDER_BYTES:,} bytes.",
            )
        return []

    def _warn_moved(self, folder: bytes) -> None:
        self._observer.warn(
            "vanished", folder[:-1], f"/{text(folder[:-1])} was moved while it was read; the rest of it was left out."
        )

    def _warn_lost(self, path: bytes, error: OSError, folder: bool = False) -> None:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            self._observer.warn("vanished", path, f"/{text(path)} vanished while the folder was read.")
            return
        what = "folder" if folder else "entry"
        reason = error.strerror or type(error).__name__
        self._observer.warn("unreadable", path, f"The {what} /{text(path)} cannot be read: {reason}.")


def _identify(paths: Iterable[bytes]) -> set[tuple[int, int]]:
    """Device and inode of each path that exists: a bind mount or a link does not lead round it."""
    identities = set()
    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            continue  # what does not exist cannot be walked into
        identities.add((found.st_dev, found.st_ino))
    return identities
