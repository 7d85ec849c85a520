"""Counts on fixed bins add up exactly, in any grouping."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from kilter.monitoring.divergence import js, ks, psi
from kilter.monitoring.profile import Bins, categorical_bins, count_blocks, numeric_bins

NUMBERS = st.lists(st.none() | st.floats(width=32), min_size=1, max_size=60)
WORDS = st.lists(st.none() | st.sampled_from(["a", "b", "c", "d", ""]), min_size=1, max_size=60)


def zeros(values: list[object]) -> np.ndarray:
    return np.zeros(len(values), dtype=np.int64)


def check(bins: Bins, column: pl.Series, days: np.ndarray) -> None:
    size = len(bins.counts)
    whole = np.bincount(bins.codes(column), minlength=size)
    counted = count_blocks(bins.codes(column), days, size)
    assert counted.sum(axis=0).tolist() == whole.tolist()
    assert counted.sum() == column.len()
    for cut in range(counted.shape[0] + 1):
        assert (counted[:cut].sum(axis=0) + counted[cut:].sum(axis=0)).tolist() == whole.tolist()


@given(NUMBERS, st.lists(st.none() | st.floats(width=32), min_size=1, max_size=60), st.randoms(), st.integers(2, 12))
def test_days_of_a_numeric_column_add_up(reference, values, random, most) -> None:
    bins = numeric_bins("x", pl.Series(reference, dtype=pl.Float64), zeros(reference), bins=most)
    assert sum(bins.counts) == len(reference)
    assert list(bins.edges) == sorted(set(bins.edges))
    check(bins, pl.Series(values, dtype=pl.Float64), np.array([random.randrange(5) for _ in values]))


@given(WORDS, WORDS, st.randoms(), st.integers(0, 4))
def test_days_of_a_categorical_column_add_up(reference, values, random, top) -> None:
    bins = categorical_bins("x", pl.Series(reference, dtype=pl.String), zeros(reference), top=top)
    assert sum(bins.counts) == len(reference)
    check(bins, pl.Series(values, dtype=pl.String), np.array([random.randrange(5) for _ in values]))


COUNTS = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=2, max_size=20)


@given(COUNTS)
def test_distances_are_finite_and_never_negative(pairs) -> None:
    reference, current = (np.array(side) for side in zip(*pairs, strict=True))
    assert 0.0 <= psi(reference, current) < np.inf
    assert 0.0 <= js(reference, current) <= 1.0
    assert 0.0 <= ks(reference, current) <= 1.0
    assert psi(reference, reference) == 0.0
