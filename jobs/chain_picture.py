"""The backup chain as a picture: where each bar, gap and label stands.

Pure geometry over plain marks: what happened is read elsewhere (`chain_story`), SVG is written by
`templates/jobs/_chain_picture.html`. A full is a square bar with a cap, an incremental a round one, a gap is hollow;
each key has a letter besides its colour, a point of several keys a stripe of each, and recovery keys are a small mark.
Heights are logarithmic, or a full would flatten everything else, and the page says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

WIDTH = 820
HEIGHT = 190
BASELINE = 160
TALLEST = 104
SHORTEST = 10
GAP_HEIGHT = 16
MARGIN = 20
WIDEST_STEP = 31.0
MOST_MARKS = 60
COLOURS = 5
PLAIN_LETTER = "–"  # an en dash is meant: no key

POINTS = frozenset({"full", "incremental"})


@dataclass(frozen=True)
class Mark:
    """One thing that happened, or didn't: kind is full, incremental, failed, missed, skipped or next."""

    kind: str
    at: datetime
    size_bytes: int = 0
    keys: tuple[str, ...] = ()  # the names of what opens it; none: not encrypted
    recovery: int = 0  # how many recovery keys open it too
    chain: str = ""
    title: str = ""
    link: str = ""

    @property
    def is_point(self) -> bool:
        return self.kind in POINTS

    @property
    def names(self) -> tuple[str, ...]:
        """Return what the letters stand for; a plain point has one too."""
        return (self.keys or ("",)) if self.is_point else ()


@dataclass(frozen=True)
class Stripe:
    """The part of a bar that one key has; `colour` is a class: k0 for plain, k1 to k5."""

    x: float
    width: float
    colour: str


@dataclass(frozen=True)
class Bar:
    kind: str
    x: float
    y: float
    width: float
    height: float
    stripes: tuple[Stripe, ...]
    letter: str
    recovery: bool
    title: str
    link: str
    starts_chain: bool

    @property
    def middle(self) -> float:
        return round(self.x + self.width / 2, 1)

    @property
    def before(self) -> float:
        """Return where the gap to the bar before it has its middle."""
        return round(self.x - self.width * 0.3, 1)

    @property
    def foot(self) -> float:
        """Return where the mark of the recovery keys has its middle."""
        return BASELINE - 5

    @property
    def above(self) -> float:
        return round(self.y - 7, 1)


@dataclass(frozen=True)
class KeyName:
    letter: str
    colour: str
    name: str  # empty: not encrypted


@dataclass(frozen=True)
class AxisLabel:
    x: float
    at: datetime


@dataclass(frozen=True)
class Picture:
    width: int
    height: int
    baseline: float
    letters_y: float
    dates_y: float
    bars: tuple[Bar, ...]
    keys: tuple[KeyName, ...]
    recovery: bool  # some point has a recovery key
    labels: tuple[AxisLabel, ...]
    left_out: int  # older marks that are not drawn

    @property
    def colour_of(self) -> dict[str, KeyName]:
        return {key.name: key for key in self.keys}


def draw(marks: Sequence[Mark]) -> Picture:
    """Lay the newest `MOST_MARKS` marks out from left to right in the order given (oldest first)."""
    shown = marks[-MOST_MARKS:]
    keys = name_keys(marks)
    step = min(WIDEST_STEP, (WIDTH - 2 * MARGIN) / max(len(shown), 1))
    largest = max((mark.size_bytes for mark in shown), default=0)
    bars = tuple(_bar(shown, place, step, largest, keys) for place in range(len(shown)))
    return Picture(
        width=WIDTH,
        height=HEIGHT,
        baseline=BASELINE + 0.5,
        letters_y=BASELINE + 12,
        dates_y=BASELINE + 26,
        bars=bars,
        keys=tuple(keys[name] for name in _names(shown)),
        recovery=any(mark.recovery for mark in shown),
        labels=_labels(shown, bars),
        left_out=len(marks) - len(shown),
    )


def name_keys(marks: Iterable[Mark]) -> dict[str, KeyName]:
    """Give each key, in the order of first use, a letter and a colour; plain points have neither letter nor hue."""
    found: dict[str, KeyName] = {}
    for name in _names(marks):
        number = sum(1 for known in found if known)
        found[name] = (
            KeyName(_letter(number), f"k{number % COLOURS + 1}", name) if name else KeyName(PLAIN_LETTER, "k0", "")
        )
    return found


def bar_height(size_bytes: int, largest_bytes: int) -> float:
    """Scale logarithmically: 1 KiB and less is the shortest bar, the largest point is the tallest."""
    smallest = 1024
    if largest_bytes <= smallest or size_bytes >= largest_bytes:
        return TALLEST if size_bytes >= largest_bytes > 0 else SHORTEST
    share = math.log(max(size_bytes, smallest) / smallest) / math.log(largest_bytes / smallest)
    return round(SHORTEST + share * (TALLEST - SHORTEST), 1)


def _bar(marks: Sequence[Mark], place: int, step: float, largest: int, keys: dict[str, KeyName]) -> Bar:
    mark = marks[place]
    named = [keys[name] for name in mark.names]
    height = bar_height(mark.size_bytes, largest) if mark.is_point else GAP_HEIGHT
    x, width = round(MARGIN + place * step, 1), round(step * 0.62, 1)
    return Bar(
        kind=mark.kind,
        x=x,
        y=round(BASELINE - height, 1),
        width=width,
        height=height,
        stripes=_stripes(named, x, width),
        letter=_letters(named),
        recovery=mark.is_point and mark.recovery > 0,
        title=mark.title,
        link=mark.link,
        starts_chain=mark.is_point and _starts_chain(marks, place),
    )


def _stripes(keys: Sequence[KeyName], x: float, width: float) -> tuple[Stripe, ...]:
    share = width / max(len(keys), 1)
    return tuple(Stripe(round(x + n * share, 1), round(share, 1), key.colour) for n, key in enumerate(keys))


def _letters(keys: Sequence[KeyName]) -> str:
    """Return what stands below a bar: A, AB, A+2."""
    letters = [key.letter for key in keys]
    return "".join(letters) if len(letters) <= 2 else f"{letters[0]}+{len(letters) - 1}"


def _starts_chain(marks: Sequence[Mark], place: int) -> bool:
    earlier = [mark.chain for mark in marks[:place] if mark.is_point]
    return bool(earlier) and earlier[-1] != marks[place].chain


def _labels(marks: Sequence[Mark], bars: Sequence[Bar]) -> tuple[AxisLabel, ...]:
    """Date the first bar, and further ones where there is room for a label and the day is another."""
    labels: list[AxisLabel] = []
    for mark, bar in zip(marks, bars, strict=True):
        last = labels[-1] if labels else None
        if last is None or (bar.x - last.x >= 110 and mark.at.date() != last.at.date()):
            labels.append(AxisLabel(bar.x, mark.at))
    return tuple(labels)


def _names(marks: Iterable[Mark]) -> list[str]:
    return list(dict.fromkeys(name for mark in marks for name in mark.names))


def _letter(number: int) -> str:
    """A to Z, then AA, AB and so on."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return alphabet[number] if number < 26 else alphabet[number // 26 - 1] + alphabet[number % 26]
