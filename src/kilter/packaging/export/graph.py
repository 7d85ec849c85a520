"""A model as ONNX graphs for devices and browsers: the graph itself, and one with 8-bit weights where that is worth it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from kilter.core.errors import InvalidInput, Unavailable
from kilter.packaging.bundle import Parts, folding_inputs
from kilter.packaging.compression import Limits, Score, require
from kilter.packaging.export.folder import as_json
from kilter.packaging.export.source import Vector, apart, identifier, test_vector
from kilter.packaging.formats import Matrix
from kilter.packaging.forms import forms_of
from kilter.packaging.quantisation import METHODS, answers_of, judged

TOLERANCE = 1e-5
"""Graphs are float32."""

_ROWS = 32


class Graphs(NamedTuple):
    """What :func:`graphs_of` made.

    Args:
        files: The files by name.
        scores: What the 8-bit graphs cost that were tried, the kept one first.
    """

    files: dict[str, bytes]
    scores: tuple[Score, ...]


def graph_files(parts: Parts, name: str) -> dict[str, bytes]:
    """Return the files of :func:`graphs_of`, with an 8-bit graph where one passes the usual limits."""
    return graphs_of(parts, name).files


def graphs_of(
    parts: Parts,
    name: str,
    methods: Sequence[str] = ("dynamic", "static"),
    limits: Limits | None = None,
    *,
    wanted: bool = False,
) -> Graphs:
    """Return a model's graphs, what goes in and out of them, and example rows with the packaged model's answers.

    Args:
        parts: The bundle.
        name: The model's name.
        methods: How 8-bit graphs are made: ``dynamic``, ``static``; empty makes none.
        limits: What an 8-bit graph may cost.
        wanted: Refuse when none is within the limits; otherwise it is left out.

    Raises:
        InvalidInput: When it has no form in ONNX, or one that answers differently.
        GateRefused: When an 8-bit graph is wanted and none is within the limits.
        Unavailable: When the converters are not installed.
    """
    called, manifest = identifier(name), parts.manifest
    limits = limits or Limits()
    _, rows = folding_inputs(parts)
    values = np.array(manifest.example_values).reshape(len(rows), len(manifest.signature.outputs))
    made = _as_graph(parts)
    data = _named(made.model, called)
    difference = float(apart(np.array(made.manifest.example_values).reshape(values.shape), values).max())
    if not difference <= TOLERANCE:
        raise InvalidInput(
            f"the graph answers differently from the packaged model, by up to {difference:.3g}",
            where="export",
            allowed=f"a difference of at most {TOLERANCE:g}",
            fix="export it as a container: --target container",
        )
    files = {f"{called}.onnx": data}
    told = [_told(f"{called}.onnx", data, difference, TOLERANCE)]
    tried = _quantised(made._replace(model=data), values, rows, methods, limits, wanted=wanted)
    if tried and tried[0][0].passed:
        eight = _named(tried[0][1], called)
        files[f"{called}.int8.onnx"] = eight
        # the rows that calibrated it are among those that a device checks itself on
        off = float(apart(answers_of(made, eight, rows).reshape(values.shape), values).max())
        told.append(_told(f"{called}.int8.onnx", eight, off, max(off, limits.loss)))
    signature = manifest.signature
    encoding = signature.encoding
    vector = Vector(encoding.names, signature.outputs, TOLERANCE, rows[:_ROWS], values[:_ROWS])
    about = {
        "graphs": told,
        "scores": [msgspec.to_builtins(score) for score, _ in tried],
        "columns": encoding.names,
        "categories": {key: encoding.categories[key] for key in sorted(encoding.categories)},
        "outputs": signature.outputs,
        "answers": manifest.spec().output,
        "shape": signature.shape,
        "key": signature.key,
        "time": signature.time,
    }
    files |= {"graphs.json": as_json(about), "test_vector.json": test_vector(vector)}
    return Graphs(files, tuple(score for score, _ in tried))


def _as_graph(parts: Parts) -> Parts:
    """Return the bundle around the model's form in ONNX."""
    for form, make in forms_of(parts):
        if form == "onnx" or (form == "native" and parts.manifest.flavor == "onnx"):
            return make()
    raise InvalidInput(f"a model of the format {parts.manifest.flavor} has no form in ONNX", where="export",
                       allowed="LightGBM, XGBoost, scikit-learn and ONNX models")  # fmt: skip


def _quantised(
    small: Parts, values: Matrix, rows: Matrix, methods: Sequence[str], limits: Limits, *, wanted: bool
) -> list[tuple[Score, bytes]]:
    """Return the 8-bit graphs that were tried, the best first.

    Raises:
        InvalidInput: When one is wanted, and there is nothing in the graph that is worth 8 bits.
        GateRefused: When one is wanted and none is within the limits.
    """
    tried = judged(small, values, rows, limits, [one for one in METHODS if one in methods])
    if wanted:
        if not tried:
            raise InvalidInput("there is nothing in the graph to quantise", where="--quantise",
                               allowed="networks and other models with matrices")  # fmt: skip
        require(tried[0][0])
    return tried


def _told(file: str, data: bytes, difference: float, tolerance: float) -> dict[str, object]:
    return {"file": file, "difference": difference, "tolerance": tolerance, **_ends(data)}


def _named(data: bytes, name: str) -> bytes:
    """Return a graph under the model's name: converters make one up each time."""
    try:
        import onnx  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise Unavailable("onnx is not installed", where="export", fix="pip install kilter[onnx]") from error
    graph = onnx.load_model_from_string(data)
    graph.graph.name = name
    return bytes(graph.SerializeToString(deterministic=True))


def _ends(data: bytes) -> dict[str, list[dict[str, object]]]:
    """Return the names, types and shapes of what goes in and out of a graph."""
    try:
        import onnxruntime  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise Unavailable("onnxruntime is not installed", where="export", fix="pip install kilter[onnx]") from error
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    ends = {"inputs": session.get_inputs(), "outputs": session.get_outputs()}
    return {
        side: [{"name": one.name, "type": one.type, "shape": [size or "rows" for size in one.shape]} for one in found]
        for side, found in ends.items()
    }
