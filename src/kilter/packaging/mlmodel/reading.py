"""From the files of an MLflow model to a model that can be packaged, with the rows to check it on. Nothing is run or unpickled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from kilter.core.errors import InvalidInput, Unavailable
from kilter.packaging.files import model_in
from kilter.packaging.mlmodel import boosters
from kilter.packaging.mlmodel.document import Document, read_document
from kilter.packaging.mlmodel.files import Files, clean
from kilter.packaging.mlmodel.rows import Rows, read_rows
from kilter.packaging.records import LabelKind

_OWN = "in a process of yours that trusts it: kilter.deploy(mlflow.{flavor}.load_model(URI), name=..., example=...)"
_PICKLED = {".pkl", ".pickle", ".joblib", ".pth", ".pt", ".bin", ".h5"}
_READ = "lightgbm, xgboost, catboost, onnx, sklearn saved with skops, pytorch saved as pt2"


class Found(NamedTuple):
    """What a folder held.

    Args:
        model: The model, as its framework has it.
        example: Rows to check and to warm it on, as :func:`kilter.packaging.examples.read_example` takes them.
        outputs: The names of its classes, as far as the folder tells.
        notes: What the user should know, a line each.
    """

    model: Any
    example: Any
    outputs: tuple[str, ...]
    notes: tuple[str, ...]


class _Flavour(NamedTuple):
    """One of MLflow's flavours that is read.

    Args:
        file: The setting that names the model's file.
        usual: The file, when the setting is not there.
        read: Makes a model of it, with the names of its classes.
    """

    file: str
    usual: str
    read: Callable[[Files, str, dict[str, Any]], tuple[Any, tuple[str, ...]]]


def read_mlmodel(files: Files, example: Any = None) -> Found:
    """Read an MLflow model.

    Args:
        files: Its files.
        example: Rows, as a Polars frame, in place of those in the folder.

    Raises:
        InvalidInput: When its form can't be read without running it, or its inputs are not rows of numbers and text.
        Damaged: When a file's bytes are not what its flavour says.
        NotFound: When a file that it names is not there.
        Unavailable: When the flavour's library is not installed here.
    """
    document = read_document(files.document())
    chosen = next((name for name in _FLAVOURS if name in document.flavors), "")
    if not chosen:
        raise _unreadable(document)
    settings = document.flavors[chosen]
    flavour = _FLAVOURS[chosen]
    path = _path(settings, flavour)
    _refuse_pickle(chosen, settings, path)
    model, outputs = flavour.read(files, path, settings)
    rows = read_rows(files, document, example)
    notes = [f"read the flavour {chosen} of MLflow's model: {path}"]
    if settings.get("code") or document.flavors.get("python_function", {}).get("code"):
        notes.append("the folder's own code is left behind: the model needs none of it")
    if not rows.given:
        notes.append("there is no input example: the model is checked on one row of zeros")
    if hasattr(model, "classes_") or str(settings.get("model_class", "")).endswith("Classifier"):
        notes.append("it answers with probabilities, where MLflow's predict of a classifier answers with classes")
    return Found(model, _example(chosen, model, rows), outputs, tuple(notes))


def _path(settings: dict[str, Any], flavour: _Flavour) -> str:
    said = settings.get(flavour.file, flavour.usual)
    if not isinstance(said, str):
        raise InvalidInput("the model's file is named by no text", where=f"MLmodel: {flavour.file}", allowed="a path")
    return clean(said)


def _refuse_pickle(chosen: str, settings: dict[str, Any], path: str) -> None:
    """Refuse a model that is a pickle, whatever it is called."""
    form = settings.get("serialization_format", "")
    native = chosen == "lightgbm" and settings.get("model_class") == "lightgbm.basic.Booster"
    if PurePosixPath(path).suffix.lower() in _PICKLED or (form in {"pickle", "cloudpickle"} and not native):
        raise InvalidInput(
            f"the model is a pickle ({form or 'by its ending'}), which runs code when it is read",
            where=path,
            allowed=_READ,
            fix='log it again with serialization_format="skops", which autolog takes, too, or deploy it '
            + _OWN.format(flavor=chosen),
        )


def _unreadable(document: Document) -> InvalidInput:
    """Return why none of a model's flavours can be read."""
    names = ", ".join(sorted(document.flavors))[:300]
    general = document.flavors.get("python_function", {})
    loader = str(general.get("loader_module", ""))
    if set(document.flavors) <= {"python_function"} and ("python_model" in general or loader == "mlflow.pyfunc.model"):
        said = "it is a Python model: a pickle of a class, or a script, which runs code when it is read"
        fix = "deploy the model inside of it, or a plain function: kilter.deploy(function, name=..., example=...)"
    elif set(document.flavors) <= {"python_function"}:
        said = f"it is read by code of its own ({loader[:100] or 'no loader_module'}), which is not run here"
        fix = "log the model inside of it with its own flavour"
    else:
        said = f"its flavours ({names}) are none that are read without running what they hold"
        fix = "convert it to ONNX, or deploy it " + _OWN.format(flavor=next(iter(sorted(document.flavors))))
    return InvalidInput(said, where="MLmodel", allowed=_READ, fix=fix)


def _example(chosen: str, model: Any, rows: Rows) -> Any:
    """Return the rows as the model takes them."""
    if rows.tensor is not None:
        return rows.tensor
    if not rows.columns:
        return rows.zeros(model)
    texts = rows.texts
    if chosen == "sklearn":
        return rows.frame()
    if chosen == "onnx":
        return rows.polars({})
    if chosen == "catboost":
        return rows.frame() if texts else rows.coded({})
    known = boosters.of_xgboost(model) if chosen == "xgboost" else boosters.of_lightgbm(model, texts)
    boosters.check_texts(texts, known)
    return rows.coded({name: values for name, values in known.items() if name in texts})


def _lightgbm(files: Files, path: str, _settings: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    data = files.read(path)
    if not path.endswith(".skops"):
        return model_in("model.txt", data), ()
    wrapped = boosters.inside_skops(data)
    booster = model_in("model.txt", wrapped.text.encode())
    booster.best_iteration = wrapped.best
    return booster, wrapped.classes if len(wrapped.classes) > 2 else ()


def _xgboost(files: Files, path: str, _settings: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    if PurePosixPath(path).suffix not in {".ubj", ".json"}:
        raise InvalidInput("XGBoost's own binary format is no longer read by XGBoost itself", where=path,
                           allowed=".ubj, .json", fix='log it again with model_format="ubj"')  # fmt: skip
    return model_in("model.ubj", files.read(path)), ()


def _catboost(files: Files, path: str, settings: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    if settings.get("save_format", "cbm") != "cbm":
        raise InvalidInput(f"the model is saved as {str(settings['save_format'])[:20]}", where=path, allowed="cbm",
                           fix="log it again without format=")  # fmt: skip
    return model_in("model.cbm", files.read(path)), ()


def _onnx(files: Files, path: str, _settings: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    try:
        from kilter.packaging.onnx_external import inlined  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise Unavailable("onnx is not installed", where=path, fix="pip install kilter[onnx]") from error
    beside = PurePosixPath(path).parent
    whole = inlined(files.read(path), lambda name: files.read(str(beside / clean(name))))
    return model_in("model.onnx", whole), ()


def _sklearn(files: Files, path: str, _settings: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    return model_in("model.skops", files.read(path)), ()


def _pytorch(files: Files, path: str, _settings: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    program = f"{path}/model.pt2"
    if program not in files.sizes:
        raise InvalidInput(
            "the network is a pickle, which runs code when it is read",
            where=path,
            allowed="model.pt2, as torch.export writes it",
            fix='log it again with serialization_format="pt2" and an input_example, or deploy it '
            + _OWN.format(flavor="pytorch"),
        )
    return model_in("model.pt2", files.read(program)), ()


_FLAVOURS: dict[str, _Flavour] = {
    "lightgbm": _Flavour("data", "model.lgb", _lightgbm),
    "xgboost": _Flavour("data", "model.ubj", _xgboost),
    "catboost": _Flavour("model_binary", "model.cb", _catboost),
    "onnx": _Flavour("data", "model.onnx", _onnx),
    "sklearn": _Flavour("pickled_model", "model.pkl", _sklearn),
    "pytorch": _Flavour("model_data", "data", _pytorch),
}


def classes_of(outputs: Sequence[str], label: LabelKind | None) -> tuple[str, ...]:
    """Return the names of the outputs that a deployment is told: those of the classes, unless something else is wanted."""
    return tuple(outputs) if label in {None, "multiclass"} else ()
