"""The speed graph: rates between instants, and never more than 300 samples."""

from __future__ import annotations

from jobs.samples import MOST_SAMPLES, Graph


def test_a_sample_is_the_rate_since_the_last_one() -> None:
    graph = Graph()
    graph.add(1.0, 1000, 500)
    graph.add(3.0, 5000, 700)
    assert graph.samples == [[1.0, 1000, 500], [3.0, 2000, 100]]


def test_reports_within_an_interval_are_left_to_the_next_sample() -> None:
    graph = Graph()
    graph.add(0.4, 400, 0)
    assert graph.samples == []
    graph.add(1.0, 1000, 0)
    assert graph.samples == [[1.0, 1000, 0]]


def test_totals_that_go_back_are_no_negative_speed() -> None:
    graph = Graph()
    graph.add(1.0, 1000, 1000)
    graph.add(2.0, 500, 1500)
    assert graph.samples[-1] == [2.0, 0, 500]


def test_a_full_graph_merges_and_covers_the_whole_time() -> None:
    graph = Graph()
    for second in range(1, 24 * 3600 + 1):
        graph.add(float(second), second * 100, second * 10)
    assert MOST_SAMPLES / 2 <= len(graph.samples) <= MOST_SAMPLES
    assert graph.samples[-1][0] > 24 * 3600 - 2 * graph.interval_seconds
    assert {sample[1] for sample in graph.samples} == {100}
    assert {sample[2] for sample in graph.samples} == {10}
