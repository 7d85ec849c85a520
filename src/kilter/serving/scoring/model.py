"""A model outside an endpoint: frames in, columns of predictions out."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from kilter.core.errors import InvalidInput
from kilter.packaging.bundle import Parts
from kilter.packaging.formats import Matrix
from kilter.packaging.loading import load_model
from kilter.packaging.native import NativeModel
from kilter.serving.scoring.columns import FrameReader

if TYPE_CHECKING:
    from kilter.serving.answering.group import Lookup

PREDICTION = "prediction"
ERROR = "error"


class Scorer:
    """A loaded model; safe to use from several threads, each of which has a copy of its own.

    Args:
        parts: The bundle's bytes.
        lookup: Looks features up; None when there is no online store.

    Raises:
        InvalidInput: When the model needs features and there is nowhere to look them up.
    """

    def __init__(self, parts: Parts, lookup: Lookup | None = None) -> None:
        self.manifest = parts.manifest
        self.reader = FrameReader(parts.manifest.signature, lookup)
        self.spec = parts.manifest.spec()
        outputs = parts.manifest.signature.outputs
        self.columns = (PREDICTION,) if len(outputs) == 1 else tuple(f"{PREDICTION}_{name}" for name in outputs)
        self._data = parts.model
        self._held = threading.local()
        self.predict(np.full((1, self.spec.columns), np.nan))  # a model that can't be loaded is known before any row

    def predict(self, matrix: Matrix) -> Matrix:
        """Return the answers to a matrix: rows x outputs.

        Args:
            matrix: (n, d) float64, row-major.
        """
        rows, width = matrix.shape
        answers = self._model().predict(matrix.tobytes(), rows, width) if rows else b""
        return np.frombuffer(answers, dtype="<f8").reshape(rows, self.spec.outputs)

    def score(self, frame: pl.DataFrame, *, start: int = 0, lenient: bool = False) -> list[pl.Series]:
        """Return the columns that a frame's predictions make.

        Args:
            frame: The rows.
            start: The number of the first row, for the errors.
            lenient: Give rows that can't be used a null, and the reason in a column ``error``.

        Raises:
            InvalidInput: When a column can't be used, or, unless ``lenient``, a row.
        """
        matrix, unusable = self.reader.matrix(frame, start)
        return self.answers(matrix, unusable, start=start, lenient=lenient)

    def answers(
        self, matrix: Matrix, unusable: Mapping[int, str], *, start: int = 0, lenient: bool = False
    ) -> list[pl.Series]:
        """Return the columns that a matrix's predictions make.

        Args:
            matrix: (n, d) float64, as the reader made it; rows that can't be used are emptied.
            unusable: By position, why a row can't be used.
            start: The number of the first row, for the errors.
            lenient: Give rows that can't be used a null, and the reason in a column ``error``.

        Raises:
            InvalidInput: When a row can't be used, unless ``lenient``.
        """
        if unusable and not lenient:
            row = min(unusable)
            column, _, why = unusable[row].partition(": ")
            raise InvalidInput(
                f"the value is {why}", where=f"rows[{start + row}].{column}", fix="mend the row, or let bad rows be null or go to a place of their own"
            )  # fmt: skip
        for row in unusable:
            matrix[row] = np.nan
        predicted = self.predict(matrix)
        found = [
            pl.Series(name, np.ascontiguousarray(predicted[:, place]), dtype=pl.Float64)
            for place, name in enumerate(self.columns)
        ]
        if lenient:
            errors = [unusable.get(row) for row in range(len(matrix))] if unusable else [None] * len(matrix)
            bad = pl.Series(ERROR, errors, dtype=pl.String)
            found = [pl.select(pl.when(bad.is_null()).then(one)).to_series().alias(one.name) for one in found]
            found.append(bad)
        return found

    def _model(self) -> NativeModel:
        model: NativeModel | None = getattr(self._held, "model", None)
        if model is None:
            model = self._held.model = load_model(self.spec, self._data)
        return model
