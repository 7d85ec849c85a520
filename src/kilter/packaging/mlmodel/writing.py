"""An MLflow model of a bundle: the native file, its own flavour beside it, and a loader that codes rows as the bundle does.

The native flavours (``mlflow.lightgbm``, ``mlflow.xgboost``, ``mlflow.sklearn``, ``mlflow.onnx``, ``mlflow.catboost``) give the model
itself, which mostly takes a matrix whose categories are codes. The general one, ``python_function``, takes rows as the endpoint
does, by a module in the folder's ``code/``; it needs the model's library and NumPy, no Kilter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from kilter.core.digests import canonical_json, digest
from kilter.core.errors import InvalidInput
from kilter.packaging.environment import version
from kilter.packaging.export.folder import as_json
from kilter.packaging.mlmodel import loader
from kilter.packaging.native import Flavor
from kilter.packaging.records import Manifest
from kilter.packaging.skops_types import trusted_types

MLFLOW = "3.17.2"
"""The MLflow whose form this is."""

_ROWS = 5
_FILE: dict[Flavor, str] = {
    "lightgbm-text": "model.lgb",
    "xgboost-ubjson": "model.ubj",
    "catboost-cbm": "model.cb",
    "skops": "model.skops",
    "onnx": "model.onnx",
    "linear": "linear.json",
    "constant": "constant.txt",
    "python": "function.json",
}
_NEEDED = ("lightgbm", "xgboost", "catboost", "scikit-learn", "skops", "onnxruntime", "polars", "numpy", "pandas")
_MARK = b"\npandas_categorical:"


class Lazy(NamedTuple):
    """A file that is made when it is asked for.

    Args:
        size: Its length in bytes.
        read: Makes it.
    """

    size: int
    read: Callable[[], bytes]


def mlmodel_folder(manifest: Manifest, model: Callable[[], bytes], example: Callable[[], bytes], *, reference: str = "",
                   at: datetime | None = None) -> dict[str, Lazy]:  # fmt: skip
    """Return the files of a bundle as an MLflow model, by path; the same bundle gives the same bytes.

    Args:
        manifest: The bundle's manifest.
        model: Returns the bytes of its model file; it is called when that file is read, or said something about.
        example: Returns the bytes of its example rows.
        reference: The version, as people write it.
        at: When it was made.

    Raises:
        InvalidInput: When its format reaches into the store or another machine, or has no library of its own.
    """
    flavor = manifest.flavor
    file = _FILE.get(flavor)
    if file is None:
        raise InvalidInput(f"a model of the format {flavor} can't be an MLflow model", where="flavor", allowed=", ".join(sorted(_FILE)),
                           fix="export it as a container: kilter export --target container")  # fmt: skip
    data = _model(manifest, model)
    source = Path(loader.__file__).read_bytes()
    module = f"kilter_model_{digest(source)[:12]}"  # two folders in one process may hold two of them
    rows = np.frombuffer(example(), dtype="<f8").reshape(manifest.example_rows, -1)
    shown, served = _examples(manifest, rows[:_ROWS])
    needs = _requirements(manifest)
    python = _python(manifest)
    files = {
        "MLmodel": _yaml(_document(manifest, module, data, rows, reference, at)),
        loader.SETTINGS: as_json(_settings(manifest, file, data)),
        f"code/{module}.py": source,
        "requirements.txt": "".join(f"{line}\n" for line in needs).encode(),
        "python_env.yaml": _yaml({"python": python, "build_dependencies": ["pip", "setuptools", "wheel"],
                                  "dependencies": ["-r requirements.txt"]}),
        "conda.yaml": _yaml({"channels": ["conda-forge"], "dependencies": [f"python={python}", "pip", {"pip": needs}],
                             "name": "mlflow-env"}),
        "input_example.json": json.dumps(shown).encode(),
        "serving_input_example.json": json.dumps(served, indent=2).encode(),
    }  # fmt: skip
    return {file: data, **{path: Lazy(len(held), _held(held)) for path, held in files.items()}}


def whole(files: Mapping[str, Lazy]) -> dict[str, bytes]:
    """Return all files as they are."""
    return {path: file.read() for path, file in files.items()}


def _held(data: bytes) -> Callable[[], bytes]:
    return lambda: data


def _model(manifest: Manifest, read: Callable[[], bytes]) -> Lazy:
    """Return the model's file: as it is, but for a LightGBM text, which is told the categories that a frame's text is coded by."""
    categories = manifest.signature.encoding.categories
    if manifest.flavor != "lightgbm-text" or not categories:
        return Lazy(manifest.model.size, read)
    known = [
        list(categories[manifest.signature.encoding.names[place]]) for place in manifest.signature.encoding.categorical
    ]
    line = json.dumps(known, ensure_ascii=True).encode()

    def told() -> bytes:
        text, mark, rest = read().rpartition(_MARK)
        return text + mark + line + b"\n" if mark and rest.strip() in {b"null", b"[]"} else text + mark + rest

    return Lazy(len(told()), told)


def _document(
    manifest: Manifest, module: str, data: Lazy, rows: np.ndarray, reference: str, at: datetime | None
) -> dict[str, Any]:
    """Return what stands in the ``MLmodel`` file."""
    name = digest(canonical_json(manifest))
    file = _FILE[manifest.flavor]
    flavors: dict[str, Any] = {
        "python_function": {
            "code": "code",
            "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
            "loader_module": module,
            "python_version": _python(manifest),
        }
    }
    native = _native(manifest, file, data)
    if native is not None:
        flavors[native[0]] = native[1]
    signature = manifest.signature
    about = {"artifact_path": "input_example.json", "serving_input_path": "serving_input_example.json"}
    made = (at or datetime.fromtimestamp(0, UTC)).astimezone(UTC).replace(tzinfo=None)
    return {
        "flavors": flavors,
        "is_signature_from_type_hint": False,
        "metadata": {
            "kilter_bundle": name,
            "kilter_version": reference,
            "answers": signature.label,
            "outputs": list(signature.outputs),
        },
        "mlflow_version": MLFLOW,
        "model_size_bytes": data.size,
        "model_uuid": name[:32],
        "saved_input_example_info": {**about, "type": "ndarray"}
        if signature.shape
        else {**about, "pandas_orient": "split", "type": "dataframe"},
        "signature": {
            "inputs": json.dumps(_inputs(manifest, rows)),
            "outputs": json.dumps(_outputs(manifest)),
            "params": None,
        },
        "type_hint_from_example": False,
        "utc_time_created": made.isoformat(sep=" "),
    }


def _native(manifest: Manifest, file: str, data: Lazy) -> tuple[str, dict[str, Any]] | None:
    """Return the flavour of the model's own library."""
    made_with = manifest.framework.partition("==")[2]
    match manifest.flavor:
        case "lightgbm-text":
            return "lightgbm", {"code": None, "data": file, "lgb_version": made_with, "model_class": "lightgbm.basic.Booster",
                                "serialization_format": "skops"}  # fmt: skip
        case "xgboost-ubjson":
            return "xgboost", {"code": None, "data": file, "model_class": "xgboost.core.Booster", "model_format": "ubj",
                               "xgb_version": made_with}  # fmt: skip
        case "catboost-cbm":
            kind = "CatBoostClassifier" if manifest.signature.label in {"binary", "multiclass"} else "CatBoostRegressor"
            return "catboost", {"catboost_version": made_with, "code": None, "model_binary": file, "model_type": kind,
                                "save_format": "cbm"}  # fmt: skip
        case "skops":
            return "sklearn", {"code": None, "pickled_model": file, "serialization_format": "skops",
                               "sklearn_version": made_with, "skops_trusted_types": trusted_types(data.read())}  # fmt: skip
        case "onnx":
            return "onnx", {"code": None, "data": file, "onnx_session_options": None, "onnx_version": _onnx_version(),
                            "providers": ["CPUExecutionProvider"]}  # fmt: skip
    return None


def _settings(manifest: Manifest, file: str, data: Lazy) -> dict[str, Any]:
    """Return what the loader is told."""
    encoding, spec = manifest.signature.encoding, manifest.spec()
    found: dict[str, Any] = {
        "flavor": manifest.flavor,
        "file": file,
        "names": list(encoding.names),
        "categories": {name: list(known) for name, known in encoding.categories.items()},
        "shape": list(manifest.signature.shape),
        "frame": manifest.frame,
        "iterations": manifest.iterations,
        "output": spec.output,
        "outputs": list(manifest.signature.outputs),
    }
    if manifest.flavor == "skops":
        found["trusted"] = trusted_types(data.read())
    return found


def _onnx_version() -> str:
    """Return the version of the package that writes graphs, where it is installed; MLflow only notes it."""
    try:
        return version("onnx")
    except PackageNotFoundError:
        return ""


def _inputs(manifest: Manifest, rows: np.ndarray) -> list[dict[str, Any]]:
    """Return the signature's inputs; a column that is not there is missing, as it is to the endpoint."""
    signature = manifest.signature
    if signature.shape:
        dtype = "float32" if signature.dtype == "FP32" else "float64"
        return [{"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": [-1, *signature.shape]}}]
    encoding = signature.encoding
    kinds = [
        "string" if kind == "categorical" else "any" if _is_whole(rows[:, place]) else "double"
        for place, kind in enumerate(encoding.kinds)
    ]
    return [{"type": kind, "name": name, "required": False} for name, kind in zip(encoding.names, kinds, strict=True)]


def _is_whole(column: np.ndarray) -> bool:
    """Say whether a column holds whole numbers only: MLflow refuses those where a double is announced, and the endpoint doesn't."""
    found = column[np.isfinite(column)]
    return bool(len(found) and (found == np.trunc(found)).all())


def _outputs(manifest: Manifest) -> list[dict[str, Any]]:
    count = len(manifest.signature.outputs)
    return [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1] if count == 1 else [-1, count]}}]


def _examples(manifest: Manifest, rows: np.ndarray) -> tuple[Any, Any]:
    """Return the example rows as MLflow keeps them, and as its scoring server takes them."""
    signature = manifest.signature
    if signature.shape:
        listed = rows.reshape(len(rows), *signature.shape).tolist()
        return listed, {"inputs": listed}
    names = list(signature.encoding.names)
    data = [
        [_shown(value, signature.encoding.categories.get(name)) for name, value in zip(names, row, strict=True)]
        for row in rows.tolist()
    ]
    split = {"columns": names, "data": data}
    return split, {"dataframe_split": split}


def _shown(value: float, known: tuple[str, ...] | None) -> float | str | None:
    if not np.isfinite(value):
        return None
    return value if known is None else known[int(value)]


def _requirements(manifest: Manifest) -> list[str]:
    """Return what is installed to answer: MLflow, and the versions that the model was packaged with."""
    held = dict(line.partition("==")[::2] for line in manifest.environment)
    wanted = [name for name in _NEEDED if name in held and name not in {"polars", "pandas"}]
    found = [f"{name}=={held[name]}" for name in wanted]
    found += [] if "numpy" in wanted else ["numpy>=2"]
    found += ["skops>=0.16,<1"] if manifest.flavor == "skops" and "skops" not in wanted else []
    found += ["onnx>=1.17"] if manifest.flavor == "onnx" else []
    found += ["polars>=2.1,<3"] if manifest.frame == "polars" else []
    return ["mlflow>=3.1,<4", "pandas>=2", *sorted(found)]


def _python(manifest: Manifest) -> str:
    return manifest.environment[0].partition("==")[2] if manifest.environment else "3.11"


def _yaml(value: Any) -> bytes:
    text: str = yaml.safe_dump(value, sort_keys=False, width=1 << 20)
    return text.encode()
