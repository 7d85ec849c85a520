"""What one call of a packaged model costs in each runtime, beside the model's own ``predict``: one row, and 128 rows.

Microseconds of a call in one process with one thread: the median of a round, the best of several, all in the same run.
``own`` is what a server built around the framework would call. Conversion is not measured, loading is not either.

    python benchmarks/runtimes.py
    python benchmarks/runtimes.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import lightgbm
import numpy as np
import xgboost
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kilter.core.errors import KilterError
from kilter.loop.versions.deploy import packaged
from kilter.packaging.forms import _forms
from kilter.packaging.loading import load_model

COLUMNS, ROUNDS = 20, 7
SIZES = (1, 128)


def by_hand(rows: Any) -> Any:
    return 1.0 / (1.0 + np.exp(-rows[:, 0]))


def models() -> dict[str, tuple[Any, Callable[[Any], Any], str | None]]:
    """Return what is packaged, its own prediction, and its label, by name."""
    random = np.random.default_rng(0)
    X = random.normal(size=(4000, COLUMNS))
    y = (X[:, 0] + X[:, 1] * X[:, 2] + random.normal(size=4000) > 0).astype(int)
    fitted: dict[str, Any] = {
        "XGBoost, 100 trees of depth 6": xgboost.XGBClassifier(n_estimators=100, max_depth=6, n_jobs=1),
        "LightGBM, 100 trees of 31 leaves": lightgbm.LGBMClassifier(n_estimators=100, n_jobs=1, verbosity=-1),
        "scaler + logistic regression": make_pipeline(StandardScaler(), LogisticRegression()),
        "random forest, 50 trees": RandomForestClassifier(50, max_depth=8, n_jobs=1, random_state=0),
        "scaler + network 64-64": make_pipeline(StandardScaler(), MLPClassifier((64, 64), max_iter=20, random_state=0)),
    }
    found = {}
    for title, model in fitted.items():
        model.fit(X, y)
        found[title] = (model, model.predict_proba, None)
    found["function"] = (by_hand, by_hand, "binary")
    try:
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(0)
        layers = (torch.nn.Linear(COLUMNS, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1), torch.nn.Sigmoid())
        network = torch.nn.Sequential(*layers).eval()

        def own(rows: Any) -> Any:
            with torch.inference_mode():
                return network(torch.from_numpy(rows).to(torch.float32)).numpy()

        found["PyTorch network 64"] = (network, own, "binary")
    except ImportError:
        pass
    return found


def microseconds(call: Callable[[], object]) -> float:
    """Return the cost of a call."""
    best = float("inf")
    for _ in range(ROUNDS):
        times = []
        begun = before = perf_counter()
        while before - begun < 0.05 or len(times) < 5:
            call()
            now = perf_counter()
            times.append(now - before)
            before = now
        best = min(best, sorted(times)[len(times) // 2])
    return best * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["KILTER_TRUST"] = str(Path(tempfile.mkdtemp()) / "trusted")
    random = np.random.default_rng(1)
    rows = {size: random.normal(size=(size, COLUMNS)) for size in SIZES}
    table: list[dict[str, Any]] = []
    for title, (model, own, label) in models().items():
        parts = packaged(model, random.normal(size=(64, COLUMNS)), label=label)  # type: ignore[arg-type]
        costs = {size: microseconds(lambda size=size, own=own: own(rows[size])) for size in SIZES}
        table.append({"model": title, "runtime": "own predict", "bytes": 0, "us_1": costs[1], "us_128": costs[128]})
        for form, make in _forms(parts):
            try:
                made = make()
            except KilterError:
                continue
            loaded = load_model(made.manifest.spec(), made.model)
            data = {size: rows[size].tobytes() for size in SIZES}
            costs = {
                size: microseconds(
                    lambda size=size, loaded=loaded, data=data: loaded.predict(data[size], size, COLUMNS)
                )
                for size in SIZES
            }
            runtime = made.manifest.flavor if form != "int8" else "onnx, int8"
            table.append(
                {"model": title, "runtime": runtime, "bytes": len(made.model), "us_1": costs[1], "us_128": costs[128]}
            )
    if options.json:
        print(json.dumps(table))
        return
    print(f"{'model':<34} {'runtime':<16} {'bytes':>9} {'1 row us':>10} {'128 rows us':>12}")
    for row in table:
        print(f"{row['model']:<34} {row['runtime']:<16} {row['bytes']:>9} {row['us_1']:>10.1f} {row['us_128']:>12.1f}")


if __name__ == "__main__":
    main()
