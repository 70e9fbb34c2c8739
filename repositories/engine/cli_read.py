"""`list` and `inspect`: what there is, and what can be said without a key."""

from __future__ import annotations

import argparse
import base64
from pathlib import Path

from keys.crypto_password import KdfParameters
from keys.crypto_rsa import Oaep
from keys.crypto_slots import Slot, SlotKind
from repositories.engine.cli_keys import slot_secrets
from repositories.engine.cli_passwords import PasswordNeeded, ask, from_file
from repositories.engine.cli_points import Listed, Opener, Shelf, absolute
from repositories.engine.cli_terminal import DONE, FAILED, WITH_WARNINGS, Terminal, moment, moment_utc, size
from repositories.engine.errors import EngineError, text
from repositories.engine.head import Head
from repositories.engine.reader import Point, inspect

Result = tuple[int, dict[str, object]]
KNOWN_BY = {SlotKind.PASSWORD: "hint", SlotKind.KMS: "server", SlotKind.RECOVERY: "name"}
OPENED_BY = {SlotKind.KMS: "a key on the KMS server", SlotKind.RECOVERY: "the recovery key"}
PADDINGS = {
    Oaep.SHA256: "OAEP SHA-256, MGF1 SHA-256",
    Oaep.SHA256_MGF1_SHA1: "OAEP SHA-256, MGF1 SHA-1",
    Oaep.SHA1: "OAEP SHA-1, MGF1 SHA-1",
}
PROTECTION: dict[object, str] = {True: "encrypted", False: "not encrypted", None: "unreadable"}


def add_place(parser: argparse.ArgumentParser, help_text: str) -> None:
    parser.add_argument("place", metavar="DIR|FILE", type=Path, help=help_text)


def open_shelf(options: argparse.Namespace, terminal: Terminal) -> Shelf:
    """Find the points and what opens them. Raises NoPoints, PasswordNeeded, KeyFileUnreadable."""
    password = from_file(options.password_file) if options.password_file else None
    shelf = Shelf(absolute(options.place), Opener(password, slot_secrets(options, terminal.aside)))
    shelf.newest()
    if not shelf.opener.has_secret and not options.plain and shelf.is_encrypted():
        _check_takes_password(shelf)
        return Shelf(shelf.place, Opener(ask(shelf.place)))
    return shelf


def _check_takes_password(shelf: Shelf) -> None:
    """Nobody is asked for a password where none opens the newest point. Raises PasswordNeeded, naming what does."""
    head = shelf.newest().file.head
    if head is None or any(slot.kind is SlotKind.PASSWORD for slot in head.slots):
        return
    openers = ", ".join(f"{OPENED_BY[slot.kind]} {text(slot.hint) or slot.record}" for slot in head.slots)
    raise PasswordNeeded(
        f"No password opens the newest point in {text(shelf.place)}, but {openers}. Give --recovery-key, --kms or "
        "--slot-secret-file.",
        path=text(shelf.place),
    )


def run_list(options: argparse.Namespace, terminal: Terminal) -> Result:
    """Every point; one that does not open is listed with what can be said. With none open the password is refused."""
    shelf = open_shelf(options, terminal)
    rows = [_row(shelf, listed, terminal) for listed in shelf.points]
    closed = [row for row in rows if "problem" in row]
    for row in rows:
        terminal.say(_line(row))
    if len(closed) == len(rows):
        newest = closed[-1]
        return FAILED, {"points": rows, "error": {"code": newest["problem_code"], "message": newest["problem"]}}
    return (WITH_WARNINGS if closed else DONE), {"points": rows}


def _row(shelf: Shelf, listed: Listed, terminal: Terminal) -> dict[str, object]:
    known: dict[str, object] = {
        "number": listed.number,
        "chain_id": str(listed.chain_id),
        "sequence": listed.file.sequence,
        "encrypted": listed.encrypted,
        "length": listed.file.length,
        "path": text(listed.file.path),
    }
    try:
        with shelf.open(listed) as point:
            return known | _summary(point)
    except EngineError as error:
        terminal.aside(f"point {listed.number}: {error}")
        return known | {"problem": str(error), "problem_code": error.code}


def _summary(point: Point) -> dict[str, object]:
    summary = point.summary
    return {
        "file_id": str(point.head.file_id),
        "kind": summary.kind,
        "reason": summary.reason,
        "job_name": summary.job_name,
        "started_at": moment_utc(summary.started_at_ns),
        "started_at_ns": summary.started_at_ns,
        "sources": [text(source) for source in summary.sources],
        "files": summary.files,
        "directories": summary.directories,
        "source_bytes": summary.source_bytes,
        "warnings": summary.warnings,
        "options": list(summary.options),
    }


def _line(row: dict[str, object]) -> str:
    start = f"{row['number']:>4}  "
    length = size(int(str(row["length"])))
    protection = PROTECTION[row["encrypted"]]
    if "problem" in row:
        return f"{start}closed or damaged           {protection:<13}  {length:>10} stored"
    when = moment(int(str(row["started_at_ns"])))
    files = f"{row['files']:,} files, {size(int(str(row['source_bytes'])))}"
    options = row["options"]
    left_out = f" ({', '.join(options)})" if isinstance(options, list) and options else ""
    return f"{start}{when}  {row['kind']:<11}  {protection:<13}  {length:>10} stored  {files}{left_out}"


def run_inspect(options: argparse.Namespace, terminal: Terminal) -> Result:
    """What the head of one file says. Nothing here was authenticated: that needs a key."""
    head = inspect(absolute(options.place))
    facts = _head_facts(head, absolute(options.place))
    for name, value in facts.items():
        if name != "slots":
            terminal.say(f"{name.replace('_', ' '):<12}  {value}")
    for slot in head.slots:
        _say_slot(slot, terminal)
    terminal.say("Read without a key: nothing of this is proven until the file was opened.")
    return DONE, facts


def _head_facts(head: Head, path: Path) -> dict[str, object]:
    return {
        "path": text(path),
        "length": path.stat().st_size,
        "version": head.version,
        "chain_id": str(head.chain_id),
        "file_id": str(head.file_id),
        "sequence": head.sequence,
        "generation": head.generation,
        "encrypted": head.encrypted,
        "copies_differ": head.copies_differ,
        "replaces": [str(replaced) for replaced in head.replaces],
        "slots": [_slot_facts(slot) for slot in head.slots],
    }


def _slot_facts(slot: Slot) -> dict[str, object]:
    """What a slot says of whom it is for; with this, a KMS's own tool opens the encapsulated secret."""
    return {
        "kind": slot.kind.name.lower(),
        "record": str(slot.record),
        "version": slot.version,
        "hint": text(slot.hint),
        "kdf": _kdf(slot.kdf_parameters),
        "key_id": text(slot.key_id),
        "padding": PADDINGS[slot.oaep] if slot.oaep else "",
        "fingerprint": slot.fingerprint.hex(),
        "encapsulated": base64.b64encode(slot.encapsulated).decode(),
    }


def _say_slot(slot: Slot, terminal: Terminal) -> None:
    facts = _slot_facts(slot)
    called = f", {KNOWN_BY[slot.kind]}: {facts['hint']}" if slot.hint else ""
    terminal.say(f"key slot      {facts['kind']} {slot.record}, version {slot.version}{called}")
    for name in ("key_id", "padding", "fingerprint", "encapsulated"):
        if facts[name]:
            terminal.say(f"  {name.replace('_', ' '):<12}{facts[name]}")


def _kdf(parameters: KdfParameters | None) -> dict[str, int] | None:
    if parameters is None:
        return None
    return {"memory_kib": parameters.memory_kib, "iterations": parameters.iterations, "lanes": parameters.lanes}
