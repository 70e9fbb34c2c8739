"""What a session's numbers say: never more than 100 percent, never an estimate out of nothing."""

import pytest

from jobs.session_figures import (
    GRAPH_HEIGHT,
    GRAPH_WIDTH,
    Measured,
    busy_percent,
    figures,
    graph,
    percent,
    ratio,
    seconds_left,
)


@pytest.mark.parametrize(
    ("done", "total", "expected"),
    [(0, None, None), (0, 0, None), (0, 10, 0), (5, 10, 50), (999, 1000, 99), (10, 10, 100), (11, 10, 99)],
)
def test_percent(done, total, expected):
    assert percent(done, total) == expected


@pytest.mark.parametrize(
    ("done", "total", "speed", "expected"),
    [(50, 100, 10.0, 5), (50, None, 10.0, None), (50, 100, 0.0, None), (50, 100, None, None), (150, 100, 10.0, None)],
)
def test_seconds_left(done, total, speed, expected):
    assert seconds_left(done, total, speed) == expected


@pytest.mark.parametrize(
    ("read", "written", "expected"), [(0, 0, None), (0, 5, None), (4, 5, None), (5, 5, 1.0), (40, 10, 4.0)]
)
def test_ratio(read, written, expected):
    assert ratio(read, written) == expected


def test_the_bottleneck_is_what_was_busiest():
    measured = Measured(10, 500, 1000, 400, 100, [[9, 40.0, 10.0]], {"source": 2, "proxy": 9, "repository": 1})
    found = figures(measured)
    assert found.bottleneck == "proxy"
    assert found.busy_percent == {"source": 20, "proxy": 90, "repository": 10}
    assert (found.percent, found.speed_now, found.speed_average) == (50, 40.0, 40.0)
    assert (found.seconds_left, found.ratio) == (10, 4.0)


def test_in_the_first_second_nothing_is_guessed():
    found = figures(Measured(0.2, 0, None, 0, 0, [], {}))
    assert (found.percent, found.speed_now, found.speed_average, found.seconds_left, found.ratio) == (None,) * 5
    assert found.bottleneck == ""


def test_busy_parts_that_outlast_the_clock_stay_at_100_percent():
    assert busy_percent({"source": 30}, 10) == {"source": 100, "proxy": 0, "repository": 0}


def test_a_graph_needs_two_samples_and_stays_inside_its_frame():
    assert graph([]) is graph([[0, 1, 1]]) is None
    drawn = graph([[0, 0, 0], [5, 100, 50], [10, 200, 20]])
    for line in (drawn.read_line, drawn.written_line):
        for point in line.split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= GRAPH_WIDTH and 0 <= y <= GRAPH_HEIGHT
    assert (drawn.top_bytes_per_second, drawn.seconds) == (200, 10)


def test_a_graph_of_nothing_but_zeros_is_a_flat_line():
    assert graph([[0, 0, 0], [1, 0, 0]]).read_line.endswith(f",{GRAPH_HEIGHT - 2:.1f}")
