"""``kilter serve --ray``: the same answers from replicas of Ray Serve, recorded, swapped without a gap, and nothing open."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest

from kilter.core.errors import Conflict, Forbidden
from kilter.loop.workspace import Workspace
from kilter.packaging.bundle import load, package
from kilter.serving.records import TrafficPlan
from kilter.serving.settings import Settings
from kilter.testing.front import RunningFront

from .cluster_scoring import NAMES, rows

pytest.importorskip("ray.serve", reason="Ray is not installed: kilter[ray]")
lightgbm = pytest.importorskip("lightgbm")

pytestmark = pytest.mark.slow

JSON = {"content-type": "application/json"}
_PATIENCE = 90.0


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Serving:
    """A store with two versions of a model, served by the command in a process of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.workspace = Workspace.open(folder)
        self.bundles = {version: self.fitted(version) for version in (1, 2)}
        self.plan(1)
        port = free_port()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kilter.cli.main", "serve", "--ray", "--store", str(folder), "--port", str(port),
             "--replicas", "1:2"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self.until(self.ready)

    def fitted(self, version):
        from kilter.data.declare import Table
        from kilter.data.encoding import Encoding

        frame = rows(400)
        encoding = Encoding.fit(frame, NAMES)
        X = encoding.matrix(frame)
        model = lightgbm.LGBMClassifier(n_estimators=4 * version, verbosity=-1, n_jobs=1, min_child_samples=3)
        model.fit(X, np.nan_to_num(X[:, 1]) > 0.3, categorical_feature=[0])
        table = Table("flights", "flight_id", "sched_dep")
        return package(model, encoding, X, [], self.workspace.objects, table=table).digest

    def plan(self, version):
        return self.workspace.endpoints.set_plan(TrafficPlan(loop="late", champion=version, bundles=self.bundles))

    def expected(self, version, frame):
        runtime = load(self.bundles[version], self.workspace.objects)
        return runtime.predict(runtime.encoding.matrix(frame)).tolist()

    def ready(self):
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def predict(self, frame):
        sent = frame.with_columns(sched_dep=frame["sched_dep"].dt.to_string("iso:strict")).to_dicts()
        return self.client.post("/predict/late", json={"rows": sent})

    def version(self, number):
        (endpoint,) = self.client.get("/models").json()["endpoints"]
        return next(one for one in endpoint["versions"] if one["version"] == number)

    def until(self, condition):
        end = time.monotonic() + _PATIENCE
        while not condition():
            assert self.process.poll() is None, "the command ended"
            assert time.monotonic() < end, "the condition did not come true in time"
            time.sleep(0.02)

    def family(self):
        """The command's processes."""
        found, parents = {self.process.pid}, {}
        for one in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(one.parent.name)] = int(one.read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
        while True:
            more = {pid for pid, parent in parents.items() if parent in found} - found
            if not more:
                return found
            found |= more

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        self.client.close()
        self.workspace.close()


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    found = Serving(tmp_path_factory.mktemp("store"))
    yield found
    found.close()


def listening(pids):
    """The addresses that processes listen on, as the kernel writes them."""
    mine = set()
    for pid in pids:
        for one in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                mine.add(str(one.readlink()))
            except OSError:
                continue
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            parts = line.split()
            if parts[3] == "0A" and f"socket:[{parts[9]}]" in mine:
                found.add(parts[1].partition(":")[0])
    return found


def test_the_same_bits_on_every_face_and_on_record(serving):
    generation = serving.plan(1)
    serving.until(lambda: serving.workspace.endpoints.applied("late") >= generation)
    frame = rows(120, seed=5)
    answer = serving.predict(frame)
    assert answer.status_code == 200, answer.text
    found = answer.json()["predictions"]
    assert [one["value"] for one in found] == serving.expected(1, frame)
    assert {(one["version"], one["arm"]) for one in found} == {(1, "champion")}
    assert len({one["id"] for one in found}) == 120
    assert all(one["id"].startswith("ray_0-") for one in found)
    kept = serving.workspace.endpoints.prediction(found[7]["id"])
    assert (kept.key, kept.version, kept.value) == ("f000007", 1, found[7]["value"])
    inputs = [
        {"name": name, "shape": [120], "datatype": kind, "data": frame[name].to_list()}
        for name, kind in (("carrier", "BYTES"), ("distance", "FP64"), ("night", "BOOL"), ("flight_id", "BYTES"))
    ]
    times = {"name": "sched_dep", "shape": [120], "datatype": "BYTES", "data": frame["sched_dep"].dt.to_string("iso:strict").to_list()}  # fmt: skip
    tensors = serving.client.post("/v2/models/late/infer", json={"inputs": [*inputs, times]})
    assert tensors.status_code == 200, tensors.text
    assert next(one["data"] for one in tensors.json()["outputs"] if one["datatype"] == "FP64") == serving.expected(
        1, frame
    )


def test_what_is_refused_is_refused_as_by_a_front(serving):
    client = serving.client
    assert client.post("/predict/nobody", json={"rows": [{}]}).status_code == 404
    assert client.post("/predict/late", content=b"{", headers=JSON).status_code == 400
    assert client.post("/predict/late", content=b" " * (9 << 20), headers=JSON).status_code == 413
    assert client.get("/models", headers={"host": "elsewhere.example"}).status_code == 403


def test_everything_listens_on_loopback(serving):
    found = listening(serving.family())
    assert found
    assert {one for one in found if not one.endswith("0100007F")} == set()


def test_a_new_champion_takes_over_without_a_gap(serving):
    frame, answers, stop = rows(3, seed=9), [], threading.Event()
    before = serving.plan(1)
    serving.until(lambda: serving.workspace.endpoints.applied("late") >= before)

    def ask():
        while not stop.is_set():
            answers.append(serving.predict(frame))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        generation = serving.plan(2)
        serving.until(lambda: serving.workspace.endpoints.applied("late") >= generation)
        count = len(answers)
        serving.until(lambda: len(answers) > count + 3)
    finally:
        stop.set()
        asking.join()
    assert {answer.status_code for answer in answers} == {200}
    versions = [one["version"] for answer in answers for one in answer.json()["predictions"]]
    assert versions == sorted(versions)
    assert versions[-1] == 2
    assert {one["arm"] for answer in answers for one in answer.json()["predictions"]} == {"champion"}
    assert [one["value"] for one in answers[-1].json()["predictions"]] == serving.expected(2, frame)


def test_a_dead_model_is_not_ready_until_it_is_back(serving):
    generation = serving.plan(2)
    serving.until(lambda: serving.workspace.endpoints.applied("late") >= generation)
    (pid,) = serving.version(2)["pids"]
    os.kill(pid, signal.SIGKILL)
    serving.until(lambda: serving.client.get("/readyz").status_code == 503)
    serving.until(serving.ready)
    assert serving.version(2)["pids"] != [pid]
    assert serving.predict(rows(3)).status_code == 200


def test_a_dead_replica_is_replaced_under_its_own_name(serving):
    serving.until(serving.ready)
    before = serving.predict(rows(2)).json()["predictions"][0]["id"]
    pid = serving.client.get("/models").json()["pid"]
    os.kill(pid, signal.SIGKILL)
    serving.until(lambda: serving.ready() and serving.client.get("/models").json()["pid"] != pid)
    after = serving.predict(rows(2)).json()["predictions"][0]["id"]
    assert before.startswith("ray_0-")
    assert after.startswith("ray_0-")
    assert after != before
    assert serving.workspace.endpoints.prediction(before).key == "f000000"
    assert sorted(one.name for one in (serving.folder / "log" / "predictions").iterdir()) == ["ray_0"]


def test_stopped_it_leaves_nothing_behind(tmp_path):
    serving = Serving(tmp_path)
    try:
        family = serving.family()
        assert len(family) > 3
        assert serving.workspace.endpoints.status("late") != []
        serving.process.send_signal(signal.SIGTERM)
        assert serving.process.wait(60) == 0
        end = time.monotonic() + _PATIENCE
        while any(Path(f"/proc/{pid}").exists() for pid in family):
            assert time.monotonic() < end, "a process of the cluster is left"
            time.sleep(0.1)
        assert list(serving.workspace.endpoints.status("late")) == []
    finally:
        serving.close()


def test_a_command_that_is_refused_leaves_the_application_alone(tmp_path):
    from kilter.serving.ray.application import deploy, run, withdraw
    from kilter.serving.ray.cluster import joined

    with RunningFront(tmp_path) as store, joined("", processors=2):
        store.plan(TrafficPlan(loop="late", champion=1, bundles={1: store.constant(0.25)}), wait=False)
        config = msgspec.structs.replace(store.config, announce="", port=free_port())
        deploy(config)
        try:
            other = msgspec.structs.replace(config, port=free_port())
            with pytest.raises(Conflict, match=f"listens on 127.0.0.1:{config.port}"):
                run(other, "auto", print)
            assert httpx.get(f"http://127.0.0.1:{config.port}/readyz").status_code == 200
            with pytest.raises(Forbidden, match="token"):
                run(msgspec.structs.replace(config, host="0.0.0.0"), "auto", print)  # noqa: S104
        finally:
            withdraw(whole=True)


def test_replicas_are_the_largest_that_an_endpoint_asks_for(tmp_path):
    from kilter.serving.ray.application import limits_of, single

    with RunningFront(tmp_path) as store:
        config = msgspec.structs.replace(
            store.config,
            memory=900,
            settings=Settings(replicas=0),
            endpoints={"late": Settings(replicas=2, replicas_max=3, timeout=7.0)},
        )
    assert limits_of(config) == (2, 3)
    assert limits_of(msgspec.structs.replace(config, endpoints={})) == (1, 1)
    alone = single(config, 3)
    assert alone.settings.replicas == 0
    assert alone.endpoints["late"] == Settings(replicas=1, replicas_max=0, timeout=7.0)
    assert alone.memory == 300


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--host", "0.0.0.0"], "token"), (["--grpc-port", "0"], "Ray Serve has no port")],  # noqa: S104
)
def test_what_cannot_be_honoured_is_told_before_anything_runs(flags, said, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "KILTER_TOKEN"}
    found = subprocess.run(
        [sys.executable, "-m", "kilter.cli.main", "serve", "--ray", "--store", str(tmp_path), "--port", "0", *flags],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert found.returncode != 0
    assert said in found.stderr
