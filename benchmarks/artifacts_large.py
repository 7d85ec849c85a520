"""A large model package: up in parts, killed in the middle, resumed, fetched again, and its second version; memory by /proc.

    python benchmarks/artifacts_large.py [--gigabytes 5] [--folder DIR] [--mlflow] [--json]

The package is made of random bytes but for every fourth 16 MiB, which is a hole, as in a sparse file; its second version has a longer
header and one changed stretch of 32 MiB. The native client sends it, is killed at a third, and sends it again. With ``--mlflow`` the
unmodified MLflow client sends it in parts and fetches it as well. Needs about four times the package's size on the disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blake3 import blake3

from kilter.loop.workspace import connect
from kilter.operations.running import RunFolder
from kilter.tracking.transfer import fetch_file

_STRETCH = 16 << 20


def make(path: Path, size: int) -> None:
    """Write the package: a header, then stretches of random bytes and holes."""
    import numpy as np

    dice = np.random.default_rng(5)
    with path.open("wb") as file:
        file.write(b'{"version": 1}')
        for place, begin in enumerate(range(0, size, _STRETCH)):
            length = min(_STRETCH, size - begin)
            if place % 4 == 3:
                file.seek(length, os.SEEK_CUR)
            else:
                file.write(dice.bytes(length))
        file.truncate(file.tell())


def change(path: Path, target: Path) -> None:
    """Write the second version: another header, and 32 MiB in the middle that are new."""
    middle = path.stat().st_size // 2
    with path.open("rb") as source, target.open("wb") as file:
        source.seek(14)
        file.write(b'{"version": 2, "note": "the header is longer now"}')
        while piece := source.read(1 << 20):
            if not any(piece):
                file.seek(len(piece), os.SEEK_CUR)
            elif middle <= source.tell() < middle + (32 << 20):
                file.write(os.urandom(len(piece)))
            else:
                file.write(piece)
        file.truncate(file.tell())


def digest(path: Path) -> str:
    hashing = blake3()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            hashing.update(piece)
    return hashing.hexdigest()


def used(folder: Path) -> int:
    """Return how many bytes lie in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


class Watch:
    """Notes the largest resident memory of a process, and its CPU seconds.

    Args:
        pid: Which.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
                found = next((int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)
                self.peak = max(self.peak, found >> 10)

    def cpu(self) -> float:
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(value) for value in fields[11:13]) / os.sysconf("SC_CLK_TCK")

    def end(self) -> int:
        self._over.set()
        return self.peak


@contextlib.contextmanager
def serving(store: Path) -> Iterator[tuple[str, str, int]]:
    """Run a server, and give its address, its token and its process."""
    command = [sys.executable, "-m", "kilter.cli.main", "server", "--store", str(store), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        folder = RunFolder(store / "run")
        while (running := folder.read("server")) is None or running.pid != process.pid:
            assert process.poll() is None
            time.sleep(0.05)
        yield running.url, folder.token(), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


_SENDER = """
import sys
from kilter.loop.workspace import connect
from kilter.tracking.transfer import send_file
url, token, file, run, name = sys.argv[1:]
send_file(connect(url, token).runs, file, run, name, progress=lambda done, sent: print(done, sent, flush=True))
"""


def send(url: str, token: str, file: Path, run: str, name: str, until: float = 2.0) -> tuple[float, int]:
    """Send a file by a process of its own, killed at a share of it, and return the seconds and the bytes sent."""
    began, sent, size = time.perf_counter(), 0, file.stat().st_size
    command = [sys.executable, "-c", _SENDER, url, token, str(file), run, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            done, sent = (int(word) for word in line.split())
            if done > size * until:
                process.kill()
                break
        process.wait()
    if until > 1 and process.returncode:
        raise SystemExit("the upload failed")
    return time.perf_counter() - began, sent


def by_mlflow(url: str, file: Path, folder: Path) -> dict[str, float]:
    """Send and fetch a file with MLflow's own client, in parts."""
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": "1000000"}
    import mlflow

    client = mlflow.MlflowClient(url)
    run = client.create_run("0").info.run_id
    began = time.perf_counter()
    client.log_artifact(run, str(file), "model")
    up = time.perf_counter() - began
    began = time.perf_counter()
    back = client.download_artifacts(run, f"model/{file.name}", str(folder))
    down = time.perf_counter() - began
    assert digest(Path(back)) == digest(file)
    Path(back).unlink()
    return {"mlflow up, s": up, "mlflow down, s": down}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--folder", help="where to work; a temporary folder, if not said")
    parser.add_argument("--mlflow", action="store_true", help="with MLflow's client as well")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    size = int(options.gigabytes * (1 << 30))
    folder = Path(tempfile.mkdtemp(prefix="kilter-large-", dir=options.folder))
    found: dict[str, Any] = {}
    try:
        first, second, back = folder / "first.bin", folder / "second.bin", folder / "back.bin"
        make(first, size)
        change(first, second)
        store = folder / "store"
        with serving(store) as (url, token, pid):
            watch = Watch(pid)
            runs = connect(url, token).runs
            run = runs.start("large").id
            seconds, cut = send(url, token, first, run, "model/weights.bin", until=0.34)
            found |= {"until the kill, s": seconds, "sent until the kill, MB": cut / 1e6}
            assert not runs.get(run).artifacts, "an upload that broke off is visible"
            cpu = watch.cpu()
            seconds, sent = send(url, token, first, run, "model/weights.bin")
            found |= {"resumed, s": seconds, "sent after the kill, MB": sent / 1e6, "server CPU, s": watch.cpu() - cpu}
            held = used(store)
            seconds, sent = send(url, token, second, run, "model/second.bin")
            found |= {"second version, s": seconds, "second version sent, MB": sent / 1e6}
            found["second version stored, MB"] = (used(store) - held) / 1e6
            began = time.perf_counter()
            [entry] = [file for file in runs.get(run).artifacts if file.name == "model/weights.bin"]
            fetch_file(runs, back, entry, run)
            found |= {"fetched, s": time.perf_counter() - began, "stored, MB": held / 1e6}
            assert digest(back) == entry.digest == digest(first), "it came back otherwise"
            back.unlink()
            if options.mlflow:
                found |= by_mlflow(url, second, folder)
            found["server memory at most, MB"] = watch.end()
        found["client memory at most, MB"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        found["package, MB"] = size / 1e6
    finally:
        shutil.rmtree(folder)
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    for name, value in found.items():
        sys.stdout.write(f"{name:28} {value:12,.1f}\n")


if __name__ == "__main__":
    main()
