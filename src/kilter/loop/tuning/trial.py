"""A trial from inside: what the objective is given."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from kilter.core.errors import InvalidInput
from kilter.loop.tuning.records import StudySpec, TrialState
from kilter.loop.tuning.study import Claim
from kilter.tracking.records import MetricPoint, spelled

_EVERY: Final = 0.2
"""Points are written together, at most so many seconds apart."""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a trial ended, before it is written down.

    Args:
        state: How.
        values: One per goal.
        reason: Why it failed.
        reports: What it had reported, by step.
        cpu_seconds: What it cost.
        logged: The values stand in the run already.
    """

    state: TrialState
    values: tuple[float, ...] | None = None
    reason: str = ""
    reports: dict[int, float] = {}
    cpu_seconds: float = 0.0
    logged: bool = False


class Trial:
    """One attempt at the parameters.

    Args:
        claim: The trial.
        spec: The study.
        write: Where points go.
        prune: Whether the trial is worth stopping, asked after points were written.
    """

    def __init__(
        self,
        claim: Claim,
        spec: StudySpec,
        write: Callable[[Sequence[MetricPoint]], None],
        prune: Callable[[Trial], bool],
    ) -> None:
        self.number = claim.number
        self.params: dict[str, Any] = claim.params
        self.seed = claim.seed
        self.run = claim.run
        self.reports: dict[int, float] = {}
        self.pruned = False
        self._spec = spec
        self._write = write
        self._prune = prune
        self._points: list[MetricPoint] = []
        self._written = 0.0

    def report(self, step: int, value: float) -> None:
        """Say what the trial has reached; pruners compare trials at the same step.

        Args:
            step: An epoch, a number of trees, a fold: 1, 2, ...
            value: The metric so far.

        Raises:
            InvalidInput: When the study has several metrics, or the step is no step.
        """
        if len(self._spec.goals) > 1:
            raise InvalidInput(
                "a study of several metrics takes no reports", where="report", fix="use trial.metric(...)"
            )
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise InvalidInput(f"step {step!r}", where="report", allowed="0, 1, 2, ...")
        number = float(value)
        if step in self.reports:
            return
        self.reports[step] = number
        self.metric(self._spec.goals[0].metric, number, step)

    def should_prune(self) -> bool:
        """Return whether the trial is worth stopping: return from the objective then, without a value."""
        if self._spec.pruner.kind == "none" or not self.reports:
            return False
        self.pruned = self.pruned or self._prune(self)
        return self.pruned

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """Add a point to any metric of the trial's run."""
        at = datetime.now(UTC)
        self._points.append(MetricPoint(name=name, value=spelled(float(value)), step=step or 0, at=at))
        if time.monotonic() - self._written >= _EVERY:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        points, self._points = self._points, []
        self._written = time.monotonic()
        if points:
            self._write(points)

    def ended(self, result: object) -> Ended:
        """Return how a trial ended whose objective returned something.

        Args:
            result: A number, one per goal in a tuple or a dictionary by metric, or None after ``should_prune`` said yes.
        """
        self.flush()
        if result is None and self.pruned:
            return Ended(state="pruned", reports=self.reports)
        try:
            values = self._values(result)
        except (TypeError, ValueError, KeyError) as error:
            return Ended(state="failed", reason=f"the objective returned {result!r}: {error}", reports=self.reports)
        if any(math.isnan(value) for value in values):
            return Ended(state="failed", reason="the objective returned NaN", reports=self.reports)
        return Ended(state="complete", values=values, reports=self.reports)

    def _values(self, result: Any) -> tuple[float, ...]:
        goals = self._spec.goals
        if isinstance(result, dict):
            return tuple(float(result[goal.metric]) for goal in goals)
        if isinstance(result, list | tuple):
            if len(result) != len(goals):
                raise ValueError(f"{len(goals)} values are wanted")
            return tuple(float(value) for value in result)
        if len(goals) > 1:
            raise TypeError(f"{len(goals)} values are wanted")
        return (float(result),)
