"""The common work of every process of a restore: entries of segments through the reader into the target."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from repositories.engine.entries import Entry, order_key
from repositories.engine.errors import DAMAGES, text
from repositories.engine.restore_entry import EntryWriter, Failure
from repositories.engine.restore_share import Selection
from repositories.engine.target import Existing, Target


class Walker:
    """Restores entries in the order in which they come. `waited_seconds` is the time that content was waited for."""

    def __init__(self, selection: Selection, writer: EntryWriter, clock: Callable[[], float]) -> None:
        self._selection = selection
        self._writer = writer
        self._clock = clock
        self.waited_seconds = 0.0
        self.folders: list[Entry] = []

    def run(self, entries: Iterator[Entry]) -> None:
        """Write them; those that are skipped as existing are not read at all."""
        clock, write = self._clock, self._writer.write
        wanted = (entry for entry in entries if not self._writer.passes_over(entry))
        before = clock()
        for entry, pieces in self._selection.point.read_many(wanted):
            self.waited_seconds += clock() - before
            write(entry, pieces)
            before = clock()

    def entries_of(self, number: int, *, reported: bool = False) -> Iterator[Entry]:
        """The wanted entries of a segment; its folders are remembered. A segment that is damaged costs its own entries
        only, and is reported, unless another process has done so.
        """
        try:
            for entry in self._selection.entries_of(number):
                if entry.is_directory:
                    self.folders.append(entry)
                yield entry
        except DAMAGES as error:
            if reported:
                return
            row = self._selection.point.root.segments[number]
            sentence = (
                f"The list of the {row.entries:,} entries from {text(row.first)} to {text(row.last)} cannot be read, "
                f"so none of them was restored. {error}"
            )
            self._writer.report(Failure(row.first, error.code, sentence), entries=row.entries)

    def complete_folders(self, target: Target, beat: Callable[[], None]) -> None:
        """Give folders what their entries say, each after those inside it: those that were made here, those that had
        the entry's time already (an earlier restore completed them, and what was added now moved it), and with
        overwriting all of them. Any other that was there before keeps what it has.
        """
        overwrite = target.existing is Existing.OVERWRITE
        self.folders.sort(key=lambda entry: order_key(entry.path), reverse=True)
        for entry in self.folders:
            path = entry.path
            was_complete = target.found.get(path) == entry.mtime_ns
            if path in target.created or ((overwrite or was_complete) and not entry.ancestor):
                self._writer.complete_folder(entry)
            beat()

    def incomplete(self, target: Target) -> list[bytes]:
        """Folders that were made here for what is in them, before their own entries came."""
        return sorted(target.created.difference(entry.path for entry in self.folders))


def no_beat() -> None:
    """For what is done after a stop: it is not stopped again."""
