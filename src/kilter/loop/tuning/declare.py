"""Search spaces and the search of a loop, as a user declares them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from kilter.evaluation.declare import Metric

Sampler = Literal["tpe", "cma-es", "random", "grid"]
PrunerName = Literal["none", "asha", "hyperband", "median"]
Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds, both included: whole ones when both bounds (or the field) are whole.

    Args:
        low: The least.
        high: The greatest.
        log: Search evenly over orders of magnitude.
        step: Only ``low``, ``low + step``, ``low + 2 step``, ...
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None


@dataclass(frozen=True, init=False)
class Choice:
    """One of several values: texts, numbers, booleans or None.

    Args:
        values: The values.
    """

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        object.__setattr__(self, "values", values)


@dataclass(frozen=True)
class Normal:
    """A number that is most likely near a mean.

    Args:
        mean: The mean; of the logarithm with ``log``.
        deviation: The standard deviation; of the logarithm with ``log``.
        log: The number's logarithm is what is normally distributed.
        step: Round to multiples of it.
    """

    mean: float = 0.0
    deviation: float = 1.0
    log: bool = False
    step: float | None = None


Values: TypeAlias = Range | Choice | Normal
"""What a parameter may be."""


@dataclass(frozen=True)
class Pruner:
    """When a trial is not worth finishing.

    Args:
        kind: ``asha`` keeps the best ``1 / factor`` at each rung, ``hyperband`` runs several of those with other first rungs,
            ``median`` stops what is worse than the median at the same step.
        first: The first step at which anything is stopped: the first rung.
        last: The last step of a full trial; only ``hyperband`` needs it.
        factor: How many trials compete for one place in the next rung.
    """

    kind: PrunerName = "none"
    first: int = 1
    last: int | None = None
    factor: int = 3


@dataclass(frozen=True)
class Tune:
    """How the parameters of a loop are searched for, by ``kilter tune FILE``; it changes nothing about the loop itself.

    Args:
        space: What each parameter may be. Fields of the parameters' class can say it themselves, as
            ``trees: Annotated[int, Range(20, 400, log=True)] = 80``; what stands here goes before.
        metric: What is to be improved on the validation rows; several for a front of compromises.
        trials: How many are tried in all.
        folds: How many stretches of validation rows, each as long as the holdout, one before the other.
        sampler: How the next trial is chosen.
        pruner: When a trial is not worth finishing: a name, or a ``Pruner``. A fold is a step.
        seed: Of the search; the trainings keep the loop's.
    """

    space: Mapping[str, Values] | None = None
    metric: Metric | tuple[Metric, ...] | None = None
    trials: int = 50
    folds: int = 3
    sampler: Sampler = "tpe"
    pruner: PrunerName | Pruner = "none"
    seed: int = 0
