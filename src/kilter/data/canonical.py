"""The canonical bytes of columns: the same values have the same digest, whatever engine or library version held them."""

from __future__ import annotations

import numpy as np
import polars as pl
from blake3 import blake3

from kilter.core.errors import InvalidInput

_FORMAT = b"kilter-columns-1"


class ColumnHasher:
    """Hashes named columns one after the other.

    Each column is written as its name, its kind, its length, its validity (one bit per row) and its values in little-endian
    order; text as offsets and UTF-8. Lengths go before bytes, so two different sequences of columns never collide.
    """

    def __init__(self) -> None:
        self._hash = blake3(_FORMAT)

    def text(self, value: str) -> None:
        """Add one string."""
        self._bytes(value.encode())

    def array(self, name: str, values: np.ndarray) -> None:
        """Add an array of numbers or of times in microseconds.

        Args:
            name: The column's name.
            values: float64, int64, bool or datetime64[us], one- or two-dimensional.
        """
        self.text(name)
        if values.dtype.kind == "M":
            values = values.astype("datetime64[us]").astype("<i8")
            kind = "time"
        elif values.dtype.kind == "f":
            values = values.astype("<f8")
            values = np.where(np.isnan(values), np.nan, values)  # every NaN gets the same bits
            kind = "float"
        elif values.dtype.kind in "iu":
            values, kind = values.astype("<i8"), "integer"
        elif values.dtype.kind == "b":
            values, kind = values.astype("u1"), "boolean"
        else:
            raise InvalidInput(
                f"an array of {values.dtype} has no canonical form", where=name, allowed="numbers, times"
            )
        self.text(kind)
        self.text(",".join(str(size) for size in values.shape))
        self._bytes(np.ascontiguousarray(values).tobytes())

    def series(self, name: str, values: pl.Series) -> None:
        """Add a column of a frame; nulls are part of it, and NaN is not null."""
        validity = np.packbits(values.is_not_null().to_numpy(), bitorder="little")
        kind = values.dtype
        if kind == pl.String or isinstance(kind, pl.Categorical | pl.Enum):
            filled = values.cast(pl.String).fill_null("")
            self.text(name)
            self.text("string")
            self._bytes(validity.tobytes())
            self._bytes(filled.str.len_bytes().to_numpy().astype("<i8").tobytes())
            self._bytes(filled.str.join("").item().encode() if len(filled) else b"")
            return
        if kind == pl.Boolean:
            numbers = values.fill_null(value=False).to_numpy().astype(bool)
        elif kind.is_float():
            numbers = values.cast(pl.Float64).fill_null(0.0).to_numpy()
        elif kind.is_integer():
            numbers = values.cast(pl.Int64).fill_null(0).to_numpy()
        elif isinstance(kind, pl.Datetime):
            micros = values.dt.cast_time_unit("us").to_physical().fill_null(0).to_numpy()
            numbers = micros.astype("datetime64[us]")
        else:
            raise InvalidInput(
                f"a column of {kind} has no canonical form",
                where=name,
                allowed="booleans, whole numbers, numbers, strings and times",
            )
        self.array(name, numbers)
        self._bytes(validity.tobytes())

    def frame(self, frame: pl.DataFrame) -> None:
        """Add every column of a frame, in the order of their names."""
        for name in sorted(frame.columns):
            self.series(name, frame[name])

    def digest(self) -> str:
        """Return the digest of everything added, as 64 hexadecimal characters."""
        return self._hash.hexdigest()

    def _bytes(self, data: bytes) -> None:
        self._hash.update(len(data).to_bytes(8, "little"))
        self._hash.update(data)


def frame_digest(frame: pl.DataFrame, key: str) -> str:
    """Return the digest of a table's rows: independent of the order of rows and of columns.

    Args:
        frame: One row per key.
        key: The column that identifies a row.
    """
    hasher = ColumnHasher()
    hasher.frame(frame.sort(key))
    return hasher.digest()
