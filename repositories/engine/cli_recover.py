"""`recover`: files back out of a restore point, without the console and without its database."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from repositories.engine.cli_amounts import add_limit
from repositories.engine.cli_points import Listed, NoSuchPoint, Shelf, absolute, check_reader_access, distinct_job_names
from repositories.engine.cli_read import Result, add_place, open_shelf
from repositories.engine.cli_terminal import DONE, FAILED, WITH_WARNINGS, Terminal, moment, moment_utc, size
from repositories.engine.errors import CorruptFile, text
from repositories.engine.reader import Point
from repositories.engine.restore import Restored, RestoreOrder, restore
from repositories.engine.restore_helpers import Standby, helpers_likely
from repositories.engine.salvage import SalvagedPoint
from repositories.engine.target import Existing

BEST_EFFORT = "`recover --best-effort` brings out what of a damaged file is still whole, and says what is not."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_place(parser, "a folder with backup files, or one of them")
    parser.add_argument("paths", nargs="*", metavar="PATH", help="what to recover, as it was called (default: all)")
    parser.add_argument("--into", required=True, metavar="DIR", type=Path, help="the folder to recover into")
    parser.add_argument(
        "--point", type=int, metavar="N", help="the restore point, as numbered by list (default: newest)"
    )
    parser.add_argument(
        "--best-effort", action="store_true", help="of a damaged or cut off backup file, what can still be found in it"
    )
    add_limit(parser, "read blocks")
    existing = [choice.value for choice in Existing]
    parser.add_argument("--existing", choices=existing, default=Existing.SKIP.value, help="files that are there (skip)")


def run(options: argparse.Namespace, terminal: Terminal) -> Result:
    shelf = open_shelf(options, terminal)
    listed = shelf.numbered(options.point)
    likely = 0 if options.paths or options.best_effort or options.limit else helpers_likely(listed.file.length)
    with terminal.stoppable(), Standby(likely) as standby:
        if options.point is None:
            _refuse_many_jobs(shelf)
        check_reader_access(shelf, listed, plain_accepted=options.plain)
        with _open(shelf, listed, options) as point:
            _say_lost(point, terminal)
            order = RestoreOrder(
                point=point,
                into=absolute(options.into),
                paths=tuple(os.fsencode(path).strip(b"/") for path in options.paths),
                existing=Existing(options.existing),
                standby=standby,
                limit=options.limit,
                helpers=0 if options.best_effort else None,  # they open points that are whole
            )
            code, result = _report(restore(order, terminal), listed, point, terminal)
    if not options.best_effort and result["damaged_count"]:
        terminal.say(f"Perhaps more can be found: {BEST_EFFORT}")
    return max(code, _lost_code(point)), result | {"best_effort": options.best_effort, **_lost(point)}


def _open(shelf: Shelf, listed: Listed, options: argparse.Namespace) -> Point:
    try:
        return shelf.open(listed, best_effort=options.best_effort)
    except CorruptFile as error:
        if options.best_effort:
            raise
        raise CorruptFile(f"{error} {BEST_EFFORT}", **error.fields) from error


def _lost(point: Point) -> dict[str, object]:
    if not isinstance(point, SalvagedPoint):
        return {"partial": False, "findings": []}
    return {"partial": not point.complete, "findings": list(point.findings)}


def _lost_code(point: Point) -> int:
    """A point of which only a part was found is never a success."""
    if not isinstance(point, SalvagedPoint):
        return DONE
    return WITH_WARNINGS if point.complete else FAILED


def _say_lost(point: Point, terminal: Terminal) -> None:
    if isinstance(point, SalvagedPoint):
        for finding in point.findings:
            terminal.aside(f"warning: {finding}")
        terminal.say(
            "The list of files is whole; with best effort all is recovered that can be read."
            if point.complete
            else "This is a PARTIAL result: only what was found of this restore point. Nothing in it is wrong."
        )


def _refuse_many_jobs(shelf: Shelf) -> None:
    """The newest point of several jobs is a matter of chance: one has to be named."""
    names = sorted(distinct_job_names(shelf))
    if len(names) > 1:
        raise NoSuchPoint(
            f"{text(shelf.place)} holds the chains of several jobs ({', '.join(names)}). Choose a point with --point, "
            "as numbered by list, or give the folder of one chain.",
            path=text(shelf.place),
        )


def _report(restored: Restored, listed: Listed, point: Point, terminal: Terminal) -> Result:
    terminal.say(
        f"Recovered from restore point {listed.number} of {moment(point.summary.started_at_ns)} ({signature(point)}): "
        f"{restored.files + restored.links:,} files, {size(restored.bytes_written)}, "
        f"{restored.directories:,} folders, {restored.others:,} others."
    )
    if restored.skipped:
        terminal.say(f"{restored.skipped:,} entries were there already and were left as they are.")
    if restored.failed_count:
        terminal.say(f"{restored.failed_count:,} entries were NOT recovered; each is named above.")
    code = FAILED if restored.damaged_count else WITH_WARNINGS if restored.warnings else DONE
    return code, {
        "number": listed.number,
        "chain_id": str(listed.chain_id),
        "path": text(listed.file.path),
        "started_at": moment_utc(point.summary.started_at_ns),
        "encrypted": listed.encrypted,
        "signature": signature(point),
        "files": restored.files,
        "links": restored.links,
        "directories": restored.directories,
        "others": restored.others,
        "skipped": restored.skipped,
        "bytes_written": restored.bytes_written,
        "losses": restored.losses,
        "warnings": restored.warnings,
        "failed_count": restored.failed_count,
        "damaged_count": restored.damaged_count,
        "failed": [{"path": text(f.path), "code": f.code, "message": f.sentence} for f in restored.failed],
    }


def signature(point: Point) -> str:
    """Whose signature the point carries; which key is a console's is told by the recovery sheet, not by the file."""
    signer = point.summary.signer
    if isinstance(point, SalvagedPoint) and not point.has_seal:
        return "whether it was signed is lost"
    return f"signed by {signer.hex()}" if signer else "unsigned"
