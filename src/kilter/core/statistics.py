"""Intervals for data that come in blocks.

Rows of one day (or one hour, one week) are not independent, so nothing here ever treats a row as a unit of evidence: a
statistic is a function of *block weights*, and its uncertainty is what happens to it when whole blocks are left out or
drawn again. Every statistic offers ``at(weights)`` for many weightings at once, which makes 2,000 resamples of 40,000
rows cost a few milliseconds:

- `Ratio`: a sum over a sum (means, paired mean differences, log loss, Brier, accuracy, recall, calibration gap);
- `Pairs`: the AUC, exactly, as a quadratic form in the block weights;
- `Difference`: one statistic minus another under the same weights (paired comparison).

Sources: cluster jackknife with Student quantiles for few blocks (MacKinnon, Nielsen & Webb 2023, "Fast and reliable
jackknife and bootstrap methods for cluster-robust inference", J. Appl. Econometrics 38); BCa bootstrap (Efron 1987,
JASA 82) with quantiles expanded for the number of blocks (Hesterberg 2015, "What Teachers Should Know About the
Bootstrap", Am. Statistician 69).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from kilter.core.errors import InsufficientData, InvalidInput
from kilter.core.evidence import Interval

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Side = Literal["both", "upper", "lower"]
BlockSize = Literal["hour", "day", "week"]

FEW_BLOCKS = 8
RESAMPLES = 2000
_NORMAL = NormalDist()
_HOUR = 3_600_000_000
_EXACT_DOF = 200


class Statistic(Protocol):
    """A number computed from blocks of rows, as a function of how often each block counts."""

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        ...

    def at(self, weights: Floats) -> Floats:
        """Return the statistic for each row of ``weights``.

        Args:
            weights: How often each block counts, shape (weightings, blocks).

        Returns:
            Shape (weightings,); NaN where the statistic does not exist.
        """
        ...


@dataclass(frozen=True)
class Ratio:
    """A sum over a sum.

    Args:
        numerator: Per block, shape (blocks,).
        denominator: Per block, shape (blocks,).
    """

    numerator: Floats
    denominator: Floats

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return len(self.numerator)

    def at(self, weights: Floats) -> Floats:
        """Return the ratio for each weighting."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Floats = np.asarray(weights @ self.numerator, dtype=np.float64) / (weights @ self.denominator)
        return np.where(np.isfinite(found), found, np.nan)


@dataclass(frozen=True)
class Pairs:
    """The area under the ROC curve: the share of (positive, negative) pairs that the scores order rightly.

    With ``C[g, h]`` the rightly ordered pairs of a positive in block g and a negative in block h (ties count half), the
    AUC under block weights w is ``w'Cw / (w'P)(w'N)``: exact, without sorting again.

    Args:
        ordered: Rightly ordered pairs, shape (blocks, blocks).
        positives: Per block, shape (blocks,).
        negatives: Per block, shape (blocks,).
    """

    ordered: Floats
    positives: Floats
    negatives: Floats

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return len(self.positives)

    def at(self, weights: Floats) -> Floats:
        """Return the AUC for each weighting."""
        with np.errstate(divide="ignore", invalid="ignore"):
            pairs = (weights @ self.positives) * (weights @ self.negatives)
            found: Floats = np.einsum("bg,bg->b", weights @ self.ordered, weights) / pairs
        return np.where(np.isfinite(found), found, np.nan)


@dataclass(frozen=True)
class Difference:
    """One statistic minus another, both under the same block weights, so that what they share cancels."""

    first: Statistic
    second: Statistic

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return self.first.blocks

    def at(self, weights: Floats) -> Floats:
        """Return the difference for each weighting."""
        return self.first.at(weights) - self.second.at(weights)


def ratio(numerator: Floats, denominator: Floats | None, codes: Codes) -> Ratio:
    """Return the ratio of two sums of row values.

    Args:
        numerator: One value per row, shape (rows,).
        denominator: One value per row, or None to count rows (the ratio is then a mean).
        codes: The block of each row, as `block_codes` gives it.
    """
    ones = np.ones_like(numerator) if denominator is None else denominator
    return Ratio(block_sums(numerator, codes), block_sums(ones, codes))


def block_sums(values: Floats, codes: Codes) -> Floats:
    """Return the sum of row values per block, shape (blocks,)."""
    return np.asarray(np.bincount(codes, values, _count(codes)), dtype=np.float64)


def mean(values: Floats, codes: Codes) -> Ratio:
    """Return the mean of row values; for a paired comparison hand in the rows' differences."""
    return ratio(values, None, codes)


def pairs(y: Floats, scores: Floats, codes: Codes) -> Pairs:
    """Return the AUC of ``scores`` for labels ``y``.

    Args:
        y: Labels, 0 or 1, shape (rows,).
        scores: Higher means more likely positive, shape (rows,).
        codes: The block of each row.
    """
    blocks = _count(codes)
    truth = y > 0.5
    order = np.argsort(scores[truth], kind="stable")
    high, where = scores[truth][order], codes[truth][order]
    low, low_codes = scores[~truth], codes[~truth]
    ordered = np.zeros((blocks, blocks))
    by_block = np.argsort(low_codes, kind="stable")
    ends = np.searchsorted(low_codes[by_block], np.arange(blocks + 1))
    for block in range(blocks):
        these = np.sort(low[by_block[ends[block] : ends[block + 1]]])
        if these.size:
            below = np.searchsorted(these, high, "left") + np.searchsorted(these, high, "right")
            ordered[:, block] = np.bincount(where, below * 0.5, blocks)
    return Pairs(ordered, np.bincount(where, minlength=blocks).astype(np.float64), np.diff(ends).astype(np.float64))


def estimate(statistic: Statistic) -> float:
    """Return the statistic on all blocks, each counted once; NaN where it does not exist."""
    return float(statistic.at(np.ones((1, statistic.blocks)))[0])


def leave_one_out(statistic: Statistic) -> Floats:
    """Return the statistic without each block in turn, shape (blocks,)."""
    return statistic.at(1.0 - np.eye(statistic.blocks))


def standard_error(statistic: Statistic) -> float:
    """Return the cluster-jackknife standard error (CV3); NaN with fewer than two blocks."""
    blocks = statistic.blocks
    if blocks < 2:
        return math.nan
    moved = leave_one_out(statistic) - estimate(statistic)
    return float(np.sqrt((blocks - 1) / blocks * np.sum(moved * moved)))


def interval(
    statistic: Statistic,
    *,
    level: float = 0.95,
    side: Side = "both",
    resamples: int = RESAMPLES,
    seed: int = 0,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """Return the statistic with its interval, resampling whole blocks.

    With 8 blocks or more it is the BCa bootstrap whose normal quantiles are expanded to
    ``sqrt(G / (G - 1)) * t(G - 1)``, because a bootstrap of G blocks is too narrow by that. With fewer, a bootstrap
    has too few distinct resamples to be trusted in its tails, and the interval is Student's with G - 1 degrees of
    freedom on the cluster jackknife's standard error. With one block, or where leaving out one block leaves nothing
    to compute, no finite interval exists and the ends are None.

    Args:
        statistic: What to estimate.
        level: Coverage of the interval; for one side, of that bound.
        side: ``both``, or only an ``upper`` or ``lower`` bound.
        resamples: Bootstrap resamples.
        seed: Of the resampling; the same seed gives the same interval.
        bounds: The range that the statistic can take; the ends are cut to it.

    Raises:
        InsufficientData: When the statistic does not exist on the data at all.
        InvalidInput: When the level is not between 0 and 1.
    """
    if not 0.0 < level < 1.0:
        raise InvalidInput(f"{level!r} is not a confidence level", where="level", allowed="between 0 and 1")
    value = estimate(statistic)
    if not math.isfinite(value):
        raise InsufficientData(
            "the statistic does not exist on these rows", where="interval", allowed="at least one row of each class"
        )
    tail = (1.0 - level) / (2.0 if side == "both" else 1.0)
    low, high = _ends(statistic, value, tail, resamples, seed)
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return Interval(
        estimate=value,
        low=low if side != "upper" and math.isfinite(low) else None,
        high=high if side != "lower" and math.isfinite(high) else None,
        level=level,
    )


def _ends(statistic: Statistic, value: float, tail: float, resamples: int, seed: int) -> tuple[float, float]:
    blocks = statistic.blocks
    if blocks < 2:
        return -math.inf, math.inf
    without = leave_one_out(statistic)
    if not np.all(np.isfinite(without)):
        return -math.inf, math.inf
    moved = without - value
    error = math.sqrt((blocks - 1) / blocks * float(moved @ moved))
    reach = student_quantile(1.0 - tail, blocks - 1)
    if blocks < FEW_BLOCKS or error == 0.0:
        return value - reach * error, value + reach * error
    drawn = statistic.at(resampled_weights(blocks, resamples, seed))
    drawn = np.sort(drawn[np.isfinite(drawn)])
    if drawn.size < resamples * 0.99:
        return value - reach * error, value + reach * error
    below = (np.searchsorted(drawn, value, "left") + np.searchsorted(drawn, value, "right")) / 2.0 / drawn.size
    bias = _NORMAL.inv_cdf(min(max(below, 0.01), 0.99))
    apart = float(without.mean()) - without
    spread = float(apart @ apart)
    skew = float(np.sum(apart**3)) / (6.0 * spread**1.5) if spread > 0.0 else 0.0
    wide = math.sqrt(blocks / (blocks - 1)) * reach
    low, high = (_quantile(drawn, _bca(bias, skew, z)) for z in (-wide, wide))
    return low, high


def _bca(bias: float, skew: float, z: float) -> float:
    """Return the corrected level of Efron's BCa for a normal quantile ``z``."""
    shifted = bias + z
    return _NORMAL.cdf(bias + shifted / max(1.0 - skew * shifted, 0.1))


def _quantile(ordered: Floats, level: float) -> float:
    return float(np.interp(level * (ordered.size + 1) - 1.0, np.arange(ordered.size), ordered))


@lru_cache(maxsize=8)
def resampled_weights(blocks: int, resamples: int, seed: int) -> Floats:
    """Return how often each block is drawn in each bootstrap resample, shape (resamples, blocks); read-only."""
    drawn = np.random.default_rng(seed).multinomial(blocks, np.full(blocks, 1.0 / blocks), size=resamples)
    weights = drawn.astype(np.float64)
    weights.setflags(write=False)
    return weights


def normal_quantile(level: float) -> float:
    """Return the standard normal quantile."""
    return _NORMAL.inv_cdf(level)


@lru_cache(maxsize=512)
def student_quantile(level: float, dof: int) -> float:
    """Return the quantile of Student's t with a whole number of degrees of freedom.

    Up to 200 degrees the distribution function is summed exactly (Abramowitz & Stegun 26.7.3-4) and inverted by
    bisection; beyond, the expansion 26.7.5 is accurate to better than 1e-6.
    """
    if dof < 1:
        return math.inf
    if level < 0.5:
        return -student_quantile(1.0 - level, dof)
    if level >= 1.0:
        return math.inf
    if dof > _EXACT_DOF:
        z = _NORMAL.inv_cdf(level)
        first = (z**3 + z) / (4 * dof)
        second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * dof**2)
        third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * dof**3)
        return z + first + second + third
    low, high = 0.0, 1.0
    while _student_cdf(high, dof) < level and high < 1e15:
        high *= 2.0
    for _ in range(80):
        middle = (low + high) / 2.0
        if _student_cdf(middle, dof) < level:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


def _student_cdf(t: float, dof: int) -> float:
    """Return P(T <= t) for t >= 0."""
    angle = math.atan(t / math.sqrt(dof))
    cosine, sine = math.cos(angle), math.sin(angle)
    if dof % 2:
        term, total = cosine, cosine if dof > 1 else 0.0
        for k in range(3, dof - 1, 2):
            term *= cosine * cosine * (k - 1) / k
            total += term
        inside = 2.0 / math.pi * (angle + sine * total)
    else:
        term, total = 1.0, 1.0
        for k in range(2, dof - 1, 2):
            term *= cosine * cosine * (k - 1) / k
            total += term
        inside = sine * total
    return 0.5 + 0.5 * inside


def block_codes(times: NDArray[np.datetime64], block: BlockSize) -> Codes:
    """Return the block of each row: whole numbers from 0, in order of time.

    Days (and the days of which weeks are made) are cut at their quietest time of day rather than at midnight UTC, so
    that an evening of delays or a night of batch jobs stays in one block whatever the users' time zone: the cut is the
    UTC hour with the fewest rows in the five hours around it, the earliest such hour on a tie.

    Args:
        times: Event times, UTC, shape (rows,).
        block: ``hour``, ``day`` or ``week``.

    Raises:
        InsufficientData: When there are no rows.
    """
    if not len(times):
        raise InsufficientData("there are no rows", where="block_codes", allowed="at least one row")
    moments = times.astype("datetime64[us]").astype(np.int64)
    hours = moments // _HOUR
    if block == "hour":
        which = hours
    else:
        days = (hours - _quietest_hour(hours)) // 24
        which = days if block == "day" else (days + 3) // 7
    return np.unique(which, return_inverse=True)[1].astype(np.int64)


def _quietest_hour(hours: Codes) -> int:
    counts = np.bincount(hours % 24, minlength=24)
    around = sum(np.roll(counts, shift) for shift in range(-2, 3))
    return int(np.argmin(around))


def _count(codes: Codes) -> int:
    if not codes.size:
        raise InsufficientData("there are no rows", where="statistics", allowed="at least one row")
    return int(codes.max()) + 1
