"""The estimate of a password: what is known to everybody counts for little, length counts, and nothing takes long."""

from __future__ import annotations

import threading

import pytest

from keys.strength import MOST_CHARACTERS, estimate


@pytest.mark.parametrize(
    ("password", "weak"),
    [
        ("password", True),
        ("12345678", True),
        ("backupsite", True),
        ("Backupsite2026", True),
        ("aaaaaaaaaaaaaaaaaaaaaaaa", True),
        ("correct horse battery staple", False),
        ("q7$Lm2-vK9", False),
    ],
)
def test_what_is_tried_first_is_weak(password: str, weak: bool) -> None:
    assert estimate(password).is_weak == weak


@pytest.mark.parametrize("known", ["Ledger of Wiesbaden", "ledger", "the ledger, second shelf"])
def test_words_of_the_name_and_the_hint_count_for_nothing(known: str) -> None:
    assert estimate("ledger77", (known,)).score < estimate("zvpqxw77", (known,)).score
    assert estimate("ledger77", (known,)).score <= estimate("ledger77").score


def test_known_words_of_one_are_not_those_of_another() -> None:
    before = estimate("zvpqxwtrk", ())
    assert estimate("zvpqxwtrk", ("zvpqxwtrk",)).score == 0
    assert estimate("zvpqxwtrk", ()) == before


def test_parallel_estimates_do_not_mix_their_words() -> None:
    scores: dict[int, set[int]] = {0: set(), 1: set()}

    def ask(mine: int) -> None:
        for _ in range(30):
            scores[mine].add(estimate("zvpqxwtrk", ("zvpqxwtrk",) if mine else ()).score)

    threads = [threading.Thread(target=ask, args=(number % 2,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scores[1] == {0} and len(scores[0]) == 1 and scores[0] != {0}


@pytest.mark.parametrize("password", ["x" * 4096, "aB3$" * 1000, "é" * 4096, "correct horse " * 200])
def test_long_ones_are_cut(password: str) -> None:
    assert estimate(password) == estimate(password[:MOST_CHARACTERS])


def test_words_say_how_long_guessing_takes() -> None:
    found = estimate("password")
    assert found.crack_time == "less than a second" and "common password" in found.advice
    assert estimate("correct horse battery staple").crack_time == "centuries"
