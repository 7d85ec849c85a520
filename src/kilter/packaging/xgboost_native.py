"""XGBoost through its C interface: one thread, in-place prediction on the caller's matrix.

Source: ``xgboost/c_api.h`` (``XGBoosterPredictFromDense``).
"""

from __future__ import annotations

import ctypes
from array import array
from functools import cache

from kilter.core.errors import Damaged, InvalidInput
from kilter.packaging.native import Buffer, ModelSpec, check_model, check_shape, library


class XGBoostModel:
    """A booster loaded from UBJSON.

    Args:
        spec: Number of columns and iterations.
        data: The model, as ``Booster.save_raw("ubj")`` writes it.

    Raises:
        Damaged: When the bytes are not a model.
    """

    def __init__(self, spec: ModelSpec, data: bytes) -> None:
        self._lib = open_library()
        self._spec = spec
        self._handle = ctypes.c_void_p()
        self._check(self._lib.XGBoosterCreate(None, 0, ctypes.byref(self._handle)))
        if self._lib.XGBoosterLoadModelFromBuffer(self._handle, data, len(data)):
            raise Damaged("the bytes are not an XGBoost model", where="model.ubj")
        self._check(self._lib.XGBoosterSetParam(self._handle, b"nthread", b"1"))
        inputs = ctypes.c_uint64()
        self._check(self._lib.XGBoosterGetNumFeature(self._handle, ctypes.byref(inputs)))
        check_model(spec, inputs.value, spec.outputs)  # how many outputs it has shows in its answers
        # XGBoost's own dialect of JSON, in which NaN is a word
        self._config = (
            b'{"type":0,"training":false,"iteration_begin":0,"iteration_end":%d,"strict_shape":false,"missing":NaN,'
            b'"cache_id":0}' % spec.iterations
        )
        self._shape = ctypes.POINTER(ctypes.c_uint64)()
        self._dimensions = ctypes.c_uint64()
        self._result = ctypes.POINTER(ctypes.c_float)()

    def predict(self, data: Buffer, rows: int, columns: int) -> bytes:
        """Return a row-major float64 matrix of ``rows`` x outputs for one of ``rows`` x ``columns``."""
        check_shape(self._spec, data, rows, columns)
        held = data if isinstance(data, bytes) else bytes(data)
        values = _array(held, rows, columns)
        self._check(
            self._lib.XGBoosterPredictFromDense(
                self._handle,
                values,
                self._config,
                None,
                ctypes.byref(self._shape),
                ctypes.byref(self._dimensions),
                ctypes.byref(self._result),
            )
        )
        size = self._size()
        if size != rows * self._spec.outputs:
            check_model(self._spec, columns, size // max(rows, 1))
        return array("d", self._result[:size]).tobytes()

    def contributions(self, data: Buffer, rows: int, columns: int) -> bytes:
        """Return TreeSHAP values, ``rows`` x outputs x (``columns`` + 1); see :class:`kilter.packaging.native.Explains`."""
        check_shape(self._spec, data, rows, columns)
        if not rows:
            return b""
        held = data if isinstance(data, bytes) else bytes(data)
        matrix = ctypes.c_void_p()
        self._check(
            self._lib.XGDMatrixCreateFromDense(
                _array(held, rows, columns), b'{"missing":NaN,"nthread":1}', ctypes.byref(matrix)
            )
        )
        try:
            self._check(
                self._lib.XGBoosterPredictFromDMatrix(
                    self._handle,
                    matrix,
                    b'{"type":2,"training":false,"iteration_begin":0,"iteration_end":%d,"strict_shape":true}'
                    % self._spec.iterations,
                    ctypes.byref(self._shape),
                    ctypes.byref(self._dimensions),
                    ctypes.byref(self._result),
                )
            )
            return array("d", self._result[: self._size()]).tobytes()
        finally:
            self._lib.XGDMatrixFree(matrix)

    def _size(self) -> int:
        """Return how many numbers the last call gave."""
        size = 1
        for axis in range(self._dimensions.value):
            size *= self._shape[axis]
        return size

    def _check(self, failed: int) -> None:
        if failed:
            first = self._lib.XGBGetLastError().decode("utf-8", "replace").partition("\n")[0]
            raise InvalidInput(f"XGBoost: {first}", where="predict")


def _array(held: bytes, rows: int, columns: int) -> bytes:
    """Return where a matrix lies, in the words of NumPy's array interface."""
    start = ctypes.cast(ctypes.c_char_p(held), ctypes.c_void_p).value or 0
    return b'{"data":[%d,true],"shape":[%d,%d],"typestr":"<f8","version":3}' % (start, rows, columns)


@cache
def open_library() -> ctypes.CDLL:
    """Open the library and declare the functions that are used."""
    lib = ctypes.CDLL(str(library("xgboost", "libxgboost", "xgboost")))
    pointer, size, text = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_char_p
    signatures: dict[str, list[type]] = {
        "XGBoosterCreate": [pointer, size, pointer],
        "XGBoosterLoadModelFromBuffer": [pointer, text, size],
        "XGBoosterSetParam": [pointer, text, text],
        "XGBoosterGetNumFeature": [pointer, pointer],
        "XGDMatrixCreateFromDense": [text, text, pointer],
        "XGDMatrixFree": [pointer],
        "XGBoosterPredictFromDMatrix": [pointer, pointer, text, pointer, pointer, pointer],
        "XGBoosterPredictFromDense": [pointer, text, text, pointer, pointer, pointer, pointer],
    }
    for name, arguments in signatures.items():
        function = getattr(lib, name)
        function.argtypes = arguments
        function.restype = ctypes.c_int
    lib.XGBGetLastError.restype = text
    return lib
