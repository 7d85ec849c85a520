from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from kilter.core.errors import InvalidInput
from kilter.evaluation.declare import auc, log_loss
from kilter.release.declare import Agreement
from kilter.release.shadow import look

START = datetime(2013, 4, 27, 10, tzinfo=UTC)


def joined(seed=0, days=14, per_day=300, *, ours=1.0, theirs=0.5, weather=0.4):
    rng = np.random.default_rng(seed)
    n = days * per_day
    day = np.repeat(np.arange(days), per_day)
    signal = rng.normal(size=n)
    label = (rng.random(n) < 1 / (1 + np.exp(-(signal - 1.2 + rng.normal(0, weather, days)[day])))).astype(float)
    predict = lambda k: 1 / (1 + np.exp(-(k * signal - 1.2)))  # noqa: E731
    times = [
        START + timedelta(days=int(d), seconds=int(s)) for d, s in zip(day, rng.integers(0, 40_000, n), strict=True)
    ]
    return pl.DataFrame(
        {"time": times, "arm": "champion", "value": predict(theirs), "label": label, "shadow_value": predict(ours)},
        schema_overrides={"time": pl.Datetime("us", "UTC")},
    )


def test_a_better_shadow_passes_a_worse_one_fails_and_the_same_stays_open():
    better = look(joined(), log_loss, 0.95, 1)
    assert (better.verdict, better.allowed, better.rows) == ("pass", "< 0", 4200)
    assert better.value.high < 0
    assert better.value.estimate == pytest.approx(better.detail["challenger"] - better.detail["champion"])
    assert look(joined(ours=0.5, theirs=1.0), log_loss, 0.95, 1).verdict == "fail"
    assert look(joined(ours=1.0, theirs=1.0), log_loss, 0.95, 1).verdict == "inconclusive"


def test_metrics_where_more_is_better_turn_the_sign():
    found = look(joined(ours=1.0, theirs=-0.5), auc, 0.95, 1)
    assert (found.verdict, found.allowed) == ("pass", "> 0")
    assert look(joined(ours=-0.5, theirs=1.0), auc, 0.95, 1).verdict == "fail"


def test_later_looks_spend_less_of_the_error_and_ask_for_more():
    frame = joined()
    first, third = look(frame, log_loss, 0.95, 1), look(frame, log_loss, 0.95, 3)
    assert first.detail["error_of_this_look"] == pytest.approx(0.025)
    assert third.detail["error_of_this_look"] == pytest.approx(0.05 / 8)
    assert third.value.high > first.value.high
    assert sum(0.05 / 2**k for k in range(1, 60)) <= 0.05


def test_all_looks_together_err_as_rarely_as_declared():
    wrong_better = wrong_worse = 0
    runs = 150
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        frame = joined(seed, days=28, per_day=40, ours=1.0, theirs=1.0)
        day = np.repeat(np.arange(28), 40)
        noise = rng.normal(0, 0.03, 28)[day]
        frame = frame.with_columns(shadow_value=(pl.col("value") + pl.Series(noise)).clip(0.001, 0.999))
        frame = frame.with_columns(value=(pl.col("value") - pl.Series(noise)).clip(0.001, 0.999))
        verdicts = {
            look(frame[: 40 * days], log_loss, 0.95, k).verdict for k, days in enumerate((14, 18, 21, 25, 28), 1)
        }
        wrong_better += "pass" in verdicts
        wrong_worse += "fail" in verdicts
    assert wrong_better / runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)
    assert wrong_worse / runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


def test_rows_without_a_pair_are_left_out_and_counted():
    frame = joined(days=8, per_day=100)
    row = pl.int_range(pl.len())
    frame = frame.with_columns(
        label=pl.when(row < 10).then(None).otherwise(pl.col("label")),
        shadow_value=pl.when((row >= 10) & (row < 30)).then(None).otherwise(pl.col("shadow_value")),
        arm=pl.when((row >= 30) & (row < 35)).then(pl.lit("fallback")).otherwise(pl.col("arm")),
    )
    found = look(frame, log_loss, 0.95, 1)
    assert (found.rows, found.detail["left_out"]) == (765, 35)


def test_too_little_to_say_is_inconclusive_with_its_reason():
    empty = look(joined().clear(), log_loss, 0.95, 1)
    assert (empty.verdict, empty.rows) == ("inconclusive", 0)
    assert "no rows" in empty.detail["reason"]
    one_day = look(joined(days=1), log_loss, 0.95, 1)
    assert (one_day.verdict, one_day.value.high) == ("inconclusive", None)
    one_class = look(joined().with_columns(label=pl.lit(0.0)), auc, 0.95, 1)
    assert one_class.verdict == "inconclusive"


@pytest.mark.parametrize(("number", "confidence"), [(0, 0.95), (1, 95)])
def test_looks_count_from_one(number, confidence):
    with pytest.raises(InvalidInput, match="looks from 1"):
        look(joined(), log_loss, confidence, number)


def test_answers_that_are_too_far_apart_fail_though_the_labels_are_better():
    frame = joined()
    assert look(frame, log_loss, 0.95, 1).verdict == "pass"
    found = look(frame, log_loss, 0.95, 1, guards=(Agreement(within=0.02),))
    assert (found.name, found.verdict) == ("shadow guard agreement", "fail")
    assert found.value.low > 0.02
    assert found.detail["mean_distance"] == pytest.approx(found.value.estimate)
    assert 0.5 < found.detail["same_decision"] < 1.0
    assert look(frame, log_loss, 0.95, 1, guards=(Agreement(within=0.3),)).verdict == "pass"
