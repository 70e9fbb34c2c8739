"""`rewrap`: restore points open with a new password, with a recovery key, and if asked for no longer with the old one.

The oldest point is done first and the newest last: whoever runs it again after it was interrupted opens all of them
with the same old secret as before. A slot of the new password that is there already is used again. What a rewrap
cannot do (it takes no file key from whoever learned it) is said in rewrap.py.
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from keys.crypto_errors import CryptoError
from keys.crypto_recipients import PasswordRecipient, Recipient, RecoveryRecipient
from keys.crypto_recovery import fingerprint, read_public
from keys.crypto_slots import Slot, SlotKind
from repositories.engine.cli_backup import Contradiction, recipients_of
from repositories.engine.cli_keys import read_text
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
    parser.add_argument("--new-password-file", metavar="FILE", type=Path, help="a password that shall open them too")
    parser.add_argument(
        "--new-recovery-key",
        metavar="FILE",
        type=Path,
        help="the public half of a recovery key that shall open them",
    )
    parser.add_argument("--remove-old", action="store_true", help="take away every other password that opens them")
    parser.add_argument(
        "--console-is-gone", action="store_true", help="also points of a console's job: it will never write there again"
    )


def run(options: argparse.Namespace, terminal: Terminal) -> Result:
    """Every point of the place that is encrypted; one that does not open is a failure, and the others are done."""
    _check(options)
    shelf = open_shelf(options, terminal)
    wanted = [listed for listed in shelf.points if listed.encrypted is not False]
    if not wanted:
        raise BadOrder(f"Nothing in {text(shelf.place)} is encrypted, so there is no password to change.")
    recipients = _recipients(options, wanted)
    rows = [_rewrapped(shelf, listed, recipients, options, terminal) for listed in wanted]
    failed = sum("problem" in row for row in rows)
    terminal.say(f"{len(rows) - failed:,} restore points open with {_new(options)}.")
    if not options.remove_old:
        terminal.say("They still open with what opened them before; --remove-old takes old passwords away.")
    return (FAILED if failed else DONE), {"points": rows, "removed_old": options.remove_old}


def _check(options: argparse.Namespace) -> None:
    if options.new_password_file is None and options.new_recovery_key is None:
        raise Contradiction("With what shall they open? Give --new-password-file or --new-recovery-key.")
    if options.remove_old and options.new_password_file is None:
        raise Contradiction("--remove-old takes passwords away: give the one that stays with --new-password-file.")


def _new(options: argparse.Namespace) -> str:
    only = ", and with no other password" if options.remove_old else ""
    names = [("the new password", options.new_password_file), ("the recovery key", options.new_recovery_key)]
    return " and ".join(name for name, given in names if given) + only


def _recipients(options: argparse.Namespace, points: list[Listed]) -> tuple[Recipient, ...]:
    found: list[Recipient] = []
    if options.new_password_file:
        found.append(_password(Opener(from_file(options.new_password_file)), points))
    if options.new_recovery_key:
        found.append(_recovery(read_public(read_text(options.new_recovery_key)), points))
    return tuple(found)


def _password(new: Opener, points: list[Listed]) -> PasswordRecipient:
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


def _recovery(public: bytes, points: list[Listed]) -> RecoveryRecipient:
    """The recovery key under the record and name of a slot that it has already, or under its fingerprint."""
    digest = fingerprint(public)
    slots = (slot for listed in reversed(points) if listed.file.head for slot in listed.file.head.slots)
    for slot in slots:
        if slot.fingerprint == digest:
            return RecoveryRecipient(slot.record, public, slot.hint, slot.version)
    return RecoveryRecipient(UUID(bytes=digest[:16], version=4), public)


def _rewrapped(
    shelf: Shelf, listed: Listed, recipients: tuple[Recipient, ...], options: argparse.Namespace, terminal: Terminal
) -> dict[str, object]:
    row: dict[str, object] = {"number": listed.number, "path": text(listed.file.path)}
    try:
        with shelf.open(listed) as point:
            if not options.console_is_gone:
                refuse_job(point, listed)
            slots, key = point.head.slots, point.file_key
        assert key is not None, "an encrypted point has a file key"
        kept = {(recipient.record, recipient.version) for recipient in recipients}
        passwords = [(slot.record, slot.version) for slot in slots if slot.kind is SlotKind.PASSWORD]
        old = tuple(place for place in passwords if place not in kept) if options.remove_old else ()
        head = rewrap(listed.file.path, FileKey(key), recipients, old)
    except EngineError as error:
        terminal.say(f"Restore point {listed.number}: NOT rewrapped. {error}")
        return row | {"problem": str(error), "problem_code": error.code}
    return row | {"generation": head.generation, "slots": len(head.slots)}
