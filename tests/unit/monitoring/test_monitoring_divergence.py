"""Distances on counts against brute force and scipy."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2, false_discovery_control, ks_2samp

from kilter.monitoring.divergence import benjamini_hochberg, chi_square_tail, js, ks, psi, psi_rows
from kilter.monitoring.profile import NumericBins, numeric_bins


def brute_psi(reference: list[int], current: list[int]) -> float:
    used = [k for k in range(len(reference)) if reference[k] or current[k]]
    before = [(reference[k] + 0.5) / (sum(reference) + 0.5 * len(used)) for k in used]
    after = [(current[k] + 0.5) / (sum(current) + 0.5 * len(used)) for k in used]
    return sum((q - p) * math.log(q / p) for p, q in zip(before, after, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_psi_and_js_equal_a_brute_force(seed: int) -> None:
    generator = np.random.default_rng(seed)
    reference = generator.integers(0, 200, 12)
    current = generator.integers(0, 50, 12)
    reference[generator.integers(0, 12)] = 0
    current[generator.integers(0, 12)] = 0
    assert psi(reference, current) == pytest.approx(brute_psi(reference.tolist(), current.tolist()), rel=1e-12)
    assert js(reference, current) == pytest.approx(jensenshannon(reference, current, base=2), rel=1e-9)


def test_psi_of_many_rows_is_the_psi_of_each() -> None:
    reference = np.array([50, 30, 20])
    rows = np.array([[10, 20, 30], [5, 5, 5]])
    assert psi_rows(reference, rows).tolist() == pytest.approx([psi(reference, row) for row in rows])


def test_equal_counts_have_no_distance_and_disjoint_ones_the_greatest() -> None:
    counts = np.array([5, 0, 7, 0])
    assert psi(counts, counts) == 0.0
    assert js(counts, counts) == 0.0
    assert ks(counts, counts) == 0.0
    assert js(np.array([5, 0, 0]), np.array([0, 9, 0])) == pytest.approx(1.0)
    assert math.isfinite(psi(np.array([5, 0, 0]), np.array([0, 9, 0])))


def test_nothing_counted_has_no_distance() -> None:
    empty = np.zeros(4, dtype=np.int64)
    assert psi(empty, empty) == 0.0
    assert js(empty, np.array([1, 2, 3, 0])) == 0.0
    assert ks(np.array([0, 0, 0, 9]), np.array([1, 2, 3, 0])) == 0.0


@pytest.mark.parametrize("bins", [10, 4096])
def test_ks_on_bins_is_below_the_exact_one_by_at_most_a_bin(bins: int) -> None:
    generator = np.random.default_rng(3)
    before, after = generator.normal(0, 1, 20_000), generator.normal(0.2, 1.1, 15_000)
    found = numeric_bins("x", pl.Series(before), np.zeros(20_000, dtype=np.int64), bins=bins)
    codes = found.codes(pl.Series(after))
    measured = ks(np.array(found.counts), np.bincount(codes, minlength=len(found.counts)))
    exact = ks_2samp(before, after).statistic
    assert measured <= exact + 1e-12
    assert exact - measured <= 1.5 / bins


def test_ks_is_exact_when_every_value_has_its_bin() -> None:
    generator = np.random.default_rng(4)
    before, after = generator.integers(0, 7, 500).astype(float), generator.integers(1, 9, 400).astype(float)
    edges = tuple(np.unique(np.concatenate([before, after]))[:-1].tolist())
    bins = NumericBins("x", edges, ())
    counted = [np.bincount(bins.codes(pl.Series(values)), minlength=len(edges) + 2) for values in (before, after)]
    assert ks(*counted) == pytest.approx(ks_2samp(before, after).statistic, abs=1e-12)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 10, 11, 30, 31])
def test_chi_square_tail_is_scipys(freedom: int) -> None:
    for value in (0.01, 0.5, 1.0, 3.0, 10.0, 40.0, 150.0):
        assert chi_square_tail(value, freedom) == pytest.approx(chi2.sf(value, freedom), rel=1e-9, abs=1e-300)
    assert chi_square_tail(0.0, freedom) == 1.0
    assert chi_square_tail(5000.0, freedom) == 0.0


def test_benjamini_hochberg_is_scipys() -> None:
    chances = np.random.default_rng(1).uniform(0, 1, 30) ** 3
    assert benjamini_hochberg(chances) == pytest.approx(false_discovery_control(chances))
    assert benjamini_hochberg(np.zeros(0)).size == 0
