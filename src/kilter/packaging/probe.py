"""Reading a booster's bytes in a process of its own: ``python -m kilter.packaging.probe FLAVOR < FILE``.

The native libraries end the whole process on some bytes that are no model. A file from elsewhere is therefore read by a child
first, whose death is an answer.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys

from kilter.packaging import lightgbm_native, xgboost_native
from kilter.packaging.native import Flavor

_SECONDS = 120.0


def readable(flavor: Flavor, data: bytes) -> bool:
    """Say whether a native library reads bytes as a model.

    Args:
        flavor: ``xgboost-ubjson`` (JSON, too) or ``lightgbm-text``.
        data: The bytes.
    """
    command = [sys.executable, "-m", "kilter.packaging.probe", flavor]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=_SECONDS, check=False)  # noqa: S603 - our own
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def main() -> int:
    """Read standard input with the library of the flavor on the command line; return 0 when it is a model."""
    data = sys.stdin.buffer.read()
    handle = ctypes.c_void_p()
    if sys.argv[1] == "lightgbm-text":
        rounds = ctypes.c_int()
        lib = lightgbm_native.open_library()
        return int(lib.LGBM_BoosterLoadModelFromString(data, ctypes.byref(rounds), ctypes.byref(handle)) != 0)
    lib = xgboost_native.open_library()
    lib.XGBoosterCreate(None, 0, ctypes.byref(handle))
    if lib.XGBoosterLoadModelFromBuffer(handle, data, len(data)):
        return 1
    inputs = ctypes.c_uint64()
    return int(lib.XGBoosterGetNumFeature(handle, ctypes.byref(inputs)) != 0 or inputs.value == 0)


if __name__ == "__main__":
    sys.exit(main())
