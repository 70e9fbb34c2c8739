"""`rewrap`: restore points open with a new password, and if asked for no longer with the old one.

The oldest point is done first and the newest last: whoever runs it again after it was interrupted opens all of them
with the same old password as before. A slot of the new password that is there already is used again. What a rewrap
cannot do (it takes no file key from whoever learned it) is said in rewrap.py.
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

from keys.crypto_errors import CryptoError
from keys.crypto_recipients import PasswordRecipient
from keys.crypto_slots import Slot
from repositories.engine.cli_backup import recipients_of
from repositories.engine.cli_passwords import from_file
from repositories.engine.cli_plan import refuse_job
from repositories.engine.cli_points import Listed, Opener, Shelf
from repositories.engine.cli_read import Result, add_place, open_shelf
from repositories.engine.cli_terminal import DONE, FAILED, Terminal
from repositories.engine.errors import BadOrder, EngineError, text
from repositories.engine.reader import FileKey
from repositories.engine.rewrap import rewrap


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_place(parser, "a folder with backup files, or one of them")
    parser.add_argument(
        "--new-password-file", required=True, metavar="FILE", type=Path, help="the password that shall open them too"
    )
    parser.add_argument("--remove-old", action="store_true", help="take away every other password that opens them")


def run(options: argparse.Namespace, terminal: Terminal) -> Result:
    """Every point of the place that is encrypted; one that does not open is a failure, and the others are done."""
    shelf = open_shelf(options)
    new = Opener(from_file(options.new_password_file))
    wanted = [listed for listed in shelf.points if listed.encrypted is not False]
    if not wanted:
        raise BadOrder(f"Nothing in {text(shelf.place)} is encrypted, so there is no password to change.")
    recipient = _recipient(new, wanted)
    rows = [_rewrapped(shelf, listed, recipient, terminal, remove_old=options.remove_old) for listed in wanted]
    failed = sum("problem" in row for row in rows)
    terminal.say(f"{len(rows) - failed:,} restore points open with the new password{_only(options)}.")
    if not options.remove_old:
        terminal.say("They still open with the old one; --remove-old takes it away.")
    return (FAILED if failed else DONE), {"points": rows, "removed_old": options.remove_old}


def _only(options: argparse.Namespace) -> str:
    return ", and with it only" if options.remove_old else ""


def _recipient(new: Opener, points: list[Listed]) -> PasswordRecipient:
    """The new password with the record and the salt of a slot that it opens already, or with fresh ones."""
    slot: Slot | None = None
    for listed in reversed(points):
        slot = _slot_of(new, listed)
        if slot is not None:
            break
    return recipients_of(new, slot)[0]


def _slot_of(new: Opener, listed: Listed) -> Slot | None:
    if listed.file.head is None:
        return None
    with suppress(EngineError, CryptoError):
        point, slot = new.open_with_password(listed.file.path, listed.file.head)
        point.close()
        return slot
    return None


def _rewrapped(
    shelf: Shelf, listed: Listed, recipient: PasswordRecipient, terminal: Terminal, *, remove_old: bool
) -> dict[str, object]:
    row: dict[str, object] = {"number": listed.number, "path": text(listed.file.path)}
    try:
        with shelf.open(listed) as point:
            refuse_job(point, listed)
            slots, key = point.head.slots, point.file_key
        assert key is not None, "an encrypted point has a file key"
        kept = (recipient.record, recipient.version)
        old = [place for slot in slots if (place := (slot.record, slot.version)) != kept]
        head = rewrap(listed.file.path, FileKey(key), (recipient,), tuple(old) if remove_old else ())
    except EngineError as error:
        terminal.say(f"Restore point {listed.number}: NOT rewrapped. {error}")
        return row | {"problem": str(error), "problem_code": error.code}
    return row | {"generation": head.generation, "slots": len(head.slots)}
