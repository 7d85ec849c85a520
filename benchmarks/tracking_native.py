"""The native client: what a call costs the training, and how many points a second become durable, embedded and through a server.

    python benchmarks/tracking_native.py [--calls 1000000] [--points 1000000] [--away 0] [--json]

``call`` is the time of one ``run.metric(...)`` in a loop of so many, each measured by itself. ``durable`` counts from the first call until
the store has everything. ``operation`` is ``log_columns`` alone, in batches of 50,000 points of five metrics. CPU is user and system time
of all processes together, beside the wall clock. ``--away 60`` also lets a training of 10,000 steps go on while its server is away for a
minute, and counts what arrived.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["KILTER_QUIET"] = "1"
os.environ["KILTER_SYSTEM_METRICS"] = "0"
os.environ["KILTER_TOKEN"] = "a-token-of-a-benchmark"  # noqa: S105
os.environ["KILTER_PATIENCE"] = "60"

import kilter
from kilter.operations.running import RunFolder
from kilter.tracking.columns import packed
from kilter.tracking.sdk.places import connect

TICK = os.sysconf("SC_CLK_TCK")
BATCH = 50_000
NAMES = ["train/loss", "train/accuracy", "valid/loss", "valid/accuracy", "rate"]


class Server:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "kilter.cli.main",
            "server",
            "--store",
            str(self.folder),
            "--port",
            str(self.port),
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        run = RunFolder(self.folder / "run")
        while (found := run.read("server")) is None or found.pid != self.process.pid:
            time.sleep(0.02)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def cpu(self) -> float:
        if self.process is None:
            return 0.0
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(value) for value in fields[11:15]) / TICK


@contextmanager
def stores(root: Path) -> Iterator[dict[str, tuple[str, Callable[[], float]]]]:
    server = Server(root / "server")
    server.start()
    try:
        yield {"embedded": (str(root / "embedded"), lambda: 0.0), "server": (server.url, server.cpu)}
    finally:
        server.kill()


def calls(store: str, count: int, cpu_of_server: Callable[[], float]) -> dict[str, Any]:
    took = array("q", bytes(8 * count))
    clock = time.perf_counter_ns
    with kilter.run("calls", store=store, record=False) as run:
        run.metric("first", 0.0)
        run.wait()  # connected: what comes is the logging alone
        began, cpu = time.perf_counter(), time.process_time() + cpu_of_server()
        metric = run.metric
        for step in range(count):
            at = clock()
            metric("loss", 0.5, step)
            took[step] = clock() - at
        looped = time.perf_counter() - began
        assert run.wait(120)
        wall, cpu = time.perf_counter() - began, time.process_time() + cpu_of_server() - cpu
        identity = run.id
    check(store, identity, "loss", count)
    ordered = sorted(took)
    return {
        "calls": count,
        "call_median_us": ordered[count // 2] / 1e3,
        "call_p99_us": ordered[int(count * 0.99)] / 1e3,
        "call_mean_us": looped / count * 1e6,
        "durable_points_per_s": count / wall,
        "points_per_cpu_s": count / cpu,
    }


def histories(store: str, points: int, cpu_of_server: Callable[[], float]) -> dict[str, Any]:
    values = [0.5] * BATCH
    with kilter.run("history", store=store, record=False) as run:
        run.metric("first", 0.0)
        run.wait()
        began, cpu = time.perf_counter(), time.process_time() + cpu_of_server()
        for _ in range(points // BATCH):
            run.history("loss", values)
        assert run.wait(120)
        wall, cpu = time.perf_counter() - began, time.process_time() + cpu_of_server() - cpu
        identity = run.id
    check(store, identity, "loss", points // BATCH * BATCH)
    return {"durable_points_per_s": points / wall, "points_per_cpu_s": points / cpu}


def operation(store: str, points: int, cpu_of_server: Callable[[], float]) -> dict[str, Any]:
    service, close = connect(store)
    try:
        run = service.start("operation").id
        each = BATCH // len(NAMES)
        batches = [
            packed(list(range(number * each, (number + 1) * each)) * len(NAMES), [0.5] * BATCH, [10**15] * BATCH)
            for number in range(points // BATCH)
        ]
        began, cpu = time.perf_counter(), time.process_time() + cpu_of_server()
        for number, data in enumerate(batches):
            service.log_columns(run, NAMES, [each] * len(NAMES), data, str(number))
        wall, cpu = time.perf_counter() - began, time.process_time() + cpu_of_server() - cpu
        assert {one.count for one in service.get(run).metrics} == {each * len(batches)}
    finally:
        close()
    return {"durable_points_per_s": points / wall, "points_per_cpu_s": points / cpu}


def away(root: Path, seconds: float) -> dict[str, Any]:
    """A training of 10,000 steps while its server is away."""
    server = Server(root / "away")
    server.start()
    slowest, steps = 0.0, 10_000
    with kilter.run("away", store=server.url, record=False) as run:
        begun = time.perf_counter()
        gone = back = False
        for step in range(steps):
            at = time.perf_counter()
            run.metric("loss", 1 / (step + 1), step)
            slowest = max(slowest, time.perf_counter() - at)
            if not gone and step >= 500:
                server.kill()
                gone, since = True, time.perf_counter()
            if gone and not back and time.perf_counter() - since >= seconds:
                server.start()
                back = True
            time.sleep(max((seconds + 4) / steps - 1e-4, 0))
        trained = time.perf_counter() - begun
        if not back:
            server.start()
        identity = run.id
    settled = time.perf_counter() - begun - trained
    service, close = connect(server.url)
    found = service.get(identity)
    arrived = [point.step for point in service.metrics(identity, "loss")]
    close()
    server.kill()
    assert arrived == list(range(steps))
    return {
        "away_s": seconds,
        "training_s": trained,
        "slowest_call_ms": slowest * 1e3,
        "arrived": len(arrived),
        "status": found.status,
        "settled_after_s": settled,
    }


def check(store: str, run: str, name: str, count: int) -> None:
    service, close = connect(store)
    found = next(one.count for one in service.get(run).metrics if one.name == name)
    close()
    assert found == count, (found, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--away", type=float, default=0.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        os.environ["KILTER_BUFFER"] = f"{place}/buffer"
        with stores(Path(place)) as known:
            for kind, (store, cpu) in known.items():
                results[f"{kind} calls"] = calls(store, options.calls, cpu)
                results[f"{kind} history"] = histories(store, options.points, cpu)
                results[f"{kind} operation"] = operation(store, options.points, cpu)
        if options.away:
            results["away"] = away(Path(place), options.away)
    if options.json:
        print(json.dumps(results))
        return
    for title, values in results.items():
        print(title)
        for name, value in values.items():
            print(f"  {name:<22} {value:>14,.2f}" if isinstance(value, float) else f"  {name:<22} {value:>14}")


if __name__ == "__main__":
    main()
