"""What a loaded model is to the serving worker: a function from a buffer of float64 to a buffer of float64.

Nothing here needs NumPy, so that a worker for a native booster starts in a tenth of a second.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from kilter.core.errors import Unavailable

Flavor = Literal["lightgbm-text", "xgboost-ubjson", "skops", "constant"]
Buffer = bytes | bytearray | memoryview


class NativeModel(Protocol):
    """A loaded model."""

    def predict(self, data: Buffer, rows: int, columns: int) -> bytes:
        """Return ``rows`` float64 values for a row-major float64 matrix of ``rows`` x ``columns``."""
        ...


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a process needs to know to load a model's bytes.

    Args:
        flavor: The format of the bytes.
        columns: How many inputs a row has.
        iterations: How many boosting rounds to use; 0 for all.
        output: ``probability`` of the positive class, or ``value``.
    """

    flavor: Flavor
    columns: int
    iterations: int = 0
    output: Literal["probability", "value"] = "probability"


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
