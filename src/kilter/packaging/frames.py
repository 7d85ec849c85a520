"""A matrix as the frame that a model was fitted on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kilter.packaging.native import Frame


def frame_of(matrix: np.ndarray, names: Sequence[str], categories: Mapping[str, Sequence[str]], library: Frame) -> Any:
    """Return a matrix as the frame that a model was fitted on: codes become values again, NaN stays missing.

    Args:
        matrix: (n, d) float64.
        names: The columns' names.
        categories: Per categorical column its values, in the order of their codes.
        library: Which frame.
    """
    columns: dict[str, Any] = {}
    for position, name in enumerate(names):
        values = matrix[:, position]
        known = categories.get(name)
        if known is None:
            columns[name] = values
            continue
        missing = math.nan if library == "pandas" else None
        columns[name] = [missing if math.isnan(code) else known[int(code)] for code in values.tolist()]
    if library == "polars":
        import polars as pl  # noqa: PLC0415 - a model that was fitted on a frame needs its library, and no other does

        return pl.DataFrame(columns, schema_overrides=dict.fromkeys(categories, pl.String))
    import pandas  # noqa: ICN001, PLC0415 - as above

    frame = pandas.DataFrame(columns)
    for name in categories:
        frame[name] = frame[name].astype(object)
    return frame
