"""From joined predictions to a canary's evidence: pure."""

from __future__ import annotations

import math
from datetime import date, datetime, timedelta
from typing import NamedTuple

import numpy as np
import polars as pl
from msgspec.structs import replace

from kilter.core.clock import utc
from kilter.core.evidence import Finding
from kilter.core.statistics import Floats
from kilter.evaluation.declare import Metric
from kilter.release.declare import Canary
from kilter.release.evidence import CanaryEvidence, outcome
from kilter.release.guards import Guarded, judge_guards, weight_of
from kilter.release.records import EvidencePoint
from kilter.serving.answering.router import Router

NOTHING_OBSERVED = pl.DataFrame(
    schema={
        "name": pl.String,
        "prediction": pl.String,
        "key": pl.String,
        "value": pl.Float64,
        "at": pl.Datetime("us", "UTC"),
    }
)
"""No value of any business metric."""


class Judged(NamedTuple):
    """A canary's finding with its course, one point per day, and what its guards say.

    Args:
        finding: The evidence of the labels, with the verdict of all.
        points: Its course.
        guards: One finding per guard.
        decided: What the verdict rests on: a guard's finding when a guard takes the canary back, else ``finding``.
    """

    finding: Finding
    points: tuple[EvidencePoint, ...]
    guards: tuple[Finding, ...]
    decided: Finding


def routed_rows(predictions: pl.DataFrame, loop: str, version: int, since: datetime | None = None) -> pl.DataFrame:
    """Return the rows that tell about a canary, in the order given.

    - Only rows that could have gone either way: 0 < share < 100, predicted since the canary began, answered by the
      challenger itself or by another version while it was out; never those whose caller named the version.
    - Only the first row of each key: the routing is sticky, so a key's second answer is no second draw. Rows that were
      routed together by another key than their own are one draw.
    - Where a fallback answered, the arm that was *meant* to is found by routing the key again: a challenger that
      fails is charged for it, not forgiven.

    Args:
        predictions: ``key, at, version, arm, share, value`` and what else there is; share in per cent.
        loop: The loop.
        version: The challenger.
        since: When the canary began, or None for all rows.

    Returns:
        ``id, key, at`` (``key`` is what the row was routed by), ``taken`` (bool: routed to the challenger), ``share`` (0
        to 1), ``value, label, failed, latency_us, label_at``.
    """
    there = predictions.columns
    nothing = {"id": pl.String, "route": pl.String, "label": pl.Float64, "latency_us": pl.Int64}
    absent = [pl.lit(None, dtype=kind).alias(name) for name, kind in nothing.items() if name not in there]
    if "label_at" not in there:
        absent.append(pl.lit(None, dtype=pl.Datetime("us", "UTC")).alias("label_at"))
    kept = (
        predictions.with_columns(absent)
        .filter(
            (pl.col("share") > 0)
            & (pl.col("share") < 100)
            & (pl.col("arm") != "direct")
            & ((pl.col("arm") != "challenger") | (pl.col("version") == version))
            & (pl.lit(value=True) if since is None else pl.col("at") >= utc(since))
        )
        .with_columns(pl.coalesce("route", "key").alias("unit"))
        .unique("unit", keep="first", maintain_order=True)
    )
    failed = (kept["arm"] == "fallback").to_numpy()
    taken = (kept["arm"] == "challenger").to_numpy().copy()
    if failed.any():
        routers = {share: Router(loop, version, share) for share in kept["share"].unique().to_list()}
        keys, shares = kept["unit"].to_list(), kept["share"].to_list()
        for row in np.flatnonzero(failed).tolist():
            taken[row] = routers[shares[row]].arm(str(keys[row])) == "challenger"
    return kept.select(
        "id",
        pl.col("unit").alias("key"),
        "at",
        pl.Series("taken", taken),
        (pl.col("share").cast(pl.Float64) / 100.0).alias("share"),
        pl.col("value").cast(pl.Float64),
        pl.col("label").cast(pl.Float64),
        pl.Series("failed", failed),
        "latency_us",
        "label_at",
    )


def canary_rows(joined: pl.DataFrame, loop: str, version: int, since: datetime | None = None) -> pl.DataFrame:
    """Return the labelled rows that tell about a canary, in the order in which their labels joined.

    Args:
        joined: As for `routed_rows`, with ``label, label_at``, in order of joining.
        loop: The loop.
        version: The challenger.
        since: When the canary began, or None for all rows.

    Returns:
        The columns of `routed_rows`, with ``joined_at``.
    """
    labelled = joined.filter(pl.col("label").is_not_null())
    return routed_rows(labelled, loop, version, since).with_columns(
        pl.max_horizontal("label_at", "at").alias("joined_at")
    )


def judge_rows(
    rows: pl.DataFrame,
    canary: Canary,
    metric: Metric,
    at: datetime,
    *,
    routed: pl.DataFrame | None = None,
    observed: pl.DataFrame | None = None,
) -> Judged:
    """Return the verdict on a canary's rows, with its course by day.

    The whole evidence is computed from its rows each time (a hundred thousand cost hundredths of a second), so that
    any process at any time gives the same answer, and a crash can lose nothing.

    The labels alone can promote. Guards, which know more rows and know them sooner, can only take back, and with
    ``prove`` hold a promotion.

    Args:
        rows: As `canary_rows` gives them.
        canary: The step, as declared.
        metric: What the loop cares about; see `evidence.outcome`.
        at: Now.
        routed: All rows of the canary, labelled or not, as `routed_rows` gives them: what the guards look at.
        observed: Values of business metrics; see `guards.judge_guards`.
    """
    evidence = CanaryEvidence(
        margin=canary.margin, detect=canary.detect, confidence=canary.confidence, weight=weight_of(canary)
    )
    share: Floats = rows["share"].to_numpy()
    taken = rows["taken"].to_numpy()
    bad = outcome(
        metric,
        rows["label"].to_numpy(),
        rows["value"].fill_null(math.nan).to_numpy(),
        rows["failed"].to_numpy(),
    )
    points: list[EvidencePoint] = []
    for day, start, end in _days(rows):
        evidence.update(taken[start:end], share[start:end], bad[start:end])
        points.append(_point(evidence, day, at, float(share[end - 1])))
    finding = evidence.finding()
    failures = int(np.count_nonzero(rows["failed"].to_numpy() & taken))
    detail = {**finding.detail, "challenger_failures": failures, "share": float(share[-1]) if share.size else None}
    finding = replace(finding, detail=detail)
    if not canary.guards or routed is None:
        return Judged(finding, tuple(points), (), finding)
    guarded = judge_guards(canary, routed, NOTHING_OBSERVED if observed is None else observed, at)
    return _together(finding, tuple(points), guarded)


def _together(finding: Finding, points: tuple[EvidencePoint, ...], guarded: Guarded) -> Judged:
    """Return the verdict of labels and guards: each may take the canary back, and only the labels promote it."""
    decided = finding
    if finding.verdict != "fail" and guarded.breach is not None:
        finding = replace(finding, verdict="fail", detail=finding.detail | {"decided_by": guarded.breach.name})
        decided = replace(guarded.breach, name=f"canary guard {guarded.breach.name}")
    elif finding.verdict == "pass" and not guarded.proven:
        waiting = ", ".join(one.name for one in guarded.findings if one.verdict != "pass")
        finding = decided = replace(finding, verdict="inconclusive", detail=finding.detail | {"waits_for": waiting})
    return Judged(finding, points, guarded.findings, decided)


def _days(rows: pl.DataFrame) -> list[tuple[date, int, int]]:
    """Return the stretches of rows that joined on one UTC day, in order."""
    days = rows["joined_at"].dt.epoch("d").cum_max().to_numpy()
    if not days.size:
        return []
    starts = np.flatnonzero(np.diff(days, prepend=days[0] - 1))
    ends = np.append(starts[1:], days.size)
    first = date(1970, 1, 1)
    return [
        (first + timedelta(days=int(days[start])), int(start), int(end))
        for start, end in zip(starts, ends, strict=True)
    ]


def _point(evidence: CanaryEvidence, day: date, at: datetime, share: float) -> EvidencePoint:
    state, band = evidence.state, evidence.band()
    return EvidencePoint(
        day=day,
        at=utc(at),
        rows=state.rows,
        challenger_rows=state.challenger_rows,
        share=share,
        e_rollback=evidence.e_rollback,
        e_promote=evidence.e_promote,
        threshold=evidence.threshold,
        difference=band.estimate,
        low=-1.0 if band.low is None else band.low,
        high=1.0 if band.high is None else band.high,
        verdict=evidence.verdict(),
    )
