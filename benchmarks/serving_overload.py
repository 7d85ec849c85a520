"""What a slow model gives: through batching, and when ten times more is asked of it than it can answer.

The model is a forest whose call has a fixed cost of some milliseconds, whatever the number of rows. Against it:

- *batching*: requests per second at 32 connections and the median latency of one, beside the same front with batches of one row;
- *overload*: a steady load of ten times the capacity; what is answered beside the capacity, the latency of what was accepted,
  what is refused, the front's memory, and how soon one caller is answered as before once the load ends.

Capacity and overload are measured in turns, and each overload is held against the capacity before and after it, because a
machine's speed moves by more than what is looked for. What the worker did says where a difference comes from: ``idle`` is what
the front failed to feed it, ``wait`` is for a core that somebody else had, and ``answers_per_cpu_second`` is the speed of the
core itself. ``others`` is what the rest of the machine used meanwhile. ``goodput_share_of_cpu`` leaves out what was taken from
the worker by whoever else ran: on a busy machine it is the one to read.

    python benchmarks/serving_overload.py --json            # three rounds of five seconds
    python benchmarks/serving_overload.py --rounds 1 --seconds 60
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
from serving_peers import machine

NAMES = tuple(f"f{number}" for number in range(9))
ENDPOINTS = {
    "batched": Settings(),
    "single": Settings(batch_rows=1),
    "bounded": Settings(batch_rows=2, queue_seconds=1.0),
}
TIMES = 10
CALLERS = 1_000
SETTLES = 2.0
"""Seconds until what is asked, waits and is refused keeps the same proportion: the queue of a second is full before."""


class Watch:
    """Who uses the cores: the worker, the front, and the load, which is this process.

    Args:
        worker: Its process.
        front: Its process.
    """

    def __init__(self, worker: int, front: int) -> None:
        self._pids = {"worker": worker, "front": front, "load": os.getpid()}
        self._seen: dict[str, machine.Scheduled] = {}
        self._busy = 0.0

    def begin(self) -> None:
        """Look from now on."""
        self._seen = {name: machine.scheduled(pid) for name, pid in self._pids.items()}
        self._busy = machine.busy()

    def end(self, answered: int) -> dict[str, Any]:
        """Return the shares of a core since then.

        Args:
            answered: How many requests the worker has answered meanwhile.
        """
        now = {name: machine.scheduled(pid) for name, pid in self._pids.items()}
        shares: dict[str, Any] = {name: one.since(self._seen[name]) for name, one in now.items()}
        passed = now["worker"].at - self._seen["worker"].at
        ours = sum(one["run"] for one in shares.values())
        shares["others"] = round(max((machine.busy() - self._busy) / passed - ours, 0.0), 3)
        used = now["worker"].run - self._seen["worker"].run
        shares["answers_per_cpu_second"] = round(answered / used, 1)
        return shares


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


async def closed(port: int, loop: str, count: int, seconds: float, watch: Watch | None = None) -> dict[str, Any]:
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
    cores: dict[str, Any] = {}
    await asyncio.sleep(end - seconds - time.perf_counter())
    if watch is not None:
        watch.begin()
    await asyncio.sleep(end - time.perf_counter())
    if watch is not None:
        cores = {"cores": watch.end(len(latencies))}
    await asyncio.sleep(0.5)
    for caller in found:
        caller.transport.close()
    latencies.sort()
    return cores | {
        "per_second": round(len(latencies) / seconds, 1),
        "p50_ms": round(statistics.median(latencies) * 1e3, 3),
        "p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1e3, 3),
    }


class Overload:
    """A steady rate, whatever is answered; callers that still wait are passed over.

    Args:
        port: Whom it asks.
        loop: The endpoint.
        rate: Requests in a second.
        front: Whose memory is looked at.
    """

    def __init__(self, port: int, loop: str, rate: float, front: int) -> None:
        self.port, self.loop, self.rate, self.front = port, loop, rate, front
        self.accepted: list[float] = []
        self.refused: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.offered = self.memory = 0

    def told(self, _: Caller, status: int, latency: float) -> None:
        self.statuses[status] += 1
        (self.accepted if status == 200 else self.refused).append(latency)

    async def run(self, seconds: float, watch: Watch) -> dict[str, Any]:
        """Load, look once it has settled, and stop."""
        found = await callers(self.port, self.loop, CALLERS, self.told)
        before = held_by(self.front)
        began, place, sent = time.perf_counter(), 0, 0
        looking, look = False, began
        while (now := time.perf_counter()) < began + SETTLES + seconds:
            if not looking and now > began + SETTLES:
                looking, since = True, now
                self.accepted, self.refused, self.offered = [], [], 0
                self.statuses.clear()
                watch.begin()
            due, looked = int((now - began) * self.rate), 0
            while sent < due and looked < CALLERS:
                caller = found[place]
                place, looked = (place + 1) % CALLERS, looked + 1
                if not caller.busy:
                    caller.send()
                    sent, self.offered = sent + 1, self.offered + 1
            if now >= look:
                look = now + 0.25
                self.memory = max(self.memory, held_by(self.front))
            await asyncio.sleep(0.005)
        took, cores = time.perf_counter() - since, watch.end(len(self.accepted))
        result = self._summary(took) | {"front_mb_before": round(before / 1e6, 1), "cores": cores}
        result["after"] = await self._after()
        for caller in found:
            caller.transport.close()
        return result

    def _summary(self, took: float) -> dict[str, Any]:
        accepted, refused = sorted(self.accepted), sorted(self.refused)
        return {
            "offered_per_second": round(self.offered / took),
            "goodput_per_second": round(len(accepted) / took, 1),
            "accepted_p50_ms": round(statistics.median(accepted) * 1e3, 1),
            "accepted_p99_ms": round(accepted[int(len(accepted) * 0.99)] * 1e3, 1),
            "refused_p50_ms": round(statistics.median(refused) * 1e3, 2) if refused else None,
            "statuses": dict(self.statuses),
            "front_mb_most": round(self.memory / 1e6, 1),
        }

    async def _after(self) -> list[tuple[float, float]]:
        """Return when one caller was answered after the load, in seconds, and how soon each time."""
        found: list[tuple[float, float]] = []
        ended = time.perf_counter()

        def alone(caller: Caller, status: int, latency: float) -> None:
            if status == 200:
                found.append((time.perf_counter() - ended, latency))
            if time.perf_counter() < ended + 3.0:
                caller.send()

        (one,) = await callers(self.port, self.loop, 1, alone)
        one.send()
        await asyncio.sleep(3.2)
        one.transport.close()
        return found


def in_turns(front: RunningFront, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure capacity and overload in turns."""
    port = front.client.base_url.port or 0
    pid = front.process.pid if front.process is not None else 0
    (worker,) = front.pids("bounded", 1)
    watch, core = Watch(worker, pid), min(os.sched_getaffinity(0))
    normal = uvloop.run(closed(port, "bounded", 1, 2.0))
    spins = [machine.spin(core)]
    capacities = [uvloop.run(closed(port, "bounded", 64, seconds, watch))]
    loaded = []
    for _ in range(rounds):
        rate = capacities[-1]["per_second"] * TIMES
        loaded.append(uvloop.run(Overload(port, "bounded", rate, pid).run(seconds, watch)))
        spins.append(machine.spin(core))
        capacities.append(uvloop.run(closed(port, "bounded", 64, seconds, watch)))
    shares, of_cpu, recovered = [], [], []
    for number, one in enumerate(loaded):
        around = (capacities[number]["per_second"] + capacities[number + 1]["per_second"]) / 2
        shares.append(round(one["goodput_per_second"] / around, 3))
        of_cpu.append(share_of_cpu(one["cores"], capacities[number : number + 2]))
        well = [moment for moment, latency in one.pop("after") if latency * 1e3 < 2 * normal["p99_ms"]]
        recovered.append(round(well[0], 2) if well else None)
    middle = sorted(range(rounds), key=lambda number: shares[number])[rounds // 2]
    return {
        "capacity_per_second": statistics.median(one["per_second"] for one in capacities),
        "capacity_cores": capacities[middle]["cores"],
        **loaded[middle],
        "goodput_share": shares[middle],
        "goodput_shares": shares,
        "goodput_share_of_cpu": statistics.median(of_cpu),
        "front_us_per_refusal": front_us_per_refusal(capacities, loaded),
        "recovered_after_seconds": None if None in recovered else max(recovered),
        "machine": machine.noise(spins),
    }


def share_of_cpu(loaded: dict[str, Any], around: list[dict[str, Any]]) -> float:
    """Return the share of goodput if the worker always had its core: what is lost is what the front did not feed it."""

    def speed(cores: dict[str, Any]) -> float:
        return float(cores["answers_per_cpu_second"] * (1.0 - cores["worker"]["idle"]))

    return round(speed(loaded) / statistics.mean(speed(one["cores"]) for one in around), 3)


def front_us_per_refusal(capacities: list[dict[str, Any]], loaded: list[dict[str, Any]]) -> float:
    """Return what a refusal costs the front: its CPU under overload, less what its answers cost without."""
    per_answer = statistics.median(one["cores"]["front"]["run"] / one["per_second"] for one in capacities)
    found = [
        (one["cores"]["front"]["run"] - per_answer * one["goodput_per_second"])
        / max(one["offered_per_second"] - one["goodput_per_second"], 1)
        for one in loaded
    ]
    return round(statistics.median(found) * 1e6, 1)


def measure(rounds: int, seconds: float) -> dict[str, Any]:
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
        one = {loop: [] for loop in ("batched", "single")}
        for _ in range(8):  # in turns, so that a busy moment of the machine meets both
            for loop, found in one.items():
                found.append(uvloop.run(closed(port, loop, 1, 0.5))["p50_ms"])
        many = {loop: uvloop.run(closed(port, loop, 32, 4.0)) for loop in ("batched", "single")}
        overloaded = in_turns(front, rounds, seconds)
    p50 = {loop: statistics.median(found) for loop, found in one.items()}
    result = {
        "batching": {
            "one_caller_p50_ms": p50,
            "one_caller_ratio": round(p50["batched"] / p50["single"], 3),
            "callers_32": many,
            "gain": round(many["batched"]["per_second"] / many["single"]["per_second"], 2),
        },
        "overload": overloaded,
    }
    result["ok"] = (
        result["batching"]["gain"] >= 8.0
        and result["batching"]["one_caller_ratio"] <= 1.05
        and overloaded["goodput_share"] >= 0.9
        and (overloaded["recovered_after_seconds"] or 9.0) <= 2.0
    )
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of capacity, and of overload, per round")
    arguments = parser.parse_args()
    result = measure(arguments.rounds, arguments.seconds)
    print(json.dumps(result) if arguments.json else json.dumps(result, indent=2))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
