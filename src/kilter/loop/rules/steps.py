"""What a declaration says about proving a release: its shadow, its canary, the metric to win by."""

from __future__ import annotations

from kilter.evaluation.declare import BeatsChampion, Metric, log_loss
from kilter.loop.declare import AnyLoop
from kilter.release.declare import Canary, Shadow


def shadow_of(loop: AnyLoop) -> Shadow:
    """Return a loop's shadow step, or the default one: a release may have been started under another declaration."""
    return next((step for step in loop.release if isinstance(step, Shadow)), Shadow())


def canary_of(loop: AnyLoop) -> Canary:
    """Return a loop's canary step, or the default one."""
    return next((step for step in loop.release if isinstance(step, Canary)), Canary())


def primary_metric(loop: AnyLoop) -> Metric:
    """Return the metric that a challenger has to win by: the first ``beats_champion``'s."""
    return next((gate.metric for gate in loop.gates if isinstance(gate, BeatsChampion)), log_loss)
