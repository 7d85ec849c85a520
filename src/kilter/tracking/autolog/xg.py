"""XGBoost: ``train``, and through it its estimators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from kilter.tracking.autolog.patches import Session, complain, current, metric_name, patch


def prepare(xgboost: ModuleType) -> None:
    """Stand beside ``train``, wherever the package has it."""
    callback = _callback(xgboost)

    def begin(given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Session | None, tuple[Any, ...], dict[str, Any]]:
        session = current()
        if session is not None and session.framework != "xgboost":
            return None, given, named  # one of many trainings within a search
        if session is None:
            session = Session("xgboost", "xgboost")
            params = given[0] if given else named.get("params", {})
            rounds = given[2] if len(given) > 2 else named.get("num_boost_round", 10)
            session.params({"num_boost_round": rounds, **dict(params)})
        named["callbacks"] = [*(named.get("callbacks") or ()), callback(session)]
        return session, given, named

    for module in (xgboost, xgboost.training, xgboost.sklearn):
        if hasattr(module, "train"):
            patch(module, "train", begin, _done)


def _callback(xgboost: ModuleType) -> Callable[[Session], Any]:
    class Callback(xgboost.callback.TrainingCallback):  # type: ignore[misc,name-defined]  # the class of an optional package
        """Logs the values of each iteration."""

        def __init__(self, session: Session) -> None:
            super().__init__()
            self._session = session

        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:  # noqa: ARG002 - XGBoost's signature
            try:
                for data, metrics in evals_log.items():
                    for name, values in metrics.items():
                        value = values[-1][0] if isinstance(values[-1], tuple) else values[-1]
                        self._session.run.metric(metric_name(f"{data}/{name}"), float(value), epoch)
            except Exception as problem:  # noqa: BLE001 - a training is never broken by us
                complain(problem)
            return False

    return Callback


def _done(session: Session, booster: Any, _given: tuple[Any, ...], _named: dict[str, Any]) -> None:
    best = booster.attributes().get("best_iteration")
    if best is not None:
        session.run.metric("best_iteration", int(best))
    importance = booster.get_score(importance_type="gain")
    if importance:
        gains = [float(gain) for gain in importance.values()]
        session.run.table("feature_importance", {"feature": list(importance), "gain": gains})

    def save(path: Path) -> None:
        booster.save_model(str(path))

    session.keep_model(save, "model.ubj", rounds=booster.num_boosted_rounds())
