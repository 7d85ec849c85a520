"""What the search says about studies and trials."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from kilter.core.evidence import Interval
from kilter.loop.tuning.declare import Direction, PrunerName, Sampler
from kilter.loop.tuning.space import Dimension
from kilter.tracking.records import Number, Status

TrialState = Literal["running", "complete", "pruned", "failed", "interrupted"]


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """A metric and which way is better.

    Args:
        metric: Its name in the runs.
        direction: Which way is better.
        target: The study ends when a trial reaches it, if there is one.
    """

    metric: str
    direction: Direction = "minimize"
    target: float | None = None

    @property
    def sign(self) -> float:
        """1 when less is better, else -1."""
        return 1.0 if self.direction == "minimize" else -1.0


class PrunerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """When a trial is not worth finishing; see ``Pruner``."""

    kind: PrunerName = "none"
    first: int = 1
    last: int | None = None
    factor: int = 3


class StudySpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a study searches, and how. It never changes: another search is another study.

    Args:
        name: The study's name.
        kind: What a trial runs: a Python function, a loop's training, or a command.
        space: The dimensions.
        goals: What is to be improved, the first one first.
        sampler: How the next trial is chosen.
        pruner: When a trial is stopped early.
        seed: Of the search: trial ``n`` draws from a generator of this seed and ``n``.
        first: Values that are tried first.
        detail: What else a trial needs to know.
    """

    name: str
    kind: Literal["python", "loop", "command"]
    space: tuple[Dimension, ...]
    goals: tuple[Goal, ...]
    sampler: Sampler = "tpe"
    pruner: PrunerSpec = PrunerSpec()
    seed: int = 0
    first: tuple[dict[str, Any], ...] = ()
    detail: dict[str, Any] = {}


class TrialRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A trial, as its run says it.

    Args:
        number: Which of the study's trials it is, from 0.
        attempt: 0, or 1 when the process of the first attempt was killed.
        run: Its run.
        state: How it stands.
        params: What was tried.
        values: What came of it, one per goal; None before its end.
        reason: Why it failed or was interrupted.
        started_at: When it began.
        ended_at: When it ended.
        cpu_seconds: What it cost.
        steps: The newest step that it reported, or None.
    """

    number: int
    attempt: int
    run: str
    state: TrialState
    params: dict[str, Any]
    values: tuple[Number, ...] | None = None
    reason: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    cpu_seconds: float = 0.0
    steps: int | None = None


class Axis(msgspec.Struct, frozen=True, kw_only=True):
    """One upright line of parallel coordinates.

    Args:
        name: The parameter or the metric.
        kind: ``number`` or ``choice``.
        low: The least value.
        high: The greatest value.
        log: It is drawn over orders of magnitude.
        choices: The values of a choice, from the bottom up.
    """

    name: str
    kind: Literal["number", "choice"]
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A trial in parallel coordinates: a value on each axis, in their order."""

    number: int
    run: str
    state: TrialState
    at: tuple[Any, ...]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The best trial against the declared values, on the same validation rows.

    Args:
        metric: The metric.
        declared: What the declared values gave.
        best: What the best trial gave.
        difference: Best less declared, with its interval over days where the metric has one.
    """

    metric: str
    declared: float
    best: float
    difference: Interval | None


class StudySummary(msgspec.Struct, frozen=True, kw_only=True):
    """A study in a list."""

    name: str
    run: str
    experiment: str
    kind: str
    status: Status
    started_at: datetime


class StudyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a study found.

    Args:
        name: The study.
        run: Its run.
        experiment: Where its runs are.
        status: How its run stands.
        spec: What is searched, and how.
        trials: Each trial once, by number.
        best: The number of the best trial; None before any is complete, and with several goals.
        front: The trials that no other is better than in every goal.
        best_values: The values of the best trial's parameters.
        best_result: What it gave.
        comparison: Against the declared values, for a loop.
        importance: How much each parameter decides about being among the best, adding up to 1 (PED-ANOVA); empty before
            there are enough trials.
        note: Why something is not there.
        axes: The axes of parallel coordinates: the parameters, then the goals.
        lines: The finished trials on them.
        cpu_seconds: What all trials cost.
    """

    name: str
    run: str
    experiment: str
    status: Status
    spec: StudySpec
    trials: tuple[TrialRecord, ...]
    best: int | None
    front: tuple[int, ...]
    best_values: dict[str, Any]
    best_result: tuple[Number, ...]
    comparison: Comparison | None
    importance: dict[str, float]
    note: str
    axes: tuple[Axis, ...]
    lines: tuple[Line, ...]
    cpu_seconds: float

    def count(self, state: TrialState) -> int:
        """Return how many trials stand so."""
        return sum(one.state == state for one in self.trials)
