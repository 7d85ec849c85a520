"""LightGBM through its C interface: one thread, no Python wrapper around a call.

Source: ``LightGBM/c_api.h``. The single-row "fast" entry point keeps the parsed configuration between calls; a call costs
about as long as walking the trees. Batches go through ``LGBM_BoosterPredictForMat``.
"""

from __future__ import annotations

import ctypes
from functools import cache

from kilter.core.errors import Damaged, InvalidInput
from kilter.packaging.native import Buffer, ModelSpec, library

_FLOAT64 = 1
_NORMAL = 0
_PARAMETERS = b"num_threads=1 verbosity=-1 predict_disable_shape_check=false"
# From a few rows on, setting up a batch costs less than calling once per row (measured: equal at about 8 rows).
_BATCH = 8


class LightGBMModel:
    """A booster loaded from LightGBM's text format.

    Args:
        spec: Number of columns and iterations.
        text: The model, as ``Booster.model_to_string()`` writes it.

    Raises:
        Damaged: When the text is not a model.
        InvalidInput: When the model has several outputs, or another number of inputs than its signature.
    """

    def __init__(self, spec: ModelSpec, text: bytes) -> None:
        self._lib = _load()
        self._columns = spec.columns
        self._iterations = spec.iterations or -1
        self._handle = ctypes.c_void_p()
        rounds = ctypes.c_int()
        failed = self._lib.LGBM_BoosterLoadModelFromString(text, ctypes.byref(rounds), ctypes.byref(self._handle))
        if failed:
            raise Damaged("the bytes are not a LightGBM model", where="model.txt")
        classes, inputs = ctypes.c_int(), ctypes.c_int()
        self._check(self._lib.LGBM_BoosterGetNumClasses(self._handle, ctypes.byref(classes)))
        self._check(self._lib.LGBM_BoosterGetNumFeature(self._handle, ctypes.byref(inputs)))
        if classes.value != 1:
            raise InvalidInput(f"the model has {classes.value} outputs", allowed="one probability or one value")
        if inputs.value != spec.columns:
            raise InvalidInput(f"the model has {inputs.value} inputs, its signature {spec.columns}", where="signature")
        self._fast = ctypes.c_void_p()
        self._check(
            self._lib.LGBM_BoosterPredictForMatSingleRowFastInit(
                self._handle,
                _NORMAL,
                0,
                self._iterations,
                _FLOAT64,
                self._columns,
                _PARAMETERS,
                ctypes.byref(self._fast),
            )
        )
        self._length = ctypes.c_int64()
        self._length_at = ctypes.byref(self._length)

    def predict(self, data: Buffer, rows: int, columns: int) -> bytes:
        """Return ``rows`` float64 values for a row-major float64 matrix of ``rows`` x ``columns``."""
        if columns != self._columns or len(data) != 8 * rows * columns:
            raise InvalidInput(f"{columns} columns were given", where="predict", allowed=f"{self._columns}")
        held = data if isinstance(data, bytes) else bytes(data)
        start = ctypes.cast(ctypes.c_char_p(held), ctypes.c_void_p).value or 0
        out = (ctypes.c_double * rows)()
        if rows < _BATCH:
            width = 8 * columns
            for row in range(rows):
                self._check(
                    self._lib.LGBM_BoosterPredictForMatSingleRowFast(
                        self._fast, start + row * width, self._length_at, ctypes.byref(out, 8 * row)
                    )
                )
        else:
            self._check(
                self._lib.LGBM_BoosterPredictForMat(
                    self._handle,
                    start,
                    _FLOAT64,
                    rows,
                    columns,
                    1,
                    _NORMAL,
                    0,
                    self._iterations,
                    _PARAMETERS,
                    self._length_at,
                    out,
                )
            )
        return bytes(out)

    def _check(self, failed: int) -> None:
        if failed:
            raise InvalidInput(f"LightGBM: {self._lib.LGBM_GetLastError().decode('utf-8', 'replace')}", where="predict")


@cache
def _load() -> ctypes.CDLL:
    """Open the library and declare the functions that are used."""
    lib = ctypes.CDLL(str(library("lightgbm", "lib_lightgbm")))
    pointer, integer, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    signatures: dict[str, list[type]] = {
        "LGBM_BoosterLoadModelFromString": [text, pointer, pointer],
        "LGBM_BoosterGetNumClasses": [pointer, pointer],
        "LGBM_BoosterGetNumFeature": [pointer, pointer],
        "LGBM_BoosterPredictForMatSingleRowFastInit": [
            pointer, integer, integer, integer, integer, ctypes.c_int32, text, pointer,
        ],
        "LGBM_BoosterPredictForMatSingleRowFast": [pointer, pointer, pointer, pointer],
        "LGBM_BoosterPredictForMat": [
            pointer, pointer, integer, ctypes.c_int32, ctypes.c_int32, integer, integer, integer, integer, text, pointer,
            pointer,
        ],
    }  # fmt: skip
    for name, arguments in signatures.items():
        function = getattr(lib, name)
        function.argtypes = arguments
        function.restype = integer
    lib.LGBM_GetLastError.restype = text
    return lib
