r"""Is the canary worse? An answer that stays valid at every look.

Each row t is routed to the challenger (R = 1) with its logged probability π and has an outcome Y in [0, 1], higher is
worse. With μ the mean of the outcomes joined before,

    z = (R / π - (1 - R) / (1 - π)) (Y - μ)

has, given the past, the expectation Δ: the challenger's harm, whatever the shares, their ramp, the mix of traffic or
the time of day. Two processes bet on it:

- **rollback** (H0: Δ <= 0): each bet multiplies by 1 + λ z, λ = min(d / (v + d²), 0.5 / max(-z)), d the harm to
  detect. Four fifths of the stake bet from the first row; the rest joins bit by bit, so that harm which begins late
  is found by money that the good days before have not eaten (a mixture over starting times, K = stake in play +
  reserve);
- **promotion** (H0: Δ >= m): M = Π (1 + λ (m - z)), λ = min(m / (v + m²), 0.5 / max(z - m)), m the margin.

The maxima are over the values that z can take. v is the predicted variance of z: the variance of the outcomes joined
before over π(1 - π), which is much less than the μ(1 - μ) of a yes-or-no outcome when outcomes are graded. λ and μ of
a row are fixed by what was joined before it and by its own π, so each factor has expectation <= 1 under H0 and, by
Ville's inequality, the chance that K ever reaches 1/alpha is at most alpha: for any number of looks and rows, without
normality.

**What is controlled.** The chance of a rollback while on no stretch of rows up to now the λ-weighted mean harm was
above 0 is at most alpha, and so is the chance that M reaches 1/alpha while the λ-weighted mean harm so far is not
below m (divide by Π (1 + λ Δ) <= exp(Σ λ Δ), which leaves a martingale). Only the routing is random in this
statement, so rows may depend on each other in any way, and harm may come and go. Rows must be routed independently of
each other with the logged shares (a user who is routed once is one row), and the order in which labels arrive must
not depend on the arm. The statement is about the rows seen: where bad rows get their labels later than good ones, a
verdict in the middle of a day is about its early labels; feed whole days where that matters.

**Delayed labels** multiply in whenever they join; one long update and many short ones give the same evidence.

The band is a confidence sequence for the λ-weighted mean harm: a predictable plug-in empirical-Bernstein bound with
one-sided ranges, by Fan's inequality exp(gx - h(g)x²) <= 1 + gx for x >= -1 and 0 <= g < 1, h(g) = -log(1 - g) - g.

Sources: Ville 1939; Howard, Ramdas, McAuliffe & Sekhon 2021 (Ann. Stat. 49(2)); Waudby-Smith & Ramdas 2024 (JRSSB,
arXiv 2010.09686); Waudby-Smith, Wu, Ramdas, Karampatziakis & Mineiro 2022 (off-policy, arXiv 2210.10768); Fan,
Grama & Liu 2015 (EJP 20).
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kilter.core.errors import InvalidInput
from kilter.core.evidence import Finding, Interval, Verdict
from kilter.core.statistics import Floats
from kilter.evaluation.declare import Metric
from kilter.release.records import FIRST_STAKE, EvidenceState

RULE: Final = (
    "betting e-processes on inverse-probability-weighted outcomes, valid at every look (Ville 1939; Waudby-Smith & Ramdas "
    "2024); the band is an empirical-Bernstein confidence sequence"
)
_PRIOR_ROWS: Final = 20.0
_PRIOR_MEAN: Final = 0.1
_PRIOR_SQUARE: Final = 0.06
_TILTS: Final = (-0.5, -0.15, 0.15, 0.5)
_BET_CAP: Final = 0.5
_RESERVE: Final = 1.0 - FIRST_STAKE
_RESERVE_ROWS: Final = 500.0
_LARGEST: Final = 700.0  # beyond, exp overflows


class Walk(NamedTuple):
    """How the processes of a canary went over some rows.

    Args:
        total: Sum of all outcomes so far.
        squares: Sum of their squares.
        z: The inverse-probability-weighted difference of each row.
        spread: Its predicted variance.
        lowest: Minus the least value that it can take.
        highest: The greatest value that it can take.
        stake: Log of the rollback process's stake in play after each row.
        rollback: Log of the rollback process after each row: the stake in play and the reserve.
        promote: Log of the promotion process after each row.
    """

    total: float
    squares: float
    z: Floats
    spread: Floats
    lowest: Floats
    highest: Floats
    stake: Floats
    rollback: Floats
    promote: Floats


class CanaryEvidence:
    """The evidence of one canary on one kind of outcome.

    Args:
        margin: How much harm a promotion may at most leave open, in outcome units; above 0.
        detect: The harm that the rollback process is tuned to find fast. Greater harm is found sooner; harm below
            half of it may stay unproven, and the canary inconclusive.
        confidence: One minus the chance of a false rollback, and of a false promotion, over all looks together.
        state: What an earlier process left, to go on from.
        tolerance: Harm up to this is none: the null of the rollback process is a harm of at most so much.
        weight: The part of the accepted error that a rollback on this kind of outcome may use, when several kinds are
            watched; its process begins with so much money, and reaches the same threshold.

    Raises:
        InvalidInput: When margin, detect, confidence, tolerance or weight cannot be used.
    """

    def __init__(
        self,
        *,
        margin: float,
        detect: float,
        confidence: float = 0.95,
        state: EvidenceState | None = None,
        tolerance: float = 0.0,
        weight: float = 1.0,
    ) -> None:
        for name, given in (("margin", margin), ("detect", detect), ("confidence", confidence)):
            if not 0.0 < given < 1.0:
                raise InvalidInput(f"{given!r} is no {name}", where=f"canary {name}", allowed="above 0 and below 1")
        self.margin = margin
        self.detect = detect
        if not 0.0 <= tolerance < detect:
            raise InvalidInput(
                f"{tolerance!r} is no tolerance", where="canary tolerance", allowed="0 or more, below detect"
            )
        if not 0.0 < weight <= 1.0:
            raise InvalidInput(f"{weight!r} is no weight", where="canary weight", allowed="above 0, up to 1")
        self.confidence = confidence
        self.tolerance = tolerance
        self.weight = weight
        self.state = EvidenceState() if state is None else state

    @property
    def threshold(self) -> float:
        """The value at which a process decides: one over the accepted error."""
        return 1.0 / (1.0 - self.confidence)

    def update(self, arms: NDArray[Any], shares: Floats, outcomes: Floats) -> Floats:
        """Take in outcomes whose labels were joined, in the order in which they were joined.

        Args:
            arms: True or 1 where the challenger answered, shape (rows,).
            shares: The probability with which each row had gone to the challenger, as logged, between 0 and 1
                exclusive.
            outcomes: From 0 (good) to 1 (bad), see `outcome`.

        Returns:
            Log of both processes after each row, shape (rows, 2): rollback, promotion.

        Raises:
            InvalidInput: When shapes differ or a share or an outcome is out of its range; nothing is taken in then.
        """
        taken, share, bad = _checked(arms, shares, outcomes)
        if not bad.size:
            return np.zeros((0, 2))
        s = self.state
        walk = self.walk(taken, share, bad)
        band = self._band_sums(walk)
        ratio, best_ratio = self._ratio_sums(taken, share)
        self.state = EvidenceState(
            rows=s.rows + bad.size,
            challenger_rows=s.challenger_rows + int(np.count_nonzero(taken)),
            total=walk.total,
            squares=walk.squares,
            rollback=float(walk.stake[-1]),
            promote=float(walk.promote[-1]),
            best_rollback=max(s.best_rollback, float(walk.rollback.max())),
            best_promote=max(s.best_promote, float(walk.promote.max())),
            weight=band[0],
            weighted=band[1],
            spread_low=band[2],
            spread_high=band[3],
            difference=float(_running(s.difference, walk.z)[-1]),
            ratio=ratio,
            best_ratio=best_ratio,
        )
        return np.stack([walk.rollback, walk.promote], axis=1)

    def walk(self, taken: NDArray[np.bool_], share: Floats, bad: Floats) -> Walk:
        """Return how both processes go on over more rows; nothing is taken in.

        Args:
            taken: Whether the challenger answered, shape (rows,), at least one row.
            share: The logged shares, between 0 and 1 exclusive.
            bad: The outcomes, 0 (good) to 1 (bad).
        """
        s = self.state
        before = s.rows + np.arange(bad.size, dtype=np.float64) + _PRIOR_ROWS
        total = _running(s.total, bad)
        squares = _running(s.squares, bad * bad)
        mean = (total[:-1] + _PRIOR_ROWS * _PRIOR_MEAN) / before
        variance = np.maximum((squares[:-1] + _PRIOR_ROWS * _PRIOR_SQUARE) / before - mean * mean, 1e-4)
        keep = 1.0 - share
        z = np.where(taken, 1.0 / share, -1.0 / keep) * (bad - mean)
        spread = variance / (share * keep)
        lowest = np.maximum(mean / share, (1.0 - mean) / keep)
        highest = np.maximum((1.0 - mean) / share, mean / keep)
        wanted = self.detect - self.tolerance
        bet = np.minimum(wanted / (spread + wanted**2), _BET_CAP / (lowest + self.tolerance))
        stake, rollback = self._rollback_path(np.log1p(bet * (z - self.tolerance)))
        room = np.maximum(highest - self.margin, 1e-12)
        bet = np.minimum(self.margin / (spread + self.margin**2), _BET_CAP / room)
        promote = _running(s.promote, np.log1p(bet * (self.margin - z)))[1:]
        return Walk(float(total[-1]), float(squares[-1]), z, spread, lowest, highest, stake, rollback, promote)

    def _rollback_path(self, growth: Floats) -> tuple[Floats, Floats]:
        """Return logs of the stake in play, and of it with the reserve, after each row.

        Before row t the reserve gives ``r[t]``; with P the product of the factors, the stake is
        ``W[t] = P[t] (W[0] + sum over s <= t of r[s] / P[s - 1])``.
        """
        s = self.state
        reserve = _reserve(s.rows + np.arange(growth.size + 1, dtype=np.float64))
        product = np.cumsum(growth)
        joining = np.log(reserve[:-1] - reserve[1:]) - (product - growth)
        stake = product + np.logaddexp.accumulate(np.concatenate(([s.rollback], joining)))[1:]
        return stake, np.logaddexp(stake, np.log(reserve[1:]))

    @property
    def e_rollback(self) -> float:
        """The rollback process now, times its weight: the stake in play and the reserve."""
        reserve = float(_reserve(np.array([float(self.state.rows)]))[0])
        return self.weight * (math.exp(min(self.state.rollback, _LARGEST)) + reserve)

    @property
    def best_e_rollback(self) -> float:
        """The largest value of the rollback process so far, times its weight: what Ville's inequality is about."""
        return self.weight * math.exp(min(self.state.best_rollback, _LARGEST))

    @property
    def e_promote(self) -> float:
        """The promotion process now."""
        return math.exp(min(self.state.promote, _LARGEST))

    def _band_sums(self, walk: Walk) -> tuple[float, ...]:
        s = self.state
        z, spread, lowest, highest = walk.z, walk.spread, walk.lowest, walk.highest
        count = s.rows + np.arange(1.0, z.size + 1.0)
        bet = np.sqrt(2.0 * math.log(2.0 * self.threshold) / (spread * count * np.log1p(count)))
        bet = np.minimum(bet, _BET_CAP / np.maximum(lowest, highest))
        squared = np.square(z)
        return (
            float(_running(s.weight, bet)[-1]),
            float(_running(s.weighted, bet * z)[-1]),
            float(_running(s.spread_low, _penalty(bet * lowest) / np.square(lowest) * squared)[-1]),
            float(_running(s.spread_high, _penalty(bet * highest) / np.square(highest) * squared)[-1]),
        )

    def _ratio_sums(self, taken: NDArray[np.bool_], share: Floats) -> tuple[tuple[float, ...], float]:
        s = self.state
        ends: list[float] = []
        paths: list[Floats] = []
        for tilt, log_ratio in zip(_TILTS, s.ratio, strict=True):
            step = np.where(taken, tilt, 0.0) - np.log1p(share * math.expm1(tilt))
            path = _running(log_ratio, step)
            ends.append(float(path[-1]))
            paths.append(path[1:])
        mixed = np.logaddexp.reduce(np.stack(paths), axis=0) - math.log(len(_TILTS))
        return tuple(ends), max(s.best_ratio, float(mixed.max()))

    def band(self) -> Interval:
        """Return the harm with its always-valid band, cut to what a difference of outcomes can be."""
        s = self.state
        level = self.confidence
        if not s.rows:
            return Interval(0.0, -1.0, 1.0, level)
        price = math.log(2.0 * self.threshold)
        middle = s.weighted / s.weight
        low = max(-1.0, middle - (s.spread_low + price) / s.weight)
        high = min(1.0, middle + (s.spread_high + price) / s.weight)
        # The plain mean is easier to read than the weighted one; it must lie in its band all the same.
        return Interval(min(max(s.difference / s.rows, low), high), low, high, level)

    def verdict(self) -> Verdict:
        """Return ``fail`` (roll back) once harm is proven, else ``pass`` while harm is proven to be below the margin.

        A proof of harm is remembered. A proof of harmlessness must still stand when it is used: a challenger that was
        good on calm days and is not on stormy ones must not be promoted for the calm ones. Harm between 0 and the
        margin can be proven to be both; then it is a harm, and the canary goes back.
        """
        if self.state.best_rollback >= math.log(self.threshold / self.weight):
            return "fail"
        return "pass" if self.state.promote >= math.log(self.threshold) else "inconclusive"

    def mismatched(self) -> bool:
        """Tell whether the challenger's share of rows contradicts the logged shares (error 0.001 over all looks).

        A sample-ratio mismatch means that rows were lost or routed otherwise than logged; the other numbers can't be
        trusted then. The test is an equal mixture of four likelihood ratios that tilt the odds by a factor.
        """
        return self.state.best_ratio >= math.log(1000.0)

    def finding(self, name: str = "canary") -> Finding:
        """Return the verdict with what it rests on; rows that contradict their logged shares fail it."""
        s = self.state
        mismatched = self.mismatched()
        verdict: Verdict = "fail" if mismatched else self.verdict()
        return Finding(
            name=name,
            verdict=verdict,
            value=self.band(),
            allowed=f"< {self.margin:g} harm, in outcome units",
            rows=s.rows,
            rule=RULE,
            detail={
                "e_rollback": self.e_rollback,
                "e_promote": self.e_promote,
                "best_e_rollback": self.best_e_rollback,
                "best_e_promote": math.exp(min(s.best_promote, _LARGEST)),
                "threshold": self.threshold,
                "challenger_rows": s.challenger_rows,
                "mean_outcome": s.total / s.rows if s.rows else None,
                "margin": self.margin,
                "detect": self.detect,
                "confidence": self.confidence,
                "sample_ratio": "mismatched: rows contradict the logged shares" if mismatched else "as logged",
            },
        )


def outcome(metric: Metric, label: Floats, value: Floats, failed: NDArray[Any] | None = None) -> Floats:
    """Return the outcome of each row for the canary: 0 is best, 1 is worst.

    For log loss, Brier and AUC it is the squared error of the probability. The evidence needs outcomes with known
    bounds, and its power falls with their range. Log loss has none; clipped into [0, 1] it is no longer proper,
    because it forgives being ever more sure and wrong beyond the clip, and scaled to its own range (34.5) a harm of
    0.02 drowns. The squared error is bounded by nature and proper: a better probability is always a better outcome.
    For metrics of decisions (accuracy, recall, precision) it is 1 for a wrong decision at the metric's threshold.

    Args:
        metric: What the loop cares about.
        label: Labels, 0 or 1 (other numbers are cut to [0, 1]), shape (rows,).
        value: What was answered; NaN counts as failed.
        failed: Where the arm failed and the fallback answered for it: outcome 1 whatever the label.
    """
    answer = np.asarray(value, dtype=np.float64)
    truth = np.clip(np.asarray(label, dtype=np.float64), 0.0, 1.0)
    if metric.name in ("log_loss", "brier", "auc"):
        bad = np.square(np.clip(answer, 0.0, 1.0) - truth)
    else:
        bad = ((answer >= metric.threshold) != (truth > 0.5)).astype(np.float64)
    lost = ~np.isfinite(answer)
    if failed is not None:
        lost |= np.asarray(failed, dtype=bool)
    return np.asarray(np.where(lost, 1.0, bad), dtype=np.float64)


def _checked(arms: NDArray[Any], shares: Floats, outcomes: Floats) -> tuple[NDArray[np.bool_], Floats, Floats]:
    taken = np.asarray(arms).astype(bool)
    share = np.asarray(shares, dtype=np.float64)
    bad = np.asarray(outcomes, dtype=np.float64)
    if not taken.shape == share.shape == bad.shape or bad.ndim != 1:
        raise InvalidInput(
            f"arms {taken.shape}, shares {share.shape} and outcomes {bad.shape} differ", where="canary evidence"
        )
    if not np.all((share > 0.0) & (share < 1.0)):
        raise InvalidInput(
            "a logged share is not between 0 and 1",
            where="canary evidence",
            allowed="above 0 and below 1: rows that could only go one way tell nothing",
        )
    if not np.all((bad >= 0.0) & (bad <= 1.0)):
        raise InvalidInput("an outcome is not between 0 and 1", where="canary evidence", allowed="0 (good) to 1 (bad)")
    return taken, share, bad


def _reserve(rows: Floats) -> Floats:
    """Return what is kept back after so many rows: it falls with their logarithm and never ends."""
    return np.asarray(_RESERVE / (1.0 + np.log1p(rows / _RESERVE_ROWS)), dtype=np.float64)


def _running(start: float, steps: Floats) -> Floats:
    """Return the running sums, the start first: added in order, so that batches of any size give the same bits."""
    return np.cumsum(np.concatenate(([start], steps)))


def _penalty(bet: Floats) -> Floats:
    return -np.log1p(-bet) - bet
