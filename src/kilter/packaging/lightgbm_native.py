"""LightGBM through its C interface: one thread, no Python wrapper around a call.

Source: ``LightGBM/c_api.h``. The single-row "fast" entry point keeps the parsed configuration between calls; a call costs
about as long as walking the trees. Batches go through ``LGBM_BoosterPredictForMat``.
"""

from __future__ import annotations

import ctypes
from functools import cache

from kilter.core.errors import Damaged, InvalidInput
from kilter.packaging.native import Buffer, ModelSpec, check_model, check_shape, library

_FLOAT64 = 1
_NORMAL, _CONTRIBUTIONS = 0, 3
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
        InvalidInput: When the model has another number of inputs or outputs than its signature.
    """

    def __init__(self, spec: ModelSpec, text: bytes) -> None:
        self._lib = open_library()
        self._spec = spec
        self._outputs = spec.outputs
        self._iterations = spec.iterations or -1
        self._handle = ctypes.c_void_p()
        rounds = ctypes.c_int()
        failed = self._lib.LGBM_BoosterLoadModelFromString(text, ctypes.byref(rounds), ctypes.byref(self._handle))
        if failed:
            raise Damaged("the bytes are not a LightGBM model", where="model.txt")
        classes, inputs = ctypes.c_int(), ctypes.c_int()
        self._check(self._lib.LGBM_BoosterGetNumClasses(self._handle, ctypes.byref(classes)))
        self._check(self._lib.LGBM_BoosterGetNumFeature(self._handle, ctypes.byref(inputs)))
        check_model(spec, inputs.value, classes.value)
        self._fast = ctypes.c_void_p()
        self._check(
            self._lib.LGBM_BoosterPredictForMatSingleRowFastInit(
                self._handle,
                _NORMAL,
                0,
                self._iterations,
                _FLOAT64,
                spec.columns,
                _PARAMETERS,
                ctypes.byref(self._fast),
            )
        )
        self._length = ctypes.c_int64()
        self._length_at = ctypes.byref(self._length)

    def predict(self, data: Buffer, rows: int, columns: int) -> bytes:
        """Return a row-major float64 matrix of ``rows`` x outputs for one of ``rows`` x ``columns``."""
        check_shape(self._spec, data, rows, columns)
        held = data if isinstance(data, bytes) else bytes(data)
        start = _address(held)
        out = (ctypes.c_double * (rows * self._outputs))()
        if rows < _BATCH:
            width, step = 8 * columns, 8 * self._outputs
            for row in range(rows):
                self._check(
                    self._lib.LGBM_BoosterPredictForMatSingleRowFast(
                        self._fast, start + row * width, self._length_at, ctypes.byref(out, step * row)
                    )
                )
        else:
            self._batch(start, rows, columns, _NORMAL, out)
        return bytes(out)

    def contributions(self, data: Buffer, rows: int, columns: int) -> bytes:
        """Return TreeSHAP values, ``rows`` x outputs x (``columns`` + 1); see :class:`kilter.packaging.native.Explains`."""
        check_shape(self._spec, data, rows, columns)
        held = data if isinstance(data, bytes) else bytes(data)
        out = (ctypes.c_double * (rows * self._outputs * (columns + 1)))()
        if rows:
            self._batch(_address(held), rows, columns, _CONTRIBUTIONS, out)
        return bytes(out)

    def _batch(self, start: int, rows: int, columns: int, kind: int, out: ctypes.Array[ctypes.c_double]) -> None:
        self._check(
            self._lib.LGBM_BoosterPredictForMat(
                self._handle,
                start,
                _FLOAT64,
                rows,
                columns,
                1,
                kind,
                0,
                self._iterations,
                _PARAMETERS,
                self._length_at,
                out,
            )
        )

    def _check(self, failed: int) -> None:
        if failed:
            raise InvalidInput(f"LightGBM: {self._lib.LGBM_GetLastError().decode('utf-8', 'replace')}", where="predict")


def _address(held: bytes) -> int:
    return ctypes.cast(ctypes.c_char_p(held), ctypes.c_void_p).value or 0


@cache
def open_library() -> ctypes.CDLL:
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
