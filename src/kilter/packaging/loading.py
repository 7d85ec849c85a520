"""From bytes of a native format to a loaded model. A worker imports this module, and the library of its one model only."""

from __future__ import annotations

from kilter.packaging.constant import ConstantModel
from kilter.packaging.lightgbm_native import LightGBMModel
from kilter.packaging.native import ModelSpec, NativeModel
from kilter.packaging.xgboost_native import XGBoostModel


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
        case "skops":
            # scikit-learn takes seconds to import and is needed by its own models alone
            from kilter.packaging.sklearn_skops import SklearnModel  # noqa: PLC0415

            return SklearnModel(spec, data)
