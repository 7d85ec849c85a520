"""Curves as pictures show them: nothing that the eye could see is lost, and bands say what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.server.ui.curves import bands, smoothed, thinned
from kilter.server.ui.importance import importance, ranked

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), finite), min_size=1, max_size=400), st.integers(1, 40))
def test_the_least_and_the_greatest_of_every_stretch_survive(points: list[tuple[int, float]], buckets: int) -> None:
    x = np.cumsum([float(step) for step, _ in points])
    y = np.array([value for _, value in points], np.float64)
    chosen = thinned(x, y, buckets)
    assert (np.diff(chosen) > 0).all()
    assert {chosen[0], chosen[-1]} == {0, len(x) - 1}
    assert len(chosen) <= 2 * buckets + 4
    width = (x[-1] - x[0]) / buckets or 1.0
    bucket = np.minimum(((x - x[0]) / width).astype(int), buckets - 1)
    for one in np.unique(bucket):
        inside = np.flatnonzero(bucket == one)
        kept = y[np.intersect1d(inside, chosen)]
        assert kept.min() == y[inside].min()
        assert kept.max() == y[inside].max()


def test_a_spike_of_one_step_in_a_hundred_thousand_is_seen_and_zooming_finds_its_step() -> None:
    x = np.arange(100_000.0)
    y = np.sin(x / 9000)
    y[44_321] = 9.0
    whole = thinned(x, y, 600)
    assert len(whole) <= 1204
    assert y[whole].max() == 9.0
    near = thinned(x, y, 600, 44_000, 44_600)
    assert 44_321 in near
    assert (x[near[0]], x[near[-1]]) == (43_999, 44_601), "the line runs out of the picture on both sides"
    assert len(thinned(x, y, 600, 200_000, 300_000)) <= 2
    assert len(thinned(np.zeros(0), np.zeros(0), 10)) == 0


def test_smoothing_has_no_start_at_nothing_and_leaves_what_is_not_finite() -> None:
    values = np.array([5.0, 5.0, math.nan, 5.0, math.inf, 9.0])
    found = smoothed(values, 0.9)
    assert found[[0, 1, 3]] == pytest.approx([5.0, 5.0, 5.0])
    assert math.isnan(found[2])
    assert math.isinf(found[4])
    assert 5.0 < found[5] < 9.0
    assert smoothed(values, 0.0) is values
    # the definition: weights fall by 0.6 with each step back, and sum to one
    three = smoothed(np.array([1.0, 2.0, 4.0]), 0.6)[2]
    assert three == pytest.approx((1 * 0.36 + 2 * 0.6 + 4) / (0.36 + 0.6 + 1))


def test_a_band_is_the_mean_with_students_interval_where_lines_reach() -> None:
    lines = [(np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])), (np.array([0.0, 1.0]), np.array([3.0, 2.0]))]
    band = bands(lines, 100, "interval")
    assert band.x.tolist() == [0, 1, 2]
    assert band.mean.tolist() == [2, 2, 3]
    assert band.runs.tolist() == [2, 2, 1]
    assert band.high[0] - 2 == pytest.approx(12.706 * math.sqrt(2) / math.sqrt(2))
    assert band.low[1] == band.high[1] == 2
    assert math.isnan(band.low[2]), "one run has no spread"
    assert bands(lines, 100, "range").high.tolist()[:2] == [3, 2]
    assert bands(lines, 100, "deviation").high[0] == pytest.approx(2 + math.sqrt(2))
    assert len(bands([], 10, "range").x) == 0


def test_a_band_over_long_lines_averages_within_a_pixel() -> None:
    rng = np.random.default_rng(1)
    x = np.arange(50_000.0)
    band = bands([(x, 1 + rng.normal(size=len(x)) * 0.5) for _ in range(5)], 200, "interval")
    assert len(band.x) == 200
    assert np.abs(band.mean - 1).max() < 0.12
    many = bands([(np.array([0.0]), np.array([float(one)])) for one in range(50)], 10, "interval")
    assert many.high[0] - many.mean[0] == pytest.approx(1.96 * np.std(range(50), ddof=1) / math.sqrt(50))


def test_what_goes_with_a_metric_is_found_and_chance_is_called_chance() -> None:
    rng = np.random.default_rng(5)
    params = [
        {"rate": rate, "noise": noise, "kind": kind, "id": f"run {number}", "same": 3, "flag": bool(number % 2)}
        for number, (rate, noise, kind) in enumerate(
            zip(10 ** rng.uniform(-4, -1, 80), rng.normal(size=80), rng.choice(["a", "b", "c"], 80), strict=True)
        )
    ]
    metric = [-math.log10(one["rate"]) + {"a": 0, "b": 0.6, "c": 1.2}[one["kind"]] for one in params]
    found = {one.param: one for one in importance(params, metric)}
    assert set(found) == {"rate", "noise", "kind", "flag"}, "neither what is the same nor a name of its own"
    assert (found["rate"].sign, found["rate"].kind, found["rate"].p) == (-1, "number", 0.001)
    assert found["rate"].strength > 0.8
    assert (found["kind"].sign, found["kind"].kind) == (0, "word")
    assert found["kind"].p < 0.05 < found["noise"].p
    assert importance(params[:3], metric[:3]) == ()
    assert importance(params, [None] * 80) == ()
    assert ranked(np.array([3.0, 1.0, 3.0])).tolist() == [2.5, 1.0, 2.5]
