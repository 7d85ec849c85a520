"""A model's whole life as one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from kilter.data.declare import Columns, Label, Window
from kilter.evaluation.declare import Gate, beats_champion, beats_naive, log_loss
from kilter.features.declare import FeatureView
from kilter.monitoring.declare import Monitor, calibration, decay, drift
from kilter.release.declare import Canary, Shadow, Step

if TYPE_CHECKING:
    from kilter.data.dataset import Dataset

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
        train: A plain function from a dataset and parameters to a fitted model.
        params: The parameters handed to ``train``: a frozen dataclass.
        data: Which rows a training sees; with several windows each is tried, and a nested holdout inside the training
            rows chooses between them before the gates' holdout is touched.
        gates: What a challenger has to prove before any traffic. Losing to a constant is never allowed.
        release: The steps between gates and full traffic.
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
    train: Callable[[Dataset, P], Any]
    purpose: str = ""
    params: P | None = None
    data: Window | tuple[Window, ...] = Window()
    gates: Sequence[Gate] = (beats_champion(log_loss), beats_naive(log_loss))
    release: Sequence[Step] = (Shadow(), Canary())
    monitors: Sequence[Monitor] = (_DECAY, _CALIBRATION, drift())
    retrain: Retrain = Retrain(on=(_DECAY, _CALIBRATION))
    fallback: float | None = None
    approve: Mapping[Environment, ApprovalRule] = field(default_factory=lambda: {"prod": "owner"})
    seed: int = 0
