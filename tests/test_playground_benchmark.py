"""What the benchmark of the playground makes of its loads; no time is asserted."""

from benchmarks.playground import Load, load_figures


def test_the_slowest_load_has_to_be_fast_enough_and_nothing_may_go_elsewhere() -> None:
    fast, slow = Load(200.0, 300.0, 20, 0, 90_000), Load(1_100.0, 1_500.0, 24, 0, 91_000)
    figures = load_figures([fast, fast, slow])
    assert (figures["usable_worst_ms"].value, figures["usable_worst_ms"].holds) == (1_100.0, False)
    assert (figures["usable_median_ms"].value, figures["usable_median_ms"].holds) == (200.0, True)
    assert figures["recommended_median_ms"].value == 300.0
    assert (figures["requests"].value, figures["bytes"].value) == (24, 91_000)
    assert figures["requests_elsewhere"].holds is True
    assert load_figures([fast, Load(200.0, 300.0, 21, 1, 90_000)])["requests_elsewhere"].holds is False
