"""Rows to begin with: parcels of the last months. Replace them by your own."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl


def parcels(until: datetime, days: int = 120, per_day: int = 60, seed: int = 0) -> pl.DataFrame:
    """Return parcels that were sent in the days before a moment; those still under way have no hours yet."""
    rng = np.random.default_rng(seed)
    n = days * per_day
    sent = np.sort(rng.uniform(0, days * 86400, n))
    carrier = rng.choice(["blue", "green", "red"], n, p=[0.5, 0.3, 0.2])
    distance = rng.gamma(2.0, 200.0, n)
    weight = rng.gamma(1.5, 2.0, n)
    sent_at = [until - timedelta(days=days) + timedelta(seconds=round(second)) for second in sent]
    weekday = np.array([moment.isoweekday() for moment in sent_at])
    slow = 8 * (carrier == "red") + 10 * (weekday >= 6) + distance / 40 + weight
    hours = np.round(24 + slow + rng.gamma(2.0, 4.0, n), 1)
    delivered_at = [moment + timedelta(hours=float(hour)) for moment, hour in zip(sent_at, hours, strict=True)]
    there = pl.col("delivered_at") <= until
    return pl.DataFrame(
        {
            "parcel_id": [f"p{seed}-{i:06d}" for i in range(n)],
            "sent_at": sent_at,
            "carrier": carrier,
            "weekday": weekday,
            "weight": np.round(weight, 2),
            "distance": np.round(distance, 1),
            "hours": hours,
            "delivered_at": delivered_at,
        }
    ).with_columns(hours=pl.when(there).then("hours"), delivered_at=pl.when(there).then("delivered_at"))


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("file", nargs="?", type=Path, default=Path("parcels.csv"))
    file = options.parse_args().file
    rows = parcels(datetime.now(UTC).replace(microsecond=0))
    rows.write_csv(file, datetime_format="%Y-%m-%dT%H:%M:%SZ")
    print(f"{len(rows):,} parcels in {file}")
