"""Drift of 30 numeric and 5 text columns against a reference: Kilter beside scipy's KS test and beside plain Polars.

Run it with ``python benchmarks/monitoring_psi.py [rows]``. All three read the same columns in memory, in one thread, in one process. The
work is not quite the same, and that is said: Kilter's line is PSI, JS and binned KS of all 35 columns with the days' noise; scipy's is the
exact two-sample KS of the 30 numeric columns only; Polars' is the PSI of all 35 columns without noise, on the same deciles. Making the reference profile is
timed apart, because it happens once per model version.
"""

from __future__ import annotations

import os

os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import sys
import time
from collections.abc import Callable

import numpy as np
import polars as pl
from scipy.stats import ks_2samp

from kilter.monitoring.drift import measure
from kilter.monitoring.profile import Bins, count, numeric_edges, profile_inputs

NUMERIC, TEXT, DAYS = 30, 5, 14


def table(rows: int, seed: int, moved: float) -> pl.DataFrame:
    generator = np.random.default_rng(seed)
    columns: dict[str, object] = {}
    for number in range(NUMERIC):
        values = generator.normal(moved if number < 10 else 0.0, 1.0, rows)
        values[generator.uniform(size=rows) < 0.02] = np.nan
        columns[f"n{number}"] = values
    for number in range(TEXT):
        columns[f"c{number}"] = [f"v{value}" for value in generator.zipf(1.5, rows) % (3 + 40 * number)]
    return pl.DataFrame(columns)


def timed(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the least CPU time of a few runs, in seconds."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def kilter_drift(bins: dict[str, Bins], current: pl.DataFrame, days: np.ndarray) -> object:
    return measure(bins, count(bins, current, days))


def scipy_ks(reference: pl.DataFrame, current: pl.DataFrame) -> list[float]:
    found = []
    for number in range(NUMERIC):
        before, after = (frame[f"n{number}"].to_numpy() for frame in (reference, current))
        found.append(ks_2samp(before[~np.isnan(before)], after[~np.isnan(after)], method="asymp").statistic)
    return found


def polars_psi(
    edges: dict[str, tuple[float, ...]], before: dict[str, pl.DataFrame], current: pl.DataFrame
) -> list[float]:
    found = []
    for name in current.columns:
        after = polars_counts(edges, current, name)
        both = before[name].join(after, on="bin", how="full", coalesce=True, nulls_equal=True).fill_null(0)
        p, q = (both[side] + 0.5 for side in ("count", "count_right"))
        p, q = p / p.sum(), q / q.sum()
        found.append(float(((q - p) * (q / p).log()).sum()))
    return found


def polars_counts(edges: dict[str, tuple[float, ...]], frame: pl.DataFrame, name: str) -> pl.DataFrame:
    column = frame[name]
    if name in edges:
        column = pl.Series("bin", edges[name]).search_sorted(column.fill_nan(None), side="left").cast(pl.String)
    return column.alias("bin").value_counts(name="count")


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    reference, current = table(rows, 0, 0.0), table(rows, 1, 0.3)
    days = np.sort(np.random.default_rng(2).integers(0, DAYS, rows))
    made = {found.name: found for found in profile_inputs(reference, days)}
    edges = {f"n{number}": numeric_edges(reference[f"n{number}"].to_numpy(), 10) for number in range(NUMERIC)}
    before = {name: polars_counts(edges, reference, name) for name in reference.columns}
    ours = timed(lambda: kilter_drift(made, current, days))
    theirs = timed(lambda: scipy_ks(reference, current), repeats=1)
    plain = timed(lambda: polars_psi(edges, before, current))
    print(
        json.dumps(
            {
                "rows": rows,
                "columns": NUMERIC + TEXT,
                "kilter_cpu_s": round(ours, 4),
                "kilter_profile_cpu_s": round(timed(lambda: profile_inputs(reference, days), repeats=1), 4),
                "scipy_ks_30_columns_cpu_s": round(theirs, 4),
                "polars_psi_cpu_s": round(plain, 4),
                "scipy_over_kilter": round(theirs / ours, 1),
                "polars_over_kilter": round(plain / ours, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
