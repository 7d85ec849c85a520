"""Tracking beside a real ``mlflow server``: the same unmodified client, the same calls, one after the other in the same run.

    python benchmarks/tracking_mlflow.py --mlflow /path/to/venv/bin/mlflow [--rounds 3] [--runs 1000 10000] [--most 100000] [--json]

``--mlflow`` is the command of an environment of its own that has MLflow; without one only Kilter is measured. MLflow is measured twice:
as its default (four workers, SQLite), and helped over its two accidents: one worker, which avoids the 40 ms stall of each kept
connection, and one ``ANALYZE`` of its database before the search. CPU is user and system time of all the server's processes over the
calls; times are medians over rounds that take turns.

``client alone`` is the same client against a bare socket that sends the same bytes and does nothing: what no server can save.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import socketserver
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
TICK = os.sysconf("SC_CLK_TCK")
POINTS = 1000


class Server:
    """A server under measure.

    Args:
        name: What to call it.
        command: How it is started; ``{port}`` and ``{folder}`` are put in.
        folder: Where it keeps its things.
    """

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        self.name = name
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        folder.mkdir(parents=True)
        self._command = [part.format(port=self.port, folder=folder) for part in command]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it, and return after how many seconds it answered first."""
        began = time.perf_counter()
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while time.perf_counter() - began < 240:
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return time.perf_counter() - began
            time.sleep(0.02)
        raise SystemExit(f"{self.name} did not answer")

    def stop(self) -> None:
        """End it with all its children."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def cpu(self) -> float:
        """Return the user and system seconds of all its processes."""
        return sum(_cpu_of(pid) for pid in self._tree())

    def memory(self) -> tuple[float, int]:
        """Return its proportional memory in MB, and how many processes it has."""
        tree = self._tree()
        return sum(_pss_of(pid) for pid in tree) / 1024, len(tree)

    def _tree(self) -> list[int]:
        assert self._process is not None
        session = self._process.pid
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError, IndexError):
                    if int((entry / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                        found.append(int(entry.name))
        return found


def _cpu_of(pid: int) -> float:
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(value) for value in fields[11:15]) / TICK
    return 0.0


def _pss_of(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return float(line.split()[1])
    return 0.0


def measured(server: Server, calls: int, act: Callable[[], object]) -> dict[str, float]:
    """Do something and return the milliseconds of wall time and of server CPU per call."""
    cpu, began = server.cpu(), time.perf_counter()
    act()
    wall = time.perf_counter() - began
    time.sleep(0.05)
    return {"ms": wall / calls * 1000, "cpu_ms": (server.cpu() - cpu) / calls * 1000}


def parts_of(place: int, runs: int) -> tuple[list[tuple[str, float]], list[tuple[str, str]]]:
    """Return what run number ``place`` of the searched ones has: ten metrics and ten params."""
    value = (place * 7919 % runs) / runs
    return [(f"m{one}", (value + one / 10) % 1) for one in range(10)], [
        (f"p{one}", str(place % (one + 2))) for one in range(10)
    ]


def seed(server: Server, experiment: str, name: str, runs: int) -> None:
    """Fill an experiment, straight into the server's database: over the wire it would take MLflow a quarter of an hour."""
    began = int(time.time() * 1000)
    if server.name != "kilter":
        rows = [(secrets.token_hex(16), place, *parts_of(place, runs)) for place in range(runs)]
        with contextlib.closing(sqlite3.connect(server.folder / "mlflow.db", timeout=60)) as database, database:
            database.executemany(
                "INSERT INTO runs (run_uuid, name, status, start_time, lifecycle_stage, artifact_uri, experiment_id, "
                "source_type, source_name, entry_point_name, user_id, source_version) "
                "VALUES (?, ?, 'FINISHED', ?, 'active', '', ?, 'LOCAL', '', '', '', '')",
                [(run, f"r{place}", began + place, int(experiment)) for run, place, *_ in rows],
            )
            for table in ("latest_metrics", "metrics"):
                database.executemany(
                    f"INSERT INTO {table} (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, 1, 0, 0, ?)",
                    [(key, value, run) for run, _, metrics, _ in rows for key, value in metrics],
                )
            for table in ("params", "tags"):
                database.executemany(
                    f"INSERT INTO {table} (key, value, run_uuid) VALUES (?, ?, ?)",
                    [(key, value, run) for run, _, _, params in rows for key, value in params],
                )
        return
    from kilter.core.ids import new_id
    from kilter.engines.sql.database import Database
    from kilter.tracking import tables

    now = datetime.now(UTC)
    database_ = Database.open(f"sqlite:///{server.folder}/store/kilter.db")
    for begin in range(0, runs, 5000):
        rows = [(new_id("run", now), place, *parts_of(place, runs)) for place in range(begin, min(begin + 5000, runs))]
        with database_.transaction() as connection:
            blank = dict.fromkeys(("data_digest", "feature_digest", "code_digest", "environment", "spec", "reason"), "")
            connection.execute(
                tables.runs.insert(),
                [
                    {
                        **blank, "id": run, "experiment": name, "name": f"r{place}", "status": "FINISHED",
                        "started_at": now + timedelta(milliseconds=place), "ended_at": now, "lease_until": now, "patience": 60.0,
                    }
                    for run, place, *_ in rows
                ],
            )  # fmt: skip
            points = [(run, key, value) for run, _, metrics, _ in rows for key, value in metrics]
            connection.execute(
                tables.metrics.insert(),
                [{"run": run, "name": key, "step": 0, "value": value, "at": now} for run, key, value in points],
            )
            connection.execute(
                tables.summaries.insert(),
                [
                    {
                        "run": run,
                        "name": key,
                        "points": 1,
                        "last": value,
                        "last_step": 0,
                        "least": value,
                        "greatest": value,
                        "last_at": now,
                    }
                    for run, key, value in points
                ],
            )
            said = [(run, key, value) for run, _, _, params in rows for key, value in params]
            connection.execute(
                tables.params.insert(),
                [{"run": run, "name": key, "value": value, "number": float(value)} for run, key, value in said],
            )
            connection.execute(
                tables.tags.insert(), [{"run": run, "name": key, "value": value} for run, key, value in said]
            )
    database_.close()


class Canned(socketserver.StreamRequestHandler):
    """Answers every request at once with bytes that are there: a curve's with those of a file, all others with an empty object."""

    curve: Path
    disable_nagle_algorithm = True
    _kept: bytes = b""

    def handle(self) -> None:
        """Answer what comes on one connection."""
        while line := self.rfile.readline():
            length = 0
            while (header := self.rfile.readline()).strip():
                name, _, value = header.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            self.rfile.read(length)
            body = b"{}"
            if b"get-history" in line:
                Canned._kept = body = Canned._kept or self.curve.read_bytes()
            self.wfile.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )


def canned(port: int, curve: Path) -> None:
    """Serve bytes that are there until the process ends."""
    Canned.curve = curve
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    socketserver.ThreadingTCPServer.daemon_threads = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", port), Canned) as server:
        server.serve_forever()


def keep_curve(server: Server, run: str, file: Path) -> None:
    """Keep the bytes with which a server answers for a curve."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("GET", f"/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key=m")
    file.write_bytes(connection.getresponse().read())
    connection.close()


def often(server: Server, client: Any, run: str, long: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measure the calls that a training makes all the time, and the reading of a long curve."""
    from mlflow import entities

    store = client._tracking_client.store  # noqa: SLF001
    points = [[entities.Metric("b", 1.0, 1, batch * POINTS + step) for step in range(POINTS)] for batch in range(5)]

    def log_metrics() -> None:
        for step in range(options.calls):
            client.log_metric(run, "m", 0.5, step=step)

    def log_batches() -> None:
        for batch in points:
            store.log_batch(run, batch, [], [])

    def history() -> None:
        assert len(client.get_metric_history(long, "m")) == options.history

    return {
        "log_metric": measured(server, options.calls, log_metrics),
        "batch of 1,000": measured(server, len(points), log_batches),
        f"history of {options.history:,}": measured(server, 1, history),
    }


def alone(server: Server, options: argparse.Namespace) -> Iterator[dict[str, dict[str, float]]]:
    """Yield what each round measured of the client against bytes that are there."""
    import mlflow

    client = mlflow.MlflowClient(server.url)
    while True:
        yield often(server, client, "r", "r", options)


def rounds(server: Server, options: argparse.Namespace) -> Iterator[dict[str, dict[str, float]]]:
    """Yield what each round measured."""
    import mlflow
    from mlflow import entities

    client = mlflow.MlflowClient(server.url)
    store = client._tracking_client.store  # noqa: SLF001
    experiment = client.create_experiment("bench")
    sizes = [*options.runs, *((options.most,) if server.name == "kilter" and options.most else ())]
    searched = {size: client.create_experiment(f"searched {size}") for size in sizes}
    for size, number in searched.items():
        seed(server, number, f"searched {size}", size)
    if server.name == "mlflow, helped":
        with contextlib.closing(sqlite3.connect(server.folder / "mlflow.db")) as database:
            database.execute("ANALYZE")
    long = client.create_run(experiment).info.run_id
    for begin in range(0, options.history, POINTS):
        store.log_batch(long, [entities.Metric("m", 1.0, 1, step) for step in range(begin, begin + POINTS)], [], [])
    if server.name == "kilter":
        keep_curve(server, long, options.curve)
    while True:
        run = client.create_run(experiment).info.run_id

        def search(size: int) -> None:
            found = client.search_runs(
                [searched[size]], "metrics.m0 > 0.5", order_by=["metrics.m1 DESC"], max_results=100
            )
            assert found

        def log_model(run: str = run) -> None:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "model.bin")
                file.write_bytes(os.urandom(100_000))
                for name in ("MLmodel", "conda.yaml", "requirements.txt", "python_env.yaml", "input_example.json"):
                    Path(folder, name).write_text(name)
                # What log_model calls on the wire, without the seconds of packaging in the client.
                made = client.create_logged_model(experiment, name="m", source_run_id=run)
                client.get_run(run)
                client.log_outputs(run, [entities.LoggedModelOutput(made.model_id, step=0)])
                client.log_model_artifacts(made.model_id, folder)
                client.finalize_logged_model(made.model_id, "READY")

        log_model()
        yield {
            **often(server, client, run, long, options),
            "log_model": measured(server, 1, log_model),
            **{
                f"search of {size:,}": measured(server, 3, lambda size=size: [search(size) for _ in range(3)])
                for size in searched
            },
        }


def compared(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Start all servers, let them take turns, and return what was measured of each."""
    with tempfile.TemporaryDirectory(prefix="kilter-bench-") as folder:
        kilter = [sys.executable, "-m", "kilter.cli.main", "server", "--store", "{folder}/store", "--port", "{port}"]
        servers = [Server("kilter", kilter, Path(folder, "kilter"))]
        if options.mlflow:
            place = ["--backend-store-uri", "sqlite:///{folder}/mlflow.db", "--artifacts-destination", "{folder}/files"]
            command = [options.mlflow, "server", "--host", "127.0.0.1", "--port", "{port}", *place]
            servers.append(Server("mlflow, default", command, Path(folder, "default")))
            servers.append(Server("mlflow, helped", [*command, "--workers", "1"], Path(folder, "helped")))
        options.curve = Path(folder, "curve.json")
        bare = [sys.executable, __file__, "--canned", "{port}", "--curve", str(options.curve)]
        nothing = Server("client alone", bare, Path(folder, "alone"))
        found: dict[str, dict[str, Any]] = {}
        try:
            nothing.start()
            for server in servers:
                found[server.name] = {"first answer, s": server.start()}
                time.sleep(5)
                memory, processes = server.memory()
                found[server.name] |= {"idle memory, MB": memory, "processes": processes}
            going = {server.name: rounds(server, options) for server in servers}
            going[nothing.name] = alone(nothing, options)
            found[nothing.name] = {}
            servers.append(nothing)
            results: dict[str, list[dict[str, dict[str, float]]]] = {server.name: [] for server in servers}
            for _ in range(options.rounds):
                for server in servers:
                    results[server.name].append(next(going[server.name]))
            for server in servers:
                if server is not nothing:
                    found[server.name]["memory at the end, MB"] = server.memory()[0]
                for case in results[server.name][0]:
                    found[server.name][case] = {
                        unit: statistics.median(one[case][unit] for one in results[server.name])
                        for unit in ("ms", "cpu_ms")
                    }
        finally:
            for server in {*servers, nothing}:
                server.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mlflow", help="the mlflow command of an environment of its own")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, nargs="+", default=[1000, 10_000], help="runs that are searched")
    parser.add_argument("--most", type=int, default=100_000, help="runs that Kilter alone is searched in; 0 for none")
    parser.add_argument("--history", type=int, default=100_000, help="points of the curve that is read")
    parser.add_argument("--calls", type=int, default=100, help="single calls in a row")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--canned", type=int, help=argparse.SUPPRESS)  # the port of the process that does nothing
    parser.add_argument("--curve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.canned:
        canned(options.canned, options.curve)
        return
    warnings.simplefilter("ignore")
    found = compared(options)
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    show(found)


def show(found: dict[str, dict[str, Any]]) -> None:
    """Print a table: milliseconds a call, server CPU in brackets, and how many times that is Kilter's."""
    names = list(found)
    sys.stdout.write(f"{'':22}" + "".join(f"{name:>32}" for name in names) + "\n")
    for case, ours in found["kilter"].items():
        cells = []
        for name in names:
            value = found[name].get(case)
            if value is None:
                cells.append("-")
            elif isinstance(value, dict):
                ratio = value["cpu_ms"] / max(ours["cpu_ms"], 1e-9)
                cells.append(f"{value['ms']:9.2f} ({value['cpu_ms']:8.2f}) x{ratio:6.1f}")
            else:
                cells.append(f"{value:.2f}")
        sys.stdout.write(f"{case:22}" + "".join(f"{cell:>32}" for cell in cells) + "\n")


if __name__ == "__main__":
    main()
