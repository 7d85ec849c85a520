"""The words of a release's evidence."""

from __future__ import annotations

import math
from datetime import date, datetime
from typing import Final, Literal

import msgspec

from kilter.core.evidence import Finding, Verdict

FIRST_STAKE: Final = 0.8
"""The part of the rollback process's stake that bets from the first row; the rest joins later."""


class EvidenceState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the processes of one canary remember: it can be stored, and taken up again by another process.

    Logarithms are natural. All sums are over the outcomes in the order in which their labels were joined.

    Args:
        rows: Outcomes taken in.
        challenger_rows: Of these, the challenger's.
        total: Sum of the outcomes.
        squares: Sum of their squares.
        rollback: Log of the rollback process's stake in play, without its reserve.
        promote: Log of the promotion process now.
        best_rollback: Largest log of the rollback process so far; what Ville's inequality is about.
        best_promote: Largest log of the promotion process so far.
        weight: Sum of the band's bets.
        weighted: Sum of bet times weighted difference.
        spread_low: Sum of the band's penalties for its lower end.
        spread_high: Sum of the band's penalties for its upper end.
        difference: Sum of the inverse-probability-weighted differences.
        ratio: Logs of the four likelihood ratios of the sample-ratio check.
        best_ratio: Largest log of their mean so far.
    """

    rows: int = 0
    challenger_rows: int = 0
    total: float = 0.0
    squares: float = 0.0
    rollback: float = math.log(FIRST_STAKE)
    promote: float = 0.0
    best_rollback: float = 0.0
    best_promote: float = 0.0
    weight: float = 0.0
    weighted: float = 0.0
    spread_low: float = 0.0
    spread_high: float = 0.0
    difference: float = 0.0
    ratio: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    best_ratio: float = 0.0


class EvidencePoint(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence about a release at one moment, for the page.

    Args:
        day: The UTC day that the point stands for.
        at: When it was last computed.
        rows: Outcomes joined so far.
        challenger_rows: Of these, the challenger's.
        share: The challenger's present share, between 0 and 1.
        e_rollback: The rollback process; it rolls back at ``threshold`` and beyond.
        e_promote: The promotion process; it promotes at ``threshold`` and beyond.
        threshold: One over the accepted error.
        difference: Estimated harm of the challenger, in outcome units.
        low: Lower end of the always-valid band of the harm.
        high: Upper end.
        verdict: What the processes say.
    """

    day: date
    at: datetime
    rows: int
    challenger_rows: int
    share: float
    e_rollback: float
    e_promote: float
    threshold: float
    difference: float
    low: float
    high: float
    verdict: Verdict


class ReleaseEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known about one version's release.

    Args:
        loop: The loop.
        version: The challenger.
        margin: How much harm a promotion may at most leave open.
        confidence: One minus the accepted error of each process.
        points: One per day, oldest first.
        canary: The canary's latest finding, or None before the first outcome.
        shadow: The findings of the looks at its shadow, oldest first.
    """

    loop: str
    version: int
    margin: float | None
    confidence: float | None
    points: tuple[EvidencePoint, ...]
    canary: Finding | None
    shadow: tuple[Finding, ...]


class ReleaseSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One release in a list.

    Args:
        loop: The loop.
        version: The challenger.
        started_at: First evidence.
        latest_at: Latest evidence.
        rows: Outcomes of its canary.
        verdict: What its latest evidence says.
        stage: ``shadow`` or ``canary``: where the latest evidence comes from.
    """

    loop: str
    version: int
    started_at: datetime
    latest_at: datetime
    rows: int
    verdict: Verdict
    stage: Literal["shadow", "canary"]
