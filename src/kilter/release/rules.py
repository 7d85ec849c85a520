"""From joined predictions to a canary's evidence: pure."""

from __future__ import annotations

import math
from datetime import date, datetime, timedelta
from typing import NamedTuple

import msgspec
import numpy as np
import polars as pl

from kilter.core.clock import utc
from kilter.core.evidence import Finding
from kilter.core.statistics import Floats
from kilter.evaluation.declare import Metric
from kilter.release.declare import Canary
from kilter.release.evidence import CanaryEvidence, outcome
from kilter.release.records import EvidencePoint
from kilter.serving.router import Router


class Judged(NamedTuple):
    """A canary's finding with its course, one point per day."""

    finding: Finding
    points: tuple[EvidencePoint, ...]


def canary_rows(joined: pl.DataFrame, loop: str, version: int, since: datetime | None = None) -> pl.DataFrame:
    """Return the rows that tell about a canary, in the order in which their labels joined.

    - Only rows that could have gone either way: 0 < share < 100, predicted since the canary began, answered by the
      challenger itself or by another version while it was out.
    - Only the first row of each key: the routing is sticky, so a key's second answer is no second draw.
    - Where a fallback answered, the arm that was *meant* to is found by routing the key again: a challenger that
      fails is charged for it, not forgiven.

    Args:
        joined: ``key, at, version, arm, share, value, label, label_at`` in order of joining; share in per cent.
        loop: The loop.
        version: The challenger.
        since: When the canary began, or None for all rows.

    Returns:
        ``taken`` (bool: routed to the challenger), ``share`` (0 to 1), ``value``, ``label``, ``failed``, ``joined_at``.
    """
    kept = joined.filter(
        pl.col("label").is_not_null()
        & (pl.col("share") > 0)
        & (pl.col("share") < 100)
        & ((pl.col("arm") != "challenger") | (pl.col("version") == version))
        & (pl.lit(value=True) if since is None else pl.col("at") >= utc(since))
    ).unique("key", keep="first", maintain_order=True)
    failed = (kept["arm"] == "fallback").to_numpy()
    taken = (kept["arm"] == "challenger").to_numpy().copy()
    if failed.any():
        routers = {share: Router(loop, version, share) for share in kept["share"].unique().to_list()}
        keys, shares = kept["key"].to_list(), kept["share"].to_list()
        for row in np.flatnonzero(failed).tolist():
            taken[row] = routers[shares[row]].arm(str(keys[row])) == "challenger"
    return pl.DataFrame(
        {
            "taken": taken,
            "share": kept["share"].cast(pl.Float64) / 100.0,
            "value": kept["value"].cast(pl.Float64),
            "label": kept["label"].cast(pl.Float64),
            "failed": failed,
            "joined_at": kept.select(pl.max_horizontal("label_at", "at").alias("joined_at"))["joined_at"],
        }
    )


def judge_rows(rows: pl.DataFrame, canary: Canary, metric: Metric, at: datetime) -> Judged:
    """Return the verdict on a canary's rows, with its course by day.

    The whole evidence is computed from its rows each time (a hundred thousand cost hundredths of a second), so that
    any process at any time gives the same answer, and a crash can lose nothing.

    Args:
        rows: As `canary_rows` gives them.
        canary: The step, as declared.
        metric: What the loop cares about; see `evidence.outcome`.
        at: Now.
    """
    evidence = CanaryEvidence(margin=canary.margin, detect=canary.detect, confidence=canary.confidence)
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
    return Judged(msgspec.structs.replace(finding, detail=detail), tuple(points))


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
