"""One row over gRPC: the endpoint against grpcio's own asyncio server that gives the same message back.

The same client asks both in turns, on a core of its own; the servers, with all their processes, share the other core. The
client is a few lines over a socket that replay what grpcio's client sends (header fields by index after the first call), so
that it costs little and favours neither. The message is a ModelInferRequest with one row of nine FP64 columns in
``raw_input_contents``. The echo parses nothing and predicts nothing: it is the least that grpc.aio does for a call.

    python benchmarks/serving_grpc.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import hpack
import lightgbm
import numpy as np

from kilter.data.encoding import Encoding
from kilter.packaging.bundle import package
from kilter.serving.grpc.inference import _CLASSES
from kilter.serving.records import TrafficPlan
from kilter.testing.front import RunningFront

METHOD = "/inference.GRPCInferenceService/ModelInfer"
NAMES = tuple(f"f{number}" for number in range(9))
ROUNDS = 5
MLSERVER = 690
"""Requests in a second that MLServer 1.7.1 answered over gRPC on one core of the machine of the first measurements."""
GOAL = 4 * MLSERVER

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD = struct.Struct(">HBBBI")
_HEADERS, _DATA, _SETTINGS, _PING = 1, 0, 4, 6
_WINDOW = (1 << 31) - 1

ECHO = """
import asyncio, grpc, sys
async def serve():
    server = grpc.aio.server()
    async def echo(message, context):
        return message
    rpc = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": rpc}),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()
asyncio.run(serve())
"""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 255, kind, flags, stream) + payload


class Client:
    """One connection that keeps a number of calls under way.

    Args:
        port: Whom it asks.
        message: What it asks.
    """

    def __init__(self, port: int, message: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        encoder = hpack.Encoder()
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", METHOD),
            (":authority", f"127.0.0.1:{port}"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "grpc-python/1.85.1 grpc-c/54.0.0 (linux; chttp2)"),
            ("grpc-accept-encoding", "identity, deflate, gzip"),
        ]
        self._first, self._block = encoder.encode(fields), encoder.encode(fields)
        self._body = b"\0" + struct.pack(">I", len(message)) + message
        self._stream = 1
        self._left = b""
        self.answers = 0
        self.messages = 0
        settings = struct.pack(">HI", 4, _WINDOW)
        update = struct.pack(">I", _WINDOW - 65_535)
        self.socket.sendall(_PREFACE + frame(_SETTINGS, 0, 0, settings) + frame(8, 0, 0, update))

    def ask(self, count: int) -> None:
        parts = []
        for _ in range(count):
            block = self._first if self._stream == 1 else self._block
            parts.append(frame(_HEADERS, 4, self._stream, block) + frame(_DATA, 1, self._stream, self._body))
            self._stream += 2
        self.socket.sendall(b"".join(parts))

    def receive(self) -> int:
        """Return how many answers have come; each must have a message."""
        data = self._left + self.socket.recv(262_144)
        place, done = 0, 0
        while len(data) - place >= 9:
            high, low, kind, flags, _ = _HEAD.unpack_from(data, place)
            size = high << 8 | low
            if len(data) - place < 9 + size:
                break
            if kind == _HEADERS and flags & 1:
                done += 1
            elif kind == _DATA:
                self.messages += size > 5
            elif kind == _SETTINGS and not flags & 1:
                self.socket.sendall(frame(_SETTINGS, 1, 0, b""))
            elif kind == _PING and not flags & 1:
                self.socket.sendall(frame(_PING, 1, 0, data[place + 9 : place + 17]))
            elif kind in {3, 7}:
                raise SystemExit("the server refused")
            place += 9 + size
        self._left = data[place:]
        self.answers += done
        return done


def one_by_one(port: int, message: bytes, count: int, pids: list[int]) -> dict[str, float]:
    client = Client(port, message)
    latencies = []
    for number in range(count + 200):
        if number == 200:
            before, begun = cpu_of(pids), time.perf_counter()
        start = time.perf_counter()
        client.ask(1)
        while not client.receive():
            pass
        latencies.append(time.perf_counter() - start)
    return summary(client, count, before, begun, pids, sorted(latencies[200:]))


def many(
    port: int, message: bytes, count: int, pids: list[int], connections: int = 4, streams: int = 8
) -> dict[str, float]:
    selector = selectors.DefaultSelector()
    clients = [Client(port, message) for _ in range(connections)]
    for client in clients:
        selector.register(client.socket, selectors.EVENT_READ, client)
        client.ask(streams)
    done, warm = 0, 500
    before, begun = 0.0, 0.0
    while done < count + warm:
        for key, _ in selector.select():
            found = key.data.receive()
            if found:
                key.data.ask(found)
                done += found
        if not begun and done >= warm:
            before, begun, first = cpu_of(pids), time.perf_counter(), done
    result = summary(clients[0], done - first, before, begun, pids, [])
    for client in clients:
        client.socket.close()
    return result


def summary(
    client: Client, count: int, before: float, begun: float, pids: list[int], latencies: list[float]
) -> dict[str, float]:
    seconds, used = time.perf_counter() - begun, cpu_of(pids) - before
    client.socket.close()
    if client.messages < client.answers:
        raise SystemExit("calls failed")
    result = {"per_second": round(count / seconds), "cpu_us": round(used / count * 1e6, 1)}
    if latencies:
        result["p50_us"] = round(statistics.median(latencies) * 1e6, 1)
        result["p99_us"] = round(latencies[int(len(latencies) * 0.99)] * 1e6, 1)
    return result


def cpu_of(pids: list[int]) -> float:
    """Seconds of CPU that processes have used, all their threads, to the nanosecond."""
    tasks = [path for pid in pids for path in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((path / "schedstat").read_text().split()[0]) for path in tasks) / 1e9


def message(row: np.ndarray) -> bytes:
    request = _CLASSES["ModelInferRequest"](model_name="late", raw_input_contents=[row.tobytes()])
    request.inputs.add(name="input", datatype="FP64", shape=row.shape)
    return bytes(request.SerializeToString())


def serve(folder: Path) -> RunningFront:
    """Start a front with a model of 80 trees, on core 0."""
    random = np.random.default_rng(0)
    X = random.normal(size=(20_000, len(NAMES)))
    y = (X[:, 0] + random.normal(size=len(X)) > 0).astype(int)
    model = lightgbm.LGBMClassifier(n_estimators=80, num_leaves=31, n_jobs=1, verbosity=-1).fit(X, y)
    front = RunningFront(folder, grpc_port=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LightGBM's own, of names
        bundle = package(model, Encoding(NAMES, ("numeric",) * len(NAMES), {}), X, [], front.objects, table=None)
    front.plan(TrafficPlan(loop="late", champion=1, bundles={1: bundle.digest}, fallback=0.5))
    return front.start()


def measure(count: int) -> dict[str, Any]:
    cores = sorted(os.sched_getaffinity(0))
    row = np.random.default_rng(1).normal(size=(1, len(NAMES)))
    asked = message(row)
    with tempfile.TemporaryDirectory() as name:
        os.sched_setaffinity(0, {cores[0]})
        front = serve(Path(name))
        echo = subprocess.Popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE, text=True)
        os.sched_setaffinity(0, {cores[-1]})
        try:
            port = json.loads(Path(front.config.announce).read_text())["grpc_port"]
            assert echo.stdout is not None
            echo_port = int(echo.stdout.readline())
            assert front.process is not None
            pids = [front.process.pid, *front.pids("late", 1)]
            rounds = [  # everything in every round, so that a busy moment of the machine meets all of it
                {
                    "infer": one_by_one(port, asked, count // 4, pids),
                    "echo": one_by_one(echo_port, asked, count // 4, [echo.pid]),
                    "infer_32": many(port, asked, count, pids),
                    "echo_32": many(echo_port, asked, count, [echo.pid]),
                    "infer_128_rows": many(port, message(np.tile(row, (128, 1))), count // 8, pids),
                }
                for _ in range(ROUNDS)
            ]
        finally:
            echo.kill()
            echo.wait()
            front.stop()
    result: dict[str, Any] = {
        name: {key: statistics.median(one[name][key] for one in rounds) for key in rounds[0][name]}
        for name in rounds[0]
    }
    speed = [one["infer_32"]["per_second"] / one["echo_32"]["per_second"] for one in rounds]
    result["rows_per_second"] = result["infer_128_rows"]["per_second"] * 128
    result["ratio_to_echo"] = round(statistics.median(speed), 2)
    result["goal_per_second"] = GOAL
    result["ok"] = result["infer_32"]["per_second"] >= GOAL
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--count", type=int, default=8_000)
    arguments = parser.parse_args()
    result = measure(arguments.count)
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:24} {value}")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
