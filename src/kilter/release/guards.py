"""What may take a canary back beside its labels: errors, latency, agreement, business metrics.

Every guard is a `CanaryEvidence` on an outcome of its own. With k kinds of outcome in all (the labels are one), each
process begins with 1/k of the money, so that the sum of them all is the *mean* of k e-values:

- outcomes that are known at the same moment for the same rows (errors, latency, agreement: when the row is answered) share
  one filtration; the sum of their processes is an e-process however they depend on each other, and a rollback is due
  when it reaches 1/alpha;
- outcomes that come later (labels, business metrics) see arms that the early ones have revealed already. A sum over
  both is no e-process in the joint filtration (Choe & Ramdas 2024, arXiv 2402.09698), so each lot has to reach
  1/alpha with its own money: a union bound over the lots. The mean of all e-values is then at least 1/alpha, too.

Guards never promote. One that is declared with ``prove`` has to be proven harmless as well before a promotion, because
the null is then that *some* outcome is worse by its margin (intersection-union; Berger 1982).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple, assert_never

import numpy as np
import polars as pl
from msgspec.structs import replace
from numpy.typing import NDArray

from kilter.core.durations import parse_duration
from kilter.core.errors import InvalidInput
from kilter.core.evidence import Finding, Interval, Verdict
from kilter.core.statistics import Floats
from kilter.release.declare import Agreement, Business, Canary, Errors, Guard, Latency
from kilter.release.evidence import CanaryEvidence

_SIDES = ("higher", "lower")


class GuardedEvidence:
    """Several kinds of outcome of the same rows, known at the same moment.

    Args:
        processes: The evidence per kind, by name; at least one, all with the same confidence. Their weights say how much
            of the accepted error each may use.
    """

    def __init__(self, processes: dict[str, CanaryEvidence]) -> None:
        if not processes or len({one.confidence for one in processes.values()}) != 1:
            raise InvalidInput("guards differ in confidence, or there are none", where="canary guards")
        self.processes = processes
        self.threshold = next(iter(processes.values())).threshold
        self._best = -math.inf

    def update(self, arms: NDArray[Any], shares: Floats, outcomes: Mapping[str, Floats]) -> None:
        """Take in rows with all their outcomes; see `CanaryEvidence.update`.

        Args:
            arms: True where the challenger was meant to answer, shape (rows,).
            shares: The logged shares.
            outcomes: Per process the outcomes of these rows.
        """
        paths = [
            one.update(arms, shares, outcomes[name])[:, 0] + math.log(one.weight)
            for name, one in self.processes.items()
        ]
        if paths[0].size:
            self._best = max(self._best, float(np.logaddexp.reduce(np.stack(paths), axis=0).max()))

    @property
    def best_e_rollback(self) -> float:
        """The largest value of the sum of the processes so far."""
        return math.exp(min(self._best, 700.0))

    @property
    def breached(self) -> bool:
        """Whether harm is proven by all of them together."""
        return self._best >= math.log(self.threshold)


class Guarded(NamedTuple):
    """What the guards of a canary say.

    Args:
        findings: One per guard, as declared.
        breach: The finding that takes the canary back, or None.
        proven: Whether every guard that has to be proven harmless is.
    """

    findings: tuple[Finding, ...]
    breach: Finding | None
    proven: bool


def weight_of(canary: Canary) -> float:
    """Return the part of the accepted error that each kind of outcome may use."""
    return 1.0 / (1 + len(canary.guards))


def judge_guards(canary: Canary, rows: pl.DataFrame, observed: pl.DataFrame, at: datetime) -> Guarded:
    """Judge all guards of a canary.

    Args:
        canary: The step, as declared.
        rows: The rows that were routed, as ``rules.routed_rows`` gives them, labelled or not.
        observed: Values of business metrics: ``name, prediction, key, value, at``, in the order of their arrival.
        at: Now.
    """
    taken, share = rows["taken"].to_numpy(), rows["share"].to_numpy()
    findings: dict[str, Finding] = {}
    breach: Finding | None = None
    answers = {guard.name: guard for guard in canary.guards if not isinstance(guard, Business)}
    if answers:
        outcomes: dict[str, Floats] = {}
        processes: dict[str, CanaryEvidence] = {}
        for guard in answers.values():
            for name, evidence, bad in _answered(canary, guard, rows):
                processes[name], outcomes[name] = evidence, bad
        together = GuardedEvidence(processes)
        together.update(taken, share, outcomes)
        for name, guard in answers.items():
            findings[name] = _finding(guard, [one for key, one in processes.items() if key.startswith(name)])
        if together.breached:
            worst = max(findings, key=lambda name: float(findings[name].detail["best_e_rollback"] or 0.0))
            detail = findings[worst].detail | {"best_e_rollback_together": together.best_e_rollback}
            breach = findings[worst] = replace(findings[worst], verdict="fail", detail=detail)
    for business in canary.guards:
        if isinstance(business, Business):
            evidence = _evidence(canary, business.margin / _range(business), business.detect / _range(business))
            arms, shares, bad = _business(business, rows, observed, at)
            evidence.update(arms, shares, bad)
            found = findings[business.name] = _in_units(business, _finding(business, [evidence]))
            breach = found if found.verdict == "fail" and breach is None else breach
    needed = [findings[guard.name] for guard in canary.guards if not isinstance(guard, Agreement) and guard.prove]
    return Guarded(
        tuple(findings[guard.name] for guard in canary.guards), breach, all(one.verdict == "pass" for one in needed)
    )


def _evidence(
    canary: Canary, margin: float, detect: float, tolerance: float = 0.0, part: float = 1.0
) -> CanaryEvidence:
    return CanaryEvidence(
        margin=margin,
        detect=detect,
        confidence=canary.confidence,
        tolerance=tolerance,
        weight=weight_of(canary) * part,
    )


def _answered(
    canary: Canary, guard: Errors | Latency | Agreement, rows: pl.DataFrame
) -> list[tuple[str, CanaryEvidence, Floats]]:
    """Return the processes of a guard on what is known once a row is answered, each with its outcomes."""
    match guard:
        case Errors():
            failed = rows["failed"].cast(pl.Float64).to_numpy()
            return [(guard.name, _evidence(canary, guard.margin, guard.detect), failed)]
        case Latency():
            limit = parse_duration(guard.over).total_seconds() * 1e6
            slow = (rows["latency_us"].fill_null(0) > limit).cast(pl.Float64).to_numpy()
            return [(guard.name, _evidence(canary, guard.margin, guard.detect), slow)]
        case Agreement():
            answer = np.clip(rows["value"].fill_null(0.5).fill_nan(0.5).to_numpy(), 0.0, 1.0)
            return [
                (f"{guard.name} {side}", _evidence(canary, guard.aim, guard.aim, guard.within, part=0.5), one)
                for side, one in zip(_SIDES, (answer, 1.0 - answer), strict=True)
            ]
        case _:
            assert_never(guard)


def _business(
    guard: Business, rows: pl.DataFrame, observed: pl.DataFrame, at: datetime
) -> tuple[NDArray[Any], Floats, Floats]:
    """Return arms, shares and outcomes of the rows that count for a business metric, in the order in which they count."""
    held = valued(rows, observed.filter(pl.col("name") == guard.metric), at, guard.within, guard.missing)
    value = np.clip(held["metric"].to_numpy(), guard.low, guard.high)
    bad = (guard.high - value if guard.greater_is_better else value - guard.low) / _range(guard)
    return held["taken"].to_numpy(), held["share"].to_numpy(), np.asarray(bad, dtype=np.float64)


def valued(
    rows: pl.DataFrame, observed: pl.DataFrame, at: datetime, within: str | None = None, missing: float | None = None
) -> pl.DataFrame:
    """Return the rows that count for a metric with its value as ``metric``, in the order in which they count.

    Args:
        rows: ``id, key, at`` and what else there is; each key once.
        observed: The metric's values: ``prediction, key, value, at``, in the order of their arrival.
        at: Now.
        within: How long after its prediction a value may come; rows then count when that time is over.
        missing: What a row without a value counts as then.
    """
    newest = [pl.col("value").last().alias("metric"), pl.col("at").first().alias("observed_at")]
    by_id = observed.filter(pl.col("prediction") != "").group_by("prediction", maintain_order=True).agg(newest)
    by_key = observed.filter(pl.col("key") != "").group_by("key", maintain_order=True).agg(newest)
    held = (
        rows.join(by_id.rename({"prediction": "id"}), on="id", how="left", maintain_order="left")
        .join(by_key, on="key", how="left", maintain_order="left", suffix="_of_key")
        .with_columns(
            pl.coalesce("metric", "metric_of_key").alias("metric"),
            pl.coalesce("observed_at", "observed_at_of_key").alias("observed_at"),
        )
    )
    if within is not None:
        closes = pl.col("at") + parse_duration(within)
        in_time = pl.when(pl.col("observed_at") <= closes).then("metric").otherwise(None)
        held = held.filter(closes <= at).with_columns(in_time.fill_null(missing).alias("metric"))
    else:
        held = held.sort("observed_at", maintain_order=True)
    return held.filter(pl.col("metric").is_not_null())


def _range(guard: Business) -> float:
    return guard.high - guard.low


def _finding(guard: Guard, processes: list[CanaryEvidence]) -> Finding:
    """Return what the processes of one guard say: of two sides, how much the first differs, and both their money."""
    first = processes[0]
    e_rollback = sum(one.e_rollback for one in processes)
    best = sum(one.best_e_rollback for one in processes)
    harmed = any(one.verdict() == "fail" for one in processes)
    verdict: Verdict = "fail" if harmed else "inconclusive"
    allowed = f"< {first.margin:g} harm, in outcome units"
    if isinstance(guard, Agreement):
        allowed = f"within {guard.within:g} of the champion's mean answer"
    elif not harmed:
        verdict = first.verdict()
    found = first.finding(guard.name)
    detail = found.detail | {
        "e_rollback": e_rollback,
        "best_e_rollback": best,
        "weight": sum(p.weight for p in processes),
    }
    return replace(found, verdict=verdict, allowed=allowed, detail=detail)


def _in_units(guard: Business, found: Finding) -> Finding:
    """Return a finding in the metric's own units: by how much the challenger's mean is higher, or lower."""
    if found.value is None:
        return found
    scale = -_range(guard) if guard.greater_is_better else _range(guard)
    value = found.value
    ends = sorted(scale * end for end in (value.low, value.high) if end is not None)
    sign = ">" if guard.greater_is_better else "<"
    bound = -guard.margin if guard.greater_is_better else guard.margin
    return replace(
        found,
        value=Interval(scale * value.estimate, ends[0], ends[-1], value.level),
        allowed=f"{sign} {bound:g} in {guard.metric}",
    )
