"""How a loop's parameters are judged in a search: on stretches of rows before the gates' holdout, never on the holdout.

Each fold trains on what was known when its stretch began and predicts the stretch, as a retraining at that moment would have.
The gates judge the model that comes of it on rows that no trial has seen: a search that looked at them would choose what
happens to do well there, and the proof would prove nothing.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

import msgspec
import numpy as np
import polars as pl

from kilter.core.durations import parse_duration
from kilter.core.errors import InsufficientData, InvalidInput
from kilter.core.statistics import Floats
from kilter.core.words import did_you_mean
from kilter.data.dataset import Dataset
from kilter.data.windows import Cut, cut, nested
from kilter.evaluation.declare import Metric, MetricName, accuracy, auc, brier, log_loss, precision, recall
from kilter.evaluation.metrics import value as metric_value
from kilter.loop.building import prepare, reach, rehearse, require_rows, table_of
from kilter.loop.declaration.frameworks import import_now
from kilter.loop.declaration.spec import Declared, load_source
from kilter.loop.declare import AnyLoop
from kilter.loop.tuning.records import StudySpec
from kilter.loop.tuning.trial import Trial
from kilter.loop.tuning.validation import VALIDATION, sums_of
from kilter.loop.workspace import Workspace
from kilter.tracking.service import RunService

_METRICS: dict[str, Metric] = {one.name: one for one in (log_loss, brier, auc, recall, precision, accuracy)}


@dataclass(frozen=True)
class Rehearsal:
    """A loop with its folds, ready to be trained with any parameters.

    Args:
        loop: The declaration.
        folds: The oldest first.
        metrics: What is measured, the first one first.
    """

    loop: AnyLoop
    folds: tuple[Cut, ...]
    metrics: tuple[Metric, ...]

    @classmethod
    def prepare(cls, workspace: Workspace, spec: StudySpec, text: str) -> Rehearsal:
        """Read the rows as known at the study's moment, and cut the folds.

        Raises:
            InsufficientData: When there are too few rows for so many folds.
        """
        detail = spec.detail
        declared = load_source(text, str(detail["filename"]), str(detail["loop"]))
        at, known_by = (datetime.fromisoformat(str(detail[name])) for name in ("at", "known_by"))
        metrics = [metric_named(goal.metric) for goal in spec.goals]
        return cls.of(workspace, declared, at, known_by, int(detail["folds"]), metrics)

    @classmethod
    def of(
        cls,
        workspace: Workspace,
        declared: Declared,
        at: datetime,
        known_by: datetime,
        folds: int,
        metrics: Sequence[Metric],
    ) -> Rehearsal:
        """Read the rows of a declaration, and cut the folds.

        Args:
            workspace: Where the rows are.
            declared: The loop.
            at: Everything ends at this moment.
            known_by: Only what had arrived by then: history that was loaded in one go arrived when it was loaded.
            folds: How many.
            metrics: What is measured.

        Raises:
            InsufficientData: When there are too few rows for so many folds.
        """
        import_now(vars(sys.modules[declared.module]))
        loop = declared.loop
        table = table_of(loop)
        workspace.data.flush(table.name)
        rows = workspace.data.frame(table.name, known_by=known_by)
        require_rows(rows, loop)
        return cls(loop, tuple(folds_of(loop, prepare(loop, rows, reach(loop, at)), at, folds)), tuple(metrics))

    def score(self, trial: Trial, runs: RunService | None = None) -> dict[str, float] | None:
        """Train and judge one trial, fold by fold; each fold is a step. None when it is not worth going on.

        Args:
            trial: The trial.
            runs: Where the sums per day are kept beside its run.
        """
        loop = dataclasses.replace(self.loop, params=typed(self.loop.params, trial.params))
        found: dict[str, list[float]] = {metric.name: [] for metric in self.metrics}
        kept: list[Dataset] = []
        predicted: list[Floats] = []
        for number, fold in enumerate(self.folds, start=1):
            dataset, predictions = rehearse(loop, fold)
            kept.append(dataset)
            predicted.append(predictions)
            for metric in self.metrics:
                found[metric.name].append(float(metric_value(metric, dataset.y, predictions)))
            if len(self.metrics) == 1:
                trial.report(number, _mean(found[self.metrics[0].name], kept))
                if number < len(self.folds) and trial.should_prune():
                    return None
        if runs is not None:
            y, times = np.concatenate([one.y for one in kept]), np.concatenate([one.times for one in kept])
            sums = {metric.name: sums_of(metric, y, np.concatenate(predicted), times) for metric in self.metrics}
            runs.log_artifact(trial.run, VALIDATION, msgspec.json.encode(sums))
        return {name: _mean(values, kept) for name, values in found.items()}


def folds_of(loop: AnyLoop, prepared: pl.DataFrame, at: datetime, count: int) -> list[Cut]:
    """Return stretches of validation rows, each as long as the holdout and one before the other, with what was known before each.

    Args:
        loop: The declaration; with several windows, its first one.
        prepared: Rows with features.
        at: The moment of the search.
        count: How many.

    Raises:
        InsufficientData: When the training rows do not reach so far.
    """
    if count < 1:
        raise InvalidInput(f"{count}", where="folds", allowed="1 or more")
    table, window = table_of(loop), loop.windows[0]
    outer = cut(prepared, table, loop.label, window, at)
    length = parse_duration(window.holdout)
    found: list[Cut] = []
    for back in range(count):
        splits = outer.splits - length * back
        earlier = outer.training.filter(pl.col(table.time) < splits)
        try:
            fold = nested(dataclasses.replace(outer, training=earlier, splits=splits), table, window)
        except InsufficientData as error:
            raise InsufficientData(
                f"{count} folds of {window.holdout} do not fit into the training window of {window.train}: {error.message}",
                where="folds",
                allowed=error.allowed,
                fix="take fewer folds, or a longer window",
            ) from error
        known = fold.training.filter(pl.col(loop.label.known_at) <= fold.splits)
        found.append(dataclasses.replace(fold, training=known))
    return found[::-1]


def newest_truth(loop: AnyLoop, workspace: Workspace) -> datetime:
    """Return the newest moment until now at which a label became known: what a search sees ends there.

    Raises:
        InsufficientData: When no label is known.
    """
    table = table_of(loop)
    now = workspace.clock.now()
    workspace.data.flush(table.name)
    rows = workspace.data.frame(table.name, known_by=now)
    require_rows(rows, loop)
    known = rows[loop.label.known_at].drop_nulls() if loop.label.known_at in rows.columns else pl.Series([])
    newest = known.filter(known <= now).max() if known.len() else None
    if not isinstance(newest, datetime):
        raise InsufficientData("no label is known yet", where=f"{loop.name}.label", fix="wait until labels are known")
    return newest


def metric_named(name: str) -> Metric:
    """Return a metric by its name.

    Raises:
        InvalidInput: When there is no such metric.
    """
    if name not in _METRICS:
        raise InvalidInput(
            f"there is no metric {name!r}",
            where="metric",
            allowed=", ".join(get_args(MetricName)),
            fix=did_you_mean(name, _METRICS),
        )
    return _METRICS[name]


def typed(params: Any, values: Mapping[str, Any]) -> Any:
    """Return parameters with other values; what was a list in JSON and a tuple in the declaration is a tuple again."""
    changed = {
        name: tuple(value) if isinstance(value, list) and isinstance(getattr(params, name), tuple) else value
        for name, value in values.items()
    }
    return dataclasses.replace(params, **changed)


def _mean(values: Sequence[float], kept: Sequence[Dataset]) -> float:
    """Return the mean over folds, each by its rows."""
    return float(np.average(values, weights=[len(one) for one in kept]))
