"""What gates are judged on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kilter.core import statistics
from kilter.core.errors import InvalidInput
from kilter.core.statistics import BlockSize, Codes, Floats


@dataclass(frozen=True)
class GateContext:
    """The holdout rows with everything that a gate may ask for; all arrays have one entry per row, in the same order.

    Args:
        y: Labels, 0 or 1; censored rows are left out by the caller.
        p_challenger: The challenger's predictions.
        p_champion: The champion's predictions on the same rows, or None when there is no champion.
        times: Event times, UTC, from which the blocks are cut.
        groups: The raw columns of the rows, for gates per group; may be empty when no gate is.
        base_rate: The share of positives among the challenger's training rows.
        timings: Seconds of single-row calls of the packaged challenger, see `latency.measure`; None when not measured.
        seed: Of the resampling.
    """

    y: Floats
    p_challenger: Floats
    p_champion: Floats | None
    times: NDArray[Any]
    groups: pl.DataFrame
    base_rate: float
    timings: Floats | None = None
    seed: int = 0

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(np.asarray(self.y).size)

    def codes(self, block: BlockSize) -> Codes:
        """Return the block of each row.

        Raises:
            InvalidInput: When there is not one time per row.
        """
        times = np.asarray(self.times)
        if times.shape != (self.rows,):
            raise InvalidInput(f"{times.size} times for {self.rows} rows", where="times", allowed="one time per row")
        return statistics.block_codes(times.astype("datetime64[us]"), block)
