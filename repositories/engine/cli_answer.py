"""`answer`: the holder of a recovery key, off the network, opens for a console what its recovery request asks for.

Which console asks, for which job and which points, is shown before the key is used, and somebody has to say yes: at the
terminal, or with --yes and the console that is meant. The answer is for this console alone; no file key is ever shown.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from keys.crypto_recovery_request import Answer, Request, answer, check_current, read_request
from repositories.engine.cli_backup import Contradiction
from repositories.engine.cli_keys import add_recovery_key, private_half, read_text
from repositories.engine.cli_passwords import may_ask
from repositories.engine.cli_read import Result
from repositories.engine.cli_terminal import DONE, FAILED, WITH_WARNINGS, Terminal, moment, moment_utc, size
from repositories.engine.errors import EngineError, text

YES = "yes"


class AnotherConsole(EngineError):
    """A request of another console than the one that was named. Fields: console."""

    code = "another-console"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("request", metavar="REQUEST", type=Path, help="the file with the console's recovery request")
    add_recovery_key(parser, required=True)
    parser.add_argument(
        "--console", metavar="KEY", help="answer only this console: its signing key, in hex, as its keys page shows it"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask at the terminal; needs --console")


def run(options: argparse.Namespace, terminal: Terminal) -> Result:
    """Raises ForgedRequest, RequestExpired, AnotherConsole, NotForThisKey."""
    if options.yes and not options.console:
        raise Contradiction("--yes answers without a question, so say with --console which console may ask.")
    request = read_request(read_text(options.request))
    check_current(request, datetime.now(UTC))
    _check_console(request, options.console)
    _show(request, terminal)
    if not options.yes and not _agreed(terminal):
        terminal.aside("Nothing was answered.")
        return FAILED, {"answered": False}
    answered = answer(request, private_half(options.recovery_key))
    for file in answered.refused:
        terminal.aside(f"warning: point {file.sequence} is not answered: it has no slot that was sealed for this key.")
    terminal.aside("The answer, for that console only. It can be used once:")
    terminal.say(answered.text.rstrip("\n"))
    return (WITH_WARNINGS if answered.refused else DONE), {"answered": True, **_facts(request, answered)}


def _check_console(request: Request, named: str | None) -> None:
    if named is not None and "".join(named.split()).lower() != request.console.hex():
        raise AnotherConsole(
            f"This request is of the console {request.console.hex()}, not of the one that was named. Do not answer it.",
            console=request.console.hex(),
        )


def _show(request: Request, terminal: Terminal) -> None:
    """What is asked, to stderr: the answer alone goes to stdout."""
    terminal.aside(f"console    {request.console.hex()}")
    terminal.aside("           Compare it with the signing key that you noted; somebody else could ask, too.")
    terminal.aside(
        f"asked      {_when(request.made_at)} by {text(request.asked_by)}; until {_when(request.expires_at)}"
    )
    job = text(request.job_name) or "not known to the console: the files were made elsewhere"
    terminal.aside(f"job        {job}")
    terminal.aside(f"where      {text(request.place)}, chain {request.chain}")
    for file in request.files:
        keys = ", ".join(sorted({text(slot.name) for slot in file.slots}))
        terminal.aside(
            f"point      {file.sequence}, {_when(file.at_seconds)}, {size(file.size_bytes)}; recovery keys: {keys}"
        )
    opens = "one point opens" if request.points == 1 else f"up to {request.points:,} points open"
    terminal.aside(
        f"With it {opens}, the first of {_when(request.first_at)}: whoever may restore at that console can then read "
        "what is in them."
    )


def _agreed(terminal: Terminal) -> bool:
    """Raises Contradiction where nobody can be asked."""
    if not may_ask():
        raise Contradiction("There is no terminal to ask at. Give --yes, and with --console which console may ask.")
    sys.stderr.write(f"Open them for this console? Type {YES}: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() == YES


def _when(seconds: int) -> str:
    return moment(seconds * 1_000_000_000)


def _facts(request: Request, answered: Answer) -> dict[str, object]:
    return {
        "answer": answered.text,
        "console": request.console.hex(),
        "request": str(request.request),
        "job_name": text(request.job_name),
        "chain_id": str(request.chain),
        "points": [
            {"sequence": file.sequence, "at": moment_utc(file.at_seconds * 1_000_000_000)} for file in answered.files
        ],
        "refused": [file.sequence for file in answered.refused],
    }
