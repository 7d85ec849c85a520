"""The largest gap of a metric between groups, without mistaking small groups for unfair ones.

The difference between the best and the worst of many estimates is large by chance alone. So every pair of groups is
compared at once: with probability ``confidence`` *all* pairwise differences lie within ``d ± c * se``, where c is the
quantile of the largest standardised deviation over the pairs among block-bootstrap resamples (max-t; Romano & Wolf
2005, Econometrica 73). The true gap is then at least the largest lower end and at most the largest upper end. Because
c comes from few blocks, it is mapped from the normal to Student's scale as in `core.statistics.interval`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from kilter.core import statistics
from kilter.core.errors import InsufficientData, InvalidInput
from kilter.core.evidence import Finding, Interval, Verdict
from kilter.core.statistics import Codes, Floats, Statistic
from kilter.evaluation import metrics
from kilter.evaluation.context import GateContext
from kilter.evaluation.declare import Fair, Metric

RULE: Final = (
    "gap between best and worst group, simultaneous over all pairs of groups by a max-t block bootstrap (Romano & Wolf 2005) "
    "with Student scaling for few blocks; the estimate is of groups shrunk by their noise; fails only beyond doubt"
)
_NORMAL: Final = NormalDist()
_LISTED: Final = 24


@dataclass(frozen=True)
class Group:
    """One group's metric.

    Args:
        name: The group's value of the column.
        support: Rows that count for the metric.
        estimate: The metric.
        error: Its standard error.
        floor: The standard error that independent rows would give, where there is a formula; else 0.
        statistic: The metric as a function of block weights.
    """

    name: str
    support: int
    estimate: float
    error: float
    floor: float
    statistic: Statistic


@dataclass(frozen=True)
class Gap:
    """The gap with its simultaneous bounds, and the groups between which it lies."""

    value: Interval
    raw: float
    best: Group
    worst: Group


def measure_groups(
    metric: Metric, y: Floats, p: Floats, codes: Codes, members: list[str | None], *, min_support: int
) -> tuple[list[Group], dict[str, int]]:
    """Compute a metric per group.

    Args:
        metric: What to compute.
        y: Labels, shape (rows,).
        p: Predictions, shape (rows,).
        codes: Block of each row.
        members: Group of each row; None is a group of its own, named ``(missing)``.
        min_support: Groups with fewer rows that count for the metric (positives for recall, predicted positives for
            precision, the rarer class for AUC, else all rows) are left out.

    Returns:
        The groups that can be compared, and the support of those left out.
    """
    names, which = np.unique(np.asarray(["(missing)" if m is None else m for m in members]), return_inverse=True)
    blocks = int(codes.max()) + 1
    found: list[Group] = []
    left_out: dict[str, int] = {}
    for index, name in enumerate(names):
        rows = which == index
        support = _support(metric, y[rows], p[rows])
        one = _statistic(metric, y[rows], p[rows], codes[rows], blocks)
        error = statistics.standard_error(one)
        if support < min_support or not math.isfinite(error):
            left_out[str(name)] = support
            continue
        value = statistics.estimate(one)
        floor = _floor(metric, value, support)
        found.append(Group(str(name), support, value, max(error, floor), floor, one))
    return found, left_out


def gap(groups: list[Group], *, confidence: float, seed: int) -> Gap:
    """Return the gap between the best and the worst group with simultaneous bounds.

    Args:
        groups: At least two.
        confidence: Each bound of the gap holds with this probability.
        seed: Of the resampling.
    """
    blocks = groups[0].statistic.blocks
    estimates = np.array([group.estimate for group in groups])
    first, second = np.triu_indices(len(groups), 1)
    apart = estimates[first] - estimates[second]
    floors = np.array([group.floor for group in groups])
    wide = np.maximum(_pair_errors(groups, first, second), np.hypot(floors[first], floors[second]))
    weights = statistics.resampled_weights(blocks, statistics.RESAMPLES, seed)
    drawn = np.stack([group.statistic.at(weights) for group in groups], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.abs(drawn[:, first] - drawn[:, second] - apart) / wide
    largest = np.nan_to_num(deviation, nan=0.0).max(axis=1)
    normal = max(float(np.quantile(largest, confidence)), _NORMAL.inv_cdf(0.5 + confidence / 2.0))
    reach = math.sqrt(blocks / (blocks - 1)) * statistics.student_quantile(_NORMAL.cdf(normal), blocks - 1)
    low = max(0.0, float(np.max(np.abs(apart) - reach * wide)))
    high = float(np.max(np.abs(apart) + reach * wide))
    shrunk = _shrink(estimates, _deviation_errors(groups))
    middle = float(shrunk.max() - shrunk.min())
    best, worst = int(np.argmax(estimates)), int(np.argmin(estimates))
    return Gap(
        value=Interval(estimate=min(max(middle, low), high), low=low, high=high, level=2.0 * confidence - 1.0),
        raw=float(estimates[best] - estimates[worst]),
        best=groups[best],
        worst=groups[worst],
    )


def judge_fair(gate: Fair, context: GateContext, name: str) -> Finding:
    """Judge `fair`.

    ``fail``: the gap is above ``max_gap`` beyond doubt (its lower bound is). ``pass``: its upper bound is not above.
    ``inconclusive``: the data cannot tell; the finding names the upper bound, which is what cannot be excluded.

    Raises:
        InvalidInput: When the column does not exist.
        InsufficientData: When fewer than two groups have enough rows, or there is one block only.
    """
    if gate.by not in context.groups.columns:
        raise InvalidInput(
            f"there is no column {gate.by!r}",
            where="fair(by)",
            allowed=", ".join(context.groups.columns) or "none given",
        )
    y, p = metrics.checked(context.y, context.p_challenger)
    codes = context.codes(gate.resample)
    if int(codes.max()) < 1:
        raise InsufficientData(f"all rows lie in one {gate.resample}", where="fair", allowed="two blocks or more")
    members: list[str | None] = context.groups[gate.by].cast(str, strict=False).to_list()
    groups, left_out = measure_groups(gate.metric, y, p, codes, members, min_support=gate.min_support)
    if len(groups) < 2:
        raise InsufficientData(
            f"{len(groups)} groups of {gate.by!r} have {gate.min_support} rows that count for {gate.metric.name}",
            where="fair",
            allowed="two groups or more",
        )
    found = gap(groups, confidence=gate.confidence, seed=context.seed)
    low, high = found.value.low or 0.0, math.inf if found.value.high is None else found.value.high
    verdict: Verdict = "fail" if low > gate.max_gap else "pass" if high <= gate.max_gap else "inconclusive"
    detail: dict[str, float | int | str | None] = {
        "raw_gap": found.raw,
        "best": found.best.name,
        "worst": found.worst.name,
        "groups": len(groups),
        "left_out": ", ".join(f"{key} ({count})" for key, count in left_out.items()),
    }
    for group in sorted(groups, key=lambda group: -group.support)[:_LISTED]:
        detail[f"group:{group.name}"] = group.estimate
        detail[f"support:{group.name}"] = group.support
    return Finding(name, verdict, found.value, f"<= {gate.max_gap:g}", y.size, RULE, detail)


def _statistic(metric: Metric, y: Floats, p: Floats, codes: Codes, blocks: int) -> Statistic:
    found = metrics.parts(metric, y, p)
    if found is not None:
        above, below = (np.asarray(np.bincount(codes, part, blocks), dtype=np.float64) for part in found)
        return statistics.Ratio(above, below)
    inner = statistics.pairs(y, p, codes)
    missing = blocks - inner.blocks
    return statistics.Pairs(
        np.pad(inner.ordered, (0, missing)),
        np.pad(inner.positives, (0, missing)),
        np.pad(inner.negatives, (0, missing)),
    )


def _support(metric: Metric, y: Floats, p: Floats) -> int:
    if metric.name == "recall":
        return int(np.count_nonzero(y > 0.5))
    if metric.name == "precision":
        return int(np.count_nonzero(p >= metric.threshold))
    if metric.name == "auc":
        positives = int(np.count_nonzero(y > 0.5))
        return min(positives, y.size - positives)
    return int(y.size)


def _floor(metric: Metric, value: float, support: int) -> float:
    """Return the standard error that independent rows would give.

    A group whose few rows were all decided alike has no spread between blocks, which is no certainty: proportions get
    the binomial error of Agresti & Coull (1998), the AUC that of its rarer class (a bound on Hanley & McNeil 1982).
    """
    if metrics.is_proportion(metric):
        rate = (value * support + 2.0) / (support + 4.0)
        return math.sqrt(rate * (1.0 - rate) / (support + 4.0))
    if metric.name == "auc":
        inside = min(max(value, 0.05), 0.95)
        return math.sqrt(inside * (1.0 - inside) / max(support, 1))
    return 0.0


def _pair_errors(groups: list[Group], first: Codes, second: Codes) -> Floats:
    """Return the cluster-jackknife standard error of each pair's difference."""
    without = np.stack([statistics.leave_one_out(group.statistic) for group in groups], axis=1)
    estimates = np.array([group.estimate for group in groups])
    moved = (without[:, first] - without[:, second]) - (estimates[first] - estimates[second])
    blocks = without.shape[0]
    return np.asarray(np.sqrt((blocks - 1) / blocks * np.sum(moved * moved, axis=0)), dtype=np.float64)


def _deviation_errors(groups: list[Group]) -> Floats:
    """Return the standard error of each group's deviation from the groups' mean: what a bad day does to all of them cancels."""
    without = np.stack([statistics.leave_one_out(group.statistic) for group in groups], axis=1)
    estimates = np.array([group.estimate for group in groups])
    deviation = (without - without.mean(axis=1, keepdims=True)) - (estimates - estimates.mean())
    blocks = without.shape[0]
    errors = np.sqrt((blocks - 1) / blocks * np.sum(deviation * deviation, axis=0))
    return np.asarray(np.maximum(errors, [group.floor for group in groups]), dtype=np.float64)


def _shrink(estimates: Floats, errors: Floats) -> Floats:
    """Return the estimates drawn towards their mean by their noise (empirical Bayes; Morris 1983, JASA 78)."""
    noise = np.square(errors)
    weights = 1.0 / np.maximum(noise, 1e-12)
    centre = float(np.sum(weights * estimates) / np.sum(weights))
    surplus = float(np.sum(weights * np.square(estimates - centre))) - (estimates.size - 1)
    between = max(0.0, surplus / float(np.sum(weights) - np.sum(weights * weights) / np.sum(weights)))
    keep = between / np.maximum(between + noise, 1e-12)
    return np.asarray(centre + keep * (estimates - centre), dtype=np.float64)
