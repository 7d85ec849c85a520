"""ONNX graphs on ONNX Runtime: one thread, and only the one output that is answered.

A graph takes one matrix (n, d), one tensor (n, ...), or one column per input, which may be text. Graphs with a ZipMap, which
answers with a Python dictionary per row, are packaged without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime

from kilter.core.errors import Damaged, InvalidInput
from kilter.packaging.formats import ModelFile
from kilter.packaging.native import Buffer, ModelSpec, check_model, check_shape
from kilter.packaging.records import LabelKind

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}
_Feed = Callable[["np.ndarray[Any, np.dtype[np.float64]]"], dict[str, Any]]


class OnnxModel:
    """A graph in a session.

    Args:
        spec: What goes in and out.
        data: The graph.

    Raises:
        Damaged: When the bytes are no graph that can be run.
        InvalidInput: When it doesn't fit the signature.
    """

    def __init__(self, spec: ModelSpec, data: bytes) -> None:
        self._session = _session(data)
        self._spec = spec
        self._feed = _feed_of(spec, self._session.get_inputs())
        self._output = [output_of(spec.output, [(one.name, one.type) for one in self._session.get_outputs()])]

    def predict(self, data: Buffer, rows: int, columns: int) -> bytes:
        """Return a row-major float64 matrix of ``rows`` x outputs for one of ``rows`` x ``columns``."""
        check_shape(self._spec, data, rows, columns)
        matrix = np.frombuffer(data, dtype="<f8").reshape(rows, columns)
        try:
            found = self._session.run(self._output, self._feed(matrix))[0]
        except Exception as error:  # as above; the runtime's message may hold values of the rows
            raise InvalidInput("the graph refused the rows", where="predict", fix="impute missing values") from error
        values: Any = np.asarray(found).reshape(rows, -1)
        if self._spec.output == "probability" and values.shape[1] == 2:
            values = values[:, 1]
        if values.size != rows * self._spec.outputs:
            check_model(self._spec, columns, values.shape[1] if values.ndim == 2 else 1)
        return np.ascontiguousarray(values, dtype="<f8").tobytes()


def read(data: bytes) -> ModelFile:
    """Return a graph that was found in a file as a model that can be packaged.

    Raises:
        Damaged: When the bytes are no graph that can be run.
        InvalidInput: When it can't be served.
    """
    from kilter.packaging.onnx_convert import prepared  # noqa: PLC0415 - to serve a graph needs no converter

    graph = prepared(data)
    session = _session(graph)
    inputs = session.get_inputs()
    outputs = session.get_outputs()
    answered = output_of("probabilities", [(one.name, one.type) for one in outputs])
    shape = next(one.shape for one in outputs if one.name == answered)
    several = len(shape) == 2 and isinstance(shape[1], int) and shape[1] > 2
    label: LabelKind = "regression"
    if "prob" in answered.lower():
        label = "multiclass" if several else "binary"
    width = inputs[0].shape[1] if len(inputs) == 1 and len(inputs[0].shape) == 2 else len(inputs)
    return ModelFile(
        "onnx",
        graph,
        "onnxruntime",
        label,
        tuple(one.name for one in inputs) if len(inputs) > 1 else (),
        width if isinstance(width, int) and (len(inputs) > 1 or len(inputs[0].shape) == 2) else 0,
    )


def _session(data: bytes) -> Any:
    try:
        return onnxruntime.InferenceSession(data, _quiet(), providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has a class for each way in which bytes can be no graph
        raise Damaged("the bytes are not an ONNX graph that can be run", where="model.onnx") from error


def _quiet() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    return options


def output_of(wanted: str, outputs: list[tuple[str, str]]) -> str:
    """Return the name of the output that is answered: the probabilities of a classifier, else the first of numbers.

    Args:
        wanted: ``probability``, ``probabilities`` or ``value``.
        outputs: Names and types, as ONNX Runtime says them.

    Raises:
        InvalidInput: When no output is a tensor of numbers.
    """
    numbers = [name for name, kind in outputs if kind in _TYPES]
    floats = [name for name, kind in outputs if kind in {"tensor(float)", "tensor(double)", "tensor(float16)"}]
    if wanted != "value":
        named = [name for name in floats if "prob" in name.lower()]
        if named or floats:
            return (named or floats)[-1]
    if not numbers:
        raise InvalidInput("the graph answers with no tensor of numbers", where="model.onnx",
                           fix="convert it with the option zipmap=False")  # fmt: skip
    return (floats or numbers)[0]


def _feed_of(spec: ModelSpec, inputs: list[Any]) -> _Feed:
    """Return how a matrix becomes what the graph takes.

    Raises:
        InvalidInput: When its inputs are not those of the signature.
    """
    if len(inputs) == 1 and inputs[0].type in _TYPES:
        name, kind = inputs[0].name, _TYPES[inputs[0].type]
        width = inputs[0].shape[-1] if len(inputs[0].shape) == 2 else None
        if isinstance(width, int) and width != spec.columns:
            check_model(spec, width, spec.outputs)
        if spec.shape:
            return lambda matrix: {name: matrix.astype(kind).reshape(len(matrix), *spec.shape)}
        return lambda matrix: {name: matrix.astype(kind)}
    places = {name: position for position, name in enumerate(spec.names)}
    missing = [one.name for one in inputs if one.name not in places]
    if missing or len(inputs) > spec.columns:
        raise InvalidInput(
            f"the graph asks for {', '.join(missing[:5]) or 'more inputs'}", where="model.onnx",
            allowed=", ".join(spec.names[:20]), fix="hand in a frame whose columns are called like the graph's inputs",
        )  # fmt: skip
    columns = [
        (one.name, places[one.name], _TYPES.get(one.type), np.array([*spec.categories.get(one.name, ()), ""], object))
        for one in inputs
    ]

    def feed(matrix: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, position, kind, texts in columns:
            column = matrix[:, position]
            if kind is not None:
                found[name] = column.astype(kind)[:, None]
            else:
                codes = np.where(np.isnan(column), len(texts) - 1, column).astype(np.intp)
                found[name] = texts[codes][:, None]
        return found

    return feed
