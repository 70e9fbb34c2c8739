"""Safe writing of a restored tree: every entry lands below one folder, whatever its path says and whatever stands
there already.

A path is taken apart and each component checked; then folders are opened one by one, each relative to its parent's
descriptor and without following symbolic links, so that neither a hostile backup nor a link planted in the target
leads outside. Content gets a temporary name in its own folder and is published under its name when it is complete;
publishing never replaces anything unless that was asked for. Small files have a way of their own, with a mark instead
of a temporary name (`repositories.engine.target_unfinished`).

What an entry's owner, mode and times become is decided in `repositories.engine.fidelity`, what is restored and in
which order in `repositories.engine.restore`.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from repositories.engine.errors import BadTarget, text
from repositories.engine.target_names import Blocked, components, free_name, rename_without_replacing
from repositories.engine.target_unfinished import is_unfinished

FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
TEMPORARY_PREFIX = b".backupsite-restore-"
PRIVATE_FOLDER_MODE = 0o700  # until the folder's own mode is set, after its content
PRIVATE_FILE_MODE = 0o600
ORDINARY_FOLDER_MODE = 0o755  # of folders above a source, which no backup describes
OPEN_FOLDERS_MAX = 200
TRIES_MAX = 16


class Existing(StrEnum):
    """What happens to an entry whose name is taken in the target."""

    SKIP = "skip"
    OVERWRITE = "overwrite"
    RENAME = "rename"


class Skipped(Exception):
    """One entry is left alone, because its name is taken and the order says skip."""


class Folder:
    """An open folder of the target: its path in the backup, its descriptor, and the names that stand in it.

    `owner_of_new` is (user, group) of files that are made in it, known after the first: a setgid folder and some file
    systems give new files a group of their own. `shows_unfinished` is whether a file that is made in it keeps the mark
    of one that is not complete, None until one was made. While `held` it stays open, whatever else is opened.
    """

    __slots__ = ("_names", "descriptor", "held", "owner_of_new", "path", "shows_unfinished")

    def __init__(self, path: bytes, descriptor: int, names: set[bytes] | None) -> None:
        self.path = path
        self.descriptor = descriptor
        self._names = names
        self.owner_of_new: tuple[int, int] | None = None
        self.shows_unfinished: bool | None = None
        self.held = False

    @property
    def names(self) -> set[bytes]:
        """Read when first asked for: most folders were just made and are empty."""
        if self._names is None:
            self._names = {os.fsencode(name) for name in os.listdir(self.descriptor)}
        return self._names


class Target:
    """The folder below which everything is restored. A context manager; closing it closes every descriptor.

    Made from the folder's descriptor, as open_into() gives it, which it owns from then on. `created` holds the
    backup's paths of the folders that were made here, `found` those that stood there with the time (ns) that they had;
    `fresh` is whether nothing at all stood there.
    """

    def __init__(self, descriptor: int, existing: Existing, *, fresh: bool | None = None) -> None:
        self.existing = existing
        self.created: set[bytes] = set()
        self.found: dict[bytes, int] = {}
        self._moved: dict[bytes, bytes] = {}
        self._open: OrderedDict[bytes, Folder] = OrderedDict()
        self._temporary_token = os.urandom(6).hex().encode("ascii")
        self._temporary_count = 0
        self.root = Folder(b"", descriptor, None)
        self.fresh = not self.root.names if fresh is None else fresh

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every descriptor; a second time does nothing."""
        for folder in (*self._open.values(), self.root):
            if folder.descriptor >= 0:
                os.close(folder.descriptor)
            folder.descriptor = -1
        self._open.clear()

    # Folders

    def folder(self, path: bytes) -> Folder:
        """Open the folder that stands for `path`, making it and those above it where they are missing."""
        if not path:
            return self.root
        return self._open.get(path) or self._enter(path)

    def parent_of(self, path: bytes) -> tuple[Folder, bytes]:
        """The open folder that holds `path`, and its name there."""
        above, slash, name = path.rpartition(b"/")
        folder = self._open.get(above) if above else self.root
        if folder is None:
            folder = self._enter(above)
        if name in (b"", b".", b"..") or b"\0" in name or (slash and not above):
            components(path)
        return folder, name

    def _enter(self, path: bytes) -> Folder:
        parts = components(path)
        depth = len(parts)
        folder: Folder | None = None
        while depth and (folder := self._open.get(b"/".join(parts[:depth]))) is None:
            depth -= 1
        here = folder or self.root
        for level in range(depth, len(parts)):
            here = self._step(here, parts[level], b"/".join(parts[: level + 1]))
        return here

    def _step(self, parent: Folder, name: bytes, path: bytes) -> Folder:
        """Open or make one folder in an open one."""
        actual = self._moved.get(path, name)
        for _ in range(TRIES_MAX):
            created = _make_folder(parent, actual, path)
            descriptor = _open_folder(parent, actual, path)
            if descriptor is not None:
                return self._keep(path, descriptor, actual, parent, created)
            actual = self._resolve(parent, name, actual, path)
        raise Blocked("target-changes", f"{text(path)} keeps changing in the target while it is restored; left out.")

    def _keep(self, path: bytes, descriptor: int, actual: bytes, parent: Folder, created: bool) -> Folder:
        if created:
            self.created.add(path)
            parent.names.add(actual)
        elif path not in self.found:
            self.found[path] = os.fstat(descriptor).st_mtime_ns
        if len(self._open) >= OPEN_FOLDERS_MAX:
            self._close_oldest()
        is_ours = self.fresh or path in self.created  # then nothing stands in it that we do not know or may replace
        folder = Folder(path, descriptor, set() if is_ours else None)
        self._open[path] = folder
        return folder

    def _close_oldest(self) -> None:
        for path, folder in self._open.items():
            if not folder.held:
                del self._open[path]
                os.close(folder.descriptor)
                folder.descriptor = -1  # a use after this fails, and does not reach whatever has the number next
                return

    def _resolve(self, parent: Folder, name: bytes, actual: bytes, path: bytes) -> bytes:
        """Something that is no folder stands where one is needed: return the name to try next."""
        if self.existing is Existing.SKIP:
            raise Blocked(
                "not-a-folder", f"{text(path)} is not a folder in the target; what belongs below it was left out."
            )
        if self.existing is Existing.OVERWRITE:
            with suppress(FileNotFoundError, IsADirectoryError):
                os.unlink(actual, dir_fd=parent.descriptor)
            return actual
        attempt = 1
        while (moved := free_name(name, attempt=attempt)) in parent.names and not _is_folder(parent, moved):
            attempt += 1
        self._moved[path] = moved
        return moved

    # Everything else

    def is_taken(self, folder: Folder, name: bytes) -> bool:
        """Whether something has the name. A file that a killed restore left unfinished is removed and counts as
        nothing.
        """
        if name not in folder.names:
            return False
        if self.fresh or not is_unfinished(folder.descriptor, name):
            return True
        self.discard(folder, name)
        folder.names.discard(name)
        return False

    def place(self, folder: Folder, name: bytes) -> None:
        """Raises Skipped when the name is taken and stays so; asked before content is read, so that a skipped file
        costs nothing.
        """
        if self.is_taken(folder, name) and self.existing is Existing.SKIP:
            raise Skipped

    def temporary_name(self) -> bytes:
        self._temporary_count += 1
        return b"%s%s-%d" % (TEMPORARY_PREFIX, self._temporary_token, self._temporary_count)

    def discard(self, folder: Folder, temporary: bytes) -> None:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder.descriptor)

    def create(self, folder: Folder, temporary: bytes) -> int:
        """Open a new, private file for writing."""
        descriptor = os.open(temporary, FILE_FLAGS, PRIVATE_FILE_MODE, dir_fd=folder.descriptor)
        if folder.owner_of_new is None:
            facts = os.fstat(descriptor)
            folder.owner_of_new = (facts.st_uid, facts.st_gid)
        return descriptor

    def publish(self, folder: Folder, temporary: bytes, name: bytes) -> bytes:
        """Give a complete entry its name and return it; a taken name is skipped, replaced or avoided, as the order
        says.

        Raises Skipped, or Blocked when a folder has the name; the temporary entry is then still there.
        """
        if self.existing is Existing.OVERWRITE:
            self._replace(folder, temporary, name)
            return name
        chosen, attempt = name, 0
        while chosen in folder.names or not rename_without_replacing(folder.descriptor, temporary, chosen):
            if self.existing is Existing.SKIP:
                raise Skipped
            attempt += 1
            chosen = free_name(name, attempt=attempt)
        folder.names.add(chosen)
        return chosen

    def _replace(self, folder: Folder, temporary: bytes, name: bytes) -> None:
        try:
            os.rename(temporary, name, src_dir_fd=folder.descriptor, dst_dir_fd=folder.descriptor)
        except (IsADirectoryError, FileExistsError) as error:
            path = folder.path + b"/" + name
            raise Blocked(
                "folder-in-the-way", f"A folder stands where {text(path)} belongs; it was not touched."
            ) from error
        self.discard(folder, temporary)  # a rename between two names of one file leaves both
        folder.names.add(name)

    def free_bytes(self) -> tuple[int, int]:
        """Free and total bytes of the target's file system, for an ordinary user."""
        facts = os.fstatvfs(self.root.descriptor)
        return facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize


def open_into(into: Path, below: Path | None) -> int:
    """Open (and make) the folder that everything is restored into. Raises BadTarget.

    `below` is a folder that `into` may not leave: the components between the two are opened without following symbolic
    links. Without it the path is the caller's own, and links in it are followed as everywhere on a command line.
    """
    try:
        if below is not None:
            return _open_below(below, into)
        into.mkdir(mode=ORDINARY_FOLDER_MODE, parents=True, exist_ok=True)
        return os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or "it is not a folder where it may be"
        sentence = f"Nothing can be restored into {text(into)}: {reason}. Choose another folder, or its rights."
        raise BadTarget(sentence, path=text(into), reason=reason) from error


def _open_below(below: Path, into: Path) -> int:
    """Open (and make) `into` step by step from `below`. Raises ValueError if it is elsewhere, OSError at a link."""
    parts = [os.fsencode(part) for part in into.relative_to(below).parts]
    if b".." in parts:
        raise ValueError(into)
    descriptor = os.open(below, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in parts:
        parent = descriptor
        try:
            with suppress(FileExistsError):
                os.mkdir(part, ORDINARY_FOLDER_MODE, dir_fd=parent)
            descriptor = os.open(part, FOLDER_FLAGS, dir_fd=parent)
        finally:
            os.close(parent)
    return descriptor


def _make_folder(parent: Folder, name: bytes, path: bytes) -> bool:
    """Return whether the folder was made now; False when something has that name."""
    if name in parent.names:
        return False
    try:
        os.mkdir(name, PRIVATE_FOLDER_MODE, dir_fd=parent.descriptor)
    except FileExistsError:
        return False
    except OSError as error:
        raise refusal(path, error) from error
    return True


def _open_folder(parent: Folder, name: bytes, path: bytes) -> int | None:
    """Open a folder without following a symbolic link; None when what has the name is none."""
    try:
        return os.open(name, FOLDER_FLAGS, dir_fd=parent.descriptor)
    except OSError as error:
        if error.errno == errno.ENOENT:
            parent.names.discard(name)
            return None
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            return None
        raise refusal(path, error) from error


def _is_folder(parent: Folder, name: bytes) -> bool:
    try:
        os.close(os.open(name, FOLDER_FLAGS, dir_fd=parent.descriptor))
    except OSError:
        return False
    return True


def refusal(path: bytes, error: OSError) -> Exception:
    """What an operating system's refusal means for the restore: a full disk ends it, anything else concerns this
    entry alone.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return error
    return Blocked("not-written", f"{text(path)} could not be written: {error.strerror}.")
