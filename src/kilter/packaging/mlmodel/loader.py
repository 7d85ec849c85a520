"""How an exported model answers ``mlflow.pyfunc``: rows become the model's matrix, and the native library answers.

This file travels inside of an exported folder. It needs NumPy and the model's own library, nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SETTINGS = "kilter_model.json"


class Model:
    """An exported model.

    Args:
        folder: Where it lies.
    """

    def __init__(self, folder: Path) -> None:
        self._settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        self._names: list[str] = self._settings["names"]
        self._categories: dict[str, list[str]] = self._settings["categories"]
        self._shape: list[int] = self._settings["shape"]
        self._codes = {name: {value: float(code) for code, value in enumerate(known)}
                       for name, known in self._categories.items()}  # fmt: skip
        make = _MODELS[self._settings["flavor"]]
        self._answer: Callable[[np.ndarray], Any] = make(folder / self._settings["file"], self._settings)

    def predict(self, model_input: Any, params: Any = None) -> np.ndarray:  # noqa: ARG002 - MLflow hands it in
        """Return an answer per row: (n,), or (n, k) for a model with k > 1 outputs.

        Args:
            model_input: A pandas frame, a mapping of columns, a list of rows, or an array (n, d) whose categories are codes.
            params: Not used.
        """
        matrix = np.ascontiguousarray(self._matrix(model_input), dtype=np.float64)
        outputs = len(self._settings["outputs"])
        if len(matrix):
            values = np.asarray(self._answer(matrix), dtype=np.float64).reshape(len(matrix), -1)
        else:
            values = np.zeros((0, outputs))
        if values.shape[1] == 2 and outputs == 1:
            values = values[:, 1:]
        return np.array(values[:, 0] if outputs == 1 else values)

    def _matrix(self, given: Any) -> np.ndarray:
        if isinstance(given, Mapping):
            rows = len(next(iter(given.values()))) if given else 0
            return self._table({str(name): list(values) for name, values in given.items()}, rows)
        if isinstance(given, Sequence) and given and all(isinstance(row, Mapping) for row in given):
            return self._table({name: [row.get(name) for row in given] for name in self._names}, len(given))
        if hasattr(given, "columns") and hasattr(given, "iloc"):
            return self._table({str(name): given[name] for name in given.columns}, len(given))
        matrix = np.asarray(given, dtype=np.float64)
        return matrix.reshape(len(matrix), -1)

    def _table(self, columns: Mapping[str, Any], rows: int) -> np.ndarray:
        matrix = np.full((rows, len(self._names)), np.nan)
        for position, name in enumerate(self._names):
            if name not in columns:
                continue
            values = columns[name]
            values = values.astype(object).tolist() if hasattr(values, "astype") else list(values)
            codes = self._codes.get(name)
            if codes is None:
                matrix[:, position] = [_number(name, value) for value in values]
            else:
                matrix[:, position] = [
                    codes.get(value, math.nan) if isinstance(value, str) else math.nan for value in values
                ]
        return matrix


def _load_pyfunc(path: str) -> Model:
    """Return the model in a folder; MLflow calls it."""
    return Model(Path(path))


def _number(name: str, value: Any) -> float:
    if value is None or type(value).__name__ in {"NAType", "NaTType"}:
        return math.nan
    if isinstance(value, str):
        raise TypeError(f"input {name!r} holds text, expected a number")
    return float(value)


def _lightgbm(file: Path, settings: Mapping[str, Any]) -> Any:
    import lightgbm  # noqa: PLC0415 - each model needs its own library alone

    booster = lightgbm.Booster(model_str=file.read_text(encoding="utf-8"))
    rounds = settings["iterations"] or None
    return lambda matrix: booster.predict(matrix, num_iteration=rounds, num_threads=1)


def _xgboost(file: Path, settings: Mapping[str, Any]) -> Any:
    import xgboost  # noqa: PLC0415 - as above

    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(file)
    rounds = (0, settings["iterations"])
    return lambda matrix: booster.inplace_predict(matrix, iteration_range=rounds, validate_features=False)


def _catboost(file: Path, settings: Mapping[str, Any]) -> Any:
    import catboost  # noqa: PLC0415 - as above

    model = catboost.CatBoost()
    model.load_model(str(file))
    loss = str(model.get_all_params().get("loss_function", "")).partition(":")[0]
    kind = "Exponent" if loss in {"Poisson", "Tweedie"} else "RawFormulaVal"
    if settings["output"] != "value":
        kind = "Probability"
    known = {place: settings["categories"][settings["names"][place]] for place in model.get_cat_feature_indices()}
    texts = {place: np.array([*values, ""], dtype=object) for place, values in known.items()}

    def answer(matrix: np.ndarray) -> Any:
        given: Any = matrix
        if texts:
            given = matrix.astype(object)
            for place, values in texts.items():
                codes = np.where(np.isnan(matrix[:, place]), len(values) - 1, matrix[:, place])
                given[:, place] = values[codes.astype(np.intp)]
        return model.predict(given, prediction_type=kind, thread_count=1)

    return answer


def _sklearn(file: Path, settings: Mapping[str, Any]) -> Any:
    import skops.io  # noqa: PLC0415 - as above

    estimator: Any = skops.io.load(file, trusted=settings["trusted"])
    if not settings["frame"]:
        _forget_names(estimator)
    called = estimator.predict if settings["output"] == "value" else estimator.predict_proba
    return lambda matrix: called(_frame(matrix, settings))


def _forget_names(part: Any) -> None:
    vars(part).pop("feature_names_in_", None)
    for _, step in getattr(part, "steps", None) or ():
        if hasattr(step, "__dict__"):
            _forget_names(step)


def _frame(matrix: np.ndarray, settings: Mapping[str, Any]) -> Any:
    """Return a matrix as the frame that the model was fitted on; as it is, for a model that takes one."""
    library = settings["frame"]
    if not library:
        return matrix
    columns: dict[str, Any] = {}
    for position, name in enumerate(settings["names"]):
        known = settings["categories"].get(name)
        values = matrix[:, position]
        missing = math.nan if library == "pandas" else None
        columns[name] = values if known is None else [
            missing if math.isnan(code) else known[int(code)] for code in values.tolist()
        ]  # fmt: skip
    if library == "polars":
        import polars as pl  # noqa: PLC0415 - as above

        return pl.DataFrame(columns, schema_overrides=dict.fromkeys(settings["categories"], pl.String))
    import pandas  # noqa: ICN001, PLC0415 - as above

    frame = pandas.DataFrame(columns)
    for name in settings["categories"]:
        frame[name] = frame[name].astype(object)
    return frame


_KINDS = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


def _onnx(file: Path, settings: Mapping[str, Any]) -> Any:
    import onnxruntime  # noqa: PLC0415 - as above

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    answered = [_answered(settings["output"], session.get_outputs())]
    if len(inputs) == 1 and inputs[0].type in _KINDS:
        name, kind = inputs[0].name, _KINDS[inputs[0].type]
        shape = settings["shape"]
        return lambda matrix: session.run(
            answered, {name: matrix.astype(kind).reshape(len(matrix), *(shape or matrix.shape[1:]))}
        )[0]

    def feed(matrix: np.ndarray) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for one in inputs:
            column = matrix[:, settings["names"].index(one.name)]
            if one.type in _KINDS:
                found[one.name] = column.astype(_KINDS[one.type])[:, None]
            else:
                texts = np.array([*settings["categories"].get(one.name, ()), ""], object)
                found[one.name] = texts[np.where(np.isnan(column), len(texts) - 1, column).astype(np.intp)][:, None]
        return found

    return lambda matrix: session.run(answered, feed(matrix))[0]


def _answered(wanted: str, outputs: Sequence[Any]) -> Any:
    """Return the name of the output that is answered: the probabilities of a classifier, else the first of numbers."""
    numbers = [one.name for one in outputs if one.type in _KINDS]
    floats = [one.name for one in outputs if one.type in {"tensor(float)", "tensor(double)", "tensor(float16)"}]
    if wanted != "value" and floats:
        return ([name for name in floats if "prob" in name.lower()] or floats)[-1]
    return (floats or numbers)[0]


def _linear(file: Path, settings: Mapping[str, Any]) -> Any:
    form = json.loads(file.read_text(encoding="utf-8"))
    transposed = np.ascontiguousarray(np.array(form["weights"], dtype=np.float64).T)
    intercept = np.array(form["intercept"], dtype=np.float64)
    held = form.get("fill") or []
    fill = (
        np.array([np.nan if value is None else value for value in held]) if any(v is not None for v in held) else None
    )
    tables = {int(place): np.array(table, dtype=np.float64) for place, table in (form.get("tables") or {}).items()}
    places = np.array(list(tables), dtype=np.intp)
    known = np.array([len(table) - 1 for table in tables.values()], dtype=np.float64)
    starts = np.cumsum([0, *(len(table) for table in tables.values())])[:-1].astype(np.float64)
    whole = np.concatenate(list(tables.values())) if tables else np.zeros((0, len(settings["outputs"])))

    def answer(matrix: np.ndarray) -> Any:
        filled = matrix if fill is None else np.where(np.isnan(matrix), fill, matrix)
        if not len(places):
            return _linked(filled @ transposed + intercept, form["link"])
        numeric = matrix.copy() if fill is None else filled
        numeric[:, places] = 0.0
        codes = matrix[:, places]
        inside = (codes >= 0) & (codes < known)
        looked = whole[(np.where(inside, codes, known) + starts).astype(np.intp)].sum(axis=1)
        return _linked(numeric @ transposed + intercept + looked, form["link"])

    return answer


def _logistic(values: np.ndarray) -> Any:
    with np.errstate(over="ignore"):  # far below zero the exponential is infinite, and the answer 0
        return 1.0 / (1.0 + np.exp(-values))


def _linked(values: np.ndarray, link: str) -> Any:
    if link == "exp":
        return np.exp(values)
    if link == "logit":
        return _logistic(values)
    if link == "one-vs-rest":
        each = _logistic(values)
        total = each.sum(axis=1, keepdims=True)
        return np.where(total == 0.0, 1.0 / values.shape[1], each / np.where(total == 0.0, 1.0, total))
    if link == "softmax":
        shifted = np.exp(values - values.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)
    return values


def _constant(file: Path, settings: Mapping[str, Any]) -> Any:
    value = float(file.read_text(encoding="utf-8"))
    return lambda matrix: np.full((len(matrix), len(settings["outputs"])), value)


def _function(file: Path, settings: Mapping[str, Any]) -> Any:
    form = json.loads(file.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "kilter_model"}
    exec(compile(form["source"], str(file), "exec"), names)  # noqa: S102 - the folder holds this loader, too: who wrote one wrote both
    function, widths = names[form["name"]], form.get("widths") or []

    def answer(matrix: np.ndarray) -> Any:
        given = matrix.reshape(len(matrix), *settings["shape"]) if settings["shape"] else matrix
        framed = _frame(given, settings)
        return function(*(np.split(framed, np.cumsum(widths)[:-1], axis=1) if len(widths) > 1 else (framed,)))

    return answer


_MODELS: dict[str, Callable[[Path, Mapping[str, Any]], Any]] = {
    "lightgbm-text": _lightgbm,
    "xgboost-ubjson": _xgboost,
    "catboost-cbm": _catboost,
    "skops": _sklearn,
    "onnx": _onnx,
    "linear": _linear,
    "constant": _constant,
    "python": _function,
}
"""What the export knows how to write, by its format."""
