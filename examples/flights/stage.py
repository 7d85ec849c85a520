"""The stage of the demo: a store, a simulated clock, and ``kilter up`` on it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from kilter.engines.clock import SharedClock
from kilter.loop.remote import Kilter
from kilter.loop.store import Store
from kilter.loop.workspace import Workspace, connect

START_SECONDS = 90.0


class Stage:
    """Everything that runs while the demo plays.

    Args:
        store: A folder, or a store's URL.
        home: The local folder of a store that is elsewhere.
        now: The simulated time at the beginning.
        port: The page's port; 0 takes a free one.
        fresh: Throw away what an earlier demo left in the folder.
    """

    def __init__(self, store: str, home: str | None, now: datetime, port: int = 0, *, fresh: bool = True) -> None:
        self.store = Store.parse(store, home)
        if fresh and self.store.folder.exists():
            shutil.rmtree(self.store.folder)
        self.store.folder.mkdir(parents=True, exist_ok=True)
        path = self.store.folder / "clock"
        self.clock = SharedClock(path)
        if fresh or not path.stat().st_size:
            self.clock.set(now)
        self._path = path
        self._target = store
        self._home = home
        self.port = port or free_port()
        self.serve_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.kilter: Kilter | None = None

    @property
    def page(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.port}/"

    def embedded(self) -> Workspace:
        """Open the store in this process, before anything else runs on it."""
        return Workspace.open(self.store, self.clock)

    def launch(self) -> None:
        """Begin to start server, front and controller; the store is there already."""
        command = [
            sys.executable,
            "-m",
            "kilter.cli.main",
            "up",
            "--store",
            self._target,
            "--clock",
            f"file:{self._path}",
        ]
        command += ["--port", str(self.port), "--serve-port", str(self.serve_port), "--preload", "lightgbm", "--json"]
        if self._home:
            command += ["--home", self._home]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
        with (self.store.folder / "up.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    def start(self) -> Kilter:
        """Wait until server, front and controller answer."""
        if self._process is None:
            self.launch()
        assert self._process is not None  # noqa: S101 - it was launched just now
        deadline = time.monotonic() + START_SECONDS
        run = self.store.run
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                words = (self.store.folder / "up.log").read_text()[-2000:]
                raise SystemExit(f"kilter up ended with {self._process.returncode}:\n{words}")
            if all(run.living(name) for name in ("server", "serve", "controller")) and self._answers():
                self.kilter = connect(self.page.rstrip("/"), run.token())
                return self.kilter
            time.sleep(0.05)
        raise SystemExit(f"kilter up was not ready after {START_SECONDS:.0f} s; see {self.store.folder / 'up.log'}")

    def _answers(self) -> bool:
        for port in (self.port, self.serve_port):
            try:
                with socket.create_connection(("127.0.0.1", port), 0.5):
                    pass
            except OSError:
                return False
        return True

    def link(self) -> str:
        """Return a link that opens the page in a browser, once."""
        ups = [line for line in said(self.store.folder / "up.log") if line.get("event") == "up"]
        return str(ups[-1]["link"]) if ups else self.page

    def stop(self) -> None:
        """End everything, and wait until it has ended."""
        if self.kilter is not None:
            self.kilter.close()
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def running(self) -> bool:
        """Say whether ``kilter up`` still runs."""
        return self._process is not None and self._process.poll() is None


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def ending(stage: Stage) -> Iterator[Stage]:
    """End the stage whatever happens."""
    try:
        yield stage
    finally:
        stage.stop()


def said(path: Path) -> list[dict]:
    """Return the JSON lines of a file."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
