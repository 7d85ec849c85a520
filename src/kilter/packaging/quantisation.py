"""Graphs with 8-bit weights: dynamic (activations are measured as they come) and static (their ranges are calibrated before).

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", as
ONNX Runtime has it. Trees have no matrices to quantise.

Weights keep to 7 of their 8 bits: on processors without VNNI two products of 8 bits are added up in 16, and what is more than that is
cut off in silence, so a form that passed its gate on one machine would answer wrongly on another.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kilter.core.errors import InvalidInput, Unavailable
from kilter.packaging.bundle import Parts, Runtime
from kilter.packaging.compression import Limits, Score, halves, score
from kilter.packaging.formats import Matrix
from kilter.packaging.loading import load_model

Method = Literal["dynamic", "static"]
METHODS: tuple[Method, ...] = ("dynamic", "static")

_MATRICES = ("MatMul", "Gemm", "Conv")
_TYPES = {1: np.float32, 11: np.float64}
"""ONNX's numbers of element types."""


def quantise(parts: Parts, method: Method, rows: Matrix) -> bytes:
    """Return a graph's bytes with 8-bit weights.

    Args:
        parts: A bundle whose model is an ONNX graph.
        method: ``dynamic`` or ``static``.
        rows: Rows as the model takes them, (n, d) float64, n >= 1: the ranges of activations are calibrated on them.

    Raises:
        InvalidInput: When the bundle holds no graph, the graph has no matrices, or the quantiser doesn't know it.
        Unavailable: When ONNX is not installed.
    """
    if parts.manifest.flavor != "onnx":
        raise InvalidInput(f"the model is of the format {parts.manifest.flavor}", where="quantisation",
                           allowed="onnx", fix="quantise the graph that was made of it")  # fmt: skip
    try:
        from kilter.packaging.onnx_convert import quantised  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise Unavailable("onnx is not installed", where="quantisation", fix="pip install kilter[onnx]") from error
    found = quantised(parts.model) if method == "dynamic" else _static(parts, rows)
    if found is None:
        raise InvalidInput("there are no matrices to quantise", where=f"{method} quantisation")
    return found


def judged(
    parts: Parts, wanted: Matrix, rows: Matrix, limits: Limits, methods: Sequence[Method] = METHODS
) -> list[tuple[Score, bytes]]:
    """Return the 8-bit forms of a graph with what they cost, the smallest that passed first.

    Half of the rows calibrate, the others judge.

    Args:
        parts: A bundle whose model is an ONNX graph.
        wanted: The packaged model's answers to the rows, (n, outputs).
        rows: The rows, (n, d).
        limits: What a form may cost.
        methods: Which to try.

    Returns:
        Scores and bytes; a method that has no form of the graph is left out.
    """
    calibrating, judging = halves(rows)
    _, expected = halves(wanted)
    found: list[tuple[Score, bytes]] = []
    for method in methods:
        try:
            data = quantise(parts, method, calibrating)
            answers = answers_of(parts, data, judging)
        except InvalidInput:
            continue
        label = parts.manifest.signature.label
        found.append((score(f"int8 {method}", data, answers, expected, len(parts.model), label, limits), data))
    return sorted(found, key=lambda one: (not one[0].passed, one[0].size, one[0].loss))


def answers_of(parts: Parts, data: bytes, rows: Matrix) -> Matrix:
    """Return what other bytes answer in the place of a bundle's own."""
    return Runtime(parts.manifest, load_model(parts.manifest.spec(), data)).predict(rows)


def _static(parts: Parts, rows: Matrix) -> bytes | None:
    import onnx  # noqa: PLC0415 - an extra
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static  # noqa: PLC0415

    graph = onnx.load_model_from_string(parts.model).graph
    if not any(node.op_type in _MATRICES for node in graph.node):
        return None
    held = {one.name for one in graph.initializer}
    given = [one for one in graph.input if one.name not in held]
    if len(given) != 1 or given[0].type.tensor_type.elem_type not in _TYPES:
        raise InvalidInput("the graph takes several columns, or other things than numbers", where="static quantisation",
                           allowed="graphs that take one tensor of floats", fix="quantise it dynamically")  # fmt: skip
    shape = parts.manifest.signature.shape or (rows.shape[1],)
    batch = rows.astype(_TYPES[given[0].type.tensor_type.elem_type]).reshape(len(rows), *shape)

    class Rows(CalibrationDataReader):  # type: ignore[misc]  # the base has no types
        """Hands the rows out, all at once."""

        def __init__(self) -> None:
            self._left = iter([{given[0].name: batch}])

        def get_next(self) -> dict[str, Any] | None:
            return next(self._left, None)

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "model.onnx", Path(folder) / "int8.onnx"
        before.write_bytes(parts.model)
        root = logging.getLogger()
        root.addFilter(_silence)
        try:
            quantize_static(
                before,
                after,
                Rows(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(_MATRICES),
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                reduce_range=True,
            )
        except Exception as error:  # a graph that the quantiser doesn't know
            raise InvalidInput(
                f"the graph can't be quantised: {str(error)[:200]}", where="static quantisation"
            ) from error
        finally:
            root.removeFilter(_silence)
        return after.read_bytes()


def _silence(record: logging.LogRecord) -> bool:
    return record.levelno > logging.WARNING
