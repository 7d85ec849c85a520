"""An XGBoost model over HTTP: Kilter beside FastAPI written by hand, MLServer, LitServe and MLflow, on the same core in turns.

The model has 100 trees of depth 6 over 30 float32 columns. Requests are those of the Open Inference Protocol where the server
speaks it, else the server's own JSON form of the same row. Each server with all its processes is pinned to one core, wrk to the
other, and they are asked in turns, round after round. CPU is that of all the server's processes per request, from /proc. Kilter
records every answer, routes, and counts, as always; the others do none of that.

The peers are installed elsewhere, because they don't agree with each other on their requirements:

    python -m venv peers && peers/bin/pip install mlserver mlserver-xgboost "uvloop<0.22" litserve
    python benchmarks/serving_peers.py --peers peers/bin/python --json

Without ``--peers`` only FastAPI is beside it. wrk has to be installed (Debian: ``apt-get install wrk``).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

COLUMNS = 30
SERVER_CORE, CLIENT_CORE = "0", "1"
START_SECONDS = 90.0

FASTAPI = """
import sys, numpy as np, uvicorn, xgboost
from fastapi import FastAPI
from pydantic import BaseModel
model = xgboost.XGBClassifier(); model.load_model(sys.argv[1])
class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]
class Request(BaseModel):
    inputs: list[Tensor]
app = FastAPI()
@app.get("/ready")
def ready(): return {}
@app.post("/v2/models/bench/infer")
def infer(request: Request):
    tensor = request.inputs[0]
    values = model.predict_proba(np.asarray(tensor.data, dtype=np.float32).reshape(tensor.shape))[:, 1]
    return {"model_name": "bench", "outputs": [{"name": "p", "shape": [len(values)], "datatype": "FP32", "data": values.tolist()}]}
uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
"""

LITSERVE = """
import sys, numpy as np, xgboost, litserve
class Api(litserve.LitAPI):
    def setup(self, device):
        self.model = xgboost.XGBClassifier(); self.model.load_model(sys.argv[1])
    def decode_request(self, request):
        tensor = request["inputs"][0]
        return np.asarray(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
    def predict(self, x):
        return self.model.predict_proba(x)[:, 1]
    def encode_response(self, output):
        return {"outputs": output.tolist()}
if __name__ == "__main__":
    litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1).run(port=int(sys.argv[2]), num_api_servers=1, generate_client_file=False)
"""


@dataclass
class Server:
    """A server under test.

    Args:
        name: What the table calls it.
        command: How it is started; ``{port}`` is replaced.
        path: Where it predicts.
        ready: Where it answers 200 once it is ready.
        folder: Its working directory.
    """

    name: str
    command: list[str]
    path: str
    ready: str
    folder: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    figures: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def start(self) -> None:
        self.port = self.port or free_port()
        command = [part.replace("{port}", str(self.port)) for part in self.command]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLSERVER_HTTP_PORT": str(self.port)}
        log = (self.folder / f"{self.name.split()[0]}.log").open("ab")
        self.process = subprocess.Popen(
            ["taskset", "-c", SERVER_CORE, *command],
            cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self.ready}", timeout=2).close()
                return
            time.sleep(0.1)
        raise SystemExit(f"{self.name} was not ready; see {log.name}:\n{Path(log.name).read_text()[-2000:]}")

    def stop(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)

    def cpu(self) -> float:
        assert self.process is not None
        return sum(cpu_of(pid) for pid in family(self.process.pid))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_of(pid: int) -> float:
    with contextlib.suppress(OSError):
        return (
            sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9
        )
    return 0.0


def family(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from family(int(child))


def body(rows: int) -> bytes:
    data = np.random.default_rng(1).normal(size=(rows, COLUMNS)).astype(np.float32)
    tensor = {
        "name": "input",
        "shape": [rows, COLUMNS],
        "datatype": "FP32",
        "data": [round(float(v), 6) for v in data.ravel()],
    }
    return json.dumps({"inputs": [tensor]}).encode()


def binary(rows: int) -> tuple[bytes, dict[str, str]]:
    data = np.random.default_rng(1).normal(size=(rows, COLUMNS)).astype(np.float32).tobytes()
    tensor = {
        "name": "input",
        "shape": [rows, COLUMNS],
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(data)},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + data, {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}


def load(server: Server, request: Path, connections: int, seconds: float) -> dict[str, float]:
    before = server.cpu()
    answer = subprocess.run(
        ["taskset", "-c", CLIENT_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(request),
         f"http://127.0.0.1:{server.port}{server.path}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    used = server.cpu() - before
    count = int(re.search(r"(\d+) requests in", answer).group(1))  # type: ignore[union-attr]
    if "Non-2xx" in answer:
        raise SystemExit(f"{server.name} refused requests:\n{answer}")
    quantile = {name: in_ms(found) for name, found in re.findall(r"^\s+(50|99)%\s+(\S+)$", answer, re.MULTILINE)}
    per_second = float(re.search(r"Requests/sec:\s+([\d.]+)", answer).group(1))  # type: ignore[union-attr]
    return {"cpu_us": used / count * 1e6, "per_second": per_second, "p50_ms": quantile["50"], "p99_ms": quantile["99"]}


def in_ms(text: str) -> float:
    number, unit = re.match(r"([\d.]+)(\w+)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def script(path: Path, content: bytes, headers: dict[str, str]) -> Path:
    data = path.with_suffix(".body")
    data.write_bytes(content)
    lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    path.write_text(
        "\n".join(['wrk.method = "POST"', f'wrk.body = io.open("{data}", "rb"):read("*all")', *lines]) + "\n"
    )
    return path


def servers(folder: Path, peers: str | None) -> list[Server]:
    import xgboost

    import kilter

    random = np.random.default_rng(0)
    X = random.normal(size=(5_000, COLUMNS)).astype(np.float32)
    y = (X[:, 0] + X[:, 1] * X[:, 2] + random.normal(size=len(X)) > 0).astype(int)
    model = xgboost.XGBClassifier(n_estimators=100, max_depth=6, n_jobs=1).fit(X, y)
    model.save_model(folder / "model.json")
    kilter.deploy(model, name="bench", example=X[:500], optimize=True, store=folder / "store")
    path = "/v2/models/bench/infer"
    serve = [sys.executable, "-m", "kilter.cli.main", "serve", "--store", str(folder / "store"), "--port", "{port}"]
    found = [Server("Kilter", serve, path, "/v2/models/bench/ready", folder)]
    (folder / "fast.py").write_text(FASTAPI)
    found.append(Server("FastAPI", [sys.executable, "fast.py", "model.json", "{port}"], path, "/ready", folder))
    if peers:
        home = folder / "mlserver"
        home.mkdir()
        shutil.copy(folder / "model.json", home / "model.json")
        settings = {
            "name": "bench",
            "implementation": "mlserver_xgboost.XGBoostModel",
            "parameters": {"uri": "./model.json"},
        }
        (home / "model-settings.json").write_text(json.dumps(settings))
        binary_folder = Path(peers).parent
        grpc, metrics = free_port(), free_port()
        for workers in (0, 1):
            place = folder / f"mlserver{workers}"
            shutil.copytree(home, place)
            port = free_port()
            (place / "settings.json").write_text(json.dumps({
                "http_port": port, "grpc_port": grpc + workers, "metrics_port": metrics + workers, "host": "127.0.0.1",
                "parallel_workers": workers,
            }))  # fmt: skip
            name = "MLServer in process" if workers == 0 else "MLServer default"
            found.append(
                Server(
                    name, [str(binary_folder / "mlserver"), "start", "."], path, "/v2/models/bench/ready", place, port
                )
            )
        (folder / "lit.py").write_text(LITSERVE)
        found.append(Server("LitServe", [peers, "lit.py", "model.json", "{port}"], "/predict", "/health", folder))
    return found


def measure(folder: Path, options: argparse.Namespace) -> list[Server]:
    json_headers = {"Content-Type": "application/json"}
    points = {
        "1 row, 1 connection": (script(folder / "one.lua", body(1), json_headers), 1),
        "1 row, 32 connections": (folder / "one.lua", 32),
        "128 rows, 32 connections": (script(folder / "many.lua", body(128), json_headers), 32),
    }
    packed = script(folder / "binary.lua", *binary(128))
    found = servers(folder, options.peers)
    try:
        for server in found:
            server.start()
            load(server, folder / "one.lua", 4, 1)  # warm
        for server in [server for _ in range(options.rounds) for server in found]:
            for point, (request, connections) in points.items():
                server.figures.setdefault(point, []).append(load(server, request, connections, options.seconds))
            if server.name == "Kilter":
                point = "128 rows binary, 32 connections"
                server.figures.setdefault(point, []).append(load(server, packed, 32, options.seconds))
    finally:
        for server in found:
            server.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--peers", help="the interpreter of an environment with mlserver, mlserver-xgboost and litserve"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of load per point and round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if shutil.which("wrk") is None or shutil.which("taskset") is None:
        raise SystemExit("wrk and taskset are needed")
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), options)
    table = {
        server.name: {
            point: {name: round(statistics.median(one[name] for one in rounds), 3) for name in rounds[0]}
            for point, rounds in server.figures.items()
        }
        for server in found
    }
    if options.json:
        print(json.dumps(table))
        return
    for point in dict.fromkeys(point for figures in table.values() for point in figures):
        print(f"\n{point:34} {'CPU us':>9} {'req/s':>9} {'p50 ms':>8} {'p99 ms':>8}  times Kilter's CPU")
        for name, figures in table.items():
            if point in figures:
                one = figures[point]
                ratio = one["cpu_us"] / table["Kilter"][point]["cpu_us"]
                print(
                    f"{name:34} {one['cpu_us']:9.1f} {one['per_second']:9.0f} {one['p50_ms']:8.2f} {one['p99_ms']:8.2f}  {ratio:6.1f}"
                )


if __name__ == "__main__":
    main()
