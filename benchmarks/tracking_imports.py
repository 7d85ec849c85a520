"""What an import costs: points a second and memory at the most, for one long run from each source.

    python benchmarks/tracking_imports.py [--points 1000000] [--sources wandb,comet,...] [--json]

The histories are written here in the sources' own formats (the clients would take longer than the import). Each is imported into a new
store by ``kilter import`` in a process of its own; CPU is user and system time of that process, memory its greatest resident size. The
second import of the same history has nothing to do. ``disk`` is the size of what was read.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

METRICS = ("loss", "accuracy", "learning_rate", "seconds")


def values(points: int) -> Iterator[tuple[int, list[float]]]:
    for step in range(points // len(METRICS)):
        yield step, [1.0 / (step + place + 1) for place in range(len(METRICS))]


def mlruns(folder: Path, points: int) -> Path:
    run = folder / "1" / ("a" * 32)
    (run / "metrics").mkdir(parents=True)
    (folder / "1" / "meta.yaml").write_text("experiment_id: '1'\nname: long\n")
    (run / "meta.yaml").write_text(f"run_id: {'a' * 32}\nrun_name: long\nstatus: 3\nstart_time: 1\nend_time: 2\n")
    for place, name in enumerate(METRICS):
        with (run / "metrics" / name).open("w") as file:
            file.writelines(f"{1000 + step} {found[place]!r} {step}\n" for step, found in values(points))
    return folder


def mlflow_db(folder: Path, points: int) -> Path:
    with sqlite3.connect(folder / "mlflow.db") as connection:
        connection.executescript(
            """
            CREATE TABLE experiments (experiment_id INTEGER PRIMARY KEY, name TEXT, lifecycle_stage TEXT);
            CREATE TABLE runs (run_uuid TEXT PRIMARY KEY, name TEXT, status TEXT, start_time BIGINT, end_time BIGINT,
                lifecycle_stage TEXT, artifact_uri TEXT, experiment_id INTEGER, user_id TEXT);
            CREATE TABLE metrics (key TEXT, value FLOAT, timestamp BIGINT, run_uuid TEXT, step BIGINT, is_nan BOOLEAN,
                PRIMARY KEY (key, timestamp, step, run_uuid, value, is_nan));
            CREATE TABLE params (key TEXT, value TEXT, run_uuid TEXT);
            CREATE TABLE tags (key TEXT, value TEXT, run_uuid TEXT);
            CREATE INDEX index_metrics_run_uuid ON metrics (run_uuid);
            INSERT INTO experiments VALUES (1, 'long', 'active');
            INSERT INTO runs VALUES ('a', 'long', 'FINISHED', 1, 2, 'active', '', 1, 'someone');
            """
        )
        rows = (
            (name, value, step, "a", step, 0)
            for step, found in values(points)
            for name, value in zip(METRICS, found, strict=True)
        )
        connection.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?, ?)", rows)
    connection.close()
    return folder / "mlflow.db"


def wandb(folder: Path, points: int) -> Path:
    from kilter.tracking.history.wandb_log import _HEADER, _record

    run = folder / "wandb" / "offline-run-20250101_000000-long"
    run.mkdir(parents=True)
    block = 32768
    with (run / "run-long.wandb").open("wb") as file:
        file.write(struct.pack("<4sHB", b":W&B", 0xBEE1, 0))

        def write(record: object) -> None:
            data: bytes = record.SerializeToString()  # type: ignore[attr-defined]
            kind = 1
            while True:
                left = block - file.tell() % block
                if left < _HEADER.size:
                    file.write(b"\0" * left)
                    left = block
                part, data = data[: left - _HEADER.size], data[left - _HEADER.size :]
                now = kind if data else (1 if kind == 1 else 4)
                now = 2 if data and kind == 1 else 3 if data else now
                file.write(_HEADER.pack(zlib.crc32(part, zlib.crc32(bytes([now]))), len(part), now) + part)
                kind = 3
                if not data:
                    return

        kind = _record()
        first = kind()
        first.run.run_id, first.run.project = "long", "bench"
        first.run.start_time.seconds = 1_700_000_000
        write(first)
        for step, found in values(points):
            record = kind()
            record.history.step.num = step
            for name, value in (
                *zip(METRICS, found, strict=True),
                ("_timestamp", 1.7e9 + step),
                ("_runtime", float(step)),
            ):
                record.history.item.add(nested_key=[name], value_json=repr(value))
            write(record)
        last = kind()
        last.exit.exit_code = 0
        write(last)
    return folder / "wandb"


def comet(folder: Path, points: int) -> Path:
    with zipfile.ZipFile(folder / "long.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        about = {"offline_id": "long", "project_name": "bench", "start_time": 1, "stop_time": 2}
        archive.writestr("experiment.json", json.dumps(about))
        with archive.open("messages.json", "w") as file:
            for step, found in values(points):
                for name, value in zip(METRICS, found, strict=True):
                    metric = {"metricName": name, "metricValue": value, "step": step, "epoch": None}
                    message = {
                        "payload": {"local_timestamp": 1_700_000_000_000 + step, "metric": metric},
                        "type": "metric_msg",
                    }
                    file.write(json.dumps(message).encode() + b"\n")
    return folder / "long.zip"


def tensorboard(folder: Path, points: int) -> Path:
    from kilter.tracking.history.tensorboard import _kinds
    from kilter.tracking.history.tfrecord import _masked

    (folder / "logs" / "long").mkdir(parents=True)
    with (folder / "logs" / "long" / "events.out.tfevents.1700000000.bench").open("wb") as file:
        for step, found in values(points):
            for name, value in zip(METRICS, found, strict=True):
                event = _kinds()["Event"](wall_time=1.7e9 + step, step=step)
                event.summary.value.add(tag=name, simple_value=value)
                data = event.SerializeToString()
                start = struct.pack("<Q", len(data))
                file.write(start + struct.pack("<I", _masked(start)) + data + struct.pack("<I", _masked(data)))
    return folder / "logs"


def neptune(folder: Path, points: int) -> Path:
    import polars as pl

    steps = points // len(METRICS)
    (folder / "data" / "p").mkdir(parents=True)
    frames = [
        pl.DataFrame({"step": pl.arange(steps, eager=True)}).select(
            pl.lit("team/bench").alias("project_id"),
            pl.lit("long").alias("run_id"),
            pl.lit(name).alias("attribute_path"),
            pl.lit("float_series").alias("attribute_type"),
            pl.col("step").cast(pl.Decimal(18, 6)),
            pl.from_epoch(pl.col("step") + 1_700_000_000, "s").cast(pl.Datetime("ms", "UTC")).alias("timestamp"),
            (1.0 / (pl.col("step") + place + 1)).alias("float_value"),
            *(
                pl.lit(None, kind).alias(f"{word}_value")
                for word, kind in (
                    ("int", pl.Int64), ("string", pl.String), ("bool", pl.Boolean),
                    ("datetime", pl.Datetime("ms", "UTC")), ("string_set", pl.List(pl.String)),
                )
            ),
        )
        for place, name in enumerate(METRICS)
    ]  # fmt: skip
    pl.concat(frames).write_parquet(folder / "data" / "p" / "long_part_0.parquet", row_group_size=100_000)
    return folder / "data"


SOURCES: dict[str, tuple[str, Callable[[Path, int], Path]]] = {
    "mlruns": ("mlflow", mlruns),
    "mlflow.db": ("mlflow", mlflow_db),
    "wandb": ("wandb", wandb),
    "comet": ("comet", comet),
    "neptune": ("neptune", neptune),
    "tensorboard": ("tensorboard", tensorboard),
}


def imported(kind: str, place: Path, store: Path) -> dict[str, float]:
    # The measured process is a child of one of its own: the greatest size is of all children that ended.
    before = time.perf_counter()
    code = (
        "import json, resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], capture_output=True, check=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "told = json.loads(done.stdout)\n"
        "print(json.dumps([told['points'], told['failed'], used.ru_utime + used.ru_stime, used.ru_maxrss]))\n"
    )
    command = [sys.executable, "-m", "kilter.cli.main", "import", kind, str(place), "--store", str(store), "--json"]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, check=True)
    points, failed, cpu, peak = json.loads(done.stdout)
    assert not failed, failed
    return {"points": points, "seconds": time.perf_counter() - before, "cpu": cpu, "peak_mb": peak / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--sources", default=",".join(SOURCES))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = {}
    for name in options.sources.split(","):
        kind, write = SOURCES[name]
        folder = Path(tempfile.mkdtemp(prefix="kilter-imports-"))
        try:
            place = write(folder, options.points)
            size = sum(path.stat().st_size for path in ([place] if place.is_file() else place.rglob("*")))
            first = imported(kind, place, folder / "store")
            again = imported(kind, place, folder / "store")
            assert first["points"] == options.points // len(METRICS) * len(METRICS)
            assert again["points"] == 0
            found[name] = {
                "disk_mb": round(size / 1e6, 1),
                "points_per_second": round(first["points"] / first["seconds"]),
                "points_per_cpu_second": round(first["points"] / first["cpu"]),
                "seconds": round(first["seconds"], 1),
                "cpu_seconds": round(first["cpu"], 1),
                "peak_mb": round(first["peak_mb"]),
                "again_cpu_seconds": round(again["cpu"], 1),
            }
            if not options.json:
                print(name, found[name], flush=True)
        finally:
            shutil.rmtree(folder)
    if options.json:
        print(json.dumps({"points": options.points, "sources": found, "own_peak_mb": _own()}))


def _own() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
