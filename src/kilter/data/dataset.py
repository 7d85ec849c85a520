"""A dataset: the matrix that ``train`` is given, and where it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from kilter.core.errors import InvalidInput
from kilter.data.canonical import ColumnHasher
from kilter.data.encoding import Encoding


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows of a table with their inputs and their truth, in order of (time, key).

    Args:
        X: float64 (n, d); NaN is missing, categorical columns hold integer codes.
        y: float64 (n,); a boolean label is 0 or 1.
        names: The columns of ``X``.
        categories: Per categorical column its values; the code is the position.
        keys: The rows' keys (n,).
        times: The rows' event times (n,), datetime64[us], UTC.
        frame: The raw inputs, one row per row of ``X``.
        seed: For every random generator of a training.
        digest: Of names, keys, times, raw inputs and labels: the same rows give the same digest on every engine.
    """

    X: np.ndarray
    y: np.ndarray
    names: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]
    keys: np.ndarray
    times: np.ndarray
    frame: pl.DataFrame
    seed: int
    digest: str

    def __len__(self) -> int:
        return len(self.y)

    @property
    def rate(self) -> float:
        """The mean of the labels: the base rate of a binary label."""
        return float(self.y.mean()) if len(self.y) else float("nan")

    @property
    def categorical(self) -> tuple[int, ...]:
        """The positions of the categorical columns of ``X``."""
        return tuple(place for place, name in enumerate(self.names) if name in self.categories)

    @property
    def encoding(self) -> Encoding:
        """The encoding that made ``X``."""
        kinds = tuple("categorical" if name in self.categories else "numeric" for name in self.names)
        return Encoding(self.names, kinds, self.categories)  # type: ignore[arg-type]


def dataset(
    frame: pl.DataFrame,
    inputs: Sequence[str],
    label: str,
    *,
    key: str,
    time: str,
    encoding: Encoding | None = None,
    seed: int = 0,
) -> Dataset:
    """Build a dataset from rows that have their inputs and their label.

    Args:
        frame: One row per key, with the key, the time, the inputs (features included) and the label.
        inputs: The columns that the model sees, in order.
        label: The column of the truth: boolean or numeric, without nulls.
        key: The column that identifies a row.
        time: The event-time column.
        encoding: The encoding of the training rows, for a holdout; None fits one on these rows.
        seed: Handed on to the training.

    Raises:
        DeclarationError: When an input is unknown or of a kind that models can't read.
        InvalidInput: When a label is null, which ``windows.cut`` never returns.
    """
    if encoding is not None and encoding.names != tuple(inputs):
        raise InvalidInput(
            f"inputs {', '.join(inputs)} differ from the encoding's", where="inputs", allowed=", ".join(encoding.names)
        )
    fitted = encoding or Encoding.fit(frame, inputs)
    ordered = frame.sort(time, key)
    labels = ordered[label].cast(pl.Float64)
    if labels.null_count():
        raise InvalidInput(f"{labels.null_count()} rows have no label", where=label, fix="cut the window first")
    raw = ordered.select(list(inputs))
    times = ordered[time].dt.cast_time_unit("us").to_physical().to_numpy().astype("datetime64[us]")
    y = labels.to_numpy().astype(np.float64)
    hasher = ColumnHasher()
    hasher.text("\x00".join(inputs))
    hasher.series("key", ordered[key])
    hasher.array("time", times)
    hasher.array("label", y)
    hasher.frame(raw)
    return Dataset(
        X=np.ascontiguousarray(fitted.matrix(raw)),
        y=y,
        names=fitted.names,
        categories=dict(fitted.categories),
        keys=ordered[key].to_numpy(),
        times=times,
        frame=raw,
        seed=seed,
        digest=hasher.digest(),
    )
