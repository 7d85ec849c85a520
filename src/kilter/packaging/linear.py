"""Linear models as one dot product: a scaler, an imputer, a one-hot encoder and the model behind them, folded into weights.

The bytes are JSON. An answer is ``link(W x + b + sum of tables)``, where a table holds the weights of a category's values.
A linear model also explains itself exactly: a column's contribution is what it adds beyond what it adds on average over
the example rows (Lundberg and Lee 2017, "A Unified Approach to Interpreting Model Predictions", corollary 1).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np

from kilter.core.errors import Damaged
from kilter.packaging.native import Buffer, ModelSpec, check_model, check_shape

Link = Literal["identity", "logit", "softmax", "one-vs-rest", "exp"]
Matrix = np.ndarray[Any, np.dtype[np.float64]]

_FAR = -709.0
"""Below it the exponential of the negative is beyond float64."""


class Linear(msgspec.Struct, frozen=True, kw_only=True):
    """A linear model.

    Args:
        weights: Per output the weight of each column; 0 for a column that has a table.
        intercept: Per output.
        link: From the sum to the answer: ``identity``, ``logit`` (one output), ``softmax``, ``one-vs-rest`` (each its own
            logit, scaled to add up to 1) or ``exp``.
        fill: Per column what stands for a missing value, None where a missing value makes the answer missing.
        tables: Per categorical column (by its position) and code, then for a missing or unknown value, what is added per
            output.
        means: Per output and column what the column adds on average.
    """

    weights: tuple[tuple[float, ...], ...]
    intercept: tuple[float, ...]
    link: Link
    fill: tuple[float | None, ...] = ()
    tables: dict[str, tuple[tuple[float, ...], ...]] = {}
    means: tuple[tuple[float, ...], ...] = ()


class LinearModel:
    """A linear model loaded from its JSON.

    Args:
        spec: Number of columns and outputs.
        data: The JSON of :class:`Linear`.

    Raises:
        Damaged: When the bytes are no linear model.
        InvalidInput: When it is of another shape than the signature says.
    """

    def __init__(self, spec: ModelSpec, data: bytes) -> None:
        try:
            form = msgspec.json.decode(data, type=Linear)
        except msgspec.MsgspecError as error:
            raise Damaged("the bytes are not a linear model", where="model.json") from error
        self._spec = spec
        try:
            self._weights = np.array(form.weights, dtype=np.float64)
            tables = {int(place): np.array(table, dtype=np.float64) for place, table in form.tables.items()}
            self._means = np.array(form.means or np.zeros_like(self._weights), dtype=np.float64)
            check_model(spec, self._weights.shape[1], self._weights.shape[0])
            if len(form.intercept) != spec.outputs or self._means.shape != self._weights.shape:
                raise Damaged("the linear model's parts don't fit together", where="model.json")
            if form.fill and len(form.fill) != spec.columns:
                raise Damaged("the linear model's parts don't fit together", where="model.json")
            if any(t.ndim != 2 or t.shape[1] != spec.outputs or not 0 <= p < spec.columns
                   for p, t in tables.items()):  # fmt: skip
                raise Damaged("the linear model's parts don't fit together", where="model.json")
        except (ValueError, IndexError) as error:  # ragged rows
            raise Damaged("the linear model's parts don't fit together", where="model.json") from error
        self._intercept = np.array(form.intercept, dtype=np.float64)
        self._transposed = np.ascontiguousarray(self._weights.T)
        filled = [np.nan if value is None else value for value in form.fill]
        self._fill = np.array(filled) if any(value is not None for value in form.fill) else None
        self._link = form.link
        # All tables are one, each behind the other, so that one look-up serves all categorical columns.
        self._places = np.array(list(tables), dtype=np.intp)
        self._known = np.array([len(table) - 1 for table in tables.values()], dtype=np.float64)
        starts = np.cumsum([0, *(len(table) for table in tables.values())])[:-1]
        self._starts = starts.astype(np.float64)
        self._table = np.concatenate(list(tables.values())) if tables else np.zeros((0, spec.outputs))

    def predict(self, data: Buffer, rows: int, columns: int) -> bytes:
        """Return a row-major float64 matrix of ``rows`` x outputs for one of ``rows`` x ``columns``."""
        check_shape(self._spec, data, rows, columns)
        matrix: Matrix = np.frombuffer(data, dtype="<f8").reshape(rows, columns)
        filled = matrix if self._fill is None else np.where(np.isnan(matrix), self._fill, matrix)
        if not len(self._places):
            return linked(filled @ self._transposed + self._intercept, self._link).tobytes()
        numeric = matrix.copy() if self._fill is None else filled
        numeric[:, self._places] = 0.0
        looked = self._looked(matrix).sum(axis=1)
        return linked(numeric @ self._transposed + self._intercept + looked, self._link).tobytes()

    def contributions(self, data: Buffer, rows: int, columns: int) -> bytes:
        """Return what each column adds to each output before the link: ``rows`` x outputs x (``columns`` + 1).

        The last number is what is there without any column: the average over the example rows.
        """
        check_shape(self._spec, data, rows, columns)
        matrix = np.frombuffer(data, dtype="<f8").reshape(rows, columns)
        added = self._added(matrix) - self._means
        base = np.broadcast_to(self._intercept + self._means.sum(axis=1), (rows, self._spec.outputs))
        return np.concatenate([added, base[:, :, None]], axis=2).astype("<f8").tobytes()

    def _added(self, matrix: Matrix) -> Matrix:
        """Return (rows, outputs, columns): what each column adds."""
        filled = matrix if self._fill is None else np.where(np.isnan(matrix), self._fill, matrix)
        added = filled[:, None, :] * self._weights[None, :, :]
        if len(self._places):
            added[:, :, self._places] = self._looked(matrix).transpose(0, 2, 1)
        return added

    def _looked(self, matrix: Matrix) -> Matrix:
        """Return (rows, tables, outputs): what the categories add; the last of a table for what is missing or unknown."""
        codes = matrix[:, self._places]
        known = (codes >= 0) & (codes < self._known)
        found: Matrix = self._table[(np.where(known, codes, self._known) + self._starts).astype(np.intp)]
        return found


def means(form: Linear, example: Matrix) -> Linear:
    """Return the model with what each column adds on average over example rows."""
    spec = ModelSpec(flavor="linear", columns=example.shape[1], outputs=len(form.intercept))
    model = LinearModel(spec, msgspec.json.encode(form))
    added = np.nanmean(model._added(example), axis=0)  # noqa: SLF001 - of the class above
    return msgspec.structs.replace(form, means=tuple(tuple(row) for row in np.nan_to_num(added).tolist()))


def _logistic(values: Matrix) -> Matrix:
    found: Matrix
    if (
        values.size == 1 and values.item() > _FAR
    ):  # one row, which is in a hurry: to say what to ignore takes as long again
        found = 1.0 / (1.0 + np.exp(-values))
        return found
    with np.errstate(over="ignore"):  # far below zero the exponential is infinite, and the answer 0
        found = 1.0 / (1.0 + np.exp(-values))
    return found


def linked(values: Matrix, link: Link) -> Matrix:
    """Return ``link(values)`` for (rows, outputs) without overflow."""
    match link:
        case "identity":
            return np.ascontiguousarray(values)
        case "exp":
            return np.exp(values)
        case "logit":
            return _logistic(values)
        case "one-vs-rest":
            each = _logistic(values)
            total = each.sum(axis=1, keepdims=True)
            return np.where(total == 0.0, 1.0 / values.shape[1], each / np.where(total == 0.0, 1.0, total))
        case "softmax":
            shifted = np.exp(values - values.max(axis=1, keepdims=True))
            return np.ascontiguousarray(shifted / shifted.sum(axis=1, keepdims=True))
