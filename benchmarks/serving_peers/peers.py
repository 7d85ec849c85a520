"""Who is compared: how each server is installed, started and asked."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import machine
import rows
from rows import NAME, Body, Kind

OURS, FLOOR = "Kilter", "floor: "
APPS = Path(__file__).parent / "apps"
INFER = f"/v2/models/{NAME}/infer"
READY = f"/v2/models/{NAME}/ready"
PACKAGES = {
    "fastapi": 'fastapi "uvicorn[standard]"',
    "mlserver": 'mlserver mlserver-xgboost mlserver-sklearn "uvloop<0.22"',
    "litserve": "litserve",
    "bento": "bentoml",
    "ray": '"ray[serve]"',
    "mlflow": '"mlflow>=3,<4"',
}
_DISTRIBUTION = {"bento": "bentoml"}
_START_SECONDS, _STOP_SECONDS = 120.0, 10.0


@dataclass(frozen=True)
class Form:
    """A form in which a server is asked.

    Args:
        name: What the table says: ``json``, ``binary``, ...
        path: Where.
        body: Writes a request of that many rows.
        read: Reads the numbers of an answer.
        grpc: Over gRPC.
    """

    name: str
    path: str
    body: Callable[[int], Body]
    read: Callable[[bytes, dict[str, str]], list[float]]
    grpc: bool = False


@dataclass
class Server:
    """A server under test.

    Args:
        name: What the table calls it.
        place: What its files are called.
        command: How it is started; ``{http}`` and ``{grpc}`` are its ports.
        forms: In which forms it can be asked.
        ready: Where it answers 200 once it is ready.
        folder: Its working directory.
        environment: What it needs of the environment.
        prepare: Called with the ports before it is started.
        floor: It predicts nothing.
    """

    name: str
    place: str
    command: list[str]
    forms: list[Form]
    ready: str
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[dict[str, int]], None] | None = None
    floor: bool = False
    answers: str = ""
    ports: dict[str, int] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.ports['http']}"

    def start(self, core: int) -> None:
        """Start it on a core and wait until it is ready.

        Raises:
            RuntimeError: When it ends, or isn't ready in time; with the end of its log.
        """
        self.ports = dict(zip(("http", "grpc", "metrics"), free_ports(3), strict=True))
        if self.prepare is not None:
            self.prepare(self.ports)
        command = [part.format(**self.ports) for part in self.command]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(APPS), **self.environment}
        log = self.folder / f"{self.place}.log"
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                ["taskset", "-c", str(core), *command],
                cwd=self.folder, env=environment, stdout=stream, stderr=stream, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.address}{self.ready}", timeout=2).status_code == 200:
                    return
            time.sleep(0.1)
        raise RuntimeError(f"{self.name} was not ready: {log.read_text(errors='replace')[-1500:]}")

    def stop(self) -> None:
        """End all its processes."""
        if self.process is None:
            return
        everyone = list(machine.family(self.process.pid))
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_SECONDS)
        for pid in everyone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        assert self.process is not None
        return machine.cpu_of(self.process.pid)


def free_ports(count: int) -> list[int]:
    """Return ports that are free now, all different."""
    with contextlib.ExitStack() as held:
        found = []
        for _ in range(count):
            probe = held.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            found.append(int(probe.getsockname()[1]))
        return found


JSON = Form("json", INFER, rows.open_inference, rows.of_json)


def kilter(folder: Path, kind: Kind, model: Any, example: Any) -> Server:
    """Kilter: one front, one worker, everything on record as always."""
    from kilter import deploy

    store = folder / "store"
    deploy(model, name=NAME, example=example, optimize=True, store=store)
    command = [sys.executable, "-m", "kilter.cli.main", "serve", "--store", str(store)]
    forms = [
        JSON,
        Form("grpc", "", rows.model_infer, rows.of_model_infer, grpc=True),
        Form("binary", INFER, rows.binary, rows.of_binary),
    ]
    ports = ["--port", "{http}", "--grpc-port", "{grpc}"]
    return Server(OURS, f"kilter-{kind}", [*command, *ports], forms, READY, folder)


def echo(folder: Path, kind: Kind) -> Server:
    """The floor of HTTP."""
    forms = [
        Form("json", "/", rows.open_inference, rows.of_json),
        Form("binary", "/", rows.binary, rows.of_raw),
    ]
    command = [sys.executable, str(APPS / "echo.py"), "{http}"]
    return Server(f"{FLOOR}echo on the same HTTP", f"echo-{kind}", command, forms, "/", folder, floor=True)


def peers(
    folder: Path, kind: Kind, model_path: Path, prefix: str, only: list[str]
) -> tuple[list[Server], dict[str, str]]:
    """Return the peers whose environments are there, and why the others are left out."""
    makers: dict[str, Callable[[Path, Kind, Path, Path], list[Server]]] = {
        "fastapi": _fastapi,
        "mlserver": _mlserver,
        "litserve": _litserve,
        "bento": _bentoml,
        "ray": _ray,
        "mlflow": _mlflow,
    }
    found: list[Server] = []
    skipped: dict[str, str] = {}
    for name in only or makers:
        home = Path(f"{prefix}-{name}").absolute() / "bin"
        if not prefix or not (home / "python").exists():
            skipped[name] = f"no environment at {prefix or 'PREFIX'}-{name}"
            continue
        try:
            found.extend(makers[name](folder, kind, model_path, home))
        except subprocess.CalledProcessError as error:
            skipped[name] = f"it could not be prepared: {error.stderr[-400:]}"
    return found, skipped


def version(name: str, prefix: str) -> str:
    """Return the version of a peer that is installed."""
    code = f"import importlib.metadata as m; print(m.version({_DISTRIBUTION.get(name, name)!r}))"
    python = f"{prefix}-{name}/bin/python"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.strip()


def _fastapi(folder: Path, kind: Kind, model: Path, home: Path) -> list[Server]:
    command = [str(home / "python"), str(APPS / "by_fastapi.py"), str(model), "{http}"]
    forms = [JSON, Form("raw", "/raw", rows.raw, rows.of_raw)]
    return [Server("FastAPI", f"fastapi-{kind}", command, forms, "/ready", folder)]


def _litserve(folder: Path, kind: Kind, model: Path, home: Path) -> list[Server]:
    command = [str(home / "python"), str(APPS / "by_litserve.py"), str(model), "{http}"]
    forms = [Form("json", "/predict", rows.open_inference, rows.of_json)]
    return [Server("LitServe", f"litserve-{kind}", command, forms, "/health", folder)]


def _bentoml(folder: Path, kind: Kind, model: Path, home: Path) -> list[Server]:
    command = [str(home / "bentoml"), "serve", "by_bentoml:Bench", "--working-dir", str(APPS), "--port", "{http}"]
    forms = [Form("json", "/predict", partial(rows.nested, field="rows"), rows.of_json)]
    environment = {
        "BENCH_MODEL": str(model),
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(folder / "bentoml"),
        "PATH": f"{home}:{os.environ['PATH']}",
    }
    return [Server("BentoML", f"bentoml-{kind}", command, forms, "/readyz", folder, environment)]


def _ray(folder: Path, kind: Kind, model: Path, home: Path) -> list[Server]:
    command = [str(home / "python"), str(APPS / "by_ray.py"), str(model), "{http}"]
    forms = [Form("json", "/", rows.open_inference, rows.of_json), Form("raw", "/", rows.raw, rows.of_raw)]
    environment = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_LOG_TO_STDERR": "0"}
    return [Server("Ray Serve", f"ray-{kind}", command, forms, "/-/healthz", folder, environment)]


def _mlflow(folder: Path, kind: Kind, model: Path, home: Path) -> list[Server]:
    place = folder / "mlflow"
    save = [str(home / "python"), str(APPS / "save_mlflow.py"), str(model), str(place)]
    subprocess.run(save, capture_output=True, text=True, check=True, cwd=folder)
    command = [str(home / "mlflow"), "models", "serve", "-m", str(place), "--env-manager", "local",
               "--host", "127.0.0.1", "--port", "{http}", "--workers", "1"]  # fmt: skip
    forms = [
        Form("parquet", "/invocations", rows.parquet, rows.of_json),
        Form("json", "/invocations", partial(rows.nested, field="inputs"), rows.of_json),
    ]
    environment = {"PATH": f"{home}:{os.environ['PATH']}", "MLFLOW_MODELS_WORKERS": "1"}
    return [Server("MLflow", f"mlflow-{kind}", command, forms, "/ping", folder, environment)]


def _mlserver(folder: Path, kind: Kind, model: Path, home: Path) -> list[Server]:
    return [_one_mlserver(folder, kind, model, home, workers) for workers in (0, 1)]


def _one_mlserver(folder: Path, kind: Kind, model: Path, home: Path, workers: int) -> Server:
    """MLServer predicts in its own process, or, as it does unless told otherwise, in one beside it."""
    place = folder / f"mlserver{workers}"
    place.mkdir()
    runtime = "mlserver_xgboost.XGBoostModel" if kind == "trees" else "mlserver_sklearn.SKLearnModel"
    settings = {"name": NAME, "implementation": runtime, "parameters": {"uri": str(model)}}
    (place / "model-settings.json").write_text(json.dumps(settings))

    def prepare(ports: dict[str, int]) -> None:
        said = {"http_port": ports["http"], "grpc_port": ports["grpc"], "metrics_port": ports["metrics"]}
        server = {**said, "host": "127.0.0.1", "parallel_workers": workers}
        (place / "settings.json").write_text(json.dumps(server))

    output = "predict_proba"
    forms = [
        Form("json", INFER, partial(rows.open_inference, output=output), rows.of_json),
        Form("grpc", "", partial(rows.model_infer, output=output), rows.of_model_infer, grpc=True),
    ]
    name = "MLServer in process" if workers == 0 else "MLServer default"
    command = [str(home / "mlserver"), "start", "."]
    return Server(name, f"mlserver{workers}-{kind}", command, forms, READY, place, prepare=prepare)
