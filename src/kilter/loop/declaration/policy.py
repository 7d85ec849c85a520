"""From a declaration, and what its environment adds, to the policy that ``decide`` follows."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kilter.loop.declaration.spec import LoopSpec, PolicySpec, parse_budget, seconds_of
from kilter.loop.declare import Environment
from kilter.loop.policy import BatchPolicy, Policy

KEEP_WARM = 2 * 86400.0
"""How long the previous champion stays loaded after a promotion when no canary says how long a bake is; seconds."""


def policy_of(
    spec: LoopSpec,
    environment: Environment = "dev",
    *,
    approve: str | None = None,
    budget: str | None = None,
    freeze: Sequence[str] = (),
) -> Policy:
    """Return the part of a declaration that ``decide`` needs.

    Args:
        spec: The declaration.
        environment: Where it runs: chooses the rule of approval.
        approve: The environment's own rule, when ``kilter.toml`` gives one; the stricter of the two holds.
        budget: The environment's own budget, when ``kilter.toml`` gives one; the smaller of the two holds.
        freeze: The environment's own freeze windows; they hold beside the declaration's.
    """
    shadow = next((step.values for step in spec.release if step.kind == "Shadow"), None)
    canary = next((step.values for step in spec.release if step.kind == "Canary"), None)
    budgets = [parse_budget(text) for text in (spec.retrain.budget, budget) if text is not None]
    rules = {spec.approve.get(environment, "auto"), approve or "auto"}
    bake = seconds_of(canary["bake"]) if canary else 0.0
    declared = [window for step in spec.release if step.kind == "Freeze" for window in step.values["windows"]]
    return Policy(
        loop=spec.name,
        owner=spec.owner,
        spec=spec.digest,
        on=spec.retrain.on,
        every=None if spec.retrain.every is None else seconds_of(spec.retrain.every),
        cooldown=seconds_of(spec.retrain.cooldown),
        budget=min(budgets, default=None),
        max_rejections=spec.retrain.max_rejections,
        shadow_bake=seconds_of(shadow["bake"]) if shadow else None,
        shadow_limit=seconds_of(shadow["limit"]) if shadow else 0.0,
        canary_steps=tuple(canary["steps"]) if canary else (),
        canary_bake=bake,
        canary_limit=seconds_of(canary["limit"]) if canary else 0.0,
        keep_warm=bake or KEEP_WARM,
        approval="owner" if "owner" in rules else "auto",
        freeze=tuple(dict.fromkeys([*declared, *freeze])),
        batches=tuple(
            BatchPolicy(name=one.values["name"], every=seconds_of(one.values["every"])) for one in batches_of(spec)
        ),
    )


def batches_of(spec: LoopSpec) -> tuple[PolicySpec, ...]:
    """Return the batches of a declaration."""
    return () if spec.batch is msgspec.UNSET else spec.batch
