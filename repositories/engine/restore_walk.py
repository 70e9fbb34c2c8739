"""The common work of every process of a restore: what is in segments through the reader into the target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

from repositories.engine.entries import Entry, order_key
from repositories.engine.errors import DAMAGES, text
from repositories.engine.file_groups import FileGroup
from repositories.engine.restore_entry import EntryWriter, Failure
from repositories.engine.restore_groups import GroupWriter
from repositories.engine.restore_share import Selection
from repositories.engine.target import Existing, Target

Item = TypeVar("Item", bound=Entry | FileGroup)


class Walker:
    """Restores entries in the order in which they come. `waited_seconds` is the time that content was waited for."""

    def __init__(
        self, selection: Selection, writer: EntryWriter, groups: GroupWriter, clock: Callable[[], float]
    ) -> None:
        self._selection = selection
        self._writer = writer
        self._groups = groups
        self._clock = clock
        self.waited_seconds = 0.0
        self.folders: list[Entry] = []

    def run(self, items: Iterator[Entry | FileGroup]) -> None:
        """Write them; those that are skipped as existing are not read at all."""
        clock, write, write_group = self._clock, self._writer.write, self._groups.write
        before = clock()
        for item, pieces in self._selection.point.read_many(self._wanted(items)):
            self.waited_seconds += clock() - before
            if isinstance(item, FileGroup):
                write_group(item, pieces)
            else:
                write(item, pieces)
            before = clock()

    def _wanted(self, items: Iterator[Entry | FileGroup]) -> Iterator[Entry | FileGroup]:
        for item in items:
            if isinstance(item, FileGroup):
                if group := self._groups.without_existing(item):
                    yield group
            elif not self._writer.passes_over(item):
                yield item

    def items_of(self, number: int) -> Iterator[Entry | FileGroup]:
        """What is wanted of a segment; its folders are remembered. A segment that is damaged costs its own entries
        only, and is reported.
        """
        try:
            yield from self._remembered(self._items_of(number))
        except DAMAGES as error:
            row = self._selection.point.root.segments[number]
            sentence = (
                f"The list of the {row.entries:,} entries from {text(row.first)} to {text(row.last)} cannot be read, "
                f"so none of them was restored. {error}"
            )
            self._writer.report(Failure(row.first, error.code, sentence), entries=row.entries)

    def left_by_others(self, number: int) -> Iterator[Entry]:
        """Of a segment that another process restored, and reported, what it left: the files with several names. The
        folders are remembered.
        """
        with suppress(*DAMAGES):
            for entry in self._remembered(self._selection.shared_by_all(number)):
                if not entry.is_directory:
                    yield entry

    def _items_of(self, number: int) -> Iterator[Entry | FileGroup]:
        return self._selection.items_of(number) if self._groups.is_possible else self._selection.entries_of(number)

    def _remembered(self, items: Iterator[Item]) -> Iterator[Item]:
        for item in items:
            if isinstance(item, Entry) and item.is_directory:
                self.folders.append(item)
            yield item

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
