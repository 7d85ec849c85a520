"""LightGBM: ``train``, and through it its estimators."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from kilter.tracking.autolog.patches import Session, complain, current, metric_name, patch


def prepare(lightgbm: ModuleType) -> None:
    """Stand beside ``train``, wherever the package has it."""
    for module in (lightgbm, lightgbm.engine, lightgbm.sklearn):
        if hasattr(module, "train"):
            patch(module, "train", _begin, _done)


def _begin(given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Session | None, tuple[Any, ...], dict[str, Any]]:
    session = current()
    if session is not None and session.framework != "lightgbm":
        return None, given, named  # one of many trainings within a search
    if session is None:
        session = Session("lightgbm", "lightgbm")
        params = given[0] if given else named.get("params", {})
        rounds = given[2] if len(given) > 2 else named.get("num_boost_round", 100)
        session.params({"num_boost_round": rounds, **params})
    if len(given) > 8:  # callbacks by position: they stay what they are
        return session, given, named
    named["callbacks"] = [*(named.get("callbacks") or ()), _Callback(session)]
    return session, given, named


def _done(session: Session, booster: Any, _given: tuple[Any, ...], _named: dict[str, Any]) -> None:
    if booster.best_iteration > 0:
        session.run.metric("best_iteration", booster.best_iteration)
    importance = dict(
        zip(booster.feature_name(), (float(gain) for gain in booster.feature_importance("gain")), strict=True)
    )
    session.run.table("feature_importance", {"feature": list(importance), "gain": list(importance.values())})

    def save(path: Path) -> None:
        booster.save_model(str(path))

    session.keep_model(save, "model.txt", trees=booster.num_trees())


class _Callback:
    """Logs the values of each iteration; before the one that stops early (30), so that the last one is there too."""

    order = 5
    before_iteration = False

    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self, env: Any) -> None:
        try:
            for data, name, value, *_ in env.evaluation_result_list or ():
                self._session.run.metric(metric_name(f"{data}/{name}"), float(value), env.iteration)
        except Exception as problem:  # noqa: BLE001 - a training is never broken by us
            complain(problem)
