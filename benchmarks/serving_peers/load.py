"""Asks a server as fast as it answers, from a core of its own: wrk over HTTP, h2load over gRPC."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from machine import Cores
from rows import Body

if TYPE_CHECKING:
    from peers import Form, Server

METHOD = "/inference.GRPCInferenceService/ModelInfer"
TOOLS = {"wrk": "wrk", "taskset": "util-linux", "h2load": "nghttp2-client"}
_STREAMS = 8
"""Calls that one gRPC connection has under way when there are several connections' worth of them."""


def missing_tools() -> list[str]:
    """Return what has to be installed first."""
    return [f"{tool} (Debian: {package})" for tool, package in TOOLS.items() if shutil.which(tool) is None]


def once(server: Server, form: Form, rows: int) -> list[float]:
    """Ask once and return the numbers of the answer."""
    body = form.body(rows)
    if form.grpc:
        return form.read(_call(server.ports["grpc"], body), {})
    answer = httpx.post(f"{server.address}{form.path}", content=body.content, headers=body.headers, timeout=30)
    if answer.status_code != 200:
        raise RuntimeError(f"{server.name} answered {answer.status_code}: {answer.text[:300]}")
    return form.read(answer.content, dict(answer.headers))


def _call(port: int, body: Body) -> bytes:
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer: bytes = channel.unary_unary(METHOD)(body.content[5:], timeout=30)
    return answer


def run(
    server: Server, form: Form, rows: int, connections: int, seconds: float, cores: Cores, folder: Path
) -> dict[str, float]:
    """Load a server and return what it took.

    Args:
        server: Whom to ask.
        form: In which form.
        rows: Of a request.
        connections: How many requests are under way at a time.
        seconds: For how long.
        cores: Where the load runs.
        folder: Where the requests may be written to.

    Returns:
        ``cpu_us`` of all the server's processes per request, ``per_second``, ``p50_ms`` and ``p99_ms``.
    """
    body = form.body(rows)
    before = server.cpu()
    asked = _grpc if form.grpc else _http
    found = asked(server, form, body, connections, seconds, cores, folder / f"{server.place}-{form.name}-{rows}")
    found["cpu_us"] = (server.cpu() - before) / found.pop("count") * 1e6
    return found


def _http(
    server: Server, form: Form, body: Body, connections: int, seconds: float, cores: Cores, path: Path
) -> dict[str, float]:
    content, script = path.with_suffix(".body"), path.with_suffix(".lua")
    content.write_bytes(body.content)
    lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in body.headers.items()]
    script.write_text(
        "\n".join(['wrk.method = "POST"', f'wrk.body = io.open("{content}", "rb"):read("*all")', *lines]) + "\n"
    )
    command = ["taskset", "-c", str(cores.client), "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency",
               "--timeout", "10s", "-s", str(script), f"{server.address}{form.path}"]  # fmt: skip
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in answer or "Socket errors" in answer:
        raise RuntimeError(f"{server.name} refused requests:\n{answer}")
    quantile = {name: _ms(found) for name, found in re.findall(r"^\s+(50|99)%\s+(\S+)\s*$", answer, re.MULTILINE)}
    (count,) = re.findall(r"(\d+) requests in", answer)
    (per_second,) = re.findall(r"Requests/sec:\s+([\d.]+)", answer)
    return {"count": int(count), "per_second": float(per_second), "p50_ms": quantile["50"], "p99_ms": quantile["99"]}


def _ms(text: str) -> float:
    number, unit = re.match(r"([\d.]+)(\w+)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def _grpc(
    server: Server, _form: Form, body: Body, connections: int, seconds: float, cores: Cores, path: Path
) -> dict[str, float]:
    content, log = path.with_suffix(".grpc"), path.with_suffix(".log")
    content.write_bytes(body.content)
    log.unlink(missing_ok=True)
    streams = min(_STREAMS, connections)
    command = ["taskset", "-c", str(cores.client), "h2load", f"-c{connections // streams}", f"-m{streams}",
               f"-D{max(int(seconds), 1)}", "-d", str(content), "-H", "content-type: application/grpc", "-H", "te: trailers",
               f"--log-file={log}", f"http://127.0.0.1:{server.ports['grpc']}{METHOD}"]  # fmt: skip
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    failed, errored = re.findall(r"(\d+) failed, (\d+) errored", answer)[0]
    if failed != "0" or errored != "0":
        raise RuntimeError(f"{server.name} refused calls:\n{answer}")
    taken = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
    (per_second,) = re.findall(r"finished in \S+, ([\d.]+) req/s", answer)
    return {
        "count": len(taken),
        "per_second": float(per_second),
        "p50_ms": statistics.median(taken) / 1e3,
        "p99_ms": taken[int(len(taken) * 0.99)] / 1e3,
    }


def warm(server: Server, forms: list[Form], cores: Cores, folder: Path) -> None:
    """Ask every form for a second, so that nothing is met for the first time later."""
    for form in forms:
        run(server, form, 1, 8, 1, cores, folder)


def as_json(value: object) -> str:
    """Return a result as one line."""
    return json.dumps(value, separators=(",", ":"))
