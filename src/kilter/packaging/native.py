"""What a loaded model is to the serving worker: a function from a buffer of float64 to a buffer of float64.

Nothing here needs NumPy, so that a worker for a native booster starts in a tenth of a second.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import msgspec

from kilter.core.errors import InvalidInput, Unavailable

Flavor = Literal[
    "lightgbm-text",
    "xgboost-ubjson",
    "catboost-cbm",
    "skops",
    "constant",
    "onnx",
    "linear",
    "torch-export",
    "python",
    "remote",
    "graph",
]
Frame = Literal["", "pandas", "polars"]
Output = Literal["probability", "value", "probabilities"]
Buffer = bytes | bytearray | memoryview


class NativeModel(Protocol):
    """A loaded model."""

    def predict(self, data: Buffer, rows: int, columns: int) -> bytes:
        """Return a row-major float64 matrix of ``rows`` x outputs for one of ``rows`` x ``columns``."""
        ...


@runtime_checkable
class Explains(Protocol):
    """A loaded model that can tell how much each column adds to its answers."""

    def contributions(self, data: Buffer, rows: int, columns: int) -> bytes:
        """Return what each column adds to each output: float64, ``rows`` x outputs x (``columns`` + 1).

        They are in the units of the model's sum before it becomes an answer (log odds of a classifier). The last number of
        each ``columns`` + 1 is the average answer; all of them add up to the sum for the row.
        """
        ...


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a process needs to know to load a model's bytes.

    Args:
        flavor: The format of the bytes.
        columns: How many inputs a row has.
        iterations: How many boosting rounds to use; 0 for all.
        output: ``probability`` of the positive class, ``probabilities`` of all classes, or ``value`` (or values).
        outputs: How many numbers the answer to a row has; 0 while nobody knows yet.
        names: The columns' names, for a model that asks for them.
        categories: Per categorical column its values, in the order of their codes, for a model that asks for them.
        frame: The library whose frames the model takes; empty for one that takes a matrix.
        shape: The shape of one row, for a model that takes one tensor; empty for plain columns.
        explainer: What to load to explain this model's answers, when it is another model than itself.
    """

    flavor: Flavor
    columns: int
    iterations: int = 0
    output: Output = "probability"
    outputs: int = 1
    names: tuple[str, ...] = ()
    categories: dict[str, tuple[str, ...]] = {}
    frame: Frame = ""
    shape: tuple[int, ...] = ()
    explainer: ModelSpec | None = None


def check_shape(spec: ModelSpec, data: Buffer, rows: int, columns: int) -> None:
    """Refuse a matrix that is not ``rows`` x ``columns`` float64, or not as wide as the model's.

    Raises:
        InvalidInput: When it is not.
    """
    if columns != spec.columns or len(data) != 8 * rows * columns:
        raise InvalidInput(f"{columns} columns were given", where="predict", allowed=f"{spec.columns}")


def check_model(spec: ModelSpec, inputs: int, outputs: int) -> None:
    """Refuse a model whose bytes say something else than its signature.

    Args:
        spec: What the signature says.
        inputs: How many inputs the loaded model has.
        outputs: How many outputs.

    Raises:
        InvalidInput: When either differs.
    """
    if inputs != spec.columns:
        raise InvalidInput(f"the model has {inputs} inputs, its signature {spec.columns}", where="signature")
    if spec.outputs and outputs != spec.outputs:
        raise InvalidInput(f"the model has {outputs} outputs, its signature {spec.outputs}", where="signature")


def library(package: str, *stems: str) -> Path:
    """Return the shared library that a Python package carries, without importing the package.

    Importing ``lightgbm`` or ``xgboost`` costs seconds, because both pull in scikit-learn, pandas and SciPy when they are
    installed; the library itself needs none of them.

    Args:
        package: The package's name.
        stems: Names of the library without its ending.

    Raises:
        Unavailable: When the package or its library is not installed.
    """
    spec = importlib.util.find_spec(package)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        for folder in ("lib", "bin", "."):
            for stem in stems:
                for ending in (".so", ".dylib", ".dll"):
                    path = Path(root) / folder / (stem + ending)
                    if path.is_file():
                        return path
    raise Unavailable(
        f"the {package} library is not installed", where="packaging", fix=f"pip install kilter[{package}]"
    )
