"""How the columns of a row become the numbers that a model sees: part of a model's signature."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal

import msgspec
import numpy as np
import polars as pl

from kilter.core.errors import DeclarationError, InvalidInput

Kind = Literal["numeric", "categorical"]
Value = float | int | str | bool | None


class Encoding(msgspec.Struct, frozen=True, dict=True):
    """The order, kinds and categories of a model's inputs, as fitted on its training rows.

    Args:
        names: The inputs, in the order of the matrix's columns.
        kinds: ``numeric`` or ``categorical``, one per name.
        categories: Per categorical input its known values, sorted; the code is the position. An unknown value is missing.
    """

    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    categories: dict[str, tuple[str, ...]]

    @classmethod
    def fit(cls, frame: pl.DataFrame, names: Sequence[str]) -> Encoding:
        """Return the encoding of a training frame's columns.

        Args:
            frame: The training rows.
            names: Which columns, in order.

        Raises:
            DeclarationError: When a column is missing, is there twice, or is of a kind that models can't read.
        """
        kinds: list[Kind] = []
        categories: dict[str, tuple[str, ...]] = {}
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if list(names).count(name) > 1})
            raise DeclarationError(f"input {twice[0]!r} is declared twice", where="inputs", fix="name each input once")
        for name in names:
            if name not in frame.columns:
                raise DeclarationError(
                    f"unknown column {name!r}", where="inputs", allowed=", ".join(sorted(frame.columns))
                )
            kind = frame.schema[name]
            if kind == pl.String or isinstance(kind, pl.Categorical | pl.Enum):
                kinds.append("categorical")
                values = frame[name].drop_nulls().cast(pl.String).unique().to_list()
                categories[name] = tuple(sorted(values))
            elif kind.is_numeric() or kind == pl.Boolean:
                kinds.append("numeric")
            else:
                raise DeclarationError(
                    f"input {name!r} is a column of {kind}, which a model can't read",
                    where="inputs",
                    allowed="numbers, booleans and strings",
                    fix=f"add a column made from {name!r}, such as the hour or the age in days, and declare that",
                )
        return cls(tuple(names), tuple(kinds), categories)

    @cached_property
    def _codes(self) -> dict[str, dict[Value, float]]:
        return {
            name: {value: float(code) for code, value in enumerate(known)} for name, known in self.categories.items()
        }

    @property
    def categorical(self) -> tuple[int, ...]:
        """The positions of the categorical inputs."""
        return tuple(position for position, kind in enumerate(self.kinds) if kind == "categorical")

    def matrix(self, frame: pl.DataFrame) -> np.ndarray:
        """Return the frame's inputs as a float64 matrix (rows, names); missing and unknown values are NaN.

        Raises:
            InvalidInput: When an input is missing from the frame, or holds strings where numbers were learned.
        """
        result = np.empty((frame.height, len(self.names)), dtype=np.float64, order="F")
        for position, (name, kind) in enumerate(zip(self.names, self.kinds, strict=True)):
            if name not in frame.columns:
                raise InvalidInput(f"input {name!r} is missing", where="inputs", allowed=", ".join(self.names))
            column = frame[name]
            if kind == "categorical":
                known = self.categories[name]
                codes = column.cast(pl.String).replace_strict(
                    pl.Series(known, dtype=pl.String),
                    pl.Series(np.arange(len(known), dtype=np.float64)),
                    default=None,
                    return_dtype=pl.Float64,
                )
                result[:, position] = codes.to_numpy()
            elif column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null):
                result[:, position] = column.cast(pl.Float64).to_numpy()
            else:
                raise InvalidInput(f"input {name!r} is {column.dtype}, expected a number", where="inputs")
        return result

    def rows(self, rows: Sequence[Mapping[str, Value]]) -> np.ndarray:
        """Return rows of a request as a float64 matrix (rows, names), C-ordered; a missing input is NaN.

        Raises:
            InvalidInput: When a value is neither a number, a boolean, a string nor null, or a string where numbers were
                learned; it names the row and the input.
        """
        result = np.empty((len(rows), len(self.names)), dtype=np.float64)
        missing = float("nan")
        for position, (name, kind) in enumerate(zip(self.names, self.kinds, strict=True)):
            values = [row.get(name) for row in rows]
            if kind == "categorical":
                codes = self._codes[name]
                try:
                    result[:, position] = [codes.get(value, missing) for value in values]
                except TypeError as error:  # a list or an object can't be looked up
                    raise _bad_value(values, name, (str, type(None)), "a string or null") from error
                continue
            try:
                # array("d"), unlike numpy, refuses the string "5"
                result[:, position] = array("d", [missing if value is None else value for value in values])  # type: ignore[type-var]
            except (TypeError, OverflowError) as error:
                raise _bad_value(values, name, (int, float, type(None)), "a number, a boolean or null") from error
        return result

    def row(self, row: Mapping[str, Value]) -> np.ndarray:
        """Return one row as a float64 vector (names)."""
        vector: np.ndarray = self.rows((row,))[0]
        return vector


def _bad_value(values: Sequence[object], name: str, kinds: tuple[type, ...], allowed: str) -> InvalidInput:
    index = next((place for place, value in enumerate(values) if not isinstance(value, kinds)), 0)
    given = type(values[index]).__name__
    return InvalidInput(
        f"input {name!r} of row {index} is of type {given}", where=f"rows[{index}].{name}", allowed=allowed
    )
