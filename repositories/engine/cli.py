"""The engine's command line: `python -m repositories.engine COMMAND`. Parses, runs one command, gives its exit code.

0 done, 1 done with warnings, 2 refused or failed. It needs neither Django nor a database: this is also how a backup is
recovered when the console is gone. What each command does is left to its module, cli_backup.py, cli_read.py, ...
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from keys.crypto_errors import CryptoError
from repositories.engine import (
    cli_answer,
    cli_backup,
    cli_chain,
    cli_keys,
    cli_read,
    cli_recover,
    cli_recovery,
    cli_rewrap,
    cli_verify,
)
from repositories.engine.cli_terminal import FAILED, Terminal
from repositories.engine.errors import EngineError, text

Command = Callable[[argparse.Namespace, Terminal], tuple[int, dict[str, object]]]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    terminal = Terminal(as_json=options.json)
    command: Command = options.run
    try:
        code, result = command(options, terminal)
    except (EngineError, CryptoError) as error:
        code, result = FAILED, failure(terminal, str(error), error.code, getattr(error, "fields", {}))
    except OSError as error:
        where = f" ({text(error.filename)})" if isinstance(error.filename, str | bytes) else ""
        sentence = f"The system refused: {error.strerror or error}{where}."
        code, result = FAILED, failure(terminal, sentence, "system-error", {})
    except KeyboardInterrupt:
        code, result = FAILED, failure(terminal, "Stopped.", "cancelled", {})
    terminal.end({"command": options.command, "exit_code": code, **result})
    return code


def failure(terminal: Terminal, sentence: str, code: str, fields: dict[str, str | int]) -> dict[str, object]:
    terminal.aside(f"error: {sentence}")
    return {"error": {"code": code, "message": sentence, "fields": fields}}


def parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="give the result as one JSON object on the last line")
    secret = argparse.ArgumentParser(add_help=False)
    secret.add_argument("--password-file", metavar="FILE", type=Path, help="the file that holds the password")
    secret.add_argument("--plain", action="store_true", help="write or take restore points that are not encrypted")
    keys = argparse.ArgumentParser(add_help=False)
    cli_keys.add_arguments(keys)

    whole = argparse.ArgumentParser(
        prog="python -m repositories.engine",
        description="Write, list, verify and recover backup files. Exit code: 0 done, 1 warnings, 2 failed.",
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Command, help_text: str, *needs: argparse.ArgumentParser) -> argparse.ArgumentParser:
        command = commands.add_parser(name, parents=[common, *needs], help=help_text, description=help_text)
        command.set_defaults(run=run)
        return command

    cli_backup.add_arguments(add("backup", cli_backup.run, "Write one restore point of one or more sources.", secret))
    cli_read.add_place(
        add("list", cli_read.run_list, "Show the restore points.", secret, keys), "a folder with backup files"
    )
    cli_verify.add_arguments(add("verify", cli_verify.run, "Prove that points can be restored.", secret, keys))
    cli_read.add_place(
        add("inspect", cli_read.run_inspect, "Show what a backup file says without a key."), "one backup file"
    )
    cli_recover.add_arguments(add("recover", cli_recover.run, "Put files back from a restore point.", secret, keys))
    about = "Write a new full from the newest point, without the sources."
    cli_chain.add_synthesize_arguments(add("synthesize", cli_chain.run_synthesize, about, secret))
    about = "Keep so many points: merge the older ones into the oldest that stays."
    cli_chain.add_merge_arguments(add("merge", cli_chain.run_merge, about, secret))
    cli_rewrap.add_arguments(add("rewrap", cli_rewrap.run, "Let points open with another key.", secret, keys))
    cli_recovery.add_key_arguments(
        add("recovery-key", cli_recovery.run_key, "Make a recovery key, or check a sheet; best off the network.")
    )
    cli_recovery.add_prove_arguments(
        add("prove", cli_recovery.run_prove, "Answer a console's challenge: prove that you have a recovery key.")
    )
    cli_answer.add_arguments(
        add("answer", cli_answer.run, "Open for a console what its recovery request asks for; off the network.")
    )
    return whole
