"""The controls: the same year under other policies, computed from the same rows by the backtest."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")

from examples.flights import airline

from kilter.loop.backtest import ALARM_DEPLOYS, BLIND_MONTHLY, FROZEN, Outcome, Trainer, backtest
from kilter.loop.building import prepare
from kilter.loop.declaration.policy import policy_of
from kilter.loop.declaration.spec import load, spec_of

CONTROLS = (FROZEN, BLIND_MONTHLY, ALARM_DEPLOYS)
FILE = Path(__file__).with_name("flight_delay.py")


def outcomes(start: datetime, end: datetime, path: Path = FILE) -> tuple[Outcome, ...]:
    """Return what each policy would have come to between two moments."""
    declared = load(path)
    rows = airline.airline().flights
    trainer = Trainer(declared.loop, prepare(declared.loop, rows))
    return backtest(trainer, policy_of(spec_of(declared), "dev"), start, end, CONTROLS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", type=datetime.fromisoformat, default=datetime(2013, 3, 1, tzinfo=UTC))
    parser.add_argument("--end", type=datetime.fromisoformat, default=datetime(2014, 1, 1, tzinfo=UTC))
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--out", type=Path, help="write there; LightGBM talks on the standard output")
    options = parser.parse_args()
    os.nice(10)  # the replay goes first
    found = msgspec.json.encode(outcomes(options.start, options.end, options.file))
    if options.out is None:
        sys.stdout.buffer.write(found)
    else:
        options.out.write_bytes(found)


if __name__ == "__main__":
    main()
