"""Writing one entry of a restore point into the target: made under a temporary name, completed, then published.

Whether an entry is wanted, and in which order entries come, is decided in `repositories.engine.restore`. A failure
concerns one entry and is reported; only a full disk and a cancelled run end the whole restore.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from repositories.engine.entries import Entry
from repositories.engine.errors import DAMAGES, EngineError, OutOfSpace, text
from repositories.engine.fidelity import Fidelity, Losses
from repositories.engine.reader import Piece
from repositories.engine.target import PRIVATE_FILE_MODE, Existing, Folder, Skipped, Target
from repositories.engine.target_content import write_pieces
from repositories.engine.target_names import Blocked

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Failure:
    """An entry that was not restored."""

    path: bytes
    code: str
    sentence: str


@dataclass(slots=True)
class Tally:
    """What was done so far."""

    files: int = 0
    directories: int = 0
    others: int = 0
    links: int = 0
    skipped: int = 0
    failed: int = 0
    damaged: int = 0
    bytes_done: int = 0
    bytes_written: int = 0
    current_path: bytes = b""
    losses: Losses = field(default_factory=Losses)

    @property
    def entries(self) -> int:
        return self.files + self.directories + self.others + self.links + self.skipped + self.failed


@dataclass(frozen=True, slots=True)
class FirstName:
    """Where the first name of a file with several names was restored, and which file that is."""

    folder: bytes
    name: bytes
    device: int
    inode: int


class EntryWriter:
    """Writes entries into a target. `beat` is called at least once an entry and once a piece, and may raise to stop."""

    def __init__(
        self, target: Target, tally: Tally, failed: Callable[[Failure], None], beat: Callable[[], None]
    ) -> None:
        self._target = target
        self._tally = tally
        self._failed = failed
        self.beat = beat
        self._fidelity = Fidelity(tally.losses)
        self._first_names: dict[tuple[int, int, int], FirstName] = {}

    def write(self, entry: Entry, pieces: Iterable[Piece]) -> None:
        """Restore one entry, or report why not. Raises OutOfSpace, and what `beat` raises."""
        self._tally.current_path = entry.path
        try:
            self._write(entry, pieces)
        except Skipped:
            self.skip([entry.size])
        except Blocked as error:
            self.report(Failure(entry.path, error.code, str(error)))
        except OSError as error:
            if error.errno in FULL_DISK:
                raise self._no_room() from error
            sentence = f"{text(entry.path)} could not be written: {error.strerror}."
            self.report(Failure(entry.path, "not-written", sentence))
        self.beat()

    def passes_over(self, entry: Entry) -> bool:
        """Whether an entry is left alone because its name is taken: asked before its content is read."""
        if self._target.fresh or self._target.existing is not Existing.SKIP or entry.is_directory:
            return False
        try:
            folder, name = self._target.parent_of(entry.path)
            if not self._target.is_taken(folder, name):
                return False
        except (Blocked, OSError):
            return False  # writing it will say why not
        self.skip([entry.size])
        return True

    def skip(self, sizes: list[int]) -> None:
        """Count files of these sizes that are left alone."""
        self._tally.skipped += len(sizes)
        self._tally.bytes_done += sum(sizes)
        self.beat()

    def complete_folder(self, entry: Entry) -> None:
        """Give a folder what its entry says, after everything in it is done."""
        try:
            self._fidelity.set_on_descriptor(self._target.folder(entry.path).descriptor, entry)
        except (Blocked, OSError):
            self._tally.losses.add("mode-not-set", entry.path)

    def _write(self, entry: Entry, pieces: Iterable[Piece]) -> None:
        kind = stat.S_IFMT(entry.mode)
        if kind == stat.S_IFDIR:
            self._target.folder(entry.path)
            self._tally.directories += 1
            return
        if entry.hard_linked and self._link(entry):
            self._tally.links += 1
            self._tally.bytes_done += entry.size
            return
        folder, name = self._target.parent_of(entry.path)
        folder.held = True  # while content is taken, entries further on are looked at, which opens other folders
        try:
            self._make(entry, kind, folder, name, pieces)
        finally:
            folder.held = False

    def _make(self, entry: Entry, kind: int, folder: Folder, name: bytes, pieces: Iterable[Piece]) -> None:
        self._target.place(folder, name)
        if kind == stat.S_IFREG:
            self._file(entry, folder, name, pieces)
        elif kind in MAKERS:
            self._node(entry, folder, name, MAKERS[kind])
        else:
            raise Blocked("unknown-type", f"{text(entry.path)} is of a type that cannot be restored; left out.")

    def _file(self, entry: Entry, folder: Folder, name: bytes, pieces: Iterable[Piece]) -> None:
        target = self._target
        temporary = target.temporary_name()
        descriptor = target.create(folder, temporary)
        try:
            try:
                write_pieces(descriptor, pieces, self._took)
                owned = folder.owner_of_new == (entry.uid, entry.gid)
                self._fidelity.set_on_descriptor(descriptor, entry, owned=owned)
            finally:
                os.close(descriptor)
            self._publish(entry, folder, temporary, name)
        except BaseException as error:
            target.discard(folder, temporary)
            if isinstance(error, EngineError) and error.code in DAMAGE:
                raise Blocked(error.code, f"{text(entry.path)} was not restored. {error}") from error
            raise
        self._tally.files += 1

    def _node(self, entry: Entry, folder: Folder, name: bytes, make: Maker) -> None:
        """A symbolic link, a FIFO or a device."""
        temporary = self._target.temporary_name()
        try:
            make(self._fidelity, entry, folder.descriptor, temporary)
            self._publish(entry, folder, temporary, name)
        except BaseException:
            self._target.discard(folder, temporary)
            raise
        self._tally.others += 1

    def _publish(self, entry: Entry, folder: Folder, temporary: bytes, name: bytes) -> None:
        if not entry.hard_linked:
            self._target.publish(folder, temporary, name)
            return
        facts = os.stat(temporary, dir_fd=folder.descriptor, follow_symlinks=False)
        final = self._target.publish(folder, temporary, name)
        first = FirstName(folder.path, final, facts.st_dev, facts.st_ino)
        self._first_names[_shared(entry)] = first

    def _link(self, entry: Entry) -> bool:
        """Make another name of a file that was restored before; False where it must be written as a file of its own.

        The first name may have been replaced since by somebody else: what was linked is compared before it is
        published.
        """
        first = self._first_names.get(_shared(entry))
        if first is None:
            return False
        source = os.dup(self._target.folder(first.folder).descriptor)  # opening the other folder may close this one
        try:
            folder, name = self._target.parent_of(entry.path)
            self._target.place(folder, name)
            temporary = self._target.temporary_name()
            return self._link_from(source, first, folder, temporary, name)
        finally:
            os.close(source)

    def _link_from(self, source: int, first: FirstName, folder: Folder, temporary: bytes, name: bytes) -> bool:
        here = folder.descriptor
        try:
            os.link(first.name, temporary, src_dir_fd=source, dst_dir_fd=here, follow_symlinks=False)
        except OSError:
            return False
        try:
            facts = os.stat(temporary, dir_fd=here, follow_symlinks=False)
            is_ours = (facts.st_dev, facts.st_ino) == (first.device, first.inode)
            if is_ours:
                self._target.publish(folder, temporary, name)
            else:
                self._target.discard(folder, temporary)
        except BaseException:
            self._target.discard(folder, temporary)
            raise
        return is_ours

    def _took(self, size_bytes: int) -> None:
        self._tally.bytes_done += size_bytes
        self._tally.bytes_written += size_bytes
        self.beat()

    def report(self, failure: Failure, entries: int = 1) -> None:
        """Count and pass on a failure that concerns so many entries."""
        self._tally.failed += entries
        self._tally.damaged += entries if failure.code in DAMAGE else 0
        self._failed(failure)

    def _no_room(self) -> OutOfSpace:
        free_bytes, _ = self._target.free_bytes()
        return OutOfSpace(
            "The disk of the target is full; what was restored so far stays. Make room and restore the rest with "
            "existing files skipped.",
            path=text(self._tally.current_path),
            free_bytes=free_bytes,
            needed_bytes=0,
        )


def _shared(entry: Entry) -> tuple[int, int, int]:
    """What names of one file have in common. The type too, so that a file never becomes a name of a link."""
    return entry.device, entry.inode, stat.S_IFMT(entry.mode)


Maker = Callable[[Fidelity, Entry, int, bytes], None]
DAMAGE = frozenset(error.code for error in DAMAGES)


def _make_link(fidelity: Fidelity, entry: Entry, folder: int, name: bytes) -> None:
    os.symlink(entry.target, name, dir_fd=folder)
    fidelity.set_on_link(folder, name, entry)


def _make_fifo(fidelity: Fidelity, entry: Entry, folder: int, name: bytes) -> None:
    os.mkfifo(name, PRIVATE_FILE_MODE, dir_fd=folder)
    fidelity.set_on_node(folder, name, entry)


def _make_device(fidelity: Fidelity, entry: Entry, folder: int, name: bytes) -> None:
    kind = stat.S_IFMT(entry.mode)
    try:
        os.mknod(name, kind | PRIVATE_FILE_MODE, entry.rdev, dir_fd=folder)
    except PermissionError:
        sentence = f"The device {text(entry.path)} was not made: only root may, and not in every container."
        raise Blocked("device-not-made", sentence) from None
    fidelity.set_on_node(folder, name, entry)


MAKERS: dict[int, Maker] = {
    stat.S_IFLNK: _make_link,
    stat.S_IFIFO: _make_fifo,
    stat.S_IFCHR: _make_device,
    stat.S_IFBLK: _make_device,
}
