"""The whole life of a model in one Python file, kept going by one process.

The names of a declaration are here, and are loaded when they are first used, so that ``import kilter`` is quick and
needs neither numpy nor Polars.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kilter.core.errors import DeclarationError, KilterError
    from kilter.data.dataset import Dataset
    from kilter.data.declare import Columns, Label, Table, Window
    from kilter.evaluation.declare import (
        Gate,
        Metric,
        accuracy,
        at_least,
        auc,
        beats_champion,
        beats_naive,
        brier,
        fair,
        faster_than,
        log_loss,
        precision,
        recall,
    )
    from kilter.features.declare import FeatureView, count, features, latest, maximum, mean, minimum, total
    from kilter.loop.declare import Batch, Loop, Retrain
    from kilter.loop.tuning.declare import Choice, Normal, Pruner, Range, Tune
    from kilter.loop.tuning.searching import tune
    from kilter.loop.tuning.trial import Trial
    from kilter.loop.versions.batch import batch
    from kilter.loop.versions.deploy import deploy
    from kilter.loop.workspace import Workspace, connect
    from kilter.monitoring.declare import Monitor, calibration, decay, drift
    from kilter.release.declare import Agreement, Business, Canary, Errors, Freeze, Latency, Shadow
    from kilter.tracking.autolog import autolog
    from kilter.tracking.fluent import active_run, run

__version__ = "0.1.0"

__all__ = [
    "Agreement",
    "Batch",
    "Business",
    "Canary",
    "Choice",
    "Columns",
    "Dataset",
    "DeclarationError",
    "Errors",
    "FeatureView",
    "Freeze",
    "Gate",
    "KilterError",
    "Label",
    "Latency",
    "Loop",
    "Metric",
    "Monitor",
    "Normal",
    "Pruner",
    "Range",
    "Retrain",
    "Shadow",
    "Table",
    "Trial",
    "Tune",
    "Window",
    "Workspace",
    "__version__",
    "accuracy",
    "active_run",
    "at_least",
    "auc",
    "autolog",
    "batch",
    "beats_champion",
    "beats_naive",
    "brier",
    "calibration",
    "connect",
    "count",
    "decay",
    "deploy",
    "drift",
    "fair",
    "faster_than",
    "features",
    "latest",
    "log_loss",
    "maximum",
    "mean",
    "minimum",
    "precision",
    "recall",
    "run",
    "total",
    "tune",
]

_HOMES = {
    "kilter.core.errors": ("DeclarationError", "KilterError"),
    "kilter.data.dataset": ("Dataset",),
    "kilter.data.declare": ("Columns", "Label", "Table", "Window"),
    "kilter.evaluation.declare": (
        "Gate",
        "Metric",
        "accuracy",
        "at_least",
        "auc",
        "beats_champion",
        "beats_naive",
        "brier",
        "fair",
        "faster_than",
        "log_loss",
        "precision",
        "recall",
    ),
    "kilter.features.declare": (
        "FeatureView",
        "count",
        "features",
        "latest",
        "maximum",
        "mean",
        "minimum",
        "total",
    ),
    "kilter.loop.declare": ("Batch", "Loop", "Retrain"),
    "kilter.loop.tuning.declare": ("Choice", "Normal", "Pruner", "Range", "Tune"),
    "kilter.loop.tuning.searching": ("tune",),
    "kilter.loop.tuning.trial": ("Trial",),
    "kilter.loop.versions.batch": ("batch",),
    "kilter.loop.versions.deploy": ("deploy",),
    "kilter.loop.workspace": ("Workspace", "connect"),
    "kilter.monitoring.declare": ("Monitor", "calibration", "decay", "drift"),
    "kilter.release.declare": ("Agreement", "Business", "Canary", "Errors", "Freeze", "Latency", "Shadow"),
    "kilter.tracking.autolog": ("autolog",),
    "kilter.tracking.fluent": ("active_run", "run"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


class _Kilter(ModuleType):
    """The package itself.

    ``features`` is both a public function and a room of the house. The import system would set the attribute to the
    room as soon as anything in it is imported; here the function wins, and the room stays reachable by
    ``from kilter.features.declare import ...``.
    """

    @property
    def features(self) -> object:
        return _load("features")

    @features.setter
    def features(self, room: object) -> None:
        """Leave the function in place when the import system wants to set the room."""


def _load(name: str) -> object:
    from importlib import import_module  # noqa: PLC0415 - only a program that uses a public name pays for it

    return getattr(import_module(_HOME[name]), name)


if not TYPE_CHECKING:  # a type checker that saw it would accept any name

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module 'kilter' has no attribute {name!r}")
        value = _load(name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)


sys.modules[__name__].__class__ = _Kilter
