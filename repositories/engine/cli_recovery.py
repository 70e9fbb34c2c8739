"""`recovery-key` and `prove`: what the holder of a recovery key does, off the network.

The private half leaves by the sheet only: printed to the terminal, or written to a file of mode 0600. What a challenge
is, and that nothing but a challenge is opened, is decided in `keys.crypto_custody`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from keys.crypto_custody import answer_text, prove, read_challenge
from keys.crypto_errors import BadText
from keys.crypto_recovery import RecoveryPrivate, fingerprint_text, new_private, public_text
from keys.crypto_sheet import whole_sheet
from repositories.engine.cli_backup import Contradiction
from repositories.engine.cli_keys import ASK, MOST_BYTES_OF_A_FILE, add_recovery_key, private_half, read_text
from repositories.engine.cli_read import Result
from repositories.engine.cli_terminal import DONE, Terminal, moment, moment_utc
from repositories.engine.errors import text


def add_key_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["new", "check"], help="make a pair; or read a sheet and say whose it is")
    parser.add_argument("--name", default="recovery key", help="what the sheet is called: where it will be kept")
    parser.add_argument("--public", metavar="FILE", type=Path, help="write the public half there, for the console")
    parser.add_argument("--sheet", metavar="FILE", type=Path, help="write the sheet there, instead of showing it")
    add_recovery_key(parser)


def add_prove_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "challenge", metavar="CHALLENGE", type=Path, nargs="?", default=ASK, help="a file; without it, standard input"
    )
    add_recovery_key(parser, required=True)


def run_key(options: argparse.Namespace, terminal: Terminal) -> Result:
    return _new(options, terminal) if options.action == "new" else _check(options, terminal)


def _new(options: argparse.Namespace, terminal: Terminal) -> Result:
    if options.recovery_key:
        raise Contradiction("recovery-key new makes another key: it takes no --recovery-key. To read one, use check.")
    if options.sheet is None and terminal.as_json:
        raise Contradiction("With --json the sheet is not shown: say with --sheet where it shall be written.")
    private = new_private()
    sheet = whole_sheet(private, name=options.name, made=f"{time.strftime('%Y-%m-%d %H:%M:%S %z')}, offline")
    if options.sheet:
        _write_new(options.sheet, sheet, mode=0o600)  # first: a public half without it would be worse than nothing
        terminal.say(f"The sheet is in {text(options.sheet)}. Print it there, keep it apart, and remove the file.")
    else:
        terminal.say(sheet)
    return _said(private, options, terminal)


def _check(options: argparse.Namespace, terminal: Terminal) -> Result:
    """Whether the letters of a sheet fit together, and which key they are."""
    if options.recovery_key is None:
        raise Contradiction("Which sheet? Give it with --recovery-key.")
    private = private_half(options.recovery_key)
    terminal.say("The letters fit together.")
    return _said(private, options, terminal)


def _said(private: RecoveryPrivate, options: argparse.Namespace, terminal: Terminal) -> Result:
    public = private.public()
    if options.public:
        _write_new(options.public, public_text(public), mode=0o644)
        terminal.say(f"The public half is in {text(options.public)}. Paste it into the console.")
    else:
        terminal.say(f"The public half, to paste into the console:\n\n{public_text(public)}")
    terminal.say(f"Fingerprint: {fingerprint_text(public)}")
    return DONE, {"fingerprint": fingerprint_text(public), "public": public_text(public)}


def run_prove(options: argparse.Namespace, terminal: Terminal) -> Result:
    """Answer a challenge; who asks, and when, is said before the key is used."""
    challenge = read_challenge(_piped() if options.challenge == ASK else read_text(options.challenge))
    made_ns = challenge.at_seconds * 1_000_000_000
    terminal.aside(f"The console {challenge.console.hex()} asks, on {moment(made_ns)}.")
    answer = answer_text(prove(challenge, private_half(options.recovery_key)))
    terminal.say(f"Answer: {answer}")
    terminal.say("It proves that you have the key, to this console and for this challenge; it opens nothing.")
    return DONE, {"console": challenge.console.hex(), "asked_at": moment_utc(made_ns), "answer": answer}


def _piped() -> str:
    try:
        return sys.stdin.read(MOST_BYTES_OF_A_FILE)
    except UnicodeDecodeError:
        raise BadText("What came by standard input is no custody challenge.") from None


def _write_new(path: Path, content: str, *, mode: int) -> None:
    """Write a file that is not there yet, and see that it is on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
