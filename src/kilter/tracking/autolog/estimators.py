"""Estimators of scikit-learn, and of everybody who writes them its way."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from kilter.tracking.autolog.patches import Session, busy, complain, current, metric_name, patch, put

_ROWS = 20_000
"""How many rows at most the training's own score is taken on: it must not cost as much as the fit."""


def prepare(base: ModuleType) -> None:
    """Stand beside ``fit`` of every estimator that is there, and of every one that will be defined."""
    estimator = base.BaseEstimator
    original = estimator.__init_subclass__.__func__

    def init_subclass(cls: type[Any], /, **named: Any) -> None:
        original(cls, **named)
        _class(cls)

    put(estimator, "__init_subclass__", classmethod(init_subclass))
    for kind in _below(estimator):
        _class(kind)


def _below(kind: Any) -> set[Any]:
    found: set[Any] = set()
    waiting = [kind]
    while waiting:
        for below in waiting.pop().__subclasses__():
            if below not in found:
                found.add(below)
                waiting.append(below)
    return found


def _class(kind: type) -> None:
    for name in ("fit", "fit_predict"):
        own = vars(kind).get(name)
        if callable(own) and not isinstance(own, property | classmethod | staticmethod):
            try:
                patch(kind, name, _begin, _done)
            except (AttributeError, TypeError) as problem:
                complain(problem)


def _begin(given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Session | None, tuple[Any, ...], dict[str, Any]]:
    if (
        current() is not None or not given or (busy() and _in_worker())
    ):  # a step of a pipeline, a fold of a search: part of the fit around it
        return None, given, named
    estimator = given[0]
    session = Session(type(estimator).__name__, type(estimator).__module__.partition(".")[0])
    try:
        session.params(_params(estimator))
    except BaseException as error:
        session.end(error)
        raise
    return session, given, named


def _in_worker() -> bool:
    """Say whether this is a thread of joblib, which knows nothing of the fit that it works for."""
    joblib = sys.modules.get("joblib.parallel")
    backend, _ = joblib.get_active_backend() if joblib is not None else (None, None)
    return (getattr(backend, "nesting_level", 0) or 0) > 0


def _params(estimator: Any) -> dict[str, Any]:
    deep = hasattr(estimator, "steps") or hasattr(estimator, "estimator")
    given = estimator.get_params(deep=deep)
    return {name: value for name, value in given.items() if not (deep and hasattr(value, "get_params"))}


def _done(session: Session, _result: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
    estimator = given[0]
    data = given[1] if len(given) > 1 else named.get("X")
    truth = given[2] if len(given) > 2 else named.get("y")
    run = session.run
    if hasattr(estimator, "best_params_"):
        session.params(estimator.best_params_, "best.")
        run.metric("best_cv_score", float(estimator.best_score_))
        columns = {
            name: [str(value) for value in values] if name == "params" or name.startswith("param_") else list(values)
            for name, values in estimator.cv_results_.items()
        }
        run.table("cv_results", columns)
    if data is not None and truth is not None and hasattr(estimator, "score"):
        try:
            run.metric("training_score", float(estimator.score(_first(data), _first(truth))))
        except Exception as problem:  # noqa: BLE001 - a score that needs more than data and truth
            complain(problem)
    for name in ("n_iter_", "best_iteration_", "inertia_", "loss_"):
        value = getattr(estimator, name, None)
        if isinstance(value, int | float):
            run.metric(metric_name(name.rstrip("_")), value)
    for step, loss in enumerate(getattr(estimator, "loss_curve_", None) or ()):
        run.metric("loss", float(loss), step)
    if session.framework not in {"lightgbm", "xgboost"}:  # theirs is kept in their own form
        _keep(session, estimator)


def _keep(session: Session, estimator: Any) -> None:
    try:
        from skops import io  # noqa: PLC0415 - an optional package
    except ImportError:
        session.run.tag("model", "not kept: install skops")
        return

    def save(path: Path) -> None:
        io.dump(estimator, path)

    session.keep_model(
        save, "model.skops", estimator=type(estimator).__name__, sklearn=sys.modules["sklearn"].__version__
    )


def _first(data: Any) -> Any:
    try:
        length = data.shape[0] if hasattr(data, "shape") else len(data)
    except TypeError:
        return data
    if length <= _ROWS:
        return data
    return data.iloc[:_ROWS] if hasattr(data, "iloc") else data[:_ROWS]
