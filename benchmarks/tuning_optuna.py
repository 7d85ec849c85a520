"""What a trial costs beside its own work: Kilter's studies against bare Optuna, in memory and with its SQLite storage.

The same objective (a sum of squares, which costs nothing), the same space, the same sampler with the same seed, in turns on the same
machine. Kilter keeps each trial as a run (parameters, tags, metric, CPU seconds, status); Optuna in memory keeps nothing.
Reported is CPU and wall time per trial, the median over rounds, and how many runs and points are in the store afterwards.

    python benchmarks/tuning_optuna.py --trials 200 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import optuna

import kilter
from kilter import Choice, Range, Trial

warnings.simplefilter("ignore")
optuna.logging.set_verbosity(optuna.logging.ERROR)


def kilters(trials: int, sampler: str, reports: int, folder: Path) -> None:
    def objective(trial: Trial) -> float:
        loss = sum((trial.params[name] - 0.3) ** 2 for name in ("a", "b", "c"))
        for step in range(1, reports + 1):
            trial.report(step, loss + 1 / step)
        return float(loss)

    space = {"a": Range(0.0, 1.0), "b": Range(0.0, 1.0), "c": Range(0.001, 1.0, log=True), "d": Choice("x", "y")}
    found = kilter.tune(objective, space, trials=trials, sampler=sampler, store=folder)  # type: ignore[arg-type]
    assert len(found.trials) == trials


def optunas(trials: int, sampler: str, reports: int, storage: str | None) -> None:
    def objective(trial: optuna.Trial) -> float:
        a, b = trial.suggest_float("a", 0, 1), trial.suggest_float("b", 0, 1)
        c = trial.suggest_float("c", 0.001, 1, log=True)
        trial.suggest_categorical("d", ["x", "y"])
        loss = sum((value - 0.3) ** 2 for value in (a, b, c))
        for step in range(1, reports + 1):
            trial.report(loss + 1 / step, step)
        return loss

    made = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}[sampler](seed=0)
    study = optuna.create_study(sampler=made, storage=storage)
    study.optimize(objective, n_trials=trials)


def timed(work: Callable[[], None], trials: int) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return (time.process_time() - cpu) / trials * 1e3, (time.perf_counter() - wall) / trials * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reports", type=int, default=10)
    options = parser.parse_args()
    trials, reports = options.trials, options.reports
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        for sampler in ("random", "tpe"):
            kilters(2, sampler, reports, store)  # the schema and the imports are not what is measured
            optunas(2, sampler, reports, None)
            for number in range(options.rounds):
                peers: dict[str, Callable[[], None]] = {
                    "optuna, in memory": lambda sampler=sampler: optunas(trials, sampler, reports, None),  # type: ignore[misc]
                    "optuna, SQLite": lambda sampler=sampler, number=number: optunas(  # type: ignore[misc]
                        trials, sampler, reports, f"sqlite:///{folder}/{sampler}{number}.db"
                    ),
                    "kilter, runs in SQLite": lambda sampler=sampler: kilters(trials, sampler, reports, store),  # type: ignore[misc]
                }
                for name, work in peers.items():
                    found.setdefault(f"{sampler}: {name}", []).append(timed(work, trials))
    result = {
        name: {
            "cpu_ms_per_trial": round(statistics.median(cpu for cpu, _ in times), 3),
            "wall_ms_per_trial": round(statistics.median(wall for _, wall in times), 3),
        }
        for name, times in found.items()
    }
    print(json.dumps({"trials": trials, "reports": reports, "rounds": options.rounds, "results": result}, indent=2))


if __name__ == "__main__":
    main()
