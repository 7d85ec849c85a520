"""The part of a declaration that ``decide`` needs; it is kept with the state of a loop."""

from __future__ import annotations

from typing import Literal

import msgspec


class BatchPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What ``decide`` needs of a batch.

    Args:
        name: Its name among those of the loop.
        every: Seconds between two of its times.
    """

    name: str
    every: float


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a declaration that ``decide`` needs; all durations in seconds.

    Args:
        loop: The loop's name.
        owner: Whom to notify.
        spec: Digest of the declaration that this policy was made from.
        on: Names of the monitors whose alarm starts a retraining.
        every: Longest time between two trainings, or None.
        cooldown: Shortest time between the starts of two trainings.
        budget: CPU seconds of training per UTC day, or None for no limit.
        max_rejections: After this many challengers in a row that did not become champion, the loop pauses.
        max_failures: After this many failed trainings in a row the loop pauses.
        shadow_bake: How long a shadow runs before its first look, or None for no shadow.
        shadow_limit: How long a shadow may run in all before it is inconclusive.
        canary_steps: Traffic shares in per cent, rising; empty for no canary.
        canary_bake: How long each step runs.
        canary_limit: How long the last step may be extended, beyond its bake, while the evidence stays open.
        keep_warm: How long the previous champion stays loaded after a promotion.
        approval: ``owner`` waits for an approval between the gates and the first traffic.
        freeze: Windows in which nothing goes forward; see ``kilter.release.freeze``.
        batches: What the champion scores on a schedule.
    """

    loop: str
    owner: str
    spec: str
    on: tuple[str, ...] = ()
    every: float | None = None
    cooldown: float = 0.0
    budget: float | None = None
    max_rejections: int = 5
    max_failures: int = 3
    shadow_bake: float | None = None
    shadow_limit: float = 0.0
    canary_steps: tuple[int, ...] = ()
    canary_bake: float = 0.0
    canary_limit: float = 0.0
    keep_warm: float = 0.0
    approval: Literal["auto", "owner"] = "auto"
    freeze: tuple[str, ...] = ()
    batches: tuple[BatchPolicy, ...] = ()
