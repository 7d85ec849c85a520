"""Scoring a Parquet file, against the bare native call on the same Arrow batches in the same run.

The bare call is the framework's own (``Booster.predict`` of LightGBM, ``Booster.inplace_predict`` of XGBoost) on matrices that are
in memory already, with the same number of threads, in the quicker of two arrangements: the framework's threads within each call, or a
thread per batch. The scoring reads the file, encodes two text columns, predicts, and writes Parquet parts with the key. Each is timed
in turn, and the best of some rounds counts.

    python benchmarks/batch_scoring.py --json
    python benchmarks/batch_scoring.py --rows 10000000 --rounds 1
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))

import lightgbm
import numpy as np
import polars as pl
import xgboost

from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.engines.files.reading import batches, pieces
from kilter.loop.versions.batch import batch
from kilter.loop.workspace import Workspace
from kilter.packaging.bundle import package

NUMBERS = tuple(f"f{number}" for number in range(7))
NAMES = (*NUMBERS, "carrier", "dest")
CHUNK = 1_000_000


def write(place: Path, rows: int) -> None:
    random = np.random.default_rng(0)
    carriers = np.array([f"C{n}" for n in range(16)])
    dests = np.array([f"D{n:03d}" for n in range(110)])
    place.mkdir()
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        columns: dict[str, Any] = {"id": np.arange(start, start + count)}
        columns |= {name: random.normal(size=count) for name in NUMBERS}
        columns |= {"carrier": carriers[random.integers(0, 16, count)], "dest": dests[random.integers(0, 110, count)]}
        pl.DataFrame(columns).write_parquet(place / f"{start:012d}.parquet")


def fit(kind: str, encoding: Encoding, frame: pl.DataFrame) -> Any:
    X = encoding.matrix(frame)
    y = (X[:, 0] + X[:, 7] / 16 + np.random.default_rng(1).normal(size=len(X)) > 0).astype(int)
    if kind == "lightgbm":
        model = lightgbm.LGBMClassifier(n_estimators=80, num_leaves=31, n_jobs=1, verbosity=-1)
        return model.fit(X, y, categorical_feature=[7, 8])
    return xgboost.XGBClassifier(n_estimators=100, max_depth=6, n_jobs=1).fit(X, y)


def bare(kind: str, model: Any, encoding: Encoding, place: Path, threads: int) -> dict[str, float]:
    """Return the seconds of the native calls alone, by arrangement; matrices are made outside the clock.

    The threads are the framework's own within each call, or each has a batch and calls with one thread of the framework.
    """
    booster = model.booster_ if kind == "lightgbm" else model.get_booster()
    spent = {"within": 0.0, "beside": 0.0}

    def call(matrix: np.ndarray, inside: int) -> None:
        if kind == "lightgbm":
            booster.predict(matrix, num_threads=inside)
        else:
            booster.inplace_predict(matrix)

    with ThreadPoolExecutor(threads) as pool:
        for piece in pieces(str(place)):
            frames = batches(piece, str(place), rows=65_536)
            while some := list(islice(frames, 2 * threads)):
                matrices = [np.ascontiguousarray(encoding.matrix(frame)) for frame in some]
                for arrangement, inside in (("within", threads), ("beside", 1)):
                    if kind == "xgboost":
                        booster.set_param({"nthread": inside})
                    start = time.perf_counter()
                    if arrangement == "within":
                        for matrix in matrices:
                            call(matrix, inside)
                    else:
                        list(pool.map(call, matrices, [inside] * len(matrices)))
                    spent[arrangement] += time.perf_counter() - start
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--kinds", default="lightgbm,xgboost")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "in", options.rows)
        head = pl.read_parquet(folder / "in" / f"{0:012d}.parquet", n_rows=50_000)
        encoding = Encoding.fit(head, NAMES)
        workspace = Workspace.open(folder / "store")
        for kind in options.kinds.split(","):
            model = fit(kind, encoding, head)
            bundle = package(
                model, encoding, encoding.matrix(head), [], workspace.objects, table=Table("t", "id", "at")
            )
            workspace.models.register(kind, bundle.digest, "run", "spec", "data", "benchmark")
            alone, whole = [], []
            for _ in range(options.rounds):
                spent = bare(kind, model, encoding, folder / "in", options.threads)
                arrangement = min(spent, key=lambda name: spent[name])
                alone.append(spent[arrangement])
                start = time.perf_counter()
                done = batch(f"{kind}@v1", folder / "in", folder / "out", store=workspace, threads=options.threads)
                whole.append(time.perf_counter() - start)
                assert done.rows == options.rows
                shutil.rmtree(folder / "out")
                shutil.rmtree(folder / ".out.batch")
            results.append(
                {
                    "model": kind,
                    "rows": options.rows,
                    "threads": options.threads,
                    "bare_threads": arrangement,
                    "bare_seconds": round(min(alone), 3),
                    "score_seconds": round(min(whole), 3),
                    "bare_rows_per_second": round(options.rows / min(alone)),
                    "score_rows_per_second": round(options.rows / min(whole)),
                    "ratio": round(min(whole) / min(alone), 3),
                    "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
                    "ratio_of_medians": round(statistics.median(whole) / statistics.median(alone), 3),
                }
            )
        workspace.close()
    if options.json:
        print(json.dumps(results))
        return
    for one in results:
        print(
            "  ".join(
                f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}" for name, value in one.items()
            )
        )


if __name__ == "__main__":
    main()
