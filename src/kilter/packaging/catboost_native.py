"""CatBoost models in their own binary format: one thread, through the library's Python package, which carries it.

The format keeps of a text column only hashes of its values. So the values that are known are those of the example, or of its
categorical columns; a value that was not shown is answered as one that the training never saw.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import catboost
import numpy as np

from kilter.core.errors import Damaged, InvalidInput
from kilter.packaging.native import Buffer, ModelSpec, check_model, check_shape

_MAGIC = b"CBM1"
_EXPONENT = {"Poisson", "Tweedie"}
_MISSING = ""
"""What stands for a missing text: CatBoost takes no other, and answers it as a value that it never saw."""


def dump(model: Any) -> bytes:
    """Return a fitted model's bytes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.cbm"
        model.save_model(str(file), format="cbm")
        return file.read_bytes()


def read(data: bytes) -> Any:
    """Return the model in CatBoost's bytes: a classifier when it knows classes, else a regressor.

    Raises:
        Damaged: When the bytes are not a model.
        InvalidInput: When it takes more than numbers and text categories.
    """
    size = int.from_bytes(data[4:8], "little")
    if data[:4] != _MAGIC or len(data) < 8 + size:  # the library itself reads beyond the end of some
        raise _damaged()
    try:
        model = catboost.CatBoostClassifier()
        model.load_model(blob=data)
        if not len(model.classes_):
            model = catboost.CatBoostRegressor()
            model.load_model(blob=data)
    except catboost.CatBoostError as error:
        raise _damaged() from error
    if model.get_text_feature_indices() or model.get_embedding_feature_indices():
        raise InvalidInput(
            "the model takes long texts or embeddings", where="model.cbm", allowed="numbers and categories"
        )
    return model


def _damaged() -> Damaged:
    return Damaged("the bytes are not a CatBoost model", where="model.cbm")


def prediction(model: Any, given: Any) -> Any:
    """Return the model's own answer to rows as its maker has them: probabilities of a classifier, else values."""
    if type(given).__module__.partition(".")[0] == "polars":  # which CatBoost doesn't take
        given = _objects(given)
    if hasattr(model, "predict_proba"):
        return model.predict_proba(given, thread_count=1)
    return model.predict(given, prediction_type=_kind(model), thread_count=1)


def _objects(frame: Any) -> Any:
    columns = []
    for name in frame.columns:
        values = frame[name].to_list()
        texts = any(isinstance(value, str) for value in values)
        columns.append([(_MISSING if texts else np.nan) if value is None else value for value in values])
    return np.array(columns, dtype=object).T


def _kind(model: Any) -> str:
    loss = str(model.get_all_params().get("loss_function", "")).partition(":")[0]
    return "Exponent" if loss in _EXPONENT else "RawFormulaVal"


class CatBoostModel:
    """A model loaded from CatBoost's bytes.

    Args:
        spec: What goes in and out.
        data: The bytes.

    Raises:
        Damaged: When the bytes are not a model.
        InvalidInput: When it doesn't fit its signature.
    """

    def __init__(self, spec: ModelSpec, data: bytes) -> None:
        self._model = read(data)
        check_model(spec, len(self._model.feature_names_), spec.outputs)
        self._spec = spec
        self._kind = "Probability" if spec.output != "value" else _kind(self._model)
        self._texts: dict[int, Any] = {}
        for position in self._model.get_cat_feature_indices():
            known = spec.categories.get(spec.names[position]) if spec.names else None
            if known is None:
                raise InvalidInput(
                    f"input {position} of the model is a category, and the example holds numbers there",
                    where="signature",
                    fix="hand in a frame whose column holds text",
                )
            self._texts[position] = np.array([*known, _MISSING], dtype=object)

    def predict(self, data: Buffer, rows: int, columns: int) -> bytes:
        """Return a row-major float64 matrix of ``rows`` x outputs for one of ``rows`` x ``columns``."""
        check_shape(self._spec, data, rows, columns)
        matrix: Any = np.frombuffer(data, dtype="<f8").reshape(rows, columns)
        if self._texts:
            coded, matrix = matrix, matrix.astype(object)
            for position, texts in self._texts.items():
                codes = coded[:, position]
                matrix[:, position] = texts[np.where(np.isnan(codes), len(texts) - 1, codes).astype(np.intp)]
        try:
            values = np.asarray(self._model.predict(matrix, prediction_type=self._kind, thread_count=1))
        except catboost.CatBoostError as error:  # its message may hold values of the rows
            raise InvalidInput("the model refused the rows", where="predict") from error
        if self._spec.output == "probability":
            values = values[:, 1]
        if values.size != rows * self._spec.outputs:
            check_model(self._spec, columns, values.size // max(rows, 1))
        return np.ascontiguousarray(values, dtype="<f8").tobytes()
