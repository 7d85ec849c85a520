"""A model's whole life as one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias

from kilter.data.declare import Columns, Label, Window
from kilter.evaluation.declare import Gate, beats_champion, beats_naive, log_loss
from kilter.features.declare import FeatureView
from kilter.loop.tuning.declare import Tune
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


@dataclass(frozen=True)
class Batch:
    """Rows that the champion scores on a schedule, without an endpoint: what ``kilter batch`` does, done by the controller.

    A time of the schedule is a whole multiple of ``every`` since 1970, UTC: each midnight for ``"1d"``. Those that passed while
    nothing ran are caught up with one run, for the latest of them. ``{slot}`` in a place becomes the run's time.

    Args:
        input: Files, a table of the store or a database, as ``kilter.batch`` reads it.
        output: Where the answers go. Files need ``{slot}`` in their place, so that each run has its own.
        every: How often, from a minute on.
        name: The name of the batch among those of the loop.
        query: What is read of a database, when it is not in its address.
        key: The column that identifies a row; the model's, if not said.
        keep: Columns of the input beside the answers; the key and the time, if not said.
        bad_rows: ``"fail"``, ``"null"``, or a place for rows that can't be used.
        max_nulls: Refuse a run with a larger share of missing values in a column.
        max_unknown: The same for categories that the model does not know.
        max_outside: The same for numbers far outside of the training rows.
    """

    input: str
    output: str
    every: str = "1d"
    name: str = "batch"
    query: str = ""
    key: str = ""
    keep: tuple[str, ...] = ()
    bad_rows: str = "fail"
    max_nulls: float | None = None
    max_unknown: float | None = None
    max_outside: float | None = None


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
        batch: Rows that the champion scores on a schedule.
        tune: How ``kilter tune`` searches for better parameters; nothing else of the loop looks at it.
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
    batch: Sequence[Batch] = ()
    tune: Tune | None = None

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
