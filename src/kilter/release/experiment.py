r"""Comparing arms while the experiment runs: answers that hold at every look. Pure: arrays in, records out.

**Effect.** Of the rows of an arm and of the control, row t went to the arm with the probability π that follows from the
logged shares. With μ any guess of its outcome Y from what was known before it was dealt, z = (R / π - (1 - R) / (1 - π))
(Y - μ) has, given the past, the expectation Δ, the difference between the arms; shares may change from row to row as a
bandit changes them. For each m the processes Π (1 + λ (z - m)) and Π (1 - λ (z - m)) are bets against Δ <= m and Δ >= m;
the interval holds all m against which neither has reached 2 k / alpha, k the number of arms besides the control: the
betting confidence sequence of Waudby-Smith & Ramdas (2024, JRSSB, arXiv 2010.09686), on inverse-probability-weighted
outcomes (arXiv 2210.10768). It holds at every look at once; harm and gain may change with time, and the interval is then one
for their λ-weighted mean.

**CUPED** (Deng, Xu, Kohavi & Walker 2013, WSDM) takes out what the key's own past says: μ is a running regression on the
key's mean in the pre-period. Any μ leaves Δ untouched, because it does not depend on the arm; a good one makes the variance,
and with it the interval, smaller. Nothing is asymptotic in it.

**Sample ratio.** The counts of the arms are held against the logged shares by a Dirichlet mixture, the sequential
multinomial test of Lindon & Malek (2022, NeurIPS), in predictive form, so that the shares may change.

**Thompson sampling.** An arm's share is its chance of being the best under Beta posteriors of its mean, outcomes in [0, 1]
(Agrawal & Goyal 2012, COLT), kept above a floor; the shares are logged with every row as its propensities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kilter.core.evidence import Interval
from kilter.core.statistics import Floats
from kilter.release.records import Answer, Comparison, ExperimentPlan, SampleRatio

RULE: Final = (
    "betting confidence sequence on inverse-probability-weighted outcomes, valid at every look (Waudby-Smith & Ramdas 2024); "
    "Bonferroni over arms"
)
MISMATCH: Final = math.log(1000.0)
_PRIOR_ROWS: Final = 20.0
_PRIOR_MEAN: Final = 0.5
_PRIOR_SQUARE: Final = 0.08
_CONCENTRATION: Final = 100.0
_CAP: Final = 0.5
_STEPS: Final = 40
_DRAWS: Final = 20_000

Places = NDArray[np.int64]


class Units(NamedTuple):
    """The keys of an experiment whose outcomes count, in the order in which they count.

    Args:
        arms: Per key the place of its arm in the plan.
        shares: Per key the share of every arm when it was dealt, shape (keys, arms).
        good: Its outcome, from 0 (worst) to 1 (best).
        before: What its outcome was in the pre-period on the same scale; NaN where nothing is known.
    """

    arms: Places
    shares: Floats
    good: Floats
    before: Floats


class _Guess(NamedTuple):
    mean: Floats
    variance: Floats
    left: float


def compare(plan: ExperimentPlan, units: Units) -> tuple[Comparison, ...]:
    """Return each arm's comparison with the control.

    Args:
        plan: The experiment.
        units: The keys whose outcomes count.
    """
    return tuple(_against_control(plan, units, place) for place in range(1, len(plan.arms)))


def _against_control(plan: ExperimentPlan, units: Units, place: int) -> Comparison:
    control, arm = plan.arms[0], plan.arms[place]
    pair = (units.arms == 0) | (units.arms == place)
    taken = units.arms[pair] == place
    share = units.shares[pair, place] / (units.shares[pair, place] + units.shares[pair, 0])
    good, scale = units.good[pair], plan.high - plan.low
    effect, p_value, left = None, 1.0, 1.0
    verdict: Answer = "inconclusive"
    if good.size:
        guess = _guess(good, units.before[pair])
        z = np.where(taken, 1.0 / share, -1.0 / (1.0 - share)) * (good - guess.mean)
        spread = guess.variance / (share * (1.0 - share))
        below = np.maximum(guess.mean / share, (1.0 - guess.mean) / (1.0 - share))
        above = np.maximum((1.0 - guess.mean) / share, guess.mean / (1.0 - share))
        tries = len(plan.arms) - 1
        error = (1.0 - plan.confidence) / tries
        found = sequence(z, spread, below, above, error, (-1.0, 1.0))
        if found.low is not None and found.low > 0.0:
            verdict = "better"
        elif found.high is not None and found.high < 0.0:
            verdict = "worse"
        p_value = min(1.0, 2.0 * tries * math.exp(-_best_log(z, spread, below, above, error)))
        sign = scale if plan.greater_is_better else -scale
        ends = sorted(sign * (end if end is not None else 0.0) for end in (found.low, found.high))
        middle = _difference(good - guess.mean, taken, share, found.estimate) * sign
        effect = Interval(min(max(middle, ends[0]), ends[1]), ends[0], ends[1], plan.confidence)
        left = guess.left
    return Comparison(
        arm=arm.name,
        against=control.name,
        verdict=verdict,
        effect=effect,
        p_value=p_value,
        units=int(good.size),
        variance_left=left,
        rule=RULE,
    )


def _difference(rest: Floats, taken: np.ndarray[Any, np.dtype[np.bool_]], share: Floats, otherwise: float) -> float:
    """Return the difference of the arms' means of what the prediction leaves, each weighted by how unlikely its rows were.

    With its weights normed in each arm (Hájek, 1971) it varies less than the sum that the sequence is about.
    """
    if taken.all() or not taken.any():
        return otherwise
    arms = (
        np.average(rest[which], weights=1.0 / chance[which])
        for which, chance in ((taken, share), (~taken, 1.0 - share))
    )
    return float(next(arms) - next(arms))


def arm_value(plan: ExperimentPlan, units: Units, place: int) -> Interval | None:
    """Return the mean of the metric in one arm with its always-valid interval, or None without an outcome.

    Args:
        plan: The experiment.
        units: The keys whose outcomes count.
        place: The arm's place in the plan.
    """
    good = units.good[units.arms == place]
    if not good.size:
        return None
    guess = _guess(good, np.full(good.size, np.nan))
    error = (1.0 - plan.confidence) / len(plan.arms)
    found = sequence(good, guess.variance, np.zeros(good.size), np.ones(good.size), error, (0.0, 1.0))
    ends = sorted(in_units(plan, end if end is not None else 0.0) for end in (found.low, found.high))
    return Interval(in_units(plan, found.estimate), ends[0], ends[1], plan.confidence)


def in_units(plan: ExperimentPlan, good: float) -> float:
    """Return an outcome between 0 and 1 as a value of the metric."""
    span = plan.high - plan.low
    return plan.low + span * good if plan.greater_is_better else plan.high - span * good


def goodness(plan: ExperimentPlan, values: Floats) -> Floats:
    """Return values of the metric as outcomes between 0 (worst) and 1 (best); values beyond the bounds are cut."""
    cut = (np.clip(values, plan.low, plan.high) - plan.low) / (plan.high - plan.low)
    return np.asarray(cut if plan.greater_is_better else 1.0 - cut, dtype=np.float64)


# ---------------------------------------------------------------- the confidence sequence


def sequence(
    z: Floats, spread: Floats, below: Floats, above: Floats, error: float, within: tuple[float, float]
) -> Interval:
    """Return the betting confidence sequence for the mean of z at its last row.

    Args:
        z: The rows, each with the mean in question given the past.
        spread: The predicted variance of each.
        below: Minus the least value that each can take.
        above: The greatest.
        error: One minus its coverage, over all rows together.
        within: What the mean can be.
    """
    bet = _bet(spread, below, above, error, within)
    bar = math.log(2.0 / error)

    def end(sign: float) -> float:
        # How far the bets have come falls with the distance that the candidate has moved towards the data.
        inner, outer = (within[1], within[0]) if sign > 0 else within
        if float(np.log1p(sign * bet * (z - outer)).sum()) < bar:
            return outer
        for _ in range(_STEPS):
            middle = (inner + outer) / 2.0
            if float(np.log1p(sign * bet * (z - middle)).sum()) >= bar:
                outer = middle
            else:
                inner = middle
        return outer

    low, high = end(1.0), end(-1.0)
    middle = float(np.average(z, weights=bet))
    return Interval(min(max(middle, low), high), low, high, 1.0 - error)


def _best_log(z: Floats, spread: Floats, below: Floats, above: Floats, error: float) -> float:
    """Return the largest log so far of the two bets against no difference."""
    bet = _bet(spread, below, above, error, (-1.0, 1.0))
    return max(float(np.cumsum(np.log1p(sign * bet * z)).max(initial=0.0)) for sign in (1.0, -1.0))


def _bet(spread: Floats, below: Floats, above: Floats, error: float, within: tuple[float, float]) -> Floats:
    count = np.arange(1.0, spread.size + 1.0)
    bet = np.sqrt(2.0 * math.log(2.0 / error) / (spread * count * np.log1p(count)))
    reach = np.maximum(below + within[1], above - within[0])
    return np.asarray(np.minimum(bet, _CAP / reach), dtype=np.float64)


def _guess(good: Floats, before: Floats) -> _Guess:
    """Return a guess of each outcome and its variance, from the rows before it and the key's own past."""
    seen = np.arange(good.size, dtype=np.float64) + _PRIOR_ROWS
    base = (_past(good) + _PRIOR_ROWS * _PRIOR_MEAN) / seen
    known = ~np.isnan(before)
    x, y = np.where(known, before, 0.0), np.where(known, good, 0.0)
    number = np.maximum(_past(known.astype(np.float64)), 1.0)
    middle = _past(x) / number
    covariance = _past(x * y) - _past(x) * _past(y) / number
    slope = covariance / (_past(x * x) - number * middle**2 + 1.0)
    mean = np.clip(base + np.where(known, slope * (x - middle), 0.0), 0.0, 1.0)
    missed = np.square(good - mean)
    variance = np.maximum((_past(missed) + _PRIOR_ROWS * _PRIOR_SQUARE) / seen, 1e-4)
    plain = float(np.square(good - base).sum())
    return _Guess(mean, variance, float(missed.sum()) / plain if plain > 0.0 else 1.0)


def _past(values: Floats) -> Floats:
    """Return the sums of all rows before each."""
    return np.concatenate(([0.0], np.cumsum(values)[:-1]))


# ---------------------------------------------------------------- shares


def sample_ratio(arms: Places, shares: Floats) -> float:
    """Return the largest log e-value so far against the logged shares.

    Args:
        arms: Per row the place of its arm.
        shares: Per row the shares of all arms, shape (rows, arms), each row summing to 1.
    """
    if not arms.size:
        return 0.0
    dealt = np.zeros(shares.shape)
    dealt[np.arange(arms.size), arms] = 1.0
    counts, expected = (np.cumsum(one, axis=0) - one for one in (dealt, shares))
    prior = _CONCENTRATION * shares
    tilted = shares * (prior + counts) / (prior + expected)
    tilted /= tilted.sum(axis=1, keepdims=True)
    here = np.arange(arms.size), arms
    return float(np.cumsum(np.log(tilted[here] / shares[here])).max(initial=0.0))


def judged_ratio(dealt: float, counted: float) -> SampleRatio:
    """Return the judgement on two logs of e-values."""
    return SampleRatio(
        dealt=math.exp(min(dealt, 700.0)),
        counted=math.exp(min(counted, 700.0)),
        mismatched=max(dealt, counted) >= MISMATCH,
    )


def thompson_shares(arms: Places, good: Floats, number: int, floor: float, seed: Sequence[int]) -> list[float]:
    """Return each arm's chance of being the best, kept above a floor.

    Args:
        arms: Per outcome the place of its arm.
        good: The outcomes, 0 to 1.
        number: How many arms there are.
        floor: The least share; at most one over the number of arms.
        seed: The draw is reproducible.
    """
    random = np.random.default_rng(list(seed))
    sums = np.bincount(arms, weights=good, minlength=number)
    counts = np.bincount(arms, minlength=number)
    drawn: NDArray[Any] = random.beta(1.0 + sums, 1.0 + counts - sums, size=(_DRAWS, number))
    best = np.bincount(drawn.argmax(axis=1), minlength=number) / _DRAWS
    least = min(floor, 1.0 / number)
    shares = least + (1.0 - number * least) * best
    return [float(one) for one in shares / shares.sum()]
