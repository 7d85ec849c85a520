"""Profiles: bins, counts, the days' noise."""

from __future__ import annotations

import msgspec
import numpy as np
import polars as pl
import pytest

from kilter.core.errors import InsufficientData, InvalidInput
from kilter.evaluation.declare import recall
from kilter.monitoring.profile import (
    CategoricalBins,
    NumericBins,
    ReferenceProfile,
    as_words,
    categorical_bins,
    count,
    count_blocks,
    metric_key,
    numeric_bins,
    numeric_edges,
    profile_inputs,
    sampling_noise,
)
from kilter.monitoring.reference import reference_profile


def one_day(rows: int) -> np.ndarray:
    return np.zeros(rows, dtype=np.int64)


def test_bins_of_a_continuous_column_have_equal_counts() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    found = numeric_bins("x", pl.Series(values), one_day(10_000))
    assert len(found.edges) == 9
    assert found.counts[:-1] == pytest.approx([1000] * 10, abs=2)
    assert found.counts[-1] == 0


def test_a_column_of_few_values_has_a_bin_for_each() -> None:
    found = numeric_bins("weekday", pl.Series([1, 2, 3, 4, 5, 6, 7] * 3), one_day(21))
    assert found.edges == (1.5, 2.5, 3.5, 4.5, 5.5, 6.5)
    assert found.counts == (3, 3, 3, 3, 3, 3, 3, 0)


@pytest.mark.parametrize("values", [[], [None, None], [5.0, 5.0], [float("nan"), 1.0], [0.0] * 50 + [1.0]])
def test_degenerate_columns_still_have_bins(values: list[float | None]) -> None:
    found = numeric_bins("x", pl.Series("x", values, dtype=pl.Float64), one_day(len(values)))
    assert sum(found.counts) == len(values)
    assert len(found.labels()) == len(found.counts)


def test_a_mass_point_at_the_top_leaves_no_bin_empty() -> None:
    assert numeric_edges(np.array([*range(5), *([9.0] * 95)]), 10) == (0.5, 1.5, 2.5, 3.5, 6.5)
    edges = numeric_edges(np.array([*range(20), *([90.0] * 80)], dtype=float), 10)
    assert max(edges) < 90


def test_missing_and_infinite_values_have_their_place() -> None:
    bins = NumericBins("x", (0.0, 1.0), ())
    codes = bins.codes(pl.Series([-5.0, 0.0, 0.5, 1.0, 2.0, None, float("nan"), float("inf"), float("-inf")]))
    assert codes.tolist() == [0, 0, 1, 1, 2, 3, 3, 2, 0]


def test_categories_beyond_the_top_are_other() -> None:
    column = pl.Series(["a"] * 5 + ["b"] * 3 + ["c"] * 2 + [None])
    found = categorical_bins("carrier", column, one_day(11), top=2)
    assert found.values == ("a", "b")
    assert found.counts == (5, 3, 2, 1)
    assert found.codes(pl.Series(["b", "zz", None])).tolist() == [1, 2, 3]
    assert CategoricalBins("x", (), ()).codes(pl.Series(["b", None])).tolist() == [0, 1]


def test_whole_floats_are_the_same_category_as_integers() -> None:
    assert as_words(pl.Series([1.0, None, 3.0])).to_list() == ["1", None, "3"]
    assert as_words(pl.Series([1, 3])).to_list() == ["1", "3"]
    assert as_words(pl.Series([1.5, 3.0])).to_list() == ["1.5", "3.0"]


def test_booleans_are_numeric_and_text_is_categorical() -> None:
    frame = pl.DataFrame({"flag": [True, False, None], "name": ["a", "b", "a"], "code": [1, 2, 1]})
    flag, name, code = profile_inputs(frame, one_day(3))
    assert isinstance(flag, NumericBins)
    assert flag.counts == (1, 1, 1)
    assert isinstance(name, CategoricalBins)
    assert isinstance(code, NumericBins)
    assert isinstance(profile_inputs(frame, one_day(3), categorical=["code"])[2], CategoricalBins)


def test_no_rows_make_no_profile() -> None:
    with pytest.raises(InsufficientData, match="no rows"):
        profile_inputs(pl.DataFrame({"x": []}, schema={"x": pl.Float64}), one_day(0))


def test_the_noise_of_independent_rows_is_bins_less_one_over_rows() -> None:
    generator = np.random.default_rng(5)
    found = [
        sampling_noise(count_blocks(generator.integers(0, 10, 30_000), np.arange(30_000) % 60, 10)) for _ in range(30)
    ]
    assert np.mean(found) == pytest.approx(9 / 30_000, rel=0.1)


def test_the_noise_of_days_that_are_alike_within_is_that_of_days() -> None:
    # Every day has one value only: 60 days are 60 observations, however many rows they have.
    codes = np.repeat(np.random.default_rng(6).integers(0, 4, 60), 500)
    assert sampling_noise(count_blocks(codes, np.repeat(np.arange(60), 500), 4)) == pytest.approx(3 / 60, rel=0.1)


def test_noise_needs_something_to_see() -> None:
    assert sampling_noise(np.zeros((5, 3), dtype=np.int64)) == 0.0
    assert sampling_noise(np.array([[5, 0, 0], [7, 0, 0]])) == 0.0
    assert sampling_noise(np.array([[50, 50]])) == pytest.approx(1 / 100)


def test_counting_finds_prefixed_columns_and_passes_over_absent_ones() -> None:
    bins = {"x": NumericBins("x", (0.0,), ()), "gone": NumericBins("gone", (0.0,), ())}
    bins = {name: msgspec.structs.replace(found, counts=(0, 0, 0)) for name, found in bins.items()}
    found = count(bins, pl.DataFrame({"x_x": [-1.0, 1.0, None]}), np.array([7, 8, 8]), prefix="x_")
    assert list(found) == ["x"]
    assert found["x"].tolist() == [[1, 0, 0], [0, 1, 1]]


def test_a_profile_survives_json_and_names_its_inputs() -> None:
    generator = np.random.default_rng(7)
    start = np.datetime64("2013-01-01", "us")
    times = start + generator.integers(0, 60 * 86_400, 5000) * np.timedelta64(1_000_000, "us")
    labels = generator.integers(0, 2, 5000).astype(float)
    holdout = np.datetime64("2013-03-02", "us") + generator.integers(0, 7 * 86_400, 900) * np.timedelta64(
        1_000_000, "us"
    )
    truth = generator.integers(0, 2, 900).astype(float)
    made = reference_profile(
        pl.DataFrame({"delay": generator.normal(size=5000), "carrier": generator.choice(["AA", "UA"], 5000)}),
        times,
        labels,
        holdout_times=holdout,
        holdout_values=np.clip(truth * 0.4 + generator.uniform(0, 0.6, 900), 0, 1),
        holdout_labels=truth,
    )
    again = msgspec.json.decode(msgspec.json.encode(made), type=ReferenceProfile)
    assert again == made
    assert set(made.holdout) == {"log_loss", "brier", "auc", "accuracy", "recall", "precision"}
    held = made.holdout["auc"]
    assert held.low is not None
    assert held.high is not None
    assert held.low < held.value < held.high
    assert made.days == 60
    assert made.bins("prediction").name == "prediction"
    with pytest.raises(InvalidInput, match="delay, carrier"):
        made.bins("nothing")


def test_a_metric_at_another_threshold_has_its_own_place() -> None:
    assert metric_key(recall) == "recall"
    assert metric_key(recall.at(0.3)) == "recall@0.3"
