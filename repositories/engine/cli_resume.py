"""Which unfinished file a `backup` typed again goes on with: its chain, if a new one would be begun, and its key slot.

Nothing is written or removed here; whether the file really fits is decided in `repositories.engine.adoption`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from keys.crypto_errors import CryptoError
from keys.crypto_slots import Slot, SlotKind, unwrap
from repositories.engine.chains import adoptable_files
from repositories.engine.cli_plan import Plan
from repositories.engine.cli_points import Opener
from repositories.engine.errors import EngineError
from repositories.engine.head import Head, authenticates
from repositories.engine.reader import inspect


def go_on(root: Path, decided: Plan, opener: Opener) -> tuple[Plan, Slot | None]:
    """The plan, in the chain of the unfinished file if there is one, and the slot whose salt and record to use again.

    Without such a file the slot is the parent's.
    """
    for head in _unfinished(root, decided):
        if not head.encrypted and opener.password is None:
            return replace(decided, chain_id=head.chain_id), None
        slot = _opened_slot(head, opener)
        if slot is not None:
            return replace(decided, chain_id=head.chain_id), slot
    return decided, decided.parent.slot if decided.parent else None


def _unfinished(root: Path, decided: Plan) -> Iterator[Head]:
    """The heads of unfinished files of the next point; of a first one in any chain that has no point."""
    if decided.parent is not None:
        folders = [root / str(decided.chain_id)]
    else:
        folders = sorted(path for path in root.glob("*-*-*-*-*") if not (path / "1").exists())
    for folder in folders:
        for path in adoptable_files(folder):
            with suppress(EngineError):
                head = inspect(path)
                if head.sequence == decided.sequence:
                    yield head


def _opened_slot(head: Head, opener: Opener) -> Slot | None:
    """The slot that the password opens to the key of the file."""
    if opener.password is None:
        return None
    for slot in head.slots[:1]:  # the command line writes one
        with suppress(EngineError, CryptoError):
            file_key = unwrap(slot, opener.kek(slot), chain_id=head.chain_id, file_id=head.file_id)
            if slot.kind is SlotKind.PASSWORD and authenticates(head, file_key):
                return slot
    return None
