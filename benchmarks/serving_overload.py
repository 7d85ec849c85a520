"""What a slow model gives: through batching, and when ten times more is asked of it than it can answer.

The model is a forest whose call has a fixed cost of some milliseconds, whatever the number of rows. Against it:

- *batching*: requests per second at 32 connections and the median latency of one, beside the same front with batches of one row;
- *overload*: a steady load of ten times the capacity; what is answered beside the capacity, the latency of what was accepted,
  what is refused, the front's memory, and how soon one caller is answered as before once the load ends.

    python benchmarks/serving_overload.py --json            # ten seconds of overload
    python benchmarks/serving_overload.py --seconds 60
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import uvloop
from sklearn.ensemble import RandomForestClassifier

from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.packaging.bundle import package
from kilter.serving.records import TrafficPlan
from kilter.serving.settings import Settings
from kilter.serving.workers.memory import held_by
from kilter.testing.front import RunningFront

NAMES = tuple(f"f{number}" for number in range(9))
ENDPOINTS = {
    "batched": Settings(),
    "single": Settings(batch_rows=1),
    "bounded": Settings(batch_rows=2, queue_seconds=1.0),
}
TIMES = 10
CALLERS = 1_000


class Caller(asyncio.Protocol):
    """One connection with one request under way at most."""

    def __init__(self, request: bytes, told: Any) -> None:
        self.request = request
        self.told = told
        self.busy = False
        self.begun = 0.0
        self.held = b""
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self) -> None:
        self.busy, self.begun = True, time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.held += data
        head, found, body = self.held.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            return
        self.held, self.busy = b"", False
        self.told(self, int(head[9:12]), time.perf_counter() - self.begun)


def request_of(loop: str) -> bytes:
    body = json.dumps({"rows": [dict.fromkeys(NAMES, 0.1) | {"id": "a", "at": "2013-03-01T10:15:00Z"}]}).encode()
    head = f"POST /predict/{loop} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def callers(port: int, loop: str, count: int, told: Any) -> list[Caller]:
    running, request = asyncio.get_running_loop(), request_of(loop)
    made = [await running.create_connection(lambda: Caller(request, told), "127.0.0.1", port) for _ in range(count)]
    return [protocol for _, protocol in made]


async def closed(port: int, loop: str, count: int, seconds: float) -> dict[str, float]:
    """Every caller asks again as soon as it is answered."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds + 0.5

    def told(caller: Caller, status: int, latency: float) -> None:
        assert status == 200
        now = time.perf_counter()
        if now > end - seconds:
            latencies.append(latency)
        if now < end:
            caller.send()

    found = await callers(port, loop, count, told)
    for caller in found:
        caller.send()
    await asyncio.sleep(seconds + 1.0)
    for caller in found:
        caller.transport.close()
    latencies.sort()
    return {
        "per_second": round(len(latencies) / seconds, 1),
        "p50_ms": round(statistics.median(latencies) * 1e3, 3),
        "p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1e3, 3),
    }


async def overload(port: int, loop: str, rate: float, seconds: float, front: int) -> dict[str, Any]:
    """A steady rate, whatever is answered; callers that still wait are passed over."""
    accepted: list[float] = []
    refused: list[float] = []
    statuses: Counter[int] = Counter()

    def told(_: Caller, status: int, latency: float) -> None:
        statuses[status] += 1
        (accepted if status == 200 else refused).append(latency)

    found = await callers(port, loop, CALLERS, told)
    before, most, offered = held_by(front), 0, 0
    begun = time.perf_counter()
    place = 0
    while (now := time.perf_counter()) < begun + seconds:
        due = int((now - begun) * rate)
        looked = 0
        while offered < due and looked < CALLERS:
            caller = found[place]
            place, looked = (place + 1) % CALLERS, looked + 1
            if not caller.busy:
                caller.send()
                offered += 1
        most = max(most, held_by(front)) if int(now * 4) != int((now - 0.005) * 4) else most
        await asyncio.sleep(0.005)
    in_time = len(accepted)
    ended = time.perf_counter()
    after: list[tuple[float, float]] = []

    def alone(caller: Caller, status: int, latency: float) -> None:
        if status == 200:
            after.append((time.perf_counter() - ended, latency))
        if time.perf_counter() < ended + 3.0:
            caller.send()

    (one,) = await callers(port, loop, 1, alone)
    one.send()
    await asyncio.sleep(3.2)
    for caller in (*found, one):
        caller.transport.close()
    accepted.sort()
    refused.sort()
    return {
        "offered_per_second": round(offered / seconds),
        "goodput_per_second": round(in_time / seconds, 1),
        "accepted_p50_ms": round(statistics.median(accepted) * 1e3, 1),
        "accepted_p99_ms": round(accepted[int(len(accepted) * 0.99)] * 1e3, 1),
        "refused_p50_ms": round(statistics.median(refused) * 1e3, 2) if refused else None,
        "statuses": dict(statuses),
        "front_mb_before": round(before / 1e6, 1),
        "front_mb_most": round(most / 1e6, 1),
        "after": after,
    }


def measure(seconds: float) -> dict[str, Any]:
    random = np.random.default_rng(0)
    X = random.normal(size=(500, len(NAMES)))
    model = RandomForestClassifier(n_estimators=100, max_depth=4, n_jobs=1, random_state=0)
    model.fit(X, (X[:, 0] > 0).astype(int))
    with tempfile.TemporaryDirectory() as name, RunningFront(Path(name), endpoints=ENDPOINTS) as front:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            encoding = Encoding(NAMES, ("numeric",) * len(NAMES), {})
            digest = package(model, encoding, X, [], front.objects, table=Table("t", "id", "at")).digest
        for loop in ENDPOINTS:
            front.plan(TrafficPlan(loop=loop, champion=1, bundles={1: digest}))
        front.start()
        front.until(lambda: front.client.get("/readyz").status_code == 200)
        port = front.client.base_url.port or 0
        pid = front.process.pid if front.process is not None else 0
        one = {loop: [] for loop in ("batched", "single")}
        for _ in range(8):  # in turns, so that a busy moment of the machine meets both
            for loop, found in one.items():
                found.append(uvloop.run(closed(port, loop, 1, 0.5))["p50_ms"])
        many = {loop: uvloop.run(closed(port, loop, 32, 4.0)) for loop in ("batched", "single")}
        normal = uvloop.run(closed(port, "bounded", 1, 2.0))
        capacity = uvloop.run(closed(port, "bounded", 64, 4.0))
        loaded = uvloop.run(overload(port, "bounded", capacity["per_second"] * TIMES, seconds, pid))
    after = loaded.pop("after")
    well = [moment for moment, latency in after if latency * 1e3 < 2 * normal["p99_ms"]]
    p50 = {loop: statistics.median(found) for loop, found in one.items()}
    result = {
        "batching": {
            "one_caller_p50_ms": p50,
            "one_caller_ratio": round(p50["batched"] / p50["single"], 3),
            "callers_32": many,
            "gain": round(many["batched"]["per_second"] / many["single"]["per_second"], 2),
        },
        "overload": {
            "capacity_per_second": capacity["per_second"],
            **loaded,
            "goodput_share": round(loaded["goodput_per_second"] / capacity["per_second"], 3),
            "recovered_after_seconds": round(well[0], 2) if well else None,
        },
    }
    result["ok"] = (
        result["batching"]["gain"] >= 8.0
        and result["batching"]["one_caller_ratio"] <= 1.05
        and result["overload"]["goodput_share"] >= 0.9
        and bool(well)
        and well[0] <= 2.0
    )
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    result = measure(arguments.seconds)
    print(json.dumps(result) if arguments.json else json.dumps(result, indent=2))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
