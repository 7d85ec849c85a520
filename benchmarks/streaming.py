"""Scoring a stream, against what carries messages from stream to stream without a model, in the same run.

The floor takes a batch, writes each message's bytes to the other stream under an id, waits until they are safe and commits: what a
scorer on these streams can't be quicker than. The scoring does the same, and between the two it decodes JSON, encodes two text
columns, calls LightGBM, records the predictions (unless it says "unrecorded") and encodes the answers. Each runs in turn on the
same messages, and the best of some rounds counts. Kafka is librdkafka's mock cluster, in a process of its own: its processor time
is not counted, and on a machine of few cores it takes some of the wall clock.

    python benchmarks/streaming.py --json
    python benchmarks/streaming.py --engines log --messages 200000 --batch 1000
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

from kilter.core.clock import SystemClock
from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.engines.streams.places import open_sink, open_source, place_of
from kilter.engines.streams.port import Outgoing
from kilter.loop.versions.streaming import StreamPlan, stream
from kilter.loop.workspace import Workspace
from kilter.packaging.bundle import package

NUMBERS = tuple(f"f{number}" for number in range(7))
NAMES = (*NUMBERS, "carrier", "dest")
CARRIERS = tuple(f"C{n}" for n in range(16))
DESTS = tuple(f"D{n:03d}" for n in range(110))
CLUSTER = """
import sys
from confluent_kafka import Producer
producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock", "log_level": 0})
broker = next(iter(producer.list_topics(timeout=10).brokers.values()))
print(f"{broker.host}:{broker.port}", flush=True)
sys.stdin.read()
"""


@contextmanager
def addresses(engine: str) -> Iterator[str]:
    """Give the pattern of an engine's addresses."""
    if engine == "log":
        yield "log:{}"
        return
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    yield f"kafka://{process.stdout.readline().strip()}/{{}}"
    process.stdin.close()
    process.wait()
    process.stdout.close()


def messages(count: int) -> list[Outgoing]:
    random = np.random.default_rng(0)
    numbers = random.normal(size=(count, len(NUMBERS))).round(6).tolist()
    carriers, dests = random.integers(0, 16, count).tolist(), random.integers(0, 110, count).tolist()
    made = []
    for place, values in enumerate(numbers):
        row = {"id": f"m{place}", "at": "2013-03-01T10:00:00Z", **dict(zip(NUMBERS, values, strict=True))}
        row |= {"carrier": CARRIERS[carriers[place]], "dest": DESTS[dests[place]]}
        made.append(Outgoing("", row["id"].encode(), json.dumps(row).encode()))
    return made


def register(workspace: Workspace) -> None:
    random = np.random.default_rng(1)
    X = random.normal(size=(20_000, len(NAMES)))
    X[:, 7], X[:, 8] = random.integers(0, 16, len(X)), random.integers(0, 110, len(X))
    y = (X[:, 0] + X[:, 7] / 16 + random.normal(size=len(X)) > 0).astype(int)
    model = lightgbm.LGBMClassifier(n_estimators=80, num_leaves=31, n_jobs=1, verbosity=-1)
    model.fit(X, y, categorical_feature=[7, 8])
    encoding = Encoding(NAMES, ("numeric",) * 7 + ("categorical",) * 2, {"carrier": CARRIERS, "dest": DESTS})
    bundle = package(model, encoding, X, [], workspace.objects, table=Table("t", "id", "at"))
    workspace.models.register("late", bundle.digest, "run", "spec", "data", "benchmark")


def floor(pattern: str, folder: Path, number: int, batch: int) -> Generator[int, None, None]:
    """Carry all messages of the stream on; yield how many a turn carried."""
    options = "" if pattern.startswith("log") else "?partitions=all"
    sink = open_sink(place_of(pattern.format(f"floor{number}"), "--to"), folder)
    source = open_source(place_of(pattern.format("in") + options, "--from"), f"floor{number}", sink.mark, folder)
    try:
        while True:
            taken = source.take(batch, 0.5).messages
            if taken:
                sink.send([Outgoing(f"floor/{one.id}", one.key, one.value) for one in taken])
                sink.flush()
                source.commit(sink.mark())
            yield len(taken)
    finally:
        source.close()
        sink.close()


def scoring(pattern: str, workspace: Workspace, number: int, batch: int, *, record: bool) -> Generator[int, None, None]:
    """Answer all messages of the stream; yield how many a turn answered."""
    options = "" if pattern.startswith("log") else "?partitions=all"
    name = f"{'recorded' if record else 'unrecorded'}{number}"
    plan = StreamPlan(
        model="late@v1", source=pattern.format("in") + options, target=pattern.format(name), group=name,
        batch=batch, record=record,
    )  # fmt: skip
    for turn in stream(workspace, plan, lambda: False):
        yield turn.answered


def timed(turns: Generator[int, None, None], count: int) -> dict[str, float]:
    """Return the pace from the moment when everything is open and the first batch is taken, to the last commit."""
    done, wall, processor = 0, time.perf_counter(), time.process_time()
    counted = 0
    with closing(turns):
        for number in turns:
            if not done:  # the first batch is not counted: streams and model are opened before it
                gc.collect()
                gc.freeze()  # as the command does
                wall, processor = time.perf_counter(), time.process_time()
            else:
                counted += number
            done += number
            if done >= count:
                break
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
    gc.unfreeze()
    return {"per_second": round(counted / wall), "cpu_microseconds": round(processor / counted * 1e6, 2)}


def best(runs: list[dict[str, float]]) -> dict[str, float]:
    return min(runs, key=lambda one: one["cpu_microseconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--engines", default="log,kafka")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    given = messages(options.messages)
    results: list[dict[str, Any]] = []
    for engine in options.engines.split(","):
        with tempfile.TemporaryDirectory() as name, addresses(engine) as pattern:
            workspace = Workspace.open(name, clock=SystemClock())
            folder = workspace.store.folder / "log" / "streams"
            register(workspace)
            sink = open_sink(place_of(pattern.format("in"), "--to"), folder)
            for start in range(0, len(given), 10_000):
                sink.send(given[start : start + 10_000])
                sink.flush()
            sink.close()
            runs: dict[str, list[dict[str, float]]] = {"floor": [], "unrecorded": [], "recorded": []}
            for number in range(options.rounds):
                runs["floor"].append(timed(floor(pattern, folder, number, options.batch), len(given)))
                for what in ("unrecorded", "recorded"):
                    turns = scoring(pattern, workspace, number, options.batch, record=what == "recorded")
                    runs[what].append(timed(turns, len(given)))
            workspace.close()
            for what, found in runs.items():
                results.append(
                    {"engine": engine, "what": what, "messages": len(given), "batch": options.batch} | best(found)
                )
    if options.json:
        print(json.dumps(results))
        return
    for one in results:
        print(
            "  ".join(f"{key} {value:,}" if isinstance(value, int) else f"{key} {value}" for key, value in one.items())
        )


if __name__ == "__main__":
    main()
