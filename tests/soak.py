"""What the long versions of tests begin with: one seed for all of a run, printed at its head, and how long they take.

`SEED=7 make soak` repeats a run, `ROUNDS=10 make soak` makes one ten times as long.
"""

import os
import random

SEED_VARIABLE, ROUNDS_VARIABLE = "SEED", "ROUNDS"


def choose_seed() -> int:
    """Once for a run, in the process that controls it: its workers have the environment from it."""
    if not os.environ.get(SEED_VARIABLE):
        os.environ[SEED_VARIABLE] = str(random.SystemRandom().randrange(2**32))
    return seed()


def seed() -> int:
    return int(os.environ[SEED_VARIABLE])


def rounds(usual: int) -> int:
    return usual * int(os.environ.get(ROUNDS_VARIABLE) or 1)
