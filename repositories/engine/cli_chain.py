"""`synthesize` and `merge`: how a chain is kept to so many points without reading the sources again.

Both work on the newest chain of a folder, which no console may own. What they write is decided in synthetic.py,
merging.py and settling.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

from keys.crypto_recipients import PasswordRecipient
from repositories.engine.chains import FileOnDisk, delete_file, scan_chain
from repositories.engine.cli_amounts import add_limit
from repositories.engine.cli_backup import RESERVE, add_previous_password, recipients_of, report_written, written_shelf
from repositories.engine.cli_passwords import from_file
from repositories.engine.cli_plan import Parent, Plan, plan
from repositories.engine.cli_points import Shelf, absolute
from repositories.engine.cli_terminal import DONE, Terminal, size
from repositories.engine.errors import BadOrder, text
from repositories.engine.head import MAX_REPLACED
from repositories.engine.merging import MergeOrder, merge
from repositories.engine.order import Level, ParentPoint
from repositories.engine.run_of_chain import find_run
from repositories.engine.settling import settle, unsettled
from repositories.engine.synthetic import SyntheticOrder, write_synthetic_full

Result = tuple[int, dict[str, object]]


def add_synthesize_arguments(parser: argparse.ArgumentParser) -> None:
    _add_chain(parser)
    levels = [level.value for level in Level]
    parser.add_argument("--level", choices=levels, default=Level.BALANCED.value, help="compression (default: balanced)")


def add_merge_arguments(parser: argparse.ArgumentParser) -> None:
    _add_chain(parser)
    parser.add_argument(
        "--keep",
        type=int,
        required=True,
        metavar="N",
        help="so many points stay; older ones are merged into them",
    )


def _add_chain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("place", metavar="DIR", type=Path, help="the folder of this job's backup files")
    add_limit(parser, "write")
    add_previous_password(parser)


def run_synthesize(options: argparse.Namespace, terminal: Terminal) -> Result:
    """A new full from the newest point, which begins a new run: the earlier ones may then go."""
    root, shelf, decided, parent = _chain(options)
    order = SyntheticOrder(
        root=root,
        chain_id=parent.chain_id,
        file_id=uuid4(),
        sequence=decided.sequence,
        reason="synthetic-full",
        parent=parent.point,
        recipients=recipients_of(shelf.opener, parent.slot),
        level=Level(options.level),
        reserve=RESERVE,
        limit=options.limit,
    )
    with terminal.stoppable():
        written = write_synthetic_full(order, terminal)
    made = replace(decided, reason=order.reason, because=f"made from point {parent.number}; the sources were not read")
    encrypted = bool(order.recipients)
    return report_written(written, made, len(shelf.points) + 1, encrypted=encrypted, terminal=terminal)


def run_merge(options: argparse.Namespace, terminal: Terminal) -> Result:
    """Drop the oldest points: what the rest needs of them goes into the oldest point that stays."""
    if options.keep < 1:
        raise BadOrder(f"At least one restore point has to stay, not {options.keep}.")
    root, shelf, _, parent = _chain(options)
    recipients, folder = recipients_of(shelf.opener, parent.slot), root / str(parent.chain_id)
    before = scan_chain(folder).files
    with terminal.stoppable():
        newest = _settle_all(folder, parent.point, terminal)
        if options.keep < len(scan_chain(folder).files):
            newest = _drop(folder, newest, recipients, options, terminal)
    after = scan_chain(folder).files
    freed_bytes = sum(file.length for file in before) - sum(file.length for file in after)
    terminal.say(f"{len(after):,} restore points in {text(folder)}, {len(before) - len(after):,} fewer than before.")
    terminal.say(f"{size(abs(freed_bytes))} {'more' if freed_bytes < 0 else 'less'} than before.")
    return DONE, {
        "chain_id": str(parent.chain_id),
        "points": len(after),
        "dropped": len(before) - len(after),
        "freed_bytes": freed_bytes,
        "newest": text(newest.path),
    }


def _chain(options: argparse.Namespace) -> tuple[Path, Shelf, Plan, Parent]:
    """The newest chain of a folder. Raises BadOrder if it is damaged, or there is none."""
    root = absolute(options.place)
    shelf = written_shelf(root, options)
    shelf.newest()
    previous = from_file(options.previous_password_file) if options.previous_password_file else None
    decided = plan(shelf, previous, full=False)
    if decided.parent is None:
        raise BadOrder(f"The newest chain in {text(root)} cannot be built on: {decided.because}.", path=text(root))
    return root, shelf, decided, decided.parent


def _drop(
    folder: Path,
    newest: ParentPoint,
    recipients: tuple[PasswordRecipient, ...],
    options: argparse.Namespace,
    terminal: Terminal,
) -> ParentPoint:
    files = scan_chain(folder).files
    oldest = files[-options.keep]
    run = find_run(newest, oldest.sequence, lambda: None).files
    for sequence in _steps([file for file in run if file.sequence <= oldest.sequence]):
        order = MergeOrder(
            root=folder.parent,
            chain_id=UUID(folder.name),
            file_id=uuid4(),
            sequence=sequence,
            newest=newest,
            recipients=recipients,
            reserve=RESERVE,
            limit=options.limit,
        )
        merge(order, terminal)
        newest = _settle_all(folder, newest, terminal)
    for file in reversed(files[: files.index(run[0])]):  # earlier runs, of which nothing in this one is made
        delete_file(file.path)
    return newest


def _steps(going: list[FileOnDisk]) -> Iterator[int]:
    """The numbers up to which to merge, one after the other, so that the last of these files stands for all."""
    while len(going) > 1:
        step = going[:MAX_REPLACED]
        yield step[-1].sequence
        going = going[len(step) - 1 :]


def _settle_all(folder: Path, newest: ParentPoint, terminal: Terminal) -> ParentPoint:
    """Finish what a merge began, now or before it was interrupted; the newest point may be a merged file."""
    for path in unsettled(folder):
        final = settle(path, newest, terminal)
        if newest.path == path or not newest.path.exists():
            newest = ParentPoint(final, newest.file_key)
    return newest
