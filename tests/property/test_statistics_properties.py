from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.core import statistics
from kilter.evaluation import metrics
from kilter.evaluation.declare import accuracy, auc, brier, log_loss, precision, recall

METRICS = st.sampled_from([log_loss, brier, auc, accuracy, recall, precision])


@st.composite
def rows(draw, least=2):
    n = draw(st.integers(least, 60))
    y = np.array(draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n)))
    p = np.array(draw(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]), min_size=n, max_size=n)))
    codes = np.array(draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)), dtype=np.int64)
    return y, p, np.unique(codes, return_inverse=True)[1].astype(np.int64)


def same(a, b):
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


@given(rows(), METRICS)
@settings(max_examples=150, deadline=None)
def test_how_rows_are_cut_into_blocks_changes_no_estimate(data, metric):
    y, p, codes = data
    assert same(statistics.estimate(metrics.statistic(metric, y, p, codes)), metrics.value(metric, y, p))


@given(rows(), METRICS, st.lists(st.integers(0, 3), min_size=5, max_size=5))
@settings(max_examples=150, deadline=None)
def test_weighting_a_block_is_repeating_its_rows(data, metric, weights):
    y, p, codes = data
    weight = np.array(weights[: codes.max() + 1], dtype=np.float64)
    times = weight[codes].astype(int)
    found = metrics.statistic(metric, y, p, codes).at(weight[None])[0]
    if not times.sum():
        assert math.isnan(found)
        return
    assert same(float(found), metrics.value(metric, np.repeat(y, times), np.repeat(p, times)))


@given(rows(), METRICS)
@settings(max_examples=100, deadline=None)
def test_the_interval_holds_its_estimate(data, metric):
    y, p, codes = data
    one = metrics.statistic(metric, y, p, codes)
    if math.isnan(statistics.estimate(one)):
        return
    found = statistics.interval(one, level=0.9)
    wider = statistics.interval(one, level=0.99)
    assert (found.low is None) == (found.high is None) == (wider.low is None)
    if found.low is not None:
        assert found.low <= found.estimate + 1e-9
        assert found.estimate <= found.high + 1e-9
        assert wider.low <= found.low + 1e-9
        assert found.high <= wider.high + 1e-9


@given(rows(), st.floats(-5, 5), st.floats(0.1, 10))
@settings(max_examples=100, deadline=None)
def test_intervals_of_means_move_and_stretch_with_the_values(data, shift, scale):
    _, p, codes = data
    one = statistics.interval(statistics.mean(p, codes))
    other = statistics.interval(statistics.mean(p * scale + shift, codes))
    if one.low is not None:
        assert math.isclose(other.low, one.low * scale + shift, abs_tol=1e-7)
        assert math.isclose(other.high, one.high * scale + shift, abs_tol=1e-7)
