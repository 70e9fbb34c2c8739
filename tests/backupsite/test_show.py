"""Sizes, times, durations and counts as the pages show them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.template import Context, Template
from django.utils import timezone

from backupsite.templatetags import show

KIB, MIB, GIB, TIB = 1024, 1024**2, 1024**3, 1024**4
DAY = 86400


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (KIB, "1 KiB"),
        (1.5 * KIB, "1.5 KiB"),
        (890 * MIB, "890 MiB"),
        (99.9 * MIB, "99.9 MiB"),
        (1023.6 * MIB, "1 GiB"),
        (18.24 * GIB, "18.2 GiB"),
        (3.1 * TIB, "3.1 TiB"),
        (2**63 - 1, "8 EiB"),
    ],
)
def test_sizes_are_binary_with_three_digits(size_bytes: float, words: str) -> None:
    assert show.size_words(size_bytes) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "just now"),
        (-44, "just now"),
        (44, "in a moment"),
        (-45, "1 minute ago"),
        (-89 * 60, "89 minutes ago"),
        (-90 * 60, "2 hours ago"),
        (18 * 3600, "in 18 hours"),
        (-36 * 3600, "2 days ago"),
        (-402 * DAY, "13 months ago"),
        (-800 * DAY, "2 years ago"),
        (DAY * 59, "in 59 days"),
    ],
)
def test_relative_times_use_the_largest_unit_that_says_enough(seconds: int, words: str) -> None:
    assert show.relative_words(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0:00"), (7.4, "0:07"), (102, "1:42"), (7868, "2:11:08"), (-5, "0:00")]
)
def test_durations_look_like_a_clock(seconds: float, words: str) -> None:
    assert show.clock_words(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (89, "89 seconds"),
        (660, "11 minutes"),
        (7200, "2 hours"),
        (3 * DAY, "3 days"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert show.about_words(seconds) == words


@pytest.mark.parametrize(
    ("at", "words"),
    [
        (datetime(2026, 11, 23, 2, 0, tzinfo=UTC), "today 02:00"),
        (datetime(2026, 11, 22, 2, 0, tzinfo=UTC), "yesterday 02:00"),
        (datetime(2026, 11, 24, 2, 0, tzinfo=UTC), "tomorrow 02:00"),
        (datetime(2026, 11, 14, 2, 0, tzinfo=UTC), "14 Nov 02:00"),
        (datetime(2025, 11, 14, 2, 0, tzinfo=UTC), "14 Nov 2025 02:00"),
    ],
)
def test_moments_name_the_day(at: datetime, words: str) -> None:
    with timezone.override("UTC"):
        assert show.short_words(at, datetime(2026, 11, 23, 12, tzinfo=UTC)) == words


def test_moments_are_in_the_readers_zone() -> None:
    with timezone.override("Europe/Berlin"):
        assert (
            show.short_words(datetime(2026, 11, 22, 23, 30, tzinfo=UTC), datetime(2026, 11, 23, 12, tzinfo=UTC))
            == "today 00:30"
        )
        assert show.exact_words(datetime(2026, 11, 22, 23, 30, tzinfo=UTC)) == "Monday 23 November 2026, 00:30:00 CET"


def rendered(text: str, **context: object) -> str:
    return Template("{% load show %}" + text).render(Context(context))


def test_a_relative_time_has_the_exact_one_on_hover() -> None:
    at = timezone.now() - timedelta(hours=6)
    with timezone.override("UTC"):
        html = rendered("{{ at|ago }}", at=at)
        assert html == f'<time datetime="{at.isoformat()}" title="{show.exact_words(at)}">6 hours ago</time>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ none|ago }}", "never"),
        ("{{ none|moment }}{{ none|size }}{{ none|duration }}{{ none|count }}{{ none|rate }}{{ none|exact }}", ""),
        ("{{ 62000|count }}", "62,000"),
        ('{{ 1|counted:"point,points" }} {{ 7000|counted:"restore point" }}', "1 point 7,000 restore points"),
        ("{{ 536870912|rate }}", "512 MiB/s"),
        ("{{ 65536|kib }}", "64 MiB"),
        ("{{ 34|percent:100 }} {{ 5|percent:0 }} {{ 7|percent:3 }} {{ 999|percent:1000 }}", "34 %  100 % 99 %"),
        ("{{ span|duration }} {{ span|about }}", "1:42 2 minutes"),
        ("{{ 'succeeded'|tone }} {{ 'failed'|tone }} {{ 'unheard of'|tone }}", "good bad quietly"),
        (
            "{{ yes|plain }} {{ none|plain }} {{ roles|plain }} {{ empty|plain }} {{ ''|plain }}",
            "yes none a, b none empty",
        ),
        ("{{ 'passwordrecord'|kind }} {{ 'gone'|kind }}", "password record gone"),
    ],
)
def test_filters(text: str, words: str) -> None:
    context = {"none": None, "span": timedelta(seconds=102), "yes": True, "roles": ["a", "b"], "empty": []}
    assert rendered(text, **context) == words


def test_values_of_events_are_escaped() -> None:
    assert rendered("{{ value|plain }}", value=["<b>"]) == "&lt;b&gt;"
