"""What recording, metrics, routing and a shadow add to a request, by leaving them out.

The same front is started once per row of the table, with a part of it taken out (nothing is recorded, nothing is counted) or
put in (a split, a shadow). CPU is user and system time of all server processes per request, from /proc; the rows are measured in
turns, and the median over the rounds is shown. The model answers a constant, so that what a shadow's model costs by itself is
not counted; what it costs to ask it is. ``rules``, ``keys`` and ``trace`` show what redaction, a key and a traced request cost.

    python benchmarks/serving_overhead.py --json
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import httpx
import msgspec
import numpy as np
import uvloop

from kilter.core.access import new_secret
from kilter.core.clock import SystemClock
from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database, metadata
from kilter.packaging.bundle import package
from kilter.packaging.constant import Constant
from kilter.serving.access.keys import PREFIX, KeyService
from kilter.serving.access.reception import Reception
from kilter.serving.answering.endpoint import Endpoint
from kilter.serving.front.intake import Tally
from kilter.serving.front.process import Front, FrontConfig
from kilter.serving.recording.predictions import PredictionLog
from kilter.serving.recording.redaction import Recording, RecordingService
from kilter.serving.records import TrafficPlan
from kilter.serving.service import EndpointService
from kilter.serving.telemetry.metrics import EndpointMetrics
from serving_single_row import many, message, one_by_one

NAMES = tuple(f"f{number}" for number in range(9))
ROUNDS = 5
CASES = ("nothing", "recording", "metrics", "both", "canary", "shadow", "rules", "keys", "trace")
TRACE = b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n"


def take_out(case: str) -> None:
    """Take a part out of this process's front."""
    if case in {"nothing", "metrics"}:
        places = itertools.count()
        PredictionLog.append = lambda _log, _record: next(places)  # type: ignore[method-assign]
    if case in {"nothing", "recording"}:
        counting = ((EndpointMetrics, "observe"), (Endpoint, "_count"), (Reception, "answered"), (Tally, "add"))
        for owner, name in counting:
            setattr(owner, name, lambda *_given: None)


async def serve(config: FrontConfig, case: str) -> None:
    take_out(case)
    front = Front(config)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await front.start()
    await stopping.wait()
    await front.drain()
    await front.stop()


def prepare(folder: Path, case: str) -> tuple[FrontConfig, bytes]:
    objects = ObjectStore.open(str(folder / "objects"))
    encoding = Encoding(NAMES, ("numeric",) * len(NAMES), {})
    bundles = {
        version: package(
            Constant(version / 10), encoding, np.zeros((1, len(NAMES))), [], objects, table=Table("t", "id", "at")
        ).digest
        for version in (1, 2)
    }
    url = f"sqlite:///{folder / 'kilter.db'}"
    database = Database.open(url)
    with database.transaction() as connection:
        metadata.create_all(connection)
    mode: Any = {"canary": "canary", "shadow": "shadow"}.get(case, "solo")
    EndpointService(database, SystemClock()).set_plan(
        TrafficPlan(
            loop="late",
            champion=1,
            challenger=None if mode == "solo" else 2,
            mode=mode,
            share=50 if mode == "canary" else 0,
            bundles=bundles,
        )
    )
    headers = b""
    if case == "rules":
        RecordingService(database, SystemClock()).set("late", Recording(drop=("f0",), hash=("f1",), sample=0.5))
    if case == "keys":
        key, digest = new_secret(PREFIX)
        KeyService(database, SystemClock()).create("app", digest, ["late"])
        headers = f"authorization: Bearer {key}\r\n".encode()
    if case == "trace":
        headers = TRACE
    database.close()
    config = FrontConfig(
        database=url,
        objects=str(folder / "objects"),
        logs=str(folder / "log"),
        port=0,
        announce=str(folder / "front.json"),
    )
    return config, headers


def measure(case: str, count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, headers = prepare(folder, case)
        server = subprocess.Popen(
            [sys.executable, __file__, "--server", msgspec.json.encode(config).decode(), "--case", case]
        )
        try:
            announced = Path(config.announce)
            while not announced.exists():
                time.sleep(0.02)
            port = json.loads(announced.read_text())["port"]
            header, _, value = headers.decode().strip().partition(": ")
            auth = {header: value} if case == "keys" else {}
            endpoint = httpx.get(f"http://127.0.0.1:{port}/models", headers=auth).json()["endpoints"][0]
            pids = [server.pid, *(pid for version in endpoint["versions"] for pid in version["pids"])]
            # One key, as in a benchmark of one row; a split sends it to one arm, as it would any key.
            row = {"id": "k1", "at": "2013-03-01T10:00:00Z", **{n: 0.5 + i for i, n in enumerate(NAMES)}}
            request = message("/predict/late", row).replace(b"host:", headers + b"host:", 1)
            many(port, request, count // 4, pids)
            return {"many": many(port, request, count, pids), "one": one_by_one(port, request, count // 8, pids)}
        finally:
            server.terminate()
            server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--server")
    parser.add_argument("--case", default="both", choices=CASES)
    options = parser.parse_args()
    if options.server:
        uvloop.run(serve(msgspec.json.decode(options.server, type=FrontConfig), options.case))
        return
    found: dict[str, list[dict[str, Any]]] = {case: [] for case in CASES}
    for _ in range(options.rounds):
        for case in CASES:
            found[case].append(measure(case, options.count))
    cpu = {
        case: {kind: round(statistics.median(one[kind]["cpu_us"] for one in rounds), 1) for kind in ("many", "one")}
        for case, rounds in found.items()
    }
    added = {kind: _added({case: each[kind] for case, each in cpu.items()}) for kind in ("many", "one")}
    result = {
        "cpu_us_per_request": cpu,
        "added_us": added,
        "allowed_us": 40,
        "rounds": options.rounds,
        "requests": options.count,
        "python": platform.python_version(),
    }
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'case':<10} {'32 connections':>16} {'1 connection':>14}   CPU us per request")
    for case, each in cpu.items():
        print(f"{case:<10} {each['many']:>16} {each['one']:>14}")
    for kind, parts in added.items():
        said = ", ".join(f"{name} {value:+.1f}" for name, value in parts.items())
        print(f"added, {'32 connections' if kind == 'many' else '1 connection'}: {said} (allowed: 40)")


def _added(cpu: dict[str, float]) -> dict[str, float]:
    """Return what each part adds, and all of them together: a front either splits or shadows."""
    parts = {
        "recording": cpu["both"] - cpu["metrics"],
        "metrics": cpu["both"] - cpu["recording"],
        "routing": cpu["canary"] - cpu["both"],
        "shadow": cpu["shadow"] - cpu["both"],
    }
    both = cpu["both"] - cpu["nothing"]
    parts["together"] = both + max(0.0, parts["routing"]) + max(0.0, parts["shadow"])
    return {name: round(value, 1) for name, value in parts.items()}


if __name__ == "__main__":
    main()
