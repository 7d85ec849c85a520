"""The simplest model: the same answer for every row. It needs no library, so it can always be loaded."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass

from kilter.core.errors import Damaged
from kilter.packaging.native import Buffer, ModelSpec, check_shape


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
        self._spec = spec

    def predict(self, data: Buffer, rows: int, columns: int) -> bytes:
        """Return a row-major float64 matrix of ``rows`` x outputs for one of ``rows`` x ``columns``."""
        check_shape(self._spec, data, rows, columns)
        return array("d", [self._value]).tobytes() * (rows * self._spec.outputs)
