"""A server in a process of its own, for tests of what a client sees, and of what a kill leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from kilter.operations.running import RunFolder

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0


class RunningServer:
    """``kilter server`` on a store in a folder; it may be killed, and comes back at the same address.

    Args:
        store: The folder of the store.
        port: The port, for a client that is there before the server is; 0 takes a free one.
        environment: Variables of its environment that differ from ours.

    Attributes:
        url: Its address; without a port of its own, from the first start on.
        token: The store's own token.
        log: What it says goes here.
        process: Its process, while it runs.
    """

    def __init__(self, store: Path | str, port: int = 0, **environment: str) -> None:
        self.store = Path(store)
        self.environment = environment
        self.url = f"http://127.0.0.1:{port}" if port else ""
        self.token = ""
        self.log = self.store / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self.kill()

    def start(self) -> Self:
        """Start it, and wait until it listens.

        Raises:
            AssertionError: When it ends instead, or does not listen in time.
        """
        command = [sys.executable, "-m", "kilter.cli.main", "server", "--store", str(self.store)]
        command += ["--port", str(self.port)]
        environment = {**os.environ, **self.environment}
        self.store.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)  # noqa: S603 - our own module
        folder = RunFolder(self.store / "run")
        deadline = time.monotonic() + _START_SECONDS
        while (running := folder.read("server")) is None or running.pid != self.process.pid:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"the server did not come up: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)
        self.url, self.token = running.url, self.environment.get("KILTER_TOKEN") or folder.token() or ""
        return self

    @property
    def port(self) -> int:
        """Its port."""
        return urlsplit(self.url).port or 0

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """End it as a supervisor does.

        Raises:
            AssertionError: When it says that something went wrong.
        """
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        status = process.wait(_STOP_SECONDS)
        if status:
            raise AssertionError(f"the server ended with {status}: {self.log.read_text()[-2000:]}")
