"""The words of a release's evidence."""

from __future__ import annotations

import math
from datetime import date, datetime
from typing import Final, Literal

import msgspec

from kilter.core.evidence import Finding, Interval, Verdict

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
        guards: The latest findings of the canary's guards.
    """

    loop: str
    version: int
    margin: float | None
    confidence: float | None
    points: tuple[EvidencePoint, ...]
    canary: Finding | None
    shadow: tuple[Finding, ...]
    guards: tuple[Finding, ...] = ()


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """A value of a business metric.

    Args:
        id: Its number; numbers rise in the order of arrival.
        loop: The loop.
        name: The metric.
        prediction: The id of the prediction that it belongs to, or empty.
        key: The row's key, when no prediction is named.
        value: The value.
        at: When it came.
    """

    id: int
    loop: str
    name: str
    prediction: str
    key: str
    value: float
    at: datetime


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


# ---------------------------------------------------------------- experiments

Allocation = Literal["fixed", "thompson"]
Answer = Literal["better", "worse", "inconclusive"]


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One arm of an experiment.

    Args:
        name: What it is called.
        version: Which version answers in it.
        share: Its part of the traffic, above 0; parts need not sum to 1, they are taken in proportion.
    """

    name: str
    version: int
    share: float = 1.0


class ExperimentPlan(msgspec.Struct, frozen=True, kw_only=True):
    """An experiment as it was started.

    Args:
        loop: The endpoint.
        name: Its name.
        arms: The arms; the first is the control, which answers without the experiment.
        metric: ``loss`` (of the loop's labels), ``errors``, or the name of a business metric that is observed.
        low: The least value of the metric; smaller ones are cut.
        high: The greatest value.
        greater_is_better: Which way is up.
        within: How long after its prediction a value may come; see ``Business``.
        missing: What a row without a value counts as; needs ``within``.
        confidence: One minus the chance that any comparison says better or worse where there is no difference, over all
            arms and looks together.
        pre: The period before the experiment whose values of the same metric, per key, take out what was known of a key
            already (CUPED); empty for none.
        allocation: ``fixed`` shares, or ``thompson``: shares follow the chance of being best.
        every: How often the shares of ``thompson`` are drawn anew.
        floor: The least share of an arm under ``thompson``.
    """

    loop: str
    name: str
    arms: tuple[Arm, ...]
    metric: str
    low: float = 0.0
    high: float = 1.0
    greater_is_better: bool = True
    within: str | None = None
    missing: float | None = None
    confidence: float = 0.95
    pre: str = ""
    allocation: Allocation = "fixed"
    every: str = "1h"
    floor: float = 0.05


class ArmResult(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one arm.

    Args:
        name: The arm.
        version: Its version.
        share: Its part of the traffic now.
        units: Keys that were dealt to it.
        outcomes: Of these, those whose outcome counts.
        value: The mean of the metric with its always-valid interval; None before the first outcome.
    """

    name: str
    version: int
    share: float
    units: int
    outcomes: int
    value: Interval | None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One arm against the control.

    Args:
        arm: The arm.
        against: The control.
        verdict: ``better``, ``worse`` or ``inconclusive``.
        effect: The difference of the metric, arm less control, with its always-valid interval; None before the first
            outcomes.
        p_value: Always valid, two-sided, corrected for the number of arms.
        units: Outcomes that it rests on.
        variance_left: The part of the variance that is left when the pre-period is taken out; 1 without one.
        rule: The method and its sources.
    """

    arm: str
    against: str
    verdict: Answer
    effect: Interval | None
    p_value: float
    units: int
    variance_left: float
    rule: str


class SampleRatio(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the arms got their shares.

    Args:
        dealt: The largest e-value against the logged shares, over the keys that were dealt.
        counted: The same over the keys whose outcome counts.
        mismatched: Whether one of them passed 1,000: rows or outcomes are lost, and nothing else can be trusted.
    """

    dealt: float
    counted: float
    mismatched: bool


Phase = Literal["running", "stopped", "interrupted"]


class ExperimentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where an experiment stands.

    Args:
        plan: As it was started.
        phase: ``running``, ``stopped``, or ``interrupted`` when the endpoint serves another plan meanwhile.
        started_at: When it began.
        stopped_at: When it was stopped, or None.
        arms: What is known of each arm.
        comparisons: Each arm against the control.
        sample_ratio: Whether the arms got their shares.
    """

    plan: ExperimentPlan
    phase: Phase
    started_at: datetime
    stopped_at: datetime | None
    arms: tuple[ArmResult, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    sample_ratio: SampleRatio | None = None
