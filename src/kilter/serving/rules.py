"""What a plan may say, and who may answer in whose place: pure."""

from __future__ import annotations

import re

from kilter.core.errors import InvalidInput
from kilter.serving.records import TrafficPlan

_NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,127}$")


def check_plan(plan: TrafficPlan) -> None:
    """Refuse a plan that contradicts itself: a plan that can't be honoured is an error, never ignored.

    Raises:
        InvalidInput: It says what is wrong.
    """
    if not _NAME.match(plan.loop):
        raise InvalidInput(
            f"{plan.loop!r} is no name for an endpoint", where="plan.loop", allowed="lower-case words and -"
        )
    if plan.champion is None and plan.fallback is None:
        raise InvalidInput("nobody would answer", where="plan", allowed="a champion, a fallback, or both")
    if (plan.mode in {"solo", "split"}) != (plan.challenger is None):
        raise InvalidInput(
            f"mode {plan.mode} with challenger {plan.challenger}",
            where="plan.mode",
            allowed="solo or split without a challenger; shadow or canary with one",
        )
    _check_split(plan)
    if plan.challenger is not None and (plan.champion is None or plan.challenger == plan.champion):
        raise InvalidInput("the challenger has no other champion beside it", where="plan.challenger")
    if plan.mode == "canary" and not 0 < plan.share < 100:
        raise InvalidInput(f"a canary with {plan.share} %", where="plan.share", allowed="1 to 99")
    if plan.mode != "canary" and plan.share != 0:
        raise InvalidInput(f"{plan.share} % in mode {plan.mode}", where="plan.share", allowed="0")
    missing = [version for version in plan.versions() if version not in plan.bundles]
    if missing:
        raise InvalidInput(f"version {missing[0]} has no bundle", where="plan.bundles")
    if plan.rehearsed is not None and plan.rehearsed not in plan.versions():
        raise InvalidInput("a version is rehearsed that is not loaded", where="plan.rehearsed")
    if min(plan.versions(), default=1) < 1:
        raise InvalidInput("versions count from 1", where="plan")


def _check_split(plan: TrafficPlan) -> None:
    if (plan.mode == "split") != bool(plan.split) or bool(plan.split) != bool(plan.experiment):
        raise InvalidInput(
            f"mode {plan.mode} with {len(plan.split)} arms",
            where="plan.split",
            allowed="arms and a name in mode split alone",
        )
    if plan.split and (len(plan.split) < 2 or plan.champion not in plan.split):
        raise InvalidInput(
            "the arms can't be compared", where="plan.split", allowed="two or more, the champion among them"
        )
    if plan.split and (min(plan.split.values()) <= 0.0 or abs(sum(plan.split.values()) - 1.0) > 1e-9):
        raise InvalidInput("the shares are no shares", where="plan.split", allowed="each above 0, together 1")


def ladder(plan: TrafficPlan, version: int | None) -> tuple[int, ...]:
    """Return who may answer for a row that was routed to ``version``, best first: it, the champion, the warm ones."""
    return tuple(dict.fromkeys(one for one in (version, plan.champion, *plan.warm) if one is not None))


def at_rest(plan: TrafficPlan) -> bool:
    """Say whether no release is under way and none may have to be taken back: only then may its model be put to sleep."""
    return plan.mode == "solo" and not plan.warm
