"""Where the bars of a chain stand: shapes by kind, heights by size, a letter and a colour for each key."""

from datetime import UTC, datetime, timedelta

import pytest

from jobs.chain_picture import (
    BASELINE,
    GAP_HEIGHT,
    MOST_MARKS,
    SHORTEST,
    TALLEST,
    WIDTH,
    Mark,
    bar_height,
    draw,
    name_keys,
)

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def mark(kind: str = "incremental", day: int = 0, **fields: object) -> Mark:
    return Mark(kind, NOON + timedelta(days=day), **fields)


def test_an_empty_chain_has_no_bar_and_no_key():
    picture = draw([])
    assert (picture.bars, picture.keys, picture.labels, picture.left_out) == ((), (), (), 0)


def test_bars_stand_side_by_side_on_the_baseline_in_the_order_given():
    picture = draw([mark("full", 0, size_bytes=10**9), mark(day=1, size_bytes=10**6), mark("failed", 2), mark(day=3)])
    assert [bar.kind for bar in picture.bars] == ["full", "incremental", "failed", "incremental"]
    for left, right in zip(picture.bars, picture.bars[1:], strict=False):
        assert left.x + left.width < right.x
    assert {round(bar.y + bar.height, 1) for bar in picture.bars} == {BASELINE}


def test_the_picture_never_grows_wider_and_says_what_it_leaves_out():
    picture = draw([mark(day=day, size_bytes=day) for day in range(MOST_MARKS + 7)])
    assert len(picture.bars) == MOST_MARKS
    assert picture.left_out == 7
    assert picture.bars[-1].x + picture.bars[-1].width <= WIDTH
    assert picture.bars[0].title == picture.bars[-1].title == ""


def test_height_is_logarithmic_between_the_shortest_and_the_tallest():
    assert bar_height(2**40, 2**40) == TALLEST
    assert bar_height(0, 2**40) == bar_height(1024, 2**40) == SHORTEST
    assert bar_height(2**25, 2**40) == pytest.approx(SHORTEST + (TALLEST - SHORTEST) / 2, abs=0.1)


@pytest.mark.parametrize(("size", "largest"), [(0, 0), (1, 1), (500, 1000), (1024, 1024)])
def test_tiny_chains_have_bars_too(size, largest):
    assert SHORTEST <= bar_height(size, largest) <= TALLEST


def test_each_key_has_a_letter_and_a_colour_in_the_order_of_first_use():
    keys = name_keys([mark(), mark(keys=("finance",)), mark(keys=("hr",)), mark(keys=("finance",))])
    assert [(key.letter, key.colour, key.name) for key in keys.values()] == [
        ("–", "k0", ""),
        ("A", "k1", "finance"),
        ("B", "k2", "hr"),
    ]


def test_colours_repeat_after_five_keys_and_letters_do_not():
    keys = list(name_keys([mark(keys=(f"key {n}",)) for n in range(28)]).values())
    assert keys[5].colour == keys[0].colour == "k1"
    assert len({key.letter for key in keys}) == 28
    assert (keys[25].letter, keys[26].letter) == ("Z", "AA")


def test_a_gap_has_no_key_and_a_fixed_height_whatever_its_kind():
    for kind in ("failed", "missed", "skipped", "next"):
        (bar,) = draw([mark(kind, size_bytes=10**12, keys=("finance",))]).bars
        assert (bar.stripes, bar.letter, bar.height) == ((), "", GAP_HEIGHT)


def test_the_first_bar_of_a_later_chain_is_marked():
    marks = [mark("full", 0, chain="1"), mark("missed", 1), mark("full", 2, chain="2"), mark(day=3, chain="2")]
    assert [bar.starts_chain for bar in draw(marks).bars] == [False, False, True, False]


def test_labels_name_each_day_at_most_once_and_do_not_touch():
    picture = draw([mark(day=day // 2) for day in range(20)])
    days = [label.at.date() for label in picture.labels]
    assert len(set(days)) == len(days) > 1
    assert all(b.x - a.x >= 110 for a, b in zip(picture.labels, picture.labels[1:], strict=False))


def test_legend_holds_only_the_keys_that_are_drawn():
    marks = [mark(keys=("old",)), *(mark(keys=("new",), day=day) for day in range(MOST_MARKS))]
    picture = draw(marks)
    assert [key.name for key in picture.keys] == ["new"]
    assert picture.keys[0].letter == "B"  # the table, which has all, calls it the same


def test_a_point_of_several_keys_has_a_stripe_and_a_letter_of_each():
    both, many, plain, _ = draw([mark(keys=("a", "b")), mark(keys=("b", "c", "d")), mark(), mark(keys=("a",))]).bars
    assert [stripe.colour for stripe in both.stripes] == ["k1", "k2"]
    assert both.stripes[0].x == both.x
    assert round(both.stripes[1].x + both.stripes[1].width, 1) == pytest.approx(both.x + both.width, abs=0.2)
    assert (both.letter, many.letter, plain.letter) == ("AB", "B+2", "–")
    assert [stripe.colour for stripe in plain.stripes] == ["k0"]


def test_recovery_keys_are_a_small_mark_and_no_colour():
    picture = draw([mark(keys=("a",)), mark(keys=("a",), recovery=2), mark("failed")])
    assert [bar.recovery for bar in picture.bars] == [False, True, False]
    assert picture.recovery and [key.name for key in picture.keys] == ["a"]
    assert not draw([mark(keys=("a",))]).recovery
