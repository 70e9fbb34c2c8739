"""Amounts as people type them: 10M a second, 5 %."""

from __future__ import annotations

import argparse
import re

from repositories.engine.pace import Limit

_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def add_limit(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--limit", type=limit, metavar="RATE", help=f"{what} at most so much a second: 10M, 512K")


def limit(typed: str) -> Limit:
    """`10M` -> ten MiB a second."""
    found = _AMOUNT.fullmatch(typed.strip())
    amount = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if amount < 1:
        raise argparse.ArgumentTypeError(f"{typed!r} is no amount of bytes a second; say for instance 10M")
    return Limit(amount)


def share(typed: str) -> float:
    """`5%` or `0.05` -> 0.05."""
    number = typed.strip()
    try:
        found = float(number[:-1]) / 100 if number.endswith("%") else float(number)
    except ValueError:
        found = 0.0
    if not 0 < found <= 1:
        raise argparse.ArgumentTypeError(f"{typed!r} is no share; say for instance 5%")
    return found
