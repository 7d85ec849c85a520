"""From a fitted model of any supported framework to bytes of a native format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
        predict: The original's own prediction, for the parity check; None when the bytes are all there is.
        tolerance: How far the loaded model may be from it.
        needs: Other distributions that its environment has to hold.
    """

    flavor: Flavor
    data: bytes
    iterations: int
    distribution: str
    framework: str
    predict: Callable[[Any], Matrix] | None
    tolerance: float
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelFile:
    """A model whose bytes are all there is: it was not fitted here, but read from a file, or exported by its framework.

    Args:
        flavor: The format.
        data: The bytes.
        distribution: The distribution whose runtime loads them.
        label: What it answers with, as far as the bytes tell.
        feature_names: The names of its inputs, as far as they tell.
        num_features: How many inputs it has; 0 when they don't tell.
        example: Rows that came with it; None without.
        predict: The original's own prediction, when there is one.
        needs: Other distributions that its environment has to hold.
    """

    flavor: Flavor
    data: bytes
    distribution: str
    label: LabelKind = "regression"
    feature_names: tuple[str, ...] = ()
    num_features: int = 0
    example: Any = None
    predict: Callable[[Any], Matrix] | None = None
    needs: tuple[str, ...] = ()


def export(model: Any, label: LabelKind) -> Exported:
    """Write a model in its framework's own pickle-free format.

    The model's class tells its framework, so nothing is imported that the model's maker hadn't imported.

    Args:
        model: ``LGBMClassifier``, ``LGBMRegressor`` or LightGBM ``Booster``; ``XGBClassifier``, ``XGBRegressor`` or XGBoost
            ``Booster``; an estimator of scikit-learn; a :class:`Constant`; or a :class:`ModelFile`. Fitted.
        label: Whether the positive class's probability, that of every class, a value or several are wanted.

    Raises:
        InvalidInput: When the model is of another kind, not fitted, or has more than two classes where two are wanted.
    """
    if isinstance(model, Constant):
        return Exported("constant", repr(float(model.value)).encode(), 0, "", "constant==1",
                        lambda x: np.full(len(x), float(model.value)), 0.0)  # fmt: skip
    roots = _roots(model)
    if isinstance(model, ModelFile):
        return Exported(model.flavor, model.data, 0, model.distribution,
                        f"{model.distribution}=={version(model.distribution)}", model.predict, 1e-5, model.needs)  # fmt: skip
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
    if "catboost" in roots:
        from kilter.packaging.catboost_native import dump as dump_catboost  # noqa: PLC0415 - the model's maker has imported it
        from kilter.packaging.catboost_native import prediction  # noqa: PLC0415

        of_catboost = _catboost_answer(model, label, prediction)
        return Exported(
            "catboost-cbm", dump_catboost(model), 0, "catboost", f"catboost=={version('catboost')}", of_catboost, 1e-9
        )
    if "sklearn" in roots and own is not None:
        # skops and with it scikit-learn are installed only with that extra
        from kilter.packaging.sklearn_skops import dump  # noqa: PLC0415

        return Exported("skops", dump(model), 0, "scikit-learn", f"scikit-learn=={version('scikit-learn')}", own, 1e-9)
    raise InvalidInput(
        f"a model of type {type(model).__module__}.{type(model).__qualname__} can't be packaged",
        where="train",
        allowed="LightGBM, XGBoost, CatBoost and scikit-learn models, or kilter's Constant",
        fix="return the fitted estimator or booster itself",
    )


def _catboost_answer(model: Any, label: LabelKind, prediction: Callable[[Any, Any], Any]) -> Callable[[Any], Matrix]:
    def answer(given: Any) -> Matrix:
        found: Matrix = np.asarray(prediction(model, given), dtype=np.float64)
        return found[:, 1] if label == "binary" else found

    return answer


def label_of(model: Any) -> LabelKind:
    """Return what a fitted model answers with: probabilities if it is a classifier, else a value.

    Raises:
        InvalidInput: When it is a classifier that has none, or tells several things apart at once.
    """
    if isinstance(model, ModelFile):
        return model.label
    classes = getattr(model, "classes_", None)
    if type(model).__name__ == "Booster":
        return _objective_label(model)
    if classes is None or (not hasattr(model, "predict_proba") and not _is_classifier(model)):
        return "regression"
    if not hasattr(model, "predict_proba"):
        raise InvalidInput(
            f"{type(model).__name__} gives no probabilities",
            where="model",
            allowed="a classifier with predict_proba",
            fix="wrap it: sklearn.calibration.CalibratedClassifierCV(model).fit(...)",
        )
    if len(classes) and not np.isscalar(classes[0]):
        raise InvalidInput(f"{type(model).__name__} answers several questions at once", where="model",
                           fix="deploy one classifier for each")  # fmt: skip
    return "binary" if len(classes) == 2 else "multiclass"


def output_names(model: Any, outputs: int) -> tuple[str, ...]:
    """Return the names of a model's outputs: ``value`` of a single one, the names of its classes, or numbers.

    Args:
        model: The fitted model.
        outputs: How many numbers it answers a row with.
    """
    if outputs == 1:
        return ("value",)
    classes = getattr(model, "classes_", None)
    if classes is not None and len(classes) == outputs:
        return tuple(str(name) for name in classes)
    return tuple(str(number) for number in range(outputs))


def _objective_label(booster: Any) -> LabelKind:
    """Return what a booster that has no estimator around it answers with, by its objective."""
    if "xgboost" in _roots(booster):
        objective = booster.save_config().partition('"objective":')[2].partition('"name":"')[2].partition('"')[0]
    else:
        header = booster.model_to_string(num_iteration=1)
        objective = header.partition("\nobjective=")[2].partition("\n")[0].partition(" ")[0]
    if objective in {"binary", "cross_entropy", "binary:logistic"}:
        return "binary"
    return "multiclass" if objective in {"multiclass", "multiclassova", "multi:softprob"} else "regression"


def _is_classifier(model: Any) -> bool:
    return getattr(model, "_estimator_type", "") == "classifier" or hasattr(model, "decision_function")


def _roots(model: Any) -> set[str]:
    return {kind.__module__.partition(".")[0] for kind in type(model).__mro__}


def _own_prediction(model: Any, label: LabelKind) -> Callable[[Any], Matrix] | None:
    """Return the estimator's own answer for a matrix, or None for a booster, which has no estimator around it."""
    if type(model).__name__ == "Booster":
        return None
    if label in {"binary", "multiclass"}:
        if not hasattr(model, "predict_proba"):
            raise InvalidInput(f"{type(model).__name__} gives no probabilities", where="train",
                               allowed="a classifier with predict_proba for classes")  # fmt: skip
        classes = getattr(model, "classes_", None)
        if classes is None:
            raise InvalidInput(f"the {type(model).__name__} is not fitted", where="train", fix="return model.fit(...)")
        if label == "multiclass":
            return lambda x: np.asarray(model.predict_proba(x), dtype=np.float64)
        if len(classes) != 2:
            raise InvalidInput(f"the model knows {len(classes)} classes", where="train", allowed="two classes")
        return lambda x: np.asarray(model.predict_proba(x), dtype=np.float64)[:, 1]
    if not hasattr(model, "predict"):
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
