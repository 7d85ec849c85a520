"""From a fitted model of any supported framework to bytes of a native format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kilter.core.errors import InvalidInput
from kilter.packaging.constant import Constant
from kilter.packaging.environment import version
from kilter.packaging.native import Flavor
from kilter.packaging.records import LabelKind

Matrix = np.ndarray[Any, np.dtype[np.float64]]


class Exported(NamedTuple):
    """A model as bytes.

    Args:
        flavor: The format.
        data: The bytes.
        iterations: Boosting rounds to use; 0 for all.
        distribution: The framework's distribution; empty for a constant.
        framework: ``name==version``.
        predict: The original's own prediction, for the parity check.
        tolerance: How far the loaded model may be from it.
    """

    flavor: Flavor
    data: bytes
    iterations: int
    distribution: str
    framework: str
    predict: Callable[[Matrix], Matrix]
    tolerance: float


def export(model: Any, label: LabelKind) -> Exported:
    """Write a model in its framework's own pickle-free format.

    The model's class tells its framework, so nothing is imported that the model's maker hadn't imported.

    Args:
        model: ``LGBMClassifier``, ``LGBMRegressor`` or LightGBM ``Booster``; ``XGBClassifier``, ``XGBRegressor`` or XGBoost
            ``Booster``; an estimator of scikit-learn; or a :class:`Constant`. Fitted.
        label: Whether the positive class's probability or a value is wanted.

    Raises:
        InvalidInput: When the model is of another kind, not fitted, or has more than two classes.
    """
    if isinstance(model, Constant):
        return Exported("constant", repr(float(model.value)).encode(), 0, "", "constant==1",
                        lambda x: np.full(len(x), float(model.value)), 0.0)  # fmt: skip
    roots = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    own = _own_prediction(model, label)
    if "lightgbm" in roots:
        booster = model if type(model).__name__ == "Booster" else _fitted(model, "booster_")
        text = booster.model_to_string().encode()
        predict = own or (lambda x: booster.predict(x, num_threads=1))
        return Exported("lightgbm-text", text, 0, "lightgbm", f"lightgbm=={version('lightgbm')}", predict, 1e-9)
    if "xgboost" in roots:
        booster = model if type(model).__name__ == "Booster" else _fitted(model, "get_booster")()
        best = booster.attr("best_iteration")
        rounds = 0 if best is None else int(best) + 1
        raw = bytes(booster.save_raw("ubj"))
        predict = own or (lambda x: booster.inplace_predict(x, iteration_range=(0, rounds)))
        return Exported("xgboost-ubjson", raw, rounds, "xgboost", f"xgboost=={version('xgboost')}", predict, 1e-6)
    if "sklearn" in roots and own is not None:
        # skops and with it scikit-learn are installed only with that extra
        from kilter.packaging.sklearn_skops import dump  # noqa: PLC0415

        return Exported("skops", dump(model), 0, "scikit-learn", f"scikit-learn=={version('scikit-learn')}", own, 1e-9)
    raise InvalidInput(
        f"a model of type {type(model).__module__}.{type(model).__qualname__} can't be packaged",
        where="train",
        allowed="LightGBM, XGBoost and scikit-learn models, or kilter's Constant",
        fix="return the fitted estimator or booster itself",
    )


def _own_prediction(model: Any, label: LabelKind) -> Callable[[Matrix], Matrix] | None:
    """Return the estimator's own answer for a matrix, or None for a booster, which has no estimator around it."""
    if label == "binary":
        if not hasattr(model, "predict_proba"):
            if type(model).__name__ == "Booster":
                return None
            raise InvalidInput(f"{type(model).__name__} gives no probabilities", where="train",
                               allowed="a classifier with predict_proba for a yes/no label")  # fmt: skip
        classes = getattr(model, "classes_", None)
        if classes is None:
            raise InvalidInput(f"the {type(model).__name__} is not fitted", where="train", fix="return model.fit(...)")
        if len(classes) != 2:
            raise InvalidInput(f"the model knows {len(classes)} classes", where="train", allowed="two classes")
        return lambda x: np.asarray(model.predict_proba(x), dtype=np.float64)[:, 1]
    if type(model).__name__ == "Booster" or not hasattr(model, "predict"):
        return None
    return lambda x: np.asarray(model.predict(x), dtype=np.float64)


def _fitted(model: Any, attribute: str) -> Any:
    """Return an attribute that only a fitted model has."""
    try:
        return getattr(model, attribute)
    except Exception as error:  # each framework raises its own NotFittedError
        raise InvalidInput(
            f"the {type(model).__name__} is not fitted", where="train", fix="return model.fit(...)"
        ) from error
