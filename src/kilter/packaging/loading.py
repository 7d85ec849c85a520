"""From bytes of a native format to a loaded model. A worker imports this module, and the library of its one model only."""

from __future__ import annotations

import importlib

from kilter.core.errors import Unavailable
from kilter.packaging.constant import ConstantModel
from kilter.packaging.lightgbm_native import LightGBMModel
from kilter.packaging.native import Flavor, ModelSpec, NativeModel
from kilter.packaging.xgboost_native import XGBoostModel

_LATER: dict[Flavor, tuple[str, str, str]] = {
    "catboost-cbm": ("kilter.packaging.catboost_native", "CatBoostModel", "catboost"),
    "linear": ("kilter.packaging.linear", "LinearModel", ""),
    "onnx": ("kilter.packaging.onnx_runtime", "OnnxModel", "onnx"),
    "skops": ("kilter.packaging.sklearn_skops", "SklearnModel", "sklearn"),
    "torch-export": ("kilter.packaging.torch_export", "TorchModel", "torch"),
    "python": ("kilter.packaging.functions", "FunctionModel", ""),
    "remote": ("kilter.packaging.upstream", "UpstreamModel", ""),
    "graph": ("kilter.packaging.graph", "GraphModel", ""),
}
"""Runtimes whose libraries take long to import, each needed by its own models alone: module, class and extra."""

OWNERS_ONLY: frozenset[Flavor] = frozenset({"python", "remote", "graph"})
"""Formats that run or reach what their maker wrote into them: only the owner of the machine may package such a model."""


def load_model(spec: ModelSpec, data: bytes) -> NativeModel:
    """Load a model's bytes.

    Args:
        spec: The format and shape.
        data: The bytes, their digest already verified.

    Raises:
        Damaged: When the bytes are not of the format.
        InvalidInput: When the model doesn't fit its signature, or holds types that are not trusted.
        Unavailable: When the framework is not installed.
    """
    match spec.flavor:
        case "lightgbm-text":
            return LightGBMModel(spec, data)
        case "xgboost-ubjson":
            return XGBoostModel(spec, data)
        case "constant":
            return ConstantModel(spec, data)
    module, name, extra = _LATER[spec.flavor]
    try:
        runtime: type[NativeModel] = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise Unavailable(
            f"{error.name or extra} is not installed", where="packaging", fix=f"pip install kilter[{extra}]"
        ) from error
    return runtime(spec, data)  # type: ignore[call-arg]  # every runtime is made of these two
