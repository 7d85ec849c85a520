"""The rows that an MLflow model brings along, by its signature and its input example."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from kilter.core.errors import InvalidInput, KilterError
from kilter.data.encoding import Encoding, Kind
from kilter.packaging.examples import Example, made_up
from kilter.packaging.mlmodel.document import Column, Document
from kilter.packaging.mlmodel.files import Files

_LARGEST = 64 << 20
_NUMBERS = {"double", "float", "long", "integer", "boolean", "any"}
_MOST = 512


@dataclass(frozen=True)
class Rows:
    """Rows by columns, or one tensor.

    Args:
        columns: The inputs, in order; empty when the model has one unnamed matrix.
        values: Per column its values; None where one is missing.
        tensor: The rows as one array, for a model that takes one.
        given: The rows came with the model, or from the user.
    """

    columns: tuple[Column, ...]
    values: tuple[tuple[Any, ...], ...]
    tensor: Any = None
    given: bool = True

    @property
    def texts(self) -> tuple[str, ...]:
        """The names of the columns that hold text."""
        return tuple(column.name for column in self.columns if column.type == "string")

    def zeros(self, model: Any) -> Any:
        """Return one row of zeros as wide as the model says."""
        return made_up(model)

    def polars(self, categories: Mapping[str, Sequence[str]]) -> pl.DataFrame:
        """Return a Polars frame.

        Args:
            categories: Per column of text its values in the order of their codes; where none are known, those of the rows.
        """
        series = []
        for column, values in zip(self.columns, self.values, strict=True):
            if column.type == "string":
                known = categories.get(column.name)
                kind = pl.String() if known is None else pl.Enum(list(known))
                kept = [
                    None if value is None or (known is not None and value not in known) else value for value in values
                ]
                series.append(pl.Series(column.name, kept, dtype=kind))
            else:
                series.append(
                    pl.Series(column.name, [_number(column.name, value) for value in values], dtype=pl.Float64)
                )
        return pl.DataFrame(series)

    def coded(self, categories: Mapping[str, Sequence[str]]) -> Example:
        """Return rows whose text is coded already, as a booster alone takes them."""
        frame = self.polars(categories)
        kinds: list[Kind] = ["categorical" if column.type == "string" else "numeric" for column in self.columns]
        encoding = Encoding(
            tuple(frame.columns), tuple(kinds), {name: tuple(known) for name, known in categories.items()}
        )
        matrix = np.ascontiguousarray(encoding.matrix(frame))
        return Example(encoding, matrix, matrix, "")

    def frame(self) -> Any:
        """Return a pandas frame, which estimators are mostly fitted on; a Polars frame where pandas is not installed."""
        frame = self.polars({})
        try:
            import pandas  # noqa: ICN001, PLC0415 - an estimator that asks for columns by name needs a frame
        except ImportError:
            return frame
        found = {}
        for column in frame.columns:
            if frame.schema[column] == pl.String:
                found[column] = pandas.Series(frame[column].to_list(), dtype=object)
            else:
                found[column] = pandas.Series(frame[column].to_numpy())
        return pandas.DataFrame(found)


def read_rows(files: Files, document: Document, given: Any = None) -> Rows:
    """Return a model's rows.

    Args:
        files: Its files.
        document: Its ``MLmodel`` file.
        given: Rows of the user's, as a Polars frame or an array, in place of the input example.

    Raises:
        InvalidInput: When an input is neither a number nor text, or the example is none of its inputs.
    """
    inputs = document.inputs
    if inputs and len(inputs) == 1 and inputs[0].type == "tensor":
        return _tensor(inputs[0], _plain(files, document) if given is None else given)
    if inputs and any(column.type == "tensor" for column in inputs):
        raise InvalidInput("the model takes several tensors", where="signature", allowed="columns, or one tensor")
    columns = _columns(inputs)
    if isinstance(given, np.ndarray):
        return Rows((), (), given)
    if isinstance(given, pl.DataFrame):
        return _of_frame(columns, given)
    found = _plain(files, document)
    if found is None:
        return _made_up(columns)
    return _of_example(columns, found)


def _columns(inputs: tuple[Column, ...] | None) -> tuple[Column, ...]:
    """Return the signature's columns, checked; none when they have no names."""
    if not inputs or not all(column.name for column in inputs):
        return ()
    for column in inputs:
        if column.type != "string" and column.type not in _NUMBERS:
            raise InvalidInput(
                f"input {column.name!r} is of the type {column.type}", where="signature",
                allowed="double, float, long, integer, boolean, string", fix="use a number made from it, such as the hour of a time",
            )  # fmt: skip
    if len({column.name for column in inputs}) != len(inputs):
        raise InvalidInput("two inputs have the same name", where="signature")
    return inputs


def _plain(files: Files, document: Document) -> Any:
    """Return the input example as JSON has it; None when there is none that can be read."""
    about = document.example
    if about is None or about.type not in {"dataframe", "ndarray", "json_object"}:
        return None
    data = files.read(about.path, _LARGEST)
    try:
        return json.loads(data)  # it takes NaN, which MLflow writes
    except (ValueError, RecursionError) as error:
        raise InvalidInput("the input example is no JSON", where=about.path) from error


def _tensor(column: Column, found: Any) -> Rows:
    if isinstance(found, pl.DataFrame):
        found = found.to_numpy()
    if found is None:
        if any(axis < 1 for axis in column.shape[1:]):
            raise InvalidInput(
                "the model's tensor is of any width", where="signature", fix="hand in rows: --example FILE"
            )
        return Rows((), (), np.zeros((1, *column.shape[1:])), given=False)
    try:
        array = np.asarray(found, dtype=np.float64)[:_MOST]
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput("the input example is no tensor of numbers", where="input_example.json") from error
    wanted = column.shape[1:]
    if array.ndim != len(column.shape) or any(
        axis not in {-1, size} for axis, size in zip(wanted, array.shape[1:], strict=True)
    ):
        raise InvalidInput(
            f"the input example has shape {array.shape}", where="input_example.json", allowed=f"{column.shape}"
        )
    return Rows((), (), array)


def _of_frame(columns: tuple[Column, ...], frame: pl.DataFrame) -> Rows:
    if not columns:
        columns = tuple(_guessed(name, frame[name].to_list()) for name in frame.columns)
    missing = [column.name for column in columns if column.name not in frame.columns]
    if missing:
        raise InvalidInput(
            f"the example has no column {missing[0]!r}", where="example", allowed=", ".join(frame.columns)
        )
    return Rows(
        columns, tuple(tuple(_value(one) for one in frame[column.name].head(_MOST).to_list()) for column in columns)
    )


def _of_example(columns: tuple[Column, ...], found: Any) -> Rows:
    """Return the rows of an input example: split into columns and data, by column, or a list of rows."""
    if not columns and isinstance(found, list) and not all(isinstance(row, dict) for row in found):
        return _tensor(Column(type="tensor", shape=_shape_of(found)), found)
    if isinstance(found, dict) and isinstance(found.get("data"), list):
        names, data = found.get("columns"), found["data"]
        if names is None:
            return _tensor(Column(type="tensor", shape=_shape_of(data)), data)
    elif isinstance(found, dict):
        return _by_column(columns, found)
    elif isinstance(found, list) and found and all(isinstance(row, dict) for row in found):
        names = list(dict.fromkeys(str(name) for row in found for name in row))
        data = [[row.get(name) for name in names] for row in found]
    else:
        raise _no_rows()
    if not (isinstance(names, list) and all(isinstance(row, list) and len(row) == len(names) for row in data)):
        raise _no_rows()
    return _by_column(columns, {str(name): [row[place] for row in data] for place, name in enumerate(names)})


def _by_column(columns: tuple[Column, ...], found: Mapping[str, Any]) -> Rows:
    lists = {name: values if isinstance(values, list) else [values] for name, values in found.items()}
    lengths = {len(values) for values in lists.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise _no_rows()
    columns = columns or tuple(_guessed(name, values) for name, values in lists.items())
    count = lengths.pop()
    nothing = [None] * count  # an optional input
    return Rows(
        columns, tuple(tuple(_value(one) for one in lists.get(column.name, nothing)[:_MOST]) for column in columns)
    )


def _made_up(columns: tuple[Column, ...]) -> Rows:
    return Rows(columns, tuple((None,) if column.type == "string" else (0.0,) for column in columns), given=False)


def _guessed(name: str, values: Sequence[Any]) -> Column:
    return Column(name=name, type="string" if any(isinstance(value, str) for value in values) else "double")


def _shape_of(found: Any) -> tuple[int, ...]:
    try:
        return (-1, *np.asarray(found, dtype=np.float64).shape[1:])
    except (TypeError, ValueError, OverflowError) as error:
        raise _no_rows() from error


def _value(given: Any) -> Any:
    """Return a value of a row; what is not finite is missing."""
    if isinstance(given, float) and math.isnan(given):
        return None
    return given


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool | int | float):
        try:
            return float(value)
        except OverflowError:
            pass
    raise InvalidInput(f"input {name!r} holds a {type(value).__name__}", where="input_example.json", allowed="numbers")


def _no_rows() -> KilterError:
    return InvalidInput(
        "the input example is no table of rows", where="input_example.json", fix="hand in rows: --example FILE"
    )
