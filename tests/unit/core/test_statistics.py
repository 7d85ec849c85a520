from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from kilter.core import statistics
from kilter.core.errors import InsufficientData, InvalidInput

HOUR = np.timedelta64(1, "h")


def flights_like(rng, days, per_day=6000, base=0.25):
    codes = np.repeat(np.arange(days), per_day)
    weather = rng.normal(0, 0.7, days)[codes]
    score = 1 / (1 + np.exp(-(rng.normal(-1.1, 0.8, codes.size))))
    y = (rng.random(codes.size) < 1 / (1 + np.exp(-(np.log(score / (1 - score)) + weather)))).astype(float)
    return y, score, codes


@pytest.mark.parametrize("dof", [1, 2, 3, 4, 6, 7, 13, 30, 150, 200, 201, 1000])
@pytest.mark.parametrize("level", [0.5, 0.6, 0.9, 0.95, 0.975, 0.999, 0.99995, 0.03])
def test_students_quantile_agrees_with_scipy(dof, level):
    assert statistics.student_quantile(level, dof) == pytest.approx(stats.t.ppf(level, dof), rel=1e-6, abs=1e-7)


def test_students_quantile_without_degrees_of_freedom_is_infinite():
    assert statistics.student_quantile(0.9, 0) == math.inf
    assert statistics.student_quantile(1.0, 5) == math.inf


def test_auc_by_blocks_agrees_with_sklearn_also_with_ties_and_weights():
    rng = np.random.default_rng(1)
    y, score, codes = flights_like(rng, 7, 500)
    score = score.round(2)
    auc = statistics.pairs(y, score, codes)
    assert statistics.estimate(auc) == pytest.approx(roc_auc_score(y, score), abs=1e-12)
    weights = np.array([2.0, 0.0, 1.0, 1.0, 3.0, 0.0, 0.0])
    assert auc.at(weights[None])[0] == pytest.approx(roc_auc_score(y, score, sample_weight=weights[codes]), abs=1e-12)


def test_a_ratio_under_weights_is_the_ratio_of_the_repeated_rows():
    rng = np.random.default_rng(2)
    above, below, codes = rng.random(300), rng.random(300), rng.integers(0, 5, 300)
    found = statistics.ratio(above, below, codes)
    weights = np.array([1.0, 2.0, 0.0, 3.0, 1.0])
    rows = weights[codes]
    assert found.at(weights[None])[0] == pytest.approx((rows * above).sum() / (rows * below).sum())


def test_with_equal_days_few_blocks_give_students_interval_of_the_daily_means():
    rng = np.random.default_rng(3)
    values, codes = rng.normal(size=700), np.repeat(np.arange(7), 100)
    daily = values.reshape(7, 100).mean(axis=1)
    expected = stats.t.interval(0.95, 6, daily.mean(), stats.sem(daily))
    found = statistics.interval(statistics.mean(values, codes))
    assert (found.low, found.high) == pytest.approx(expected)


def test_bca_of_many_blocks_agrees_with_scipy_up_to_its_expansion():
    rng = np.random.default_rng(4)
    daily = rng.exponential(1.0, 200)
    theirs = stats.bootstrap((daily,), np.mean, method="BCa", n_resamples=9999, rng=rng).confidence_interval
    found = statistics.interval(statistics.mean(daily, np.arange(200)), resamples=9999)
    width = theirs.high - theirs.low
    assert found.low == pytest.approx(theirs.low, abs=0.06 * width)
    assert found.high == pytest.approx(theirs.high, abs=0.06 * width)


@pytest.mark.parametrize("days", [3, 5, 7, 8, 14, 30])
@pytest.mark.parametrize("shape", ["even", "uneven", "skewed"])
def test_intervals_cover_what_they_promise_when_rows_of_a_day_are_alike(days, shape):
    rng = np.random.default_rng(100 * days + len(shape))
    runs, covered, naive = 600, 0, 0
    for _ in range(runs):
        effect = rng.exponential(0.3, days) - 0.3 if shape == "skewed" else rng.normal(0, 0.3, days)
        rows = rng.integers(33, 200, days) if shape == "uneven" else np.full(days, 100)
        codes = np.repeat(np.arange(days), rows)
        values = effect[codes] + rng.normal(0, 1, codes.size)
        found = statistics.interval(statistics.mean(values, codes))
        covered += found.low <= 0.0 <= found.high
        naive += abs(values.mean()) <= 1.96 * values.std() / math.sqrt(values.size)
    floor = 0.88 if shape == "skewed" else 0.91
    assert floor <= covered / runs <= 0.99
    assert naive / runs < 0.65


@pytest.mark.parametrize("days", [7, 14])
def test_intervals_of_the_auc_cover_when_days_differ(days):
    rng = np.random.default_rng(days)
    runs, covered = 300, 0
    separation = rng.normal(1.0, 0.25, 4000)
    truth = float(stats.norm.cdf(separation / math.sqrt(2)).mean())
    for _ in range(runs):
        codes = np.repeat(np.arange(days), 200)
        y = (rng.random(codes.size) < 0.3).astype(float)
        score = rng.normal(size=codes.size) + y * rng.normal(1.0, 0.25, days)[codes]
        found = statistics.interval(statistics.pairs(y, score, codes))
        covered += found.low <= truth <= found.high
    assert 0.91 <= covered / runs <= 0.99


def test_a_one_sided_bound_is_the_end_of_the_wider_interval():
    rng = np.random.default_rng(5)
    one = statistics.mean(rng.normal(size=400), np.repeat(np.arange(20), 20))
    both = statistics.interval(one, level=0.9)
    upper = statistics.interval(one, level=0.95, side="upper")
    lower = statistics.interval(one, level=0.95, side="lower")
    assert (upper.low, upper.high) == (None, pytest.approx(both.high))
    assert (lower.low, lower.high) == (pytest.approx(both.low), None)


def test_one_block_has_no_finite_interval():
    found = statistics.interval(statistics.mean(np.ones(10), np.zeros(10, dtype=np.int64)))
    assert (found.estimate, found.low, found.high) == (1.0, None, None)


def test_a_statistic_that_hangs_on_one_block_has_no_finite_interval():
    y = np.array([1.0, 0.0, 0.0, 0.0])
    found = statistics.interval(statistics.pairs(y, np.array([0.9, 0.1, 0.2, 0.3]), np.array([0, 0, 1, 2])))
    assert (found.estimate, found.low, found.high) == (1.0, None, None)


def test_identical_answers_have_a_difference_of_exactly_zero():
    found = statistics.interval(statistics.mean(np.zeros(80), np.repeat(np.arange(8), 10)))
    assert (found.low, found.high) == (0.0, 0.0)


def test_bounds_cut_the_ends():
    values = np.array([0.0, 0.0, 1.0])
    found = statistics.interval(statistics.mean(values, np.arange(3)), bounds=(0.0, 1.0))
    assert (found.low, found.high) == (0.0, 1.0)


def test_what_cannot_be_estimated_says_so():
    with pytest.raises(InsufficientData, match="does not exist"):
        statistics.interval(statistics.pairs(np.zeros(4), np.ones(4), np.arange(4)))
    with pytest.raises(InvalidInput, match="not a confidence level"):
        statistics.interval(statistics.mean(np.ones(4), np.arange(4)), level=95)
    with pytest.raises(InsufficientData, match="no rows"):
        statistics.mean(np.empty(0), np.empty(0, dtype=np.int64))


def test_days_are_cut_where_the_night_is_whatever_the_time_zone():
    local = (
        np.datetime64("2013-03-01T06:00")
        + np.arange(7 * 18) // 18 * np.timedelta64(24, "h")
        + np.arange(7 * 18) % 18 * HOUR
    )
    for offset in (-9, -5, 0, 5, 8):
        codes = statistics.block_codes((local - offset * HOUR).astype("datetime64[us]"), "day")
        assert np.array_equal(codes, np.repeat(np.arange(7), 18))


def test_hours_and_weeks_are_blocks_too():
    times = np.datetime64("2013-03-04T00:00", "us") + np.arange(24 * 28) * HOUR
    assert statistics.block_codes(times, "hour").max() == 24 * 28 - 1
    assert np.array_equal(np.bincount(statistics.block_codes(times, "week")), [168, 168, 168, 168])
    with pytest.raises(InsufficientData):
        statistics.block_codes(times[:0], "day")


def test_the_same_seed_gives_the_same_interval_and_another_nearly():
    rng = np.random.default_rng(6)
    one = statistics.mean(rng.normal(size=400), np.repeat(np.arange(20), 20))
    assert statistics.interval(one, seed=1) == statistics.interval(one, seed=1)
    assert statistics.interval(one, seed=1).low == pytest.approx(statistics.interval(one, seed=2).low, abs=0.05)
