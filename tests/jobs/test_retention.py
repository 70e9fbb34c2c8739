"""Golden tables: the runs of a job in a row, what is kept, and what each point is told."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.retention import Point, Reason, decide

STEADY = settings(derandomize=True, deadline=None)


def points_of(picture: str) -> list[Point]:
    """Read `F` (a full), `i` (an incremental), `|` (a new chain), `!` (the next chain is damaged), `~` (detached)."""
    points, chain, run, damaged, detached = [], 1, 0, False, False
    for sign in picture.replace(" ", ""):
        if sign in "Fi":
            run += sign == "F"
            points.append(Point(len(points) + 1, chain, run, detached, damaged))
        elif sign == "|":
            chain, damaged, detached = chain + 1, False, False
        damaged, detached = damaged or sign == "!", detached or sign == "~"
    return points


LETTERS = {Reason.AMONG_NEWEST: "N", Reason.RUN_NEEDED: "r", Reason.DETACHED: "d", Reason.NEWER_SUFFICE: "-"}


def verdict_of(picture: str, keep: int) -> str:
    return "".join(LETTERS[verdict.reason] for verdict in decide(points_of(picture), keep))


GOLDEN = [
    # picture, keep, verdict (N among the newest, r its run is needed, d detached, - goes)
    ("", 3, ""),
    ("F", 1, "N"),
    ("F", 3, "N"),
    ("Fii", 3, "NNN"),
    ("Fiii", 3, "rNNN"),
    ("Fii Fi", 3, "rrNNN"),
    ("Fii Fii", 3, "---NNN"),
    ("Fii Fi Fi", 3, "---rNNN"),
    ("Fii F F", 3, "rrNNN"),
    ("F F F F", 2, "--NN"),
    ("F F F F", 1, "---N"),
    ("Fii Fii F", 3, "---rNNN"),
    # a new chain: the previous one goes, run by run, once what is newer suffices
    ("Fii | F", 3, "rNNN"),
    ("Fii | Fi", 3, "rrNNN"),
    ("Fii | Fii", 3, "---NNN"),
    ("Fii Fi | Fi", 3, "---rNNN"),
    ("Fi | Fi | Fi", 2, "----NN"),
    # a damaged chain is never what others go for
    ("Fii |! Fii", 3, "NNNNNN"),
    ("Fii |! Fii | F", 3, "rNNrNNN"),
    ("Fii |! Fii | Fii", 3, "------NNN"),
    ("! Fii", 1, "rrN"),
    # detached chains stay, and don't count
    ("~ Fii | Fii", 3, "dddNNN"),
    ("~ Fii | Fi", 1, "dddrN"),
    ("Fii |~ Fii | F", 3, "rNNdddN"),
]


@pytest.mark.parametrize(("picture", "keep", "expected"), GOLDEN)
def test_golden(picture, keep, expected):
    assert verdict_of(picture, keep) == expected


def test_reasons_carry_their_figures():
    gone, *_, kept = decide(points_of("Fi Fii"), 2)
    assert (gone.stays, gone.params) == (False, {"newer": 3, "keep": 2})
    assert (kept.stays, kept.params) == (True, {"keep": 2})


@pytest.mark.parametrize("keep", [0, -1])
def test_nothing_to_keep_is_refused(keep):
    with pytest.raises(ValueError, match="at least one"):
        decide(points_of("F"), keep)


RUNS = st.lists(st.integers(1, 6), min_size=1, max_size=8)


@STEADY
@given(RUNS, st.integers(1, 20))
def test_only_whole_leading_runs_go_and_enough_is_left(runs, keep):
    points = points_of(" ".join("F" + "i" * (length - 1) for length in runs))
    verdicts = decide(points, keep)
    stays = [verdict.stays for verdict in verdicts]
    left = stays.count(True)
    assert stays == sorted(stays), "what goes leads"
    assert left >= min(keep, len(points))
    first = next(point for point, verdict in zip(points, verdicts, strict=True) if verdict.stays)
    assert all(v.stays for p, v in zip(points, verdicts, strict=True) if p.run == first.run), "runs go whole"
    assert left - sum(point.run == first.run for point in points) < keep, "no run stays that is not needed"


@STEADY
@given(st.integers(1, 20), st.integers(1, 60))
def test_never_more_than_twice_as_many_stay_when_runs_end_at_what_is_kept(keep, sessions):
    """As the planner does it: a full once the run has `keep` points; pruned after each."""
    points: list[Point] = []
    for number in range(sessions):
        points.append(Point(number, 1, number // keep))
        points = [p for p, verdict in zip(points, decide(points, keep), strict=True) if verdict.stays]
        assert min(keep, number + 1) <= len(points) < 2 * keep + (keep == 1)
