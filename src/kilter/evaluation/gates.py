"""Judging a challenger: each gate becomes a finding, and the findings become one decision.

Gates come in two roles, and a finding says in ``detail["role"]`` which it has:

- **primary** (`beats_champion`, `beats_naive`): the reason for a release. It must be *proven*: only ``pass`` lets a
  challenger through; ``inconclusive`` holds it back, because without proof there is no reason to change anything.
- **guard** (`at_least`, `fair`, `faster_than`): a harm to be ruled out. It blocks when it *fails*. ``inconclusive``
  does not block, because a week of rows often cannot prove a bound that the estimate meets, and a model would
  never get started; the finding then says in ``detail["note"]`` what could not be excluded. A guard is never waved
  through without data: what cannot be computed (no such column, no rows, one class, NaN) is a ``fail`` with its reason.

All comparisons resample whole blocks; see `core.statistics`. Every one-sided statement holds with the gate's
``confidence``; the printed interval has both one-sided ends, so its two-sided level is ``2 * confidence - 1``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, assert_never

import msgspec
import numpy as np

from kilter.core import statistics
from kilter.core.errors import InvalidInput, KilterError
from kilter.core.evidence import Finding, Verdict
from kilter.core.statistics import Floats
from kilter.evaluation import metrics
from kilter.evaluation.context import GateContext
from kilter.evaluation.declare import AtLeast, BeatsChampion, BeatsNaive, FasterThan, Gate, Metric
from kilter.evaluation.declare import Fair as FairGate
from kilter.evaluation.fairness import judge_fair
from kilter.evaluation.latency import judge_speed

Role = Literal["primary", "guard"]

_PAIRED: Final = (
    "paired difference on the same rows, whole blocks resampled: Student on the cluster jackknife below 8 blocks, expanded BCa "
    "bootstrap from 8 (MacKinnon, Nielsen & Webb 2023; Efron 1987; Hesterberg 2015)"
)
_BOUND: Final = (
    "metric on the holdout, whole blocks resampled: Student on the cluster jackknife below 8 blocks, expanded BCa bootstrap from "
    "8; fails when the estimate misses the bound, is inconclusive when only the interval does"
)


def name_of(gate: Gate) -> str:
    """Return the gate as its findings are named: ``beats_champion(log_loss)``, ``fair(carrier, recall)``."""
    match gate:
        case BeatsChampion():
            return f"beats_champion({gate.metric.name})"
        case BeatsNaive():
            return f"beats_naive({gate.metric.name})"
        case AtLeast():
            return f"at_least({gate.metric.name})"
        case FairGate():
            return f"fair({gate.by}, {gate.metric.name})"
        case FasterThan():
            return f"faster_than({gate.p99})"
        case _:
            assert_never(gate)


def role_of(gate: Gate) -> Role:
    """Return whether the gate must be proven (``primary``) or must not fail (``guard``)."""
    return "primary" if isinstance(gate, BeatsChampion | BeatsNaive) else "guard"


def judge(gates: Sequence[Gate], context: GateContext) -> tuple[Finding, ...]:
    """Judge every gate, in order; a gate that cannot be computed fails with its reason.

    Args:
        gates: What to judge.
        context: The holdout rows, both models' predictions on them, and timings.

    Returns:
        One finding per gate, in the same order.
    """
    return tuple(_closed(gate, context) for gate in gates)


def decide_gates(findings: Sequence[Finding], gates: Sequence[Gate]) -> Verdict:
    """Return the decision over all gates.

    ``fail`` if any gate failed; else ``inconclusive`` if a primary gate is not proven; else ``pass``. Guards that are
    inconclusive do not hold a challenger back (see the module's docstring). No gate at all fails closed.

    Raises:
        InvalidInput: When findings and gates do not belong together.
    """
    if len(findings) != len(gates):
        raise InvalidInput(
            f"{len(findings)} findings for {len(gates)} gates", where="decide_gates", allowed="one finding per gate"
        )
    if not gates or any(finding.verdict == "fail" for finding in findings):
        return "fail"
    proven = all(
        finding.verdict == "pass" for finding, gate in zip(findings, gates, strict=True) if role_of(gate) == "primary"
    )
    return "pass" if proven else "inconclusive"


def _closed(gate: Gate, context: GateContext) -> Finding:
    try:
        found = _judge_one(gate, context)
    except KilterError as error:
        found = _refused(gate, context, str(error))
    except (ValueError, TypeError, ArithmeticError, IndexError, np.linalg.LinAlgError) as error:
        # A model that answers something odd must not get through because a gate stumbled over it.
        found = _refused(gate, context, f"{type(error).__name__}: {error}")
    detail = {"role": role_of(gate), **found.detail}
    if found.verdict == "inconclusive":
        detail["note"] = _note(gate, found)
    return msgspec.structs.replace(found, detail=detail)


def _judge_one(gate: Gate, context: GateContext) -> Finding:
    match gate:
        case BeatsChampion():
            return _beats_champion(gate, context)
        case BeatsNaive():
            return _beats_naive(gate, context)
        case AtLeast():
            return _at_least(gate, context)
        case FairGate():
            return judge_fair(gate, context, name_of(gate))
        case FasterThan():
            return judge_speed(gate, context.timings, name_of(gate))
        case _:
            assert_never(gate)


def _beats_champion(gate: BeatsChampion, context: GateContext) -> Finding:
    """Judge challenger against champion on the same rows.

    With harm = how much worse the challenger is (for losses challenger - champion, for scores the reverse):
    ``pass`` if harm's upper bound is below ``margin``; ``fail`` if harm's lower bound is above it; else
    ``inconclusive``. ``margin`` is how much worse is still accepted: 0 demands superiority, a negative margin an
    improvement of at least that much. Without a champion the gate does not apply and passes, saying so.
    """
    if context.p_champion is None:
        return Finding(
            name=name_of(gate),
            verdict="pass",
            value=None,
            allowed=_better(gate.metric, gate.margin),
            rows=context.rows,
            rule="not applicable: there is no champion yet",
            detail={"reason": "no champion yet"},
        )
    return _compared(gate, context, np.asarray(context.p_champion), margin=gate.margin, against="champion")


def _beats_naive(gate: BeatsNaive, context: GateContext) -> Finding:
    """Judge challenger against the base rate of its training rows as constant answer: ``pass`` only if surely better."""
    if not 0.0 <= context.base_rate <= 1.0:
        raise InvalidInput(f"{context.base_rate!r} is no base rate", where="base_rate", allowed="a share from 0 to 1")
    constant = np.full(context.rows, context.base_rate)
    return _compared(gate, context, constant, margin=0.0, against="naive")


def _compared(
    gate: BeatsChampion | BeatsNaive, context: GateContext, other: Floats, *, margin: float, against: str
) -> Finding:
    metric = gate.metric
    y, challenger = metrics.checked(context.y, context.p_challenger)
    _, other = metrics.checked(context.y, other)
    codes = context.codes(gate.resample)
    losses, others = metrics.row_losses(metric, y, challenger), metrics.row_losses(metric, y, other)
    sign = -1.0 if metric.greater_is_better else 1.0
    difference: statistics.Statistic
    if losses is not None and others is not None:
        # Losses of rows pair exactly; accuracy's "loss" is an error, hence the sign.
        loss_sign = sign if metric.name == "accuracy" else 1.0
        difference = statistics.mean(loss_sign * (losses - others), codes)
    else:
        difference = statistics.Difference(
            metrics.statistic(metric, y, challenger, codes), metrics.statistic(metric, y, other, codes)
        )
    value = statistics.interval(difference, level=_two_sided(gate.confidence), seed=context.seed)
    worse = (value.low, value.high) if sign > 0 else (_minus(value.high), _minus(value.low))
    verdict: Verdict = "inconclusive"
    if worse[1] is not None and worse[1] < margin:
        verdict = "pass"
    elif worse[0] is not None and worse[0] > margin:
        verdict = "fail"
    return Finding(
        name=name_of(gate),
        verdict=verdict,
        value=value,
        allowed=_better(metric, margin),
        rows=y.size,
        rule=_PAIRED,
        detail={
            "challenger": metrics.value(metric, y, challenger),
            against: metrics.value(metric, y, other),
            "blocks": difference.blocks,
            "resample": gate.resample,
            "confidence": gate.confidence,
            "margin": margin,
            "detectable": None if value.low is None or value.high is None else (value.high - value.low) / 2.0,
        },
    )


def _at_least(gate: AtLeast, context: GateContext) -> Finding:
    """Judge a metric against a bound.

    ``fail``: the estimate misses the bound; an owner who wrote 0.65 does not want 0.64. ``pass``: the estimate reaches
    it and so does its one-sided bound, so the promise holds beyond this week's rows. ``inconclusive``: the estimate
    reaches it and the bound does not; as a guard this lets a challenger through, and the finding says with what doubt.
    """
    y, p = metrics.checked(context.y, context.p_challenger)
    codes = context.codes(gate.resample)
    one = metrics.statistic(gate.metric, y, p, codes)
    value = statistics.interval(
        one, level=_two_sided(gate.confidence), seed=context.seed, bounds=metrics.bounds(gate.metric)
    )
    if gate.metric.greater_is_better:
        reached, safe = value.estimate >= gate.bound, value.low is not None and value.low >= gate.bound
    else:
        reached, safe = value.estimate <= gate.bound, value.high is not None and value.high <= gate.bound
    return Finding(
        name=name_of(gate),
        verdict="pass" if safe and reached else "inconclusive" if reached else "fail",
        value=value,
        allowed=f"{'>=' if gate.metric.greater_is_better else '<='} {gate.bound:g}",
        rows=y.size,
        rule=_BOUND,
        detail={"blocks": one.blocks, "resample": gate.resample, "confidence": gate.confidence},
    )


def _refused(gate: Gate, context: GateContext, reason: str) -> Finding:
    return Finding(
        name=name_of(gate),
        verdict="fail",
        value=None,
        allowed=_allowed(gate),
        rows=context.rows,
        rule="a gate that cannot be computed fails",
        detail={"reason": reason},
    )


def _allowed(gate: Gate) -> str:
    match gate:
        case BeatsChampion():
            return _better(gate.metric, gate.margin)
        case BeatsNaive():
            return _better(gate.metric, 0.0)
        case AtLeast():
            return f"{'>=' if gate.metric.greater_is_better else '<='} {gate.bound:g}"
        case FairGate():
            return f"<= {gate.max_gap:g}"
        case FasterThan():
            return f"<= {gate.p99}"
        case _:
            assert_never(gate)


def _better(metric: Metric, margin: float) -> str:
    return f"> {-margin + 0.0:g}" if metric.greater_is_better else f"< {margin:g}"


def _note(gate: Gate, found: Finding) -> str:
    if role_of(gate) == "primary":
        return "not proven: the interval holds both sides of the bound, so this gate holds the challenger back"
    if found.value is None:
        return "not proven"
    against = found.value.low if isinstance(gate, AtLeast) and gate.metric.greater_is_better else found.value.high
    doubt = "anything" if against is None or not math.isfinite(against) else f"{against:.4g}"
    return f"lets the challenger through without proof: {doubt} cannot be excluded"


def _two_sided(confidence: float) -> float:
    if not 0.5 < confidence < 1.0:
        raise InvalidInput(f"{confidence!r} is no confidence", where="confidence", allowed="above 0.5 and below 1")
    return 2.0 * confidence - 1.0


def _minus(end: float | None) -> float | None:
    return None if end is None else -end


__all__ = ["GateContext", "Role", "decide_gates", "judge", "name_of", "role_of"]
