"""A search that a test kills again and again: its trials say that they began and ended in a file of their own."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from kilter import Range, Trial, tune


def objective(trial: Trial) -> float:
    """Take a while, and leave a line behind at both ends."""
    log = Path(os.environ["TUNED_LOG"])
    with log.open("a") as file:
        file.write(f"begin {trial.number} {trial.params['x']!r} {os.getpid()}\n")
    for step in range(1, 4):
        time.sleep(float(os.environ["TUNED_SLEEP"]))
        trial.report(step, float(trial.params["x"]) ** 2 / step)
    with log.open("a") as file:
        file.write(f"end {trial.number} {trial.params['x']!r} {os.getpid()}\n")
    return float(trial.params["x"]) ** 2


if __name__ == "__main__":
    tune(
        objective,
        {"x": Range(-3.0, 3.0)},
        trials=int(sys.argv[2]),
        workers=int(sys.argv[3]),
        store=sys.argv[1],
        study="killed",
    )
