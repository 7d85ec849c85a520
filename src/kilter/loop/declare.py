"""A model's whole life as one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias

from kilter.data.declare import Columns, Label, Window
from kilter.evaluation.declare import Gate, beats_champion, beats_naive, log_loss
from kilter.features.declare import FeatureView
from kilter.monitoring.declare import Monitor, calibration, decay, drift
from kilter.release.declare import Canary, Freeze, Shadow, Step

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from kilter.data.dataset import Dataset

    P = TypeVar("P", default=None)  # a loop whose ``train`` takes data alone is a ``Loop[None]`` without an annotation
else:
    from typing import TypeVar

    P = TypeVar("P")

Environment = Literal["dev", "staging", "prod"]
ApprovalRule = Literal["auto", "owner"]


@dataclass(frozen=True)
class Retrain:
    """When a challenger is trained.

    Args:
        on: Monitors whose alarm starts a training; each must be among the loop's monitors.
        every: The longest time between two trainings, or None.
        cooldown: The shortest time between two trainings.
        budget: CPU time per day, such as ``"10 cpu-min/day"``, or None.
        max_rejections: After so many challengers in a row that did not become champion, the loop pauses and tells its owner.
    """

    on: tuple[Monitor, ...] = ()
    every: str | None = None
    cooldown: str = "7d"
    budget: str | None = "60 cpu-min/day"
    max_rejections: int = 5


_WINDOW = Window()
_DECAY = decay(log_loss)
_CALIBRATION = calibration()


@dataclass(frozen=True, kw_only=True)
class Loop(Generic[P]):
    """The life of one model. Building the value does nothing; ``kilter plan`` shows and ``kilter apply`` acts.

    Args:
        name: The model's name, in lower-case words joined by hyphens.
        owner: Who answers for the model: an address that alerts can reach.
        purpose: What its predictions are for.
        inputs: What the model sees, all known when the prediction is made.
        label: The truth, known late.
        train: A plain function from a dataset, and parameters if there are any, to a fitted model.
        params: The parameters handed to ``train``: a frozen dataclass of plain values.
        data: Which rows a training sees; with several windows each is tried, and a nested holdout inside the training
            rows chooses between them before the gates' holdout is touched.
        gates: What a challenger has to prove before any traffic. Losing to a constant is never allowed.
        release: The steps between gates and full traffic, and windows in which nothing goes forward.
        monitors: What is watched while a champion serves.
        retrain: When a challenger is trained.
        fallback: The answer when no model can give one.
        approve: Per environment: ``auto``, or ``owner`` to wait for a person after the gates.
        seed: Handed to every random generator of a training.
    """

    name: str
    owner: str
    inputs: Sequence[Columns | FeatureView]
    label: Label
    train: Callable[[Dataset, P], object] | Callable[[Dataset], object]
    purpose: str = ""
    params: P | None = None
    data: Window | tuple[Window, ...] = _WINDOW
    gates: Sequence[Gate] = (beats_champion(log_loss), beats_naive(log_loss))
    release: Sequence[Step | Freeze] = (Shadow(), Canary())
    monitors: Sequence[Monitor] = (_DECAY, _CALIBRATION, drift())
    retrain: Retrain = Retrain(on=(_DECAY, _CALIBRATION))
    fallback: float | None = None
    approve: Mapping[Environment, ApprovalRule] = field(default_factory=lambda: {"prod": "owner"})
    seed: int = 0

    @property
    def windows(self) -> tuple[Window, ...]:
        """The windows that a training tries, one or several."""
        return self.data if isinstance(self.data, tuple) else (self.data,)

    def fit(self, data: Dataset) -> object:
        """Call ``train`` as it was declared, with the parameters if it has any, and return the fitted model."""
        train: Callable[..., object] = self.train
        return train(data) if self.params is None else train(data, self.params)


AnyLoop: TypeAlias = Loop[Any]
"""A loop whose parameters may be of any type: what the house passes around."""
