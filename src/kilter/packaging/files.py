"""From a model file on disk to a model that can be packaged: XGBoost, LightGBM, CatBoost, skops, ONNX and PyTorch's exported programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kilter.core.errors import Damaged, InvalidInput, NotFound, Unavailable
from kilter.packaging.native import Flavor
from kilter.packaging.probe import readable

ENDINGS = (".ubj", ".json", ".txt", ".cbm", ".onnx", ".skops", ".pt2")
_ALLOWED = (
    ".ubj or .json (XGBoost), .txt (LightGBM), .cbm (CatBoost), .skops (scikit-learn), .onnx, .pt2 (torch.export)"
)
_PICKLES = {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin"}


def read_model(path: str | Path) -> Any:
    """Return the model in a file, as its framework has it. Nothing is unpickled.

    Args:
        path: The file; its ending says what it is.

    Raises:
        NotFound: When there is no such file.
        InvalidInput: When its ending is none of ours, or is that of a pickle.
        Damaged: When its bytes are not what its ending says.
        Unavailable: When the framework is not installed here.
    """
    file = Path(path)
    _check_ending(file.name)
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise NotFound("there is no such file", where=str(file)) from error
    except OSError as error:
        raise Unavailable(f"the file can't be read: {error.strerror}", where=str(file)) from error
    return model_in(file.name, data)


def model_in(name: str, data: bytes) -> Any:
    """Return the model in a file's bytes; see :func:`read_model`.

    Args:
        name: The file's name, whose ending says what it is.
        data: Its bytes.
    """
    ending = _check_ending(name)
    flavor = _NATIVE.get(ending)
    if flavor is not None and not readable(flavor, data):
        raise Damaged(
            f"the bytes are not {'an XGBoost' if flavor == 'xgboost-ubjson' else 'a LightGBM'} model", where=name
        )
    try:
        return _READERS[ending](data)
    except ImportError as error:
        extra = {".txt": "lightgbm", ".cbm": "catboost", ".skops": "sklearn", ".onnx": "onnx", ".pt2": "torch"}.get(
            ending, "xgboost"
        )
        raise Unavailable(f"{extra} is not installed", where=name, fix=f"pip install kilter[{extra}]") from error


def _check_ending(name: str) -> str:
    """Return a file's ending, when it is that of a model's format."""
    ending = Path(name).suffix.lower()
    if ending in _PICKLES:
        raise InvalidInput(
            f"a {ending} file is a pickle, which runs code when it is read",
            where=name,
            allowed=_ALLOWED,
            fix="save the model in its own format: booster.save_model, skops.io.dump, torch.export.save",
        )
    if ending not in ENDINGS:
        raise InvalidInput(f"{ending or 'a file without an ending'!r} is no model's", where=name, allowed=_ALLOWED)
    return ending


def booster_of_xgboost(data: bytes) -> Any:
    """Return an XGBoost booster from UBJSON or JSON."""
    import xgboost  # noqa: PLC0415 - the native library alone serves; the package is needed to read and convert

    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(data))
    except (xgboost.core.XGBoostError, ValueError) as error:
        raise Damaged("the bytes are not an XGBoost model", where="model.ubj") from error
    return booster


def booster_of_lightgbm(data: bytes) -> Any:
    """Return a LightGBM booster from its text."""
    import lightgbm  # noqa: PLC0415 - as above

    try:
        return lightgbm.Booster(model_str=data.decode())
    except (lightgbm.basic.LightGBMError, UnicodeDecodeError) as error:
        raise Damaged("the bytes are not a LightGBM model", where="model.txt") from error


def _catboost(data: bytes) -> Any:
    from kilter.packaging.catboost_native import read  # noqa: PLC0415

    return read(data)


def _skops(data: bytes) -> Any:
    from kilter.packaging.sklearn_skops import read  # noqa: PLC0415

    return read(data)


def _onnx(data: bytes) -> Any:
    from kilter.packaging.onnx_runtime import read  # noqa: PLC0415

    return read(data)


def _torch(data: bytes) -> Any:
    from kilter.packaging.torch_export import read  # noqa: PLC0415

    return read(data)


_NATIVE: dict[str, Flavor] = {".ubj": "xgboost-ubjson", ".json": "xgboost-ubjson", ".txt": "lightgbm-text"}
_READERS: dict[str, Callable[[bytes], Any]] = {
    ".cbm": _catboost,
    ".onnx": _onnx,
    ".pt2": _torch,
    ".ubj": booster_of_xgboost,
    ".json": booster_of_xgboost,
    ".txt": booster_of_lightgbm,
    ".skops": _skops,
}
