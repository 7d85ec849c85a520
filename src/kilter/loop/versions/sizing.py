"""``kilter bench``: what a version can carry on this machine, and how many machines a load would need.

The version is served by a front of its own on a scratch store, with everything on that is always on: recording, routing,
metrics. The store that the version comes from, and what it serves meanwhile, are not touched.
"""

from __future__ import annotations

import math
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from kilter.core.clock import SystemClock
from kilter.core.errors import InvalidInput, Unavailable
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.loop.remote import Kilter
from kilter.loop.versions.optimizing import parts_of
from kilter.packaging.bundle import Parts, keep
from kilter.registry.service import split_reference
from kilter.serving.front.http import Limits
from kilter.serving.front.process import FrontConfig
from kilter.serving.load import Point, ask
from kilter.serving.records import TrafficPlan
from kilter.serving.service import EndpointService
from kilter.serving.settings import Settings

HEADROOM = 0.7
"""The part of the measured capacity that a plan uses: the rest is for peaks, and for a machine that is lost."""
_START_SECONDS = 60.0
_REQUESTS = 64


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What a load needs.

    Args:
        rate: Rows per second that are to be carried.
        p99_ms: What the 99th percentile may be.
        met: Whether any point of the curve keeps that; if not, nothing below is said.
        rows_per_second: What one machine like this one carries at most within the 99th percentile.
        machines: How many are needed, each used to 70 %.
        processor_share: The part of the machines' processors that is busy then, where it can be read.
    """

    rate: float
    p99_ms: float
    met: bool
    rows_per_second: float = 0.0
    machines: int = 0
    processor_share: float | None = None


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """The measured curve of a version.

    Args:
        model: The model's name.
        version: The version.
        runtime: What computes it.
        processors: How many this machine has; the callers use some of them.
        replicas: The model's worker processes.
        points: The curve, by the number of callers.
        cpu_seconds_per_million: Processor seconds of a million rows at the cheapest point, where it can be read.
        capacity: What the asked load needs; None when none was asked for.
    """

    model: str
    version: int
    runtime: str
    processors: int
    replicas: int
    points: tuple[Point, ...]
    cpu_seconds_per_million: float | None
    capacity: Capacity | None = None


def bench(
    kilter: Kilter,
    reference: str,
    *,
    callers: Sequence[int] = (1, 4, 16, 64),
    rows: int = 1,
    seconds: float = 2.0,
    replicas: int = 1,
    rate: float | None = None,
    p99_ms: float = 100.0,
    measured: Callable[[Point], None] = lambda _: None,
) -> Bench:
    """Measure a version under growing load.

    Args:
        kilter: The store or the server that has it.
        reference: ``churn``, ``churn@v3`` or ``churn@champion``.
        callers: Numbers of callers, each with one request under way.
        rows: Rows of each request.
        seconds: For each number of callers, after a fifth of that to warm up.
        replicas: The model's worker processes.
        rate: Rows per second to plan for; None for no plan.
        p99_ms: What the 99th percentile may be in that plan.
        measured: Told of each point.

    Raises:
        NotFound: When there is no such version.
        InvalidInput: When an argument can't be used.
        Unavailable: When the version can't be loaded.
    """
    _check(callers, rows, seconds, replicas, rate, p99_ms)
    name, wanted = split_reference(reference)
    version = kilter.models.get(name, wanted)
    parts = parts_of(kilter, version.bundle)
    points: list[Point] = []
    with _served(parts, name, replicas, rows) as (port, pid):
        requests = _requests(parts, name, rows)
        ask(port, requests, 1, rows, min(seconds, 0.5), pid)  # the first requests of a process are slower
        for count in sorted(set(callers)):
            points.append(ask(port, requests, count, rows, seconds, pid))
            measured(points[-1])
    costs = [point.cpu_us / rows for point in points if point.cpu_us is not None]
    found = Bench(
        model=name,
        version=version.version,
        runtime=parts.manifest.flavor,
        processors=os.cpu_count() or 1,
        replicas=replicas,
        points=tuple(points),
        cpu_seconds_per_million=min(costs) if costs else None,
    )
    return found if rate is None else msgspec.structs.replace(found, capacity=plan(found, rate, p99_ms))


def plan(found: Bench, rate: float, p99_ms: float) -> Capacity:
    """Say what a load needs, from a measured curve.

    Args:
        found: The curve.
        rate: Rows per second.
        p99_ms: What the 99th percentile may be.
    """
    fitting = [point for point in found.points if point.p99_ms <= p99_ms and not point.refused]
    if not fitting:
        return Capacity(rate=rate, p99_ms=p99_ms, met=False)
    best = max(fitting, key=lambda point: point.rows_per_second)
    machines = max(1, math.ceil(rate / (best.rows_per_second * HEADROOM)))
    share = None if best.cpu_us is None else rate * best.cpu_us / best.rows / 1e6 / (machines * found.processors)
    return Capacity(
        rate=rate,
        p99_ms=p99_ms,
        met=True,
        rows_per_second=best.rows_per_second,
        machines=machines,
        processor_share=share,
    )


def _check(callers: Sequence[int], rows: int, seconds: float, replicas: int, rate: float | None, p99_ms: float) -> None:
    for where, value, most in (("rows", rows, Limits().rows), ("replicas", replicas, 64)):
        if not 1 <= value <= most:
            raise InvalidInput(f"{value} was given", where=where, allowed=f"1 to {most}")
    if not callers or not all(1 <= count <= Limits().connections for count in callers):
        raise InvalidInput(f"{list(callers)} was given", where="callers", allowed=f"1 to {Limits().connections}")
    if not 0.1 <= seconds <= 600:
        raise InvalidInput(f"{seconds} was given", where="seconds", allowed="0.1 to 600")
    if rate is not None and not 0 < rate < math.inf:
        raise InvalidInput(f"{rate} was given", where="rate", allowed="rows per second, more than 0")
    if not 0 < p99_ms < math.inf:
        raise InvalidInput(f"{p99_ms} was given", where="p99", allowed="milliseconds, more than 0")


@contextmanager
def _served(parts: Parts, name: str, replicas: int, rows: int) -> Iterator[tuple[int, int]]:
    """Serve a bundle alone, on a scratch store; give the port and the front's process."""
    with tempfile.TemporaryDirectory(prefix="kilter-bench-") as scratch:
        folder = Path(scratch)
        url = f"sqlite:///{folder / 'kilter.db'}"
        database = Database.open(url)
        try:
            database.migrate()
            bundle = keep(parts, ObjectStore.open(str(folder / "objects"))).digest
            EndpointService(database, SystemClock()).set_plan(TrafficPlan(loop=name, champion=1, bundles={1: bundle}))
        finally:
            database.close()
        announce = folder / "front.json"
        config = FrontConfig(
            database=url,
            objects=str(folder / "objects"),
            logs=str(folder / "log"),
            port=0,
            announce=str(announce),
            settings=Settings(replicas=replicas, batch_rows=max(Settings().batch_rows, rows)),
        )
        command = [sys.executable, "-m", "kilter.serving.front.process", msgspec.json.encode(config).decode()]
        with (folder / "front.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603 - our own interpreter and module
        try:
            yield _wait(process, announce, name, folder / "front.log"), process.pid
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], announce: Path, name: str, log: Path) -> int:
    """Wait until the model answers, and return the front's port."""
    from http.client import HTTPConnection  # noqa: PLC0415 - only who measures needs it

    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if announce.exists():
            port = int(msgspec.json.decode(announce.read_bytes())["port"])
            connection = HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("GET", f"/v2/models/{name}/ready")
                if connection.getresponse().status == 200:
                    return port
            except OSError:
                pass
            finally:
                connection.close()
        time.sleep(0.05)
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise Unavailable("the version could not be served here", where=name, fix="; ".join(lines[-1:]))


def _requests(parts: Parts, name: str, rows: int) -> list[bytes]:
    """Return whole requests made of the bundle's example rows, in turn."""
    signature = parts.manifest.signature
    encoding = signature.encoding
    matrix = memoryview(parts.example).cast("B").cast("d")
    width = len(encoding.names)
    known = len(matrix) // width
    looked_up = {str(column) for view in signature.views for column in view.get("columns", ())}
    entities = {str(view["entity"]) for view in signature.views}
    moment = datetime.now(UTC).isoformat()

    def row(number: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        if signature.key:
            values[signature.key] = secrets.token_hex(8)
        if signature.time:
            values[signature.time] = moment
        for place, column in enumerate(encoding.names):
            if column in looked_up:
                continue
            value = matrix[(number % known) * width + place]
            texts = encoding.categories.get(column)
            if math.isnan(value) or (texts is not None and value < 0):
                values[column] = None
            else:
                values[column] = value if texts is None else texts[int(value)]
        return values | dict.fromkeys(entities - values.keys(), "bench")

    found = []
    for start in range(min(_REQUESTS, known)):
        body = msgspec.json.encode({"rows": [row(start * rows + one) for one in range(rows)]})
        head = f"POST /predict/{name} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        found.append(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return found
