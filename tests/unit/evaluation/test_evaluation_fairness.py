from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from kilter.core import statistics
from kilter.evaluation import fairness
from kilter.evaluation.context import GateContext
from kilter.evaluation.declare import auc, brier, fair, recall
from kilter.evaluation.gates import judge

CARRIERS = np.array([412, 377, 200, 130, 128, 125, 108, 64])


def gap_of(rng, days, tilt, *, bad_days=0.6, own_days=0.3):
    """Recall per carrier and day, with a week's number of late flights, bad days for all, and days of each carrier's own."""
    positives = rng.poisson(CARRIERS / 7 * np.exp(rng.normal(0, 0.7, (days, 1))))
    logit = -1.6 + rng.normal(0, bad_days, (days, 1)) + rng.normal(0, own_days, (days, CARRIERS.size)) + tilt
    found = rng.binomial(positives, 1 / (1 + np.exp(-logit)))
    groups = []
    for index in range(CARRIERS.size):
        one = statistics.Ratio(found[:, index].astype(float), positives[:, index].astype(float))
        support = int(positives[:, index].sum())
        error = statistics.standard_error(one)
        if math.isfinite(error):
            value = statistics.estimate(one)
            floor = fairness._floor(recall, value, support)
            groups.append(fairness.Group(str(index), support, value, max(error, floor), floor, one))
    return fairness.gap(groups, confidence=0.95, seed=0)


@pytest.mark.parametrize("days", [7, 14])
def test_small_groups_do_not_make_a_fair_model_unfair(days):
    rng = np.random.default_rng(days)
    found = [gap_of(rng, days, 0.0) for _ in range(150)]
    assert np.mean([one.raw for one in found]) > 0.06
    assert np.mean([one.value.estimate for one in found]) < 0.025
    assert np.mean([one.value.low > 0 for one in found]) <= 0.07
    assert not any(one.value.low > 0.15 for one in found)


def test_a_real_gap_is_found_and_named():
    rng = np.random.default_rng(2)
    tilt = np.zeros(CARRIERS.size)
    tilt[1] = 2.0
    found = [gap_of(rng, 14, tilt) for _ in range(40)]
    assert np.mean([one.value.low > 0.15 for one in found]) > 0.9
    assert all(one.best.name == "1" for one in found)
    truth = 0.45
    assert np.mean([one.value.low <= truth <= one.value.high for one in found]) > 0.9


def context(y, p, carrier, days):
    codes = np.arange(y.size) % days
    times = np.datetime64("2013-03-01T12:00", "us") + codes * np.timedelta64(86400, "s")
    return GateContext(y, p, None, times, pl.DataFrame({"carrier": carrier}), 0.3)


def test_a_group_that_is_never_caught_fails_and_a_fair_one_passes():
    rng = np.random.default_rng(3)
    n = 40_000
    y = (rng.random(n) < 0.4).astype(float)
    carrier = rng.choice(["AA", "B6"], n)
    p = np.where(rng.random(n) < 0.7, 0.8, 0.2)
    gate = fair(by="carrier", metric=recall, max_gap=0.1)
    even = judge([gate], context(y, p, carrier, 14))[0]
    assert even.verdict == "pass"
    biased = judge([gate], context(y, np.where(carrier == "AA", 0.1, p), carrier, 14))[0]
    assert biased.verdict == "fail"
    assert (biased.detail["best"], biased.detail["worst"]) == ("B6", "AA")
    assert biased.detail["group:AA"] == 0.0


def test_groups_without_support_are_left_out_and_named():
    rng = np.random.default_rng(4)
    y = (rng.random(2000) < 0.4).astype(float)
    carrier = np.where(np.arange(2000) < 20, "HA", np.where(np.arange(2000) % 2 == 0, "AA", "B6"))
    found = judge([fair(by="carrier", metric=brier, max_gap=0.5)], context(y, np.full(2000, 0.4), carrier, 7))[0]
    assert found.detail["left_out"] == "HA (20)"
    assert found.detail["groups"] == 2


def test_groups_that_are_missing_on_some_days_and_null_groups_are_compared_too():
    rng = np.random.default_rng(5)
    y = (rng.random(4000) < 0.4).astype(float)
    p = np.clip(0.4 + 0.2 * (y - 0.4) + rng.normal(0, 0.2, 4000), 0, 1)
    carrier = [None if i % 7 > 4 and i % 2 else "AA" for i in range(4000)]
    found = judge([fair(by="carrier", metric=auc, max_gap=0.5)], context(y, p, carrier, 7))[0]
    assert found.verdict == "pass", found.sentence()
    assert "group:(missing)" in found.detail
