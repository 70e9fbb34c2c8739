"""How strong a password is, estimated while it is in hand: a score from 0 to 4, kept with its version, and words.

The estimate is zxcvbn's. It knows that a name, a hint and a user name are the first things to be tried. What a weak
password means for the person who types it is decided in the forms.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock

from zxcvbn import zxcvbn

WEAK_BELOW = 3
MOST_CHARACTERS = 100  # the estimate takes long for long passwords, and what is past this only makes them stronger
PRODUCT = "backupsite"

# The library keeps the known words in a table of its module.
_one_at_a_time = Lock()


@dataclass(frozen=True)
class Estimate:
    score: int
    crack_time: str  # at 10,000 guesses a second: many machines, against Argon2id
    advice: str

    @property
    def is_weak(self) -> bool:
        return self.score < WEAK_BELOW


def estimate(password: str, known: Iterable[str] = ()) -> Estimate:
    """Return the estimate of a password that is not empty; `known` are texts that an attacker reads first."""
    with _one_at_a_time:
        found = zxcvbn(password[:MOST_CHARACTERS], user_inputs=_words(known), max_length=MOST_CHARACTERS)
    feedback = found["feedback"]
    return Estimate(
        score=found["score"],
        crack_time=str(found["crack_times_display"]["offline_slow_hashing_1e4_per_second"]),
        advice=" ".join([feedback["warning"] or "", *feedback["suggestions"][:1]]).strip(),
    )


def _words(known: Iterable[str]) -> list[str]:
    """Return the texts and the words in them."""
    texts = [PRODUCT, *known]
    return list(dict.fromkeys(word for text in texts for word in (text, *re.split(r"\W+", text)) if word))
