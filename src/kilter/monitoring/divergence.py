"""Distances between two distributions that were counted on the same bins. Pure numpy; a hundred bins cost microseconds.

PSI is the effect size that monitors act on; JS and KS are there to be looked at.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kilter.monitoring.profile import Counts


def shares(counts: Counts | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of each bin, with half a row added to every bin (the Jeffreys prior).

    The half row keeps an empty bin from making PSI infinite, and fades as rows come in; a fixed floor such as 0.0001 would not.
    """
    bins = counts.shape[-1]
    rows = counts.sum(axis=-1, keepdims=True)
    smoothed: NDArray[np.float64] = (counts + 0.5) / (rows + 0.5 * bins)
    return smoothed


def psi(reference: Counts, current: Counts) -> float:
    """Return the population stability index: ``sum((q - p) * ln(q / p))`` over the bins that either side uses.

    Below 0.1 is commonly called stable and above 0.2 a shift (Lewis 1994); the index is the symmetric Kullback-Leibler divergence
    of Jeffreys (1946), in nats.

    Args:
        reference: Counts per bin.
        current: Counts per bin, or per replicate and bin: see ``psi_rows``.
    """
    return float(psi_rows(reference, current[np.newaxis, :])[0])


def psi_rows(reference: Counts, current: Counts | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the PSI of each row of ``current`` (replicates, bins) against one ``reference`` (bins,)."""
    used = (reference > 0) | (current.sum(axis=0) > 0)
    if int(used.sum()) < 2:
        return np.zeros(current.shape[0])
    before = shares(reference[used])
    after = shares(current[:, used])
    result: NDArray[np.float64] = ((after - before) * np.log(after / before)).sum(axis=1)
    return result


def js(reference: Counts, current: Counts) -> float:
    """Return the Jensen-Shannon distance: the square root of the divergence in bits; 0 is equal, 1 is disjoint.

    Source: Lin (1991), IEEE Transactions on Information Theory 37.
    """
    if reference.sum() == 0 or current.sum() == 0:
        return 0.0
    before = reference / reference.sum()
    after = current / current.sum()
    middle = (before + after) / 2
    total = 0.0
    for side in (before, after):
        used = side > 0
        total += 0.5 * float((side[used] * np.log2(side[used] / middle[used])).sum())
    return math.sqrt(min(max(total, 0.0), 1.0))


def ks(reference: Counts, current: Counts) -> float:
    """Return the Kolmogorov-Smirnov distance on the bins, which must be in order: the greatest gap between the cumulative shares.

    Never more than the exact distance of the values, and less by at most the largest share of one bin. The last bin (missing
    values) is left out on both sides.
    """
    before, after = reference[:-1], current[:-1]
    if before.sum() == 0 or after.sum() == 0:
        return 0.0
    return float(np.abs(np.cumsum(before) / before.sum() - np.cumsum(after) / after.sum()).max())


def chi_square_tail(value: float, freedom: int) -> float:
    """Return the probability that a chi-square variable exceeds ``value``.

    The upper incomplete gamma function for half-integers by its recurrence (Abramowitz and Stegun 26.4.4 and 26.4.5).

    Args:
        value: The statistic, 0 or more.
        freedom: Degrees of freedom, 1 or more.
    """
    if value <= 0:
        return 1.0
    half = value / 2
    if half > 700:
        return 0.0
    odd = freedom % 2 == 1
    tail = math.erfc(math.sqrt(half)) if odd else math.exp(-half)
    order = 0.5 if odd else 1.0
    term = math.exp(-half) * (math.sqrt(half) / math.gamma(1.5) if odd else half)
    while order < freedom / 2:
        tail += term
        order += 1.0
        term *= half / order
    return min(1.0, tail)


def benjamini_hochberg(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the adjusted p-values that hold the false discovery rate over all tests.

    Source: Benjamini and Hochberg (1995), Journal of the Royal Statistical Society B 57.

    Args:
        chances: The p-values, any order.
    """
    tests = chances.size
    if tests == 0:
        return chances
    order = np.argsort(chances)
    scaled = chances[order] * tests / np.arange(1, tests + 1)
    adjusted = np.empty(tests)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return adjusted
