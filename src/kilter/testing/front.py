"""A front in a process of its own, for tests of what a caller sees."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec
import numpy as np

from kilter.core.clock import SystemClock
from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database, metadata
from kilter.packaging.bundle import package
from kilter.serving.front.process import FrontConfig
from kilter.serving.records import TrafficPlan
from kilter.serving.service import EndpointService

_START_SECONDS = 60.0


class RunningFront:
    """A store in a folder, and a front that serves it.

    Args:
        folder: An empty folder.
        settings: Fields of :class:`FrontConfig` that differ from a quiet default.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        url = f"sqlite:///{folder / 'kilter.db'}"
        self.database = Database.open(url)
        with self.database.transaction() as connection:
            metadata.create_all(connection)
        self.objects = ObjectStore.open(str(folder / "objects"))
        self.endpoints = EndpointService(self.database, SystemClock(), folder / "log")
        defaults = {
            "database": url,
            "objects": str(folder / "objects"),
            "logs": str(folder / "log"),
            "port": 0,
            "announce": str(folder / "front.json"),
        }
        self.config = FrontConfig(**{**defaults, **settings})
        self.process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.client.close()
        self.database.close()

    def constant(self, value: float, names: tuple[str, ...] = ("x",)) -> str:
        """Package a model that always answers ``value``; return its bundle's digest."""
        from kilter.packaging.constant import Constant  # noqa: PLC0415 - a test that packages its own needs none

        encoding = Encoding(names, tuple("numeric" for _ in names), {})
        example = np.zeros((1, len(names)))
        return package(Constant(value), encoding, example, [], self.objects, table=Table("t", "id", "at")).digest

    def plan(self, plan: TrafficPlan, *, wait: bool = True) -> int:
        """Set a plan and wait until the front serves it."""
        generation = self.endpoints.set_plan(plan)
        if wait and self.process is not None:
            self.until(lambda: self.endpoints.applied(plan.loop) >= generation)
        return generation

    def start(self) -> RunningFront:
        """Start the front and wait until it listens."""
        announced = Path(self.config.announce)
        announced.unlink(missing_ok=True)
        arguments = [sys.executable, "-m", "kilter.serving.front.process", msgspec.json.encode(self.config).decode()]
        self.process = subprocess.Popen(arguments)  # noqa: S603 - our own interpreter and module
        self.until(announced.exists)
        self.client.close()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{json.loads(announced.read_text())['port']}", timeout=30)
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the front a signal and return its exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        status = self.process.wait(30)
        self.process = None
        return status

    def predict(self, loop: str, rows: list[dict[str, Any]], **headers: str) -> httpx.Response:
        """Ask for predictions."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(f"/predict/{loop}", json={"rows": rows}, headers=named)

    def models(self, loop: str) -> dict[str, Any]:
        """Return how an endpoint is."""
        found: dict[str, Any] = next(
            one for one in self.client.get("/models").json()["endpoints"] if one["loop"] == loop
        )
        return found

    def pids(self, loop: str, version: int) -> list[int]:
        """Return the processes of a version."""
        return next(list(one["pids"]) for one in self.models(loop)["versions"] if one["version"] == version)

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that carry the labels."""
        total = 0.0
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"kilter_serving_{name}") and all(f'{k}="{v}"' in line for k, v in labels.items()):
                total += float(line.rpartition(" ")[2])
        return total

    def until(self, condition: Any, seconds: float = _START_SECONDS) -> None:
        """Wait for a condition, as long as the front lives."""
        end = time.monotonic() + seconds
        while not condition():
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"the front ended with {self.process.returncode}")
            if time.monotonic() > end:
                raise AssertionError("the condition did not come true in time")
            time.sleep(0.01)
