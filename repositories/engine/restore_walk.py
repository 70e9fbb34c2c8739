"""The common work of every process of a restore: entries of segments through the reader into the target."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from repositories.engine.entries import Entry
from repositories.engine.errors import CannotUnwrap, CorruptFile, MissingFile, text
from repositories.engine.restore_entry import EntryWriter, Failure
from repositories.engine.restore_share import Selection


class Walker:
    """Restores entries in the order in which they come. `waited_seconds` is the time that content was waited for."""

    def __init__(self, selection: Selection, writer: EntryWriter, clock: Callable[[], float]) -> None:
        self._selection = selection
        self._writer = writer
        self._clock = clock
        self.waited_seconds = 0.0

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
        """The wanted entries of a segment. One that is damaged costs its own entries only, and is reported, unless
        another process has done so.
        """
        try:
            yield from self._selection.entries_of(number)
        except (CorruptFile, MissingFile, CannotUnwrap) as error:
            if reported:
                return
            row = self._selection.point.root.segments[number]
            sentence = (
                f"The list of the {row.entries:,} entries from {text(row.first)} to {text(row.last)} cannot be read, "
                f"so none of them was restored. {error}"
            )
            self._writer.report(Failure(row.first, error.code, sentence), entries=row.entries)
