"""What types can't say about an experiment."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from kilter.core.durations import parse_duration
from kilter.core.errors import InvalidInput
from kilter.release.declare import METRIC_NAME
from kilter.release.records import ExperimentPlan

_NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,99}$")
_NAMED = "lower-case letters, digits, '_' and '-', up to 100"
_MOST_ARMS = 20


def check_experiment(plan: ExperimentPlan, loops: Sequence[str]) -> None:
    """Refuse an experiment that can't work.

    Args:
        plan: The experiment.
        loops: The loops that are applied: only they have labels.

    Raises:
        InvalidInput: It names the field, and what is allowed.
    """
    _require(bool(_NAME.match(plan.name)), "name", "this is no name", _NAMED)
    _check_arms(plan)
    _require(
        bool(METRIC_NAME.match(plan.metric)), "metric", "this is no metric", "loss, errors, or an observed one's name"
    )
    _require(
        plan.metric != "loss" or plan.loop in loops, "metric", "only a loop has labels", "an observed metric, or errors"
    )
    spread = plan.high - plan.low
    _require(math.isfinite(spread) and spread > 0.0, "high", "these are no bounds", "finite bounds, high above low")
    _require(0.5 < plan.confidence < 1.0, "confidence", f"{plan.confidence!r}", "above 0.5 and below 1")
    for field in ("within", "pre", "every"):
        given = getattr(plan, field)
        if given:
            parse_duration(given, where=field)
    both = (plan.within is None) == (plan.missing is None)
    _require(both, "missing", "only one of within and missing is given", "both, or none of them")
    if plan.missing is not None:
        _require(plan.low <= plan.missing <= plan.high, "missing", f"{plan.missing!r}", "between low and high")
    observed = plan.metric not in {"loss", "errors"}
    _require(observed or plan.within is None, "within", f"{plan.metric} has none", "observed metrics alone have it")
    _require(observed or not plan.pre, "pre", f"{plan.metric} has no pre-period", "observed metrics alone have one")
    _require(
        0.0 < plan.floor <= 1.0 / len(plan.arms), "floor", f"{plan.floor!r}", "above 0, up to 1 / the number of arms"
    )


def _check_arms(plan: ExperimentPlan) -> None:
    _require(2 <= len(plan.arms) <= _MOST_ARMS, "arms", f"there are {len(plan.arms)} arms", f"2 to {_MOST_ARMS}")
    for field in ("name", "version"):
        given = [getattr(arm, field) for arm in plan.arms]
        _require(len(set(given)) == len(given), f"arms.{field}", "two arms have the same", "each its own")
    for place, arm in enumerate(plan.arms):
        _require(bool(_NAME.match(arm.name)), f"arms[{place}].name", "this is no name", _NAMED)
        _require(arm.version >= 1, f"arms[{place}].version", "there is no such version", "1 or more")
        good = math.isfinite(arm.share) and arm.share > 0.0
        _require(good, f"arms[{place}].share", f"{arm.share!r}", "above 0; shares are taken in proportion")
    least = min(arm.share for arm in plan.arms) / sum(arm.share for arm in plan.arms)
    _require(least >= 0.001, "arms.share", "an arm gets less than 0.1 % of the traffic", "0.001 or more of the whole")


def _require(holds: bool, where: str, message: str, allowed: str) -> None:
    if not holds:
        raise InvalidInput(message, where=where, allowed=allowed)
