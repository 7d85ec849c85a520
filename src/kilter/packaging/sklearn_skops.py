"""scikit-learn estimators through skops: a zip of JSON and arrays, not a pickle.

The file names every type that it will build. Those of skops' own list are built; beyond it only classes of scikit-learn
and NumPy's ``dtype``. Anything else is refused by name, whether the file was packaged here or came from elsewhere.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import skops.io

from kilter.core.errors import Damaged, InvalidInput
from kilter.packaging.native import Buffer, ModelSpec

# A class of scikit-learn: a dotted path whose last part is capitalised. Functions are not on the list: an estimator that
# calls one could call any.
_TRUSTED = re.compile(r"^(sklearn(\.\w+)+\.(?=_*[A-Z])\w+|numpy\.dtype)$")


def dump(estimator: object) -> bytes:
    """Return a fitted estimator as skops bytes.

    Raises:
        InvalidInput: When it holds objects that a server would refuse to build.
    """
    data = bytes(skops.io.dumps(estimator))
    _trusted(data)
    return data


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
        trusted = _trusted(data)
        self._estimator: Any = skops.io.loads(data, trusted=trusted)
        self._columns = spec.columns
        self._probability = spec.output == "probability"

    def predict(self, data: Buffer, rows: int, columns: int) -> bytes:
        """Return ``rows`` float64 values for a row-major float64 matrix of ``rows`` x ``columns``."""
        if columns != self._columns or len(data) != 8 * rows * columns:
            raise InvalidInput(f"{columns} columns were given", where="predict", allowed=f"{self._columns}")
        matrix = np.frombuffer(data, dtype="<f8").reshape(rows, columns)
        try:
            values = (
                self._estimator.predict_proba(matrix)[:, 1] if self._probability else self._estimator.predict(matrix)
            )
        except ValueError as error:
            raise InvalidInput(
                "the estimator refused the rows", where="predict", fix="impute missing values"
            ) from error
        return np.ascontiguousarray(values, dtype="<f8").tobytes()


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
    strange = [name for name in found if not _TRUSTED.match(name)]
    if strange:
        raise InvalidInput(
            f"the model holds {', '.join(strange)}",
            where="model.skops",
            allowed="classes of scikit-learn and NumPy arrays",
            fix="return the estimator itself (LightGBM and XGBoost models alone, not inside a pipeline), without own functions",
        )
    return found
