"""`verify`: whether points can be restored; of several points of a chain, what they share is read once.

Damage is a failure. A point that does not open for want of its password is a warning beside others that do.
"""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Callable, Iterator
from itertools import groupby

from repositories.engine.cli_amounts import add_limit, share
from repositories.engine.cli_backup import Contradiction
from repositories.engine.cli_points import Listed, Shelf, check_reader_access
from repositories.engine.cli_read import Result, add_place, open_shelf
from repositories.engine.cli_terminal import DONE, FAILED, WITH_WARNINGS, Terminal, size
from repositories.engine.errors import text
from repositories.engine.reader import Point
from repositories.engine.verify_chain import PointToVerify, verify_chain
from repositories.engine.verify_report import ChainDamage, ChainReport, Depth, PointVerified
from repositories.engine.verify_sample import Sample

FILES_SHOWN = 100  # of each damage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_place(parser, "a folder with backup files, or one of them")
    parser.add_argument("--point", type=int, metavar="N", help="only this restore point, as numbered by list")
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument("--quick", action="store_true", help="only names and structure, not the content")
    depth.add_argument("--sample", type=share, metavar="SHARE", help="of the content only a share, for instance 5%%")
    parser.add_argument("--seed", type=int, metavar="N", help="which share: the same seed takes the same (random)")
    add_limit(parser, "read blocks")


def run(options: argparse.Namespace, terminal: Terminal) -> Result:
    if options.seed is not None and options.sample is None:
        raise Contradiction("--seed says which sample is meant: give --sample too.")
    shelf = open_shelf(options, terminal)
    wanted = shelf.points if options.point is None and len(shelf.points) > 1 else [shelf.numbered(options.point)]
    check_reader_access(shelf, wanted[0] if len(wanted) == 1 else None, plain_accepted=options.plain)
    depth, sample = _depth(options)
    with terminal.stoppable():
        reports = list(_reports(shelf, wanted, depth, sample, options, terminal))
    rows = [_row(listed, state, report) for listed, state, report in _states(wanted, reports)]
    codes = [int(str(row["exit_code"])) for row in rows]
    damages = sum(report.damages_count for report in reports)
    code = FAILED if damages or FAILED in codes or all(codes) else max(codes)
    figures = _say(reports, code, sample, terminal)
    return code, {"sound": code == DONE, "depth": depth, **figures, "points": rows, "damages_count": damages}


def _depth(options: argparse.Namespace) -> tuple[Depth, Sample | None]:
    if options.sample is not None:
        seed = secrets.randbelow(1 << 32) if options.seed is None else options.seed
        return "sample", Sample(options.sample, seed)
    return ("quick" if options.quick else "full"), None


def _reports(
    shelf: Shelf,
    wanted: list[Listed],
    depth: Depth,
    sample: Sample | None,
    options: argparse.Namespace,
    terminal: Terminal,
) -> Iterator[ChainReport]:
    for _, chain in groupby(wanted, key=lambda listed: listed.chain_id):
        points = [PointToVerify(listed.number, _opener(shelf, listed)) for listed in chain]
        yield verify_chain(points, depth, terminal, sample=sample, limit=options.limit)


def _opener(shelf: Shelf, listed: Listed) -> Callable[[], Point]:
    return lambda: shelf.open(listed)


def _states(wanted: list[Listed], reports: list[ChainReport]) -> Iterator[tuple[Listed, PointVerified, ChainReport]]:
    pairs = [(state, report) for report in reports for state in report.points]
    for listed, (state, report) in zip(wanted, pairs, strict=True):
        yield listed, state, report


def _row(listed: Listed, state: PointVerified, report: ChainReport) -> dict[str, object]:
    row: dict[str, object] = {
        "number": listed.number,
        "path": text(listed.file.path),
        "encrypted": listed.encrypted,
        "exit_code": DONE if state.sound else WITH_WARNINGS if state.closed else FAILED,
        "damages": [_as_json(damage) for damage in report.damages if listed.number in damage.points],
        "damaged_files": [text(path) for path in state.damaged_files],
        "damaged_files_count": state.damaged_files_count,
        "notes": list(state.notes),
    }
    if state.problem is not None:
        row |= {"problem": str(state.problem), "problem_code": state.problem.code}
    return row


def _as_json(damage: ChainDamage) -> dict[str, object]:
    return {
        "part": damage.part,
        "path": damage.path,
        "message": damage.sentence,
        "points": list(damage.points),
        "files": [text(path) for path in damage.files[:FILES_SHOWN]],
        "files_count": damage.files_count,
    }


def _say(reports: list[ChainReport], code: int, sample: Sample | None, terminal: Terminal) -> dict[str, object]:
    for report in reports:
        for state in report.points:
            _say_point(state, terminal)
        for damage in report.damages:
            _say_damage(damage, terminal)
        if report.damages_count > len(report.damages):
            terminal.say(f"And {report.damages_count - len(report.damages):,} more damages.")
    if any(report.damages for report in reports):
        terminal.say("What these damages do not touch can be restored.")
    blocks = sum(report.blocks_checked for report in reports)
    read_bytes = sum(report.bytes_checked for report in reports)
    figures: dict[str, object] = {"blocks_checked": blocks, "bytes_checked": read_bytes}
    checked = f"{blocks:,} blocks, {size(read_bytes)}"
    if sample is not None:
        passed_over = sum(report.blocks_passed_over for report in reports)
        checked += f"; a sample of {sample.share:.3%} with --seed {sample.seed}, {passed_over:,} blocks were not read"
        figures |= {"share": sample.share, "seed": sample.seed, "blocks_passed_over": passed_over}
    terminal.say(f"{'Sound' if code == DONE else 'NOT everything is sound'} ({reports[0].depth}: {checked}).")
    return figures


def _say_point(state: PointVerified, terminal: Terminal) -> None:
    if state.closed:
        terminal.say(f"Restore point {state.number}: not opened. {state.problem}")
    elif state.problem is not None:
        terminal.say(f"Restore point {state.number}: DAMAGED; it does not open.")
    elif state.sound:
        terminal.say(f"Restore point {state.number}: sound.")
    else:
        files = f"{state.damaged_files_count:,} files of it cannot be restored"
        terminal.say(f"Restore point {state.number}: DAMAGED; {files if state.damaged_files_count else 'it opens'}.")
    for remark in state.notes:
        terminal.aside(f"point {state.number}: {remark}")


def _say_damage(damage: ChainDamage, terminal: Terminal) -> None:
    terminal.say(f"  {damage.sentence}")
    if not damage.points:
        terminal.say("    No restore point that was verified needs it.")
        return
    numbers = ", ".join(map(str, damage.points))
    terminal.say(f"    Touched: restore point{'s' if len(damage.points) > 1 else ''} {numbers}.")
    for path in damage.files[:FILES_SHOWN]:
        terminal.say(f"    cannot be restored: {text(path)}")
    if damage.files_count > min(len(damage.files), FILES_SHOWN):
        terminal.say(f"    files touched in one point: {damage.files_count:,}")
