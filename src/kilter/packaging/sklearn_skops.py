"""scikit-learn estimators through skops: a zip of JSON and arrays, not a pickle.

The file names every type that it will build. Those of skops' own list are built; beyond it only classes of scikit-learn
and NumPy's ``dtype``. Anything else is refused by name, whether the file was packaged here or came from elsewhere.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import skops.io

from kilter.core.errors import Damaged, InvalidInput
from kilter.packaging.frames import frame_of
from kilter.packaging.native import Buffer, ModelSpec, check_model, check_shape
from kilter.packaging.skops_types import TRUSTED


def dump(estimator: object) -> bytes:
    """Return a fitted estimator as skops bytes.

    Raises:
        InvalidInput: When it holds objects that a server would refuse to build.
    """
    data = _canonical(bytes(skops.io.dumps(estimator)))
    _trusted(data)
    return data


def _canonical(data: bytes) -> bytes:
    """Return a skops file without what differs from one process to the next: addresses of objects, and times of files.

    The same estimator is then the same bytes, and has the same digest. Objects that are shared stay shared.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as given:
        schema = json.loads(given.read("schema.json"))
        ids: dict[int, int] = {}
        files: dict[str, str] = {}
        todo: list[Any] = [schema]
        count = 0
        while todo:
            node = todo.pop()
            if isinstance(node, dict):
                if "__id__" in node:
                    count += 1
                    # what is written as plain JSON is shared or not by accident
                    node["__id__"] = count if node.get("is_json") else ids.setdefault(node["__id__"], count)
                if isinstance(node.get("file"), str):
                    name = node["file"]
                    node["file"] = files.setdefault(name, f"{len(files)}{PurePosixPath(name).suffix}")
                todo += reversed(list(node.values()))
            elif isinstance(node, list):
                todo += reversed(node)
        held = {new: given.read(old) for old, new in files.items()}
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", zipfile.ZIP_STORED) as written:
        for name, content in [*held.items(), ("schema.json", json.dumps(schema).encode())]:
            written.writestr(zipfile.ZipInfo(name), content)
    return result.getvalue()


def read(data: bytes) -> Any:
    """Return the estimator in skops bytes.

    Raises:
        Damaged: When the bytes are not a skops file.
        InvalidInput: When they hold types that are not trusted.
    """
    return skops.io.loads(data, trusted=_trusted(data))


class SklearnModel:
    """An estimator loaded from skops bytes.

    Args:
        spec: Number of columns, and whether it answers with a probability or a value.
        data: The bytes.

    Raises:
        Damaged: When the bytes are not a skops file.
        InvalidInput: When they hold types that are not trusted.
    """

    def __init__(self, spec: ModelSpec, data: bytes) -> None:
        self._estimator: Any = read(data)
        if not spec.frame:
            _forget_names(self._estimator)
        self._spec = spec

    def predict(self, data: Buffer, rows: int, columns: int) -> bytes:
        """Return a row-major float64 matrix of ``rows`` x outputs for one of ``rows`` x ``columns``."""
        check_shape(self._spec, data, rows, columns)
        matrix: Any = np.frombuffer(data, dtype="<f8").reshape(rows, columns)
        if self._spec.frame:
            matrix = frame_of(matrix, self._spec.names, self._spec.categories, self._spec.frame)
        try:
            match self._spec.output:
                case "probability":
                    values = self._estimator.predict_proba(matrix)[:, 1]
                case "probabilities":
                    values = self._estimator.predict_proba(matrix)
                case "value":
                    values = self._estimator.predict(matrix)
        except ValueError as error:
            raise InvalidInput(
                "the estimator refused the rows", where="predict", fix="impute missing values"
            ) from error
        if values.size != rows * self._spec.outputs:
            check_model(self._spec, columns, values.size // max(rows, 1))
        return np.ascontiguousarray(values, dtype="<f8").tobytes()


def _forget_names(part: Any) -> None:
    """Let an estimator that was fitted on a frame take a matrix without warning about it at every call."""
    vars(part).pop("feature_names_in_", None)
    for _, step in getattr(part, "steps", None) or ():
        if hasattr(step, "__dict__"):
            _forget_names(step)


def _trusted(data: bytes) -> list[str]:
    """Return the types beyond skops' own list, all of them trusted.

    Raises:
        Damaged: When the bytes are not a skops file.
        InvalidInput: When a type is not trusted; it is named.
    """
    try:
        found = list(skops.io.get_untrusted_types(data=data))
    except Exception as error:  # skops lets errors of zip, JSON and its own schema through
        raise Damaged("the bytes are not a skops file", where="model.skops") from error
    strange = [name for name in found if not TRUSTED.match(name)]
    if strange:
        raise InvalidInput(
            f"the model holds {', '.join(strange)}",
            where="model.skops",
            allowed="classes of scikit-learn and NumPy arrays",
            fix="return the estimator itself (LightGBM and XGBoost models alone, not inside a pipeline), without own functions",
        )
    return found
