"""Plain Python functions as models: their source, run in the worker's process.

A function takes the matrix of a batch (n, d), or the frame that it was given as example, and returns (n,) or (n, k) numbers.
Source is code: it is run only where its digest is trusted; see :mod:`kilter.packaging.trust`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from kilter.core.digests import canonical_json, digest, short
from kilter.core.errors import Damaged, InvalidInput, KilterError
from kilter.packaging.formats import Matrix, ModelFile
from kilter.packaging.frames import frame_of
from kilter.packaging.native import Buffer, ModelSpec, check_model, check_shape
from kilter.packaging.trust import require_trust, trust


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """A function as text.

    Args:
        source: The function and everything of its file that it uses.
        name: Its name.
        widths: The columns of each of its arguments, for one that takes several matrices.
    """

    source: str
    name: str
    widths: tuple[int, ...] = ()


def as_model(function: Callable[..., Any], source: str, widths: tuple[int, ...] = ()) -> ModelFile:
    """Return a function as a model that can be packaged; its source is trusted on this machine from now on.

    Args:
        function: The function.
        source: Its source, with everything that it uses.
        widths: The columns of each of its arguments, for one that takes several matrices; they lie side by side in a row.
    """
    data = canonical_json(Function(source=source, name=function.__name__, widths=widths))
    trust(data)
    return ModelFile("python", data, "numpy", predict=lambda given: _numbers(function(*_arguments(given, widths))))


class FunctionModel:
    """A function made of its source.

    Args:
        spec: What goes in and out.
        data: The JSON of :class:`Function`.

    Raises:
        Damaged: When the bytes are no function.
        Forbidden: When they are not trusted here.
        InvalidInput: When the source can't be run.
    """

    def __init__(self, spec: ModelSpec, data: bytes) -> None:
        require_trust(data, "a function")
        try:
            form = msgspec.json.decode(data, type=Function)
        except msgspec.MsgspecError as error:
            raise Damaged("the bytes are not a function", where="model.json") from error
        names: dict[str, Any] = {"__name__": "kilter_model"}
        try:
            exec(compile(form.source, f"<model {short(digest(data))}>", "exec"), names)  # noqa: S102 - its digest is trusted
        except Exception as error:  # whatever the source raises while it is read
            raise InvalidInput(f"the source can't be run: {type(error).__name__}: {error}", where=form.name) from error
        function = names.get(form.name)
        if not callable(function):
            raise Damaged("the source doesn't define its function", where=form.name)
        self._function: Callable[..., Any] = function
        self._widths = form.widths
        self._spec = spec

    def predict(self, data: Buffer, rows: int, columns: int) -> bytes:
        """Return a row-major float64 matrix of ``rows`` x outputs for one of ``rows`` x ``columns``."""
        check_shape(self._spec, data, rows, columns)
        given: Any = np.frombuffer(data, dtype="<f8").reshape(rows, *(self._spec.shape or (columns,)))
        if self._spec.frame:
            given = frame_of(given, self._spec.names, self._spec.categories, self._spec.frame)
        try:
            values = _numbers(self._function(*_arguments(given, self._widths)))
        except KilterError:
            raise
        except Exception as error:  # its message may hold values of the rows
            raise InvalidInput(f"the function raised {type(error).__name__}", where="predict") from error
        if values.ndim == 0 or len(values) != rows:
            raise InvalidInput("the function did not return a number per row", where="predict")
        check_model(self._spec, columns, values.size // max(rows, 1))
        return np.ascontiguousarray(values, dtype="<f8").tobytes()


def _arguments(given: Any, widths: tuple[int, ...]) -> Sequence[Any]:
    return np.split(given, np.cumsum(widths)[:-1], axis=1) if len(widths) > 1 else (given,)


def _numbers(found: Any) -> Matrix:
    return np.asarray(found, dtype=np.float64)
