"""A model as ONNX graphs for devices and browsers: the graph itself, and one with 8-bit weights where that agrees and is smaller."""

from __future__ import annotations

import numpy as np

from kilter.core.errors import InvalidInput, KilterError, Unavailable
from kilter.packaging.bundle import Parts, folding_inputs
from kilter.packaging.export.folder import as_json
from kilter.packaging.export.source import Vector, apart, identifier, test_vector
from kilter.packaging.forms import forms_of

TOLERANCE = 1e-5
"""Graphs are float32."""

_INT8 = 0.01
_ROWS = 32


def graph_files(parts: Parts, name: str) -> dict[str, bytes]:
    """Return a model's graphs, what goes in and out of them, and example rows with the packaged model's answers.

    Args:
        parts: The bundle.
        name: The model's name.

    Raises:
        InvalidInput: When it has no form in ONNX, or one that answers differently.
        Unavailable: When the converters are not installed.
    """
    called, manifest = identifier(name), parts.manifest
    outputs = len(manifest.signature.outputs)
    _, rows = folding_inputs(parts)
    wanted = np.array(manifest.example_values).reshape(len(rows), outputs)
    files: dict[str, bytes] = {}
    told = []
    for form, make in forms_of(parts):
        kind = "onnx" if form == "native" and manifest.flavor == "onnx" else form
        if kind not in {"onnx", "int8"}:
            continue
        try:
            made = make()
        except KilterError:
            if kind == "onnx":
                raise
            continue  # nothing in it is worth 8 bits
        data = _named(made.model, called)
        found = np.array(made.manifest.example_values).reshape(wanted.shape)
        difference = float(apart(found, wanted).max())
        limit = TOLERANCE if kind == "onnx" else _INT8
        file = f"{called}.onnx" if kind == "onnx" else f"{called}.int8.onnx"
        if not difference <= limit or (kind == "int8" and len(data) >= len(files[f"{called}.onnx"])):
            if kind == "onnx":
                raise InvalidInput(
                    f"the graph answers differently from the packaged model, by up to {difference:.3g}",
                    where="export",
                    allowed=f"a difference of at most {limit:g}",
                    fix="export it as a container: --target container",
                )
            continue
        files[file] = data
        told.append({"file": file, "difference": difference, "tolerance": limit, **_ends(data)})
    if not files:
        raise InvalidInput(f"a model of the format {manifest.flavor} has no form in ONNX", where="export",
                           allowed="LightGBM, XGBoost, scikit-learn and ONNX models")  # fmt: skip
    encoding = manifest.signature.encoding
    vector = Vector(encoding.names, manifest.signature.outputs, TOLERANCE, rows[:_ROWS], wanted[:_ROWS])
    about = {"graphs": told, "categories": {key: encoding.categories[key] for key in sorted(encoding.categories)}}
    return {**files, "graphs.json": as_json(about), "test_vector.json": test_vector(vector)}


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
