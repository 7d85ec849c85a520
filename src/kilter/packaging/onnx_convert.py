"""From fitted models to ONNX graphs, and from graphs to smaller ones.

What has to be minded (and is checked afterwards, by comparing answers on real rows): XGBoost's converter wants inputs called
``f0, f1, ...``; boosters inside a pipeline need their converters registered and an operator set that is named; a scaler in
float32 before trees moves values across their thresholds, so scalers work in float64 there (sklearn-onnx issue 479).
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from kilter.core.errors import Damaged, InvalidInput
from kilter.packaging.native import ModelSpec

log = logging.getLogger("kilter.packaging")

_OPSET = {"": 15, "ai.onnx.ml": 3}
_INPUT = "input"


def from_xgboost(booster: Any, spec: ModelSpec) -> bytes:
    """Return a graph of an XGBoost booster.

    Args:
        booster: The booster.
        spec: Its columns and the rounds to use.
    """
    from onnxmltools import convert_xgboost  # noqa: PLC0415 - seconds, and only this converter needs it
    from onnxmltools.convert.common.data_types import FloatTensorType  # noqa: PLC0415

    used = booster[: spec.iterations] if spec.iterations else copy.copy(booster)
    used.feature_names = None
    used.feature_types = None
    types = [(_INPUT, FloatTensorType([None, spec.columns]))]
    return prepared(convert_xgboost(used, initial_types=types, target_opset=_OPSET[""]).SerializeToString())


def from_lightgbm(booster: Any, spec: ModelSpec) -> bytes:
    """Return a graph of a LightGBM booster."""
    from onnxmltools import convert_lightgbm  # noqa: PLC0415 - as above
    from onnxmltools.convert.common.data_types import FloatTensorType  # noqa: PLC0415

    types = [(_INPUT, FloatTensorType([None, spec.columns]))]
    graph = convert_lightgbm(booster, initial_types=types, zipmap=False, target_opset=_OPSET[""])
    return prepared(graph.SerializeToString())


def from_sklearn(estimator: Any, spec: ModelSpec) -> bytes:
    """Return a graph of a scikit-learn estimator: one matrix goes in, or a column each when it takes a frame."""
    _register_boosters(estimator)
    steps = getattr(estimator, "steps", None)
    if steps is not None and len(steps) > 1 and any(word in type(steps[-1][1]).__name__ for word in _TREES):
        from skl2onnx.sklapi import CastTransformer  # noqa: PLC0415 - as above

        cast = copy.copy(estimator)
        cast.steps = [*steps[:-1], ("as_float32", CastTransformer().fit(np.zeros((1, 1)))), steps[-1]]
        graph = _converted(cast, spec, double=True)
        if graph is not None:
            return graph
    graph = _converted(estimator, spec, double=False)
    if graph is None:
        raise InvalidInput(f"{type(estimator).__name__} has no form in ONNX", where="onnx")
    return graph


def _converted(estimator: Any, spec: ModelSpec, *, double: bool) -> bytes | None:
    """Return a graph that takes float64 or float32, or None when there is none that runs."""
    import onnxruntime  # noqa: PLC0415 - as above
    import skl2onnx  # noqa: PLC0415
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, StringTensorType  # noqa: PLC0415

    wide: Any = DoubleTensorType if double else FloatTensorType
    types: list[tuple[str, Any]] = [(_INPUT, wide([None, spec.columns]))]
    if spec.frame:
        types = [
            (name, StringTensorType([None, 1]) if name in spec.categories else wide([None, 1])) for name in spec.names
        ]
    options = {id(estimator): {"zipmap": False}} if hasattr(estimator, "predict_proba") else None
    try:
        found = skl2onnx.convert_sklearn(estimator, initial_types=types, target_opset=_OPSET, options=options)
        data = prepared(found.SerializeToString())
        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level = 4
        onnxruntime.InferenceSession(data, quiet, providers=["CPUExecutionProvider"])
    except Exception:  # the converter and the runtime have many ways to say that they don't know a step
        log.debug("no graph of %s", type(estimator).__name__, exc_info=True)
        return None
    return data


def quantised(data: bytes) -> bytes | None:
    """Return a graph with 8-bit weights, or None when it has no matrices to quantise (trees have none).

    Raises:
        Damaged: When the bytes are no graph.
    """
    import tempfile  # noqa: PLC0415 - the quantiser works on files
    from pathlib import Path  # noqa: PLC0415

    graph = _read(data)
    if not any(node.op_type in {"MatMul", "Gemm", "Conv", "Attention", "LSTM", "GRU"} for node in graph.graph.node):
        return None
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "model.onnx", Path(folder) / "int8.onnx"
        before.write_bytes(data)
        root = logging.getLogger()
        root.addFilter(_silence)  # its advice to optimise the graph first changes nothing for the graphs made here
        try:
            quantize_dynamic(before, after, weight_type=QuantType.QInt8, reduce_range=True)  # see quantisation.py
        except Exception:  # a graph that the quantiser doesn't know
            log.debug("the graph can't be quantised", exc_info=True)
            return None
        finally:
            root.removeFilter(_silence)
        return after.read_bytes()


def _silence(record: logging.LogRecord) -> bool:
    return record.levelno > logging.WARNING


def prepared(data: bytes) -> bytes:
    """Return a graph without ZipMap: probabilities as a tensor in place of a dictionary per row.

    Raises:
        Damaged: When the bytes are no graph.
        InvalidInput: When it keeps its weights in other files.
    """
    model = _read(data)
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise InvalidInput("the graph keeps its weights in other files", where="model.onnx",
                           fix="save it with save_as_external_data=False")  # fmt: skip
    outputs = {one.name: one for one in model.graph.output}
    maps = [node for node in model.graph.node if node.op_type == "ZipMap" and node.output[0] in outputs]
    for node in maps:
        model.graph.output.remove(outputs[node.output[0]])
        model.graph.node.remove(node)
        model.graph.output.append(onnx.helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, None))
    return bytes(model.SerializeToString())


def _read(data: bytes) -> Any:
    try:
        model = onnx.ModelProto()
        model.ParseFromString(data)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and onnx have a class each
        raise Damaged("the bytes are not an ONNX graph", where="model.onnx") from error
    return model


def _parts(estimator: Any) -> list[Any]:
    """Return an estimator and everything inside it."""
    found, todo = [], [estimator]
    while todo:
        part = todo.pop()
        found.append(part)
        todo += [step for _, step in getattr(part, "steps", None) or ()]
        todo += [entry[1] for entry in getattr(part, "transformers_", None) or ()]
        todo += list(part.estimators_) if type(part).__name__ in _VOTING else []
    return found


_VOTING = {"VotingClassifier", "VotingRegressor", "StackingClassifier", "StackingRegressor"}
_TREES = ("Boosting", "Forest", "Tree", "XGB", "LGBM")


def _register_boosters(estimator: Any) -> None:
    """Tell skl2onnx how LightGBM's and XGBoost's estimators are converted, when there are any."""
    from skl2onnx import update_registered_converter  # noqa: PLC0415 - as above
    from skl2onnx.common import shape_calculator as shapes  # noqa: PLC0415

    for part in _parts(estimator):
        kind = type(part)
        root = kind.__module__.partition(".")[0]
        if root == "lightgbm":
            from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm as convert  # noqa: PLC0415
        elif root == "xgboost":
            from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost as convert  # noqa: PLC0415
        else:
            continue
        classifies = hasattr(part, "predict_proba")
        shape = (
            shapes.calculate_linear_classifier_output_shapes
            if classifies
            else shapes.calculate_linear_regressor_output_shapes
        )
        options = {"nocl": [True, False], "zipmap": [True, False, "columns"]} if classifies else None
        update_registered_converter(kind, f"{root}{kind.__name__}", shape, convert, options=options)
