"""What a single-row prediction through HTTP costs, against the bare model call plus a bare JSON echo on the same server.

CPU is the time on a processor of all server processes (front and worker) per request, from /proc; latency is the client's.
The echo runs on the same front, in the same process, through the same parser: it decodes the same JSON body and encodes it
again. The bare call is LightGBM's own ``Booster.predict`` on one row with one thread; ``native`` is the call that the worker
really makes, which is cheaper, so the ratio against it is the harder one.

    python benchmarks/serving_single_row.py --json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import lightgbm
import msgspec
import numpy as np
import uvloop

from kilter.core.clock import SystemClock
from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database, metadata
from kilter.packaging.bundle import fetch, package
from kilter.packaging.loading import load_model
from kilter.serving.front.http import Request
from kilter.serving.front.process import Front, FrontConfig
from kilter.serving.records import TrafficPlan
from kilter.serving.service import EndpointService

NAMES = tuple(f"f{number}" for number in range(9))
ROUNDS = 7


def echo(request: Request) -> None:
    request.reply.send(200, msgspec.json.encode(msgspec.json.decode(request.body)))


async def serve_with_echo(config: FrontConfig) -> None:
    front = Front(config)
    front.faces.routes[b"/echo"] = {b"POST": echo}
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await front.start()
    await stopping.wait()
    await front.drain()
    await front.stop()


def prepare(folder: Path) -> tuple[FrontConfig, str, Any]:
    random = np.random.default_rng(0)
    X = random.normal(size=(20_000, len(NAMES)))
    y = (X[:, 0] + random.normal(size=len(X)) > 0).astype(int)
    model = lightgbm.LGBMClassifier(n_estimators=80, num_leaves=31, n_jobs=1, verbosity=-1).fit(X, y)
    objects = ObjectStore.open(str(folder / "objects"))
    bundle = package(
        model, Encoding(NAMES, ("numeric",) * len(NAMES), {}), X, [], objects, table=Table("t", "id", "at")
    )
    url = f"sqlite:///{folder / 'kilter.db'}"
    database = Database.open(url)
    with database.transaction() as connection:
        metadata.create_all(connection)
    EndpointService(database, SystemClock()).set_plan(
        TrafficPlan(loop="late", champion=1, bundles={1: bundle.digest}, fallback=0.5)
    )
    database.close()
    config = FrontConfig(
        database=url,
        objects=str(folder / "objects"),
        logs=str(folder / "log"),
        port=0,
        announce=str(folder / "front.json"),
    )
    return config, bundle.digest, model


def cpu_of(pids: list[int]) -> float:
    """Seconds of CPU that processes have used, all their threads, to the nanosecond."""
    tasks = [path for pid in pids for path in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((path / "schedstat").read_text().split()[0]) for path in tasks) / 1e9


def message(path: str, row: dict[str, object]) -> bytes:
    body = json.dumps({"rows": [row]}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def receive(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    need = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < need:
        body += connection.recv(65536)
    if not data.startswith(b"HTTP/1.1 200"):
        raise SystemExit(data.decode())
    return body


def one_by_one(port: int, request: bytes, count: int, pids: list[int]) -> dict[str, float]:
    connection = connect(port)
    for _ in range(200):
        connection.sendall(request)
        receive(connection)
    latencies = []
    before, begun = cpu_of(pids), time.perf_counter()
    for _ in range(count):
        start = time.perf_counter()
        connection.sendall(request)
        receive(connection)
        latencies.append(time.perf_counter() - start)
    seconds, used = time.perf_counter() - begun, cpu_of(pids) - before
    latencies.sort()
    connection.close()
    return {
        "cpu_us": round(used / count * 1e6, 1),
        "p50_us": round(statistics.median(latencies) * 1e6, 1),
        "p99_us": round(latencies[int(count * 0.99)] * 1e6, 1),
        "per_second": round(count / seconds),
    }


def many(port: int, request: bytes, count: int, pids: list[int], connections: int = 32) -> dict[str, float]:
    selector = selectors.DefaultSelector()
    clients = [connect(port) for _ in range(connections)]
    for client in clients:
        selector.register(client, selectors.EVENT_READ)
    before, begun = cpu_of(pids), time.perf_counter()
    for client in clients:
        client.sendall(request)
    sent, got = connections, 0
    while got < count:
        for key, _ in selector.select():
            receive(key.fileobj)  # type: ignore[arg-type]
            got += 1
            if sent < count:
                key.fileobj.sendall(request)  # type: ignore[union-attr]
                sent += 1
    seconds, used = time.perf_counter() - begun, cpu_of(pids) - before
    for client in clients:
        client.close()
    return {"cpu_us": round(used / count * 1e6, 1), "per_second": round(count / seconds)}


def bare(call: Any, count: int = 20_000) -> float:
    for _ in range(200):
        call()
    begun = time.process_time()
    for _ in range(count):
        call()
    return round((time.process_time() - begun) / count * 1e6, 2)


def measure(count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, digest, model = prepare(folder)
        row = np.random.default_rng(1).normal(size=(1, len(NAMES)))
        booster = model.booster_
        parts = fetch(digest, ObjectStore.open(config.objects))
        native = load_model(parts.manifest.spec(), parts.model)
        raw = row.tobytes()
        calls = {
            "booster": lambda: booster.predict(row, num_threads=1),
            "native": lambda: native.predict(raw, 1, len(NAMES)),
            "sklearn_wrapper": lambda: model.predict_proba(row),
        }
        server = subprocess.Popen([sys.executable, __file__, "--server", msgspec.json.encode(config).decode()])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # scikit-learn's wrapper warns of a matrix without names
                return beside(folder, server, row, count, calls)
        finally:
            server.terminate()
            server.wait()


def beside(
    folder: Path, server: subprocess.Popen[bytes], row: np.ndarray, count: int, calls: dict[str, Any]
) -> dict[str, Any]:
    while not (folder / "front.json").exists():
        if server.poll() is not None:
            raise SystemExit("the server did not start")
        time.sleep(0.01)
    port = json.loads((folder / "front.json").read_text())["port"]
    with connect(port) as connection:
        connection.sendall(b"GET /models HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        models = json.loads(receive(connection))
    version = models["endpoints"][0]["versions"][0]
    pids = [models["pid"], *version["pids"]]
    body = dict(zip(NAMES, row[0].tolist(), strict=True)) | {"id": "UA-1545-2013-03-01", "at": "2013-03-01T10:15:00Z"}
    echo_request, predict_request = message("/echo", body), message("/predict/late", body)
    rounds = [  # everything in every round, so that a busy moment of the machine meets all of it
        {
            "echo": one_by_one(port, echo_request, count, pids),
            "predict": one_by_one(port, predict_request, count, pids),
            **{name: bare(call, 500 if name == "sklearn_wrapper" else count) for name, call in calls.items()},
        }
        for _ in range(ROUNDS)
    ]

    def ratio(name: str, call: str) -> float:
        found = [one["predict"][name] / (one["echo"][name] + one[call]) for one in rounds]
        return round(statistics.median(found), 2)

    middle = sorted(rounds, key=lambda one: one["predict"]["cpu_us"] / (one["echo"]["cpu_us"] + one["booster"]))[
        ROUNDS // 2
    ]
    result: dict[str, Any] = {
        "ratio_cpu": ratio("cpu_us", "booster"),
        "ratio_latency": ratio("p50_us", "booster"),
        "ratio_cpu_native": ratio("cpu_us", "native"),
        "predict": middle["predict"],
        "echo": middle["echo"],
        "bare_call_cpu_us": {name: middle[name] for name in calls},
        "predict_32": many(port, predict_request, count * 2, pids),
        "echo_32": many(port, echo_request, count * 2, pids),
        "worker_start_seconds": version["start_seconds"],
        "bound": 3.0,
    }
    result["ok"] = result["ratio_cpu"] < result["bound"]
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--count", type=int, default=5_000)
    parser.add_argument("--server", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.server:
        uvloop.run(serve_with_echo(msgspec.json.decode(arguments.server, type=FrontConfig)))
        return 0
    result = measure(arguments.count)
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:24} {value}")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
