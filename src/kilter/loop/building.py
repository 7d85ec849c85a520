"""Building a challenger and judging it: the same functions for the controller and for the backtest.

Enters: a declaration and rows as known at a moment. Leaves: a fitted model with the profile it will be watched against,
and findings. Nothing here touches a store.
"""

from __future__ import annotations

import inspect
import os
import random
import traceback
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kilter.core.durations import parse_duration
from kilter.core.errors import DeclarationError, InsufficientData, KilterError
from kilter.core.evidence import Finding, Verdict
from kilter.data.dataset import Dataset, dataset
from kilter.data.declare import Columns, Table, Window
from kilter.data.encoding import Encoding
from kilter.data.windows import LABEL, Cut, cut, labelled, nested
from kilter.evaluation.context import GateContext
from kilter.evaluation.declare import FasterThan, log_loss
from kilter.evaluation.gates import decide_gates, judge
from kilter.evaluation.latency import measure
from kilter.evaluation.metrics import value as metric_value
from kilter.features.declare import FeatureView
from kilter.features.offline import offline
from kilter.loop.declare import AnyLoop
from kilter.monitoring.profile import ReferenceProfile
from kilter.monitoring.reference import reference_profile

Floats = NDArray[np.float64]

_TIMED_CALLS = 1000


class Predicts(Protocol):
    """A packaged model: a matrix in, one value per row out."""

    def predict(self, matrix: NDArray[np.float64], /) -> NDArray[np.float64]:
        """Return one value per row of ``matrix`` (rows, inputs)."""
        ...


@dataclass(frozen=True)
class Fitted:
    """A model as ``train`` returned it, with the rows it was made from.

    Args:
        model: What the user's function returned.
        window: The window that was chosen.
        training: Its training rows.
        holdout: The rows kept for the gates; None when the window keeps none.
        censored: Rows of the window without a known label.
        choice: Per candidate window its loss on the nested holdout; empty with a single window.
    """

    model: object
    window: Window
    training: Dataset
    holdout: Dataset | None
    censored: int
    choice: dict[str, float]

    @property
    def base_rate(self) -> float:
        """The mean label of the training rows."""
        return self.training.rate


def table_of(loop: AnyLoop) -> Table:
    """Return the table that a loop's rows come from: the one of its direct columns, else of its first view."""
    direct = [item.table for item in loop.inputs if isinstance(item, Columns)]
    return (direct or [item.table for item in loop.inputs])[0]


def views_of(loop: AnyLoop) -> tuple[FeatureView, ...]:
    """Return the windowed features among a loop's inputs."""
    return tuple(item for item in loop.inputs if isinstance(item, FeatureView))


def columns_of(loop: AnyLoop) -> tuple[str, ...]:
    """Return the columns that a request has to bring: the direct inputs."""
    return tuple(name for item in loop.inputs if isinstance(item, Columns) for name in item.names)


def inputs_of(loop: AnyLoop) -> tuple[str, ...]:
    """Return the names of all inputs, in the order of the declaration."""
    return tuple(name for item in loop.inputs for name in item.names)


def prepare(loop: AnyLoop, rows: pl.DataFrame, since: datetime | None = None) -> pl.DataFrame:
    """Put windowed features beside the rows.

    Features look back only, so the result doesn't depend on when it is computed, only on which rows are known.

    Args:
        loop: The declaration.
        rows: All rows as known, also those before ``since``: they are the events that features look back on.
        since: Leave out rows with an earlier event time.
    """
    table = table_of(loop)
    asked = rows if since is None else rows.filter(pl.col(table.time) >= since)
    asked = asked if asked.height else rows  # whoever refuses an empty window can then say where the rows are
    for view in views_of(loop):
        asked = offline(view, rows, asked, time=table.time)
    return asked


def with_truth(loop: AnyLoop, prepared: pl.DataFrame, at: datetime) -> pl.DataFrame:
    """Return the rows with the truth that is known at a moment in the column ``LABEL``; null where it isn't."""
    return labelled(prepared, table_of(loop), loop.label, at)


def reach(loop: AnyLoop, at: datetime) -> datetime | None:
    """Return the earliest event time that a training at ``at`` can need, or None when a window expands."""
    spans = []
    for window in loop.windows:
        if window.mode == "expand":
            return None
        spans.append(parse_duration(window.train) + parse_duration(window.holdout))
    return at - max(spans)


def fit(loop: AnyLoop, prepared: pl.DataFrame, at: datetime, *, holdout: bool = True) -> Fitted:
    """Train one challenger on what is known at ``at``.

    With several windows, each is tried on training rows that end before a nested holdout, which itself ends before the
    gates' holdout; the window with the least log loss there is trained again on all its rows.

    Args:
        loop: The declaration.
        prepared: Rows with features, from ``prepare``.
        at: The moment of training: labels known later are not seen.
        holdout: Keep the newest rows for the gates; without it they are trained on, and nothing can be judged.

    Raises:
        InsufficientData: When a window is empty, or has one class only.
        DeclarationError: When the user's ``train`` raises anything, or returns what predicts nothing.
    """
    table = table_of(loop)
    cuts = [cut(prepared, table, loop.label, window, at) for window in loop.windows]
    choice: dict[str, float] = {}
    chosen = 0
    if len(cuts) > 1:
        losses = [_nested_loss(loop, one, window) for one, window in zip(cuts, loop.windows, strict=True)]
        choice = {f"{window.mode}:{window.train}": loss for window, loss in zip(loop.windows, losses, strict=True)}
        chosen = int(np.argmin(losses))
    one, window = cuts[chosen], loop.windows[chosen]
    rows = one.training
    if not holdout:
        span = parse_duration(window.train)
        newest = pl.concat([one.training, one.holdout])
        rows = newest if window.mode == "expand" else newest.filter(pl.col(table.time) >= one.ends - span)
    training = encode(loop, rows)
    kept = encode(loop, one.holdout, training.encoding) if holdout else None
    return Fitted(_trained(loop, training), window, training, kept, one.censored, choice)


def _nested_loss(loop: AnyLoop, outer: Cut, window: Window) -> float:
    kept, predictions = rehearse(loop, nested(outer, table_of(loop), window))
    return float(metric_value(log_loss, kept.y, predictions))


def rehearse(loop: AnyLoop, inner: Cut) -> tuple[Dataset, Floats]:
    """Train on a cut's training rows and predict its holdout: to choose, never to release.

    Returns:
        The holdout as the model sees it, and one prediction per row.
    """
    training = encode(loop, inner.training)
    kept = encode(loop, inner.holdout, training.encoding)
    return kept, _raw_predictions(_trained(loop, training), kept.X)


def _raw_predictions(model: object, matrix: Floats) -> Floats:
    probabilities = getattr(model, "predict_proba", None)
    if probabilities is not None:
        return np.asarray(probabilities(matrix), dtype=np.float64)[:, 1]
    predictions = getattr(model, "predict", None)
    if predictions is None:
        raise DeclarationError(
            f"train returned a {type(model).__name__} that predicts nothing",
            where="train",
            allowed="an estimator with predict_proba or predict",
        )
    return np.asarray(predictions(matrix), dtype=np.float64)


def encode(loop: AnyLoop, rows: pl.DataFrame, encoding: Encoding | None = None) -> Dataset:
    """Return cut rows as a dataset.

    Args:
        loop: The declaration.
        rows: Rows with features and truth.
        encoding: The encoding of a model that was trained before; None fits one.
    """
    table = table_of(loop)
    return dataset(rows, inputs_of(loop), LABEL, key=table.key, time=table.time, encoding=encoding, seed=loop.seed)


def _trained(loop: AnyLoop, training: Dataset) -> object:
    # The same seed for every generator that a user's function may reach for without saying so.
    random.seed(loop.seed)
    np.random.seed(loop.seed)  # noqa: NPY002 - the legacy generator is what most libraries still draw from
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        model = loop.fit(training)
    except KilterError:
        raise
    except Exception as error:
        raise DeclarationError(f"train failed: {type(error).__name__}: {error}", where=_raised(loop, error)) from error
    if model is None:
        raise DeclarationError("train returned None", where="train", fix="return the fitted model")
    return model


def _raised(loop: AnyLoop, error: BaseException) -> str:
    """Return the last line of the user's own file on the way to an error."""
    file = inspect.getsourcefile(inspect.unwrap(loop.train)) or ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{file}:{lines[-1]}" if lines else "train"


def profile(fitted: Fitted, runtime: Predicts) -> ReferenceProfile:
    """Return what the model will be watched against: its training inputs and its losses on the holdout."""
    kept = fitted.holdout or fitted.training
    return reference_profile(
        fitted.training.frame.select(fitted.training.names),
        fitted.training.times,
        fitted.training.y,
        holdout_times=kept.times,
        holdout_values=runtime.predict(kept.X),
        holdout_labels=kept.y,
        categorical=tuple(fitted.training.categories),
    )


def judge_gates(
    loop: AnyLoop, kept: Dataset, challenger: Predicts, champion: Floats | None, *, base_rate: float
) -> tuple[Verdict, tuple[Finding, ...]]:
    """Judge a challenger's gates on the holdout.

    Args:
        loop: The declaration whose gates are judged.
        kept: The holdout as the challenger sees it.
        challenger: The packaged challenger.
        champion: The champion's predictions on the same rows (n,), or None when there is none.
        base_rate: The mean label of the challenger's training rows.
    """
    timed = any(isinstance(gate, FasterThan) for gate in loop.gates)
    context = GateContext(
        y=kept.y,
        p_challenger=challenger.predict(kept.X),
        p_champion=champion,
        times=kept.times,
        groups=kept.frame,
        base_rate=base_rate,
        timings=measure(challenger.predict, kept.X, _TIMED_CALLS) if timed else None,
        seed=loop.seed,
    )
    findings = judge(loop.gates, context)
    return decide_gates(findings, loop.gates), findings


def require_rows(rows: pl.DataFrame, loop: AnyLoop) -> None:
    """Refuse to train on nothing.

    Raises:
        InsufficientData: When the table has no rows.
    """
    if rows.height == 0:
        raise InsufficientData(
            f"table {table_of(loop).name!r} has no rows yet",
            where=f"{loop.name}.inputs",
            fix="send rows with `kilter data append` or load a file with `kilter data ingest`",
        )
