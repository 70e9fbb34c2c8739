"""`backup`: from what was typed to one written restore point.

What that point is, full or incremental, and of which chain, is decided in `repositories.engine.cli_plan`.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from uuid import uuid4

from keys.crypto_password import KdfParameters, derive_kek, new_salt
from keys.crypto_recipients import PasswordRecipient
from keys.crypto_slots import Slot
from repositories.engine.backup import write_backup
from repositories.engine.chains import remove_leftovers
from repositories.engine.cli_amounts import add_limit
from repositories.engine.cli_passwords import ask, from_file
from repositories.engine.cli_plan import Plan, plan
from repositories.engine.cli_points import Opener, Shelf, absolute
from repositories.engine.cli_resume import go_on
from repositories.engine.cli_terminal import DONE, WITH_WARNINGS, Terminal, size
from repositories.engine.errors import EngineError, text
from repositories.engine.omissions import Omission
from repositories.engine.order import BackupOrder, CheckpointInterval, FreeSpace, Level, Written

RESERVE = FreeSpace(bytes=0, share=0.02)
CHECKPOINTS = CheckpointInterval()
OMISSION_HELP = {
    Omission.ONE_FILE_SYSTEM: "keep mount points below a source as empty folders",
    Omission.SKIP_CACHES: "leave out what is in a folder with a CACHEDIR.TAG, but for the tag",
    Omission.SKIP_NODUMP: "leave out what has the nodump flag (chattr +d)",
}


class Contradiction(EngineError):
    """Two options that cannot both be meant."""

    code = "contradiction"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", metavar="SOURCE", type=Path, help="a folder or file to back up")
    parser.add_argument("--to", required=True, metavar="DIR", type=Path, help="the folder of this job's backup files")
    levels = [level.value for level in Level]
    parser.add_argument("--level", choices=levels, default=Level.BALANCED.value, help="compression (default: balanced)")
    parser.add_argument("--full", action="store_true", help="write a full, also where an incremental would do")
    parser.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="leave out; can be repeated")
    parser.add_argument("--include", action="append", default=[], metavar="PATTERN", help="take only; can be repeated")
    add_limit(parser, "write")
    add_previous_password(parser)


def add_previous_password(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--disk-image",
        action="append",
        default=[],
        metavar="PATTERN",
        help="files that are overwritten in place, beside those with a usual suffix (.img, ...); can be repeated",
    )
    for omission, help_text in OMISSION_HELP.items():
        parser.add_argument(
            f"--{omission}", action="append_const", dest="omissions", const=omission, default=[], help=help_text
        )
    parser.add_argument(
        "--previous-password-file", metavar="FILE", type=Path, help="the password before, when it was changed"
    )


def run(options: argparse.Namespace, terminal: Terminal) -> tuple[int, dict[str, object]]:
    root = absolute(options.to)
    shelf = written_shelf(root, options)
    previous = from_file(options.previous_password_file) if options.previous_password_file else None
    decided = plan(shelf, previous, full=options.full)
    if root.is_dir():
        remove_leftovers(root)
    decided, slot = go_on(root, decided, shelf.opener)
    order = _order(root, recipients_of(shelf.opener, slot), decided, options)
    with terminal.stoppable():
        written = write_backup(order, terminal)
    return report_written(written, decided, len(shelf.points) + 1, encrypted=bool(order.recipients), terminal=terminal)


def written_shelf(root: Path, options: argparse.Namespace) -> Shelf:
    """What stands in the folder, and the password; none only where nothing is encrypted, or --plain says so."""
    if options.plain and options.password_file:
        raise Contradiction("--plain and --password-file were both given: say whether the backup is to be encrypted.")
    password = from_file(options.password_file) if options.password_file else None
    shelf = Shelf(root, Opener(password))
    if password is None and not options.plain and shelf.is_encrypted():
        return Shelf(root, Opener(ask(root)))
    return shelf


def _order(
    root: Path, recipients: tuple[PasswordRecipient, ...], decided: Plan, options: argparse.Namespace
) -> BackupOrder:
    return BackupOrder(
        root=root,
        chain_id=decided.chain_id,
        file_id=uuid4(),
        sequence=decided.sequence,
        kind=decided.kind,
        reason=decided.reason,
        started_at_ns=time.time_ns(),
        sources=tuple(os.fsencode(absolute(source)) for source in options.sources),
        recipients=recipients,
        parent=decided.parent.point if decided.parent else None,
        include=tuple(options.include),
        exclude=tuple(options.exclude),
        options=frozenset(options.omissions),
        disk_images=tuple(options.disk_image),
        never=(os.fsencode(root), os.fsencode(root.resolve())),
        level=Level(options.level),
        reserve=RESERVE,
        checkpoints=CHECKPOINTS,
        limit=options.limit,
    )


def recipients_of(opener: Opener, slot: Slot | None) -> tuple[PasswordRecipient, ...]:
    """One slot for the password: with the record, version and salt of `slot` (of the parent, or of an unfinished file)
    where that is the same password, so that one derivation opens both; with fresh ones where it is not, or was derived
    more weakly than is usual now.
    """
    if opener.password is None:
        return ()
    usual = KdfParameters()
    if slot and slot.kdf_parameters and _is_as_strong(slot.kdf_parameters, usual):
        kek = opener.kek(slot)
        return (PasswordRecipient(slot.record, slot.version, slot.kdf_salt, slot.kdf_parameters, kek, slot.hint),)
    salt = new_salt()
    kek = derive_kek(opener.password, salt=salt, parameters=usual)
    return (PasswordRecipient(uuid4(), 1, salt, usual, kek),)


def _is_as_strong(parameters: KdfParameters, usual: KdfParameters) -> bool:
    return parameters.memory_kib >= usual.memory_kib and parameters.iterations >= usual.iterations


def report_written(
    written: Written, decided: Plan, number: int, *, encrypted: bool, terminal: Terminal
) -> tuple[int, dict[str, object]]:
    terminal.say(
        f"Restore point {number}: {written.kind.value}, {'encrypted' if encrypted else 'not encrypted'} "
        f"({decided.because}{', an unfinished file was written on' if written.resumed else ''})."
    )
    terminal.say(
        f"{written.files:,} files, {size(written.source_bytes)}: {written.new_files:,} new, {written.changed_files:,} "
        f"changed, {written.unchanged_files:,} unchanged; {size(written.written_bytes)} in {text(written.path)}."
    )
    warnings = max(written.warnings, terminal.warnings)
    if warnings:
        terminal.say(f"{warnings:,} warnings: not everything is in the restore point as it was read.")
    counts = ("files", "directories", "others", "source_bytes", "read_bytes", "written_bytes", "new_files")
    result: dict[str, object] = {
        **{name: getattr(written, name) for name in (*counts, "changed_files", "unchanged_files", "length")},
        "number": number,
        "sequence": written.sequence,
        "chain_id": str(decided.chain_id),
        "file_id": str(written.file_id),
        "kind": written.kind.value,
        "reason": decided.reason,
        "path": text(written.path),
        "seal_hash": written.seal_hash.hex(),
        "encrypted": encrypted,
        "resumed": written.resumed,
        "warnings": warnings,
    }
    return (WITH_WARNINGS if warnings else DONE), result
