"""What Kilter answers to MLflow's own client, call by call, beside what a real ``mlflow server`` answered.

The real server's answers are in ``mlflow_answers.json``. With ``KILTER_MLFLOW=/path/to/mlflow`` they are asked for anew, from a server
that the test starts; ``mlflow_flows.py`` writes the file again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilter.testing.server import RunningServer

from .mlflow_flows import FLOWS, PACKAGES, play

pytest.importorskip("mlflow")

HERE = Path(__file__).parent
ANSWERS = json.loads((HERE / "mlflow_answers.json").read_text())
REAL = os.environ.get("KILTER_MLFLOW", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:mlflow.*"),
    # the client leaves its kept connections to the garbage collector
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]

EXACT = "an infinity comes back as one, not as the largest float"
LIBERAL = "more is understood here than there: a list of names, numbers of params, any comparison of texts"
STRICT = "what can't be kept as it was sent is refused, not changed or left out in silence"
QUIET = "the same refusal, without the SQL of the database behind it"
HONEST = "there the server fails with 500"
OWN = "what this server can do is something else"
MORE = "a version says which aliases it has wherever it is shown, not only where one is asked for"
INPUTS = "a run says which models it read in a search, too, not only where it is asked for alone"
WORDS = "the same refusal, in words of its own"

DELIBERATE: dict[tuple[str, str, int], str] = {
    ("lifecycle", "experiments/create", 1): QUIET,
    ("lifecycle", "experiments/update", 1): QUIET,
    ("lifecycle", "experiments/create", 2): STRICT,
    ("lifecycle", "experiments/create", 3): QUIET,
    ("lifecycle", "experiments/update", 2): HONEST,
    ("refusals", "runs/log-metric", 1): STRICT,
    ("refusals", "runs/log-metric", 2): STRICT,
    ("refusals", "runs/log-batch", 1): HONEST,
    ("refusals", "runs/update", 1): STRICT,
    ("refusals", "runs/log-inputs", 1): STRICT,
    ("refusals", "experiments/search", 1): STRICT,
    ("refusals", "logged-models/search", 1): WORDS,
    ("refusals", "runs/get", 1): STRICT,
    ("refusals", "metrics/get-history", 1): WORDS,
    ("refusals", "metrics/get-history", 2): STRICT,
    ("refusals", "metrics/get-history-bulk-interval", 1): STRICT,
    ("refusals", "server-info", 1): OWN,
    **{("registry", "registered-models/get", number): MORE for number in range(1, 8)},
    ("registry", "registered-models/update", 1): MORE,
    ("registry", "registered-models/search", 1): MORE,
    ("registry", "model-versions/search", 1): MORE,
    **{("evaluation", "runs/search", number): INPUTS for number in range(1, 6)},
    ("searching", "runs/search", 1): LIBERAL,
    ("searching", "runs/search", 2): LIBERAL,
    ("searching", "runs/search", 3): LIBERAL,
    ("searching", "runs/search", 4): LIBERAL,
    ("searching", "runs/search", 5): WORDS,
    ("searching", "runs/search", 6): WORDS,
    ("searching", "runs/search", 7): LIBERAL,
    ("searching", "experiments/search", 1): WORDS,
    ("searching", "experiments/search", 2): LIBERAL,
    ("searching", "experiments/search", 3): WORDS,
    ("searching", "experiments/search", 4): WORDS,
    ("tracking", "runs/get", 1): EXACT,
    ("tracking", "runs/get", 2): EXACT,
    ("tracking", "runs/get", 3): EXACT,
    ("tracking", "runs/get", 4): EXACT,
    ("tracking", "runs/get", 5): EXACT,
}
"""Where the two differ on purpose: the flow, its call, and the how many-th of its differences that is."""


@pytest.fixture(scope="module")
def kilter(tmp_path_factory) -> Iterator[str]:
    store = tmp_path_factory.mktemp("compare") / "store"
    with RunningServer(store) as running:
        yield running.url


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """What a real server answers: now, when there is one, or when the answers were recorded."""
    if not REAL:
        yield ANSWERS["flows"]
        return
    folder = tmp_path_factory.mktemp("real")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/files"]
    process = subprocess.Popen(
        [REAL, "server", "--port", str(port), "--workers", "1", *places],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(240):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                if answer.status == 200:
                    break
            time.sleep(0.5)
        yield play(f"http://127.0.0.1:{port}", list(FLOWS))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _about_the_server(call: dict[str, Any]) -> bool:
    return str(call["call"]).endswith("/server-info")


@pytest.mark.parametrize("name", sorted(FLOWS))
def test_the_same_calls_are_answered_alike(name, kilter, expected):
    for package in PACKAGES.get(name, ()):
        pytest.importorskip(package)
    if name not in expected:
        pytest.skip("the real server's answers were recorded without it")
    found = play(kilter, [name]).get(name)
    if found is None:
        pytest.skip("this server doesn't know these calls yet")
    wanted = expected[name]
    if name != "refusals":  # which asks what the server can do by itself; else the client asks, once in a process
        found, wanted = ([call for call in calls if not _about_the_server(call)] for calls in (found, wanted))
    assert [call["call"] for call in found] == [call["call"] for call in wanted]
    differing: dict[str, int] = {}
    unexpected = []
    seen = set()
    for place, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        if ours == theirs:
            continue
        call = ours["call"].rpartition("mlflow/")[2]
        differing[call] = number = differing.get(call, 0) + 1
        seen.add((name, call, number))
        if (name, call, number) not in DELIBERATE:
            unexpected.append((place, theirs, ours))
    assert not unexpected, "\n".join(f"{place}\n real: {theirs}\n ours: {ours}" for place, theirs, ours in unexpected)
    assert seen == {one for one in DELIBERATE if one[0] == name}, "what is listed as different is not any more"
