"""The simplest model: the same answer for every row. It needs no library, so it can always be loaded."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass

from kilter.core.errors import Damaged, InvalidInput
from kilter.packaging.native import Buffer, ModelSpec


@dataclass(frozen=True)
class Constant:
    """A model that always answers ``value``.

    Args:
        value: A finite number.
    """

    value: float


class ConstantModel:
    """A constant loaded from its decimal text.

    Args:
        spec: Number of columns.
        text: The number.

    Raises:
        Damaged: When the bytes are not a finite number.
    """

    def __init__(self, spec: ModelSpec, text: bytes) -> None:
        try:
            self._value = float(text)
        except ValueError as error:
            raise Damaged("the bytes are not a number", where="model.txt") from error
        if not math.isfinite(self._value):
            raise Damaged("the constant is not finite", where="model.txt")
        self._columns = spec.columns

    def predict(self, data: Buffer, rows: int, columns: int) -> bytes:
        """Return ``rows`` float64 values for a row-major float64 matrix of ``rows`` x ``columns``."""
        if columns != self._columns or len(data) != 8 * rows * columns:
            raise InvalidInput(f"{columns} columns were given", where="predict", allowed=f"{self._columns}")
        return array("d", [self._value]).tobytes() * rows
