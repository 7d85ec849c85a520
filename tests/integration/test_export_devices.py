"""Devices over real HTTP: signed releases come, bad ones are refused, and predictions made without a network reach the label join."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from kilter.cli.main import main
from kilter.core.errors import Conflict, Forbidden
from kilter.data.declare import Label, Table
from kilter.data.encoding import Encoding
from kilter.loop.remote import SERVICES
from kilter.loop.versions.optimizing import parts_of
from kilter.loop.workspace import Workspace
from kilter.monitoring.labels import LabelJoin
from kilter.operations.client import Remote
from kilter.packaging.bundle import Runtime, package
from kilter.packaging.export.device.predicting import Predictor, device_key, upload
from kilter.packaging.export.device.recording import EdgeLog
from kilter.packaging.export.device.release import EdgeError, Refused, Unreachable
from kilter.packaging.export.device.sources import Folder, Server
from kilter.packaging.export.device.updating import Device
from kilter.packaging.export.signing import make_key, signed_files
from kilter.server.access import Access
from kilter.server.app import Parts, build
from kilter.server.listening import Listener
from kilter.server.ports import free_port
from kilter.serving.edge.publishing import publish_folder
from kilter.serving.edge.service import DeviceService

pytest.importorskip("cryptography")
pytest.importorskip("skl2onnx")
pytest.importorskip("skops")
onnxruntime = pytest.importorskip("onnxruntime")
linear_model = pytest.importorskip("sklearn.linear_model")

VISITS = Table("visits", key="visit", time="at")
OWNER, VIEWER = "owner-token-of-the-tests", "viewer-token-of-the-tests"
NAMES = ("price", "city", "hour")
CITIES = ("Berlin", "Köln", "Rome")


class Maker:
    """A store, and a key that signs releases."""

    def __init__(self, folder):
        self.folder = folder
        self.workspace = Workspace.open(folder / "store")
        self.key = folder / "release.pem"

    def deploy(self, seed):
        """Let the next version answer, and return it."""
        random = np.random.default_rng(seed)
        X = np.column_stack([random.normal(size=200), random.integers(0, 3, 200), random.integers(0, 24, 200)])
        X = X.astype(np.float32).astype(float)
        y = X[:, 0] + X[:, 1] + X[:, 2] / 24 + random.normal(size=200) > 1.5
        encoding = Encoding(NAMES, ("numeric", "categorical", "numeric"), {"city": CITIES})
        model = linear_model.LogisticRegression(C=seed).fit(X, y)
        bundle = package(model, encoding, X, (), self.workspace.objects, table=VISITS)
        return self.workspace.deployments.deploy("visits", parts_of(self.workspace, bundle.digest))

    def export(self, out, sequence, *more):
        arguments = ["export", "visits", "--target", "edge", "--out", str(out), "--sign", str(self.key), "--force"]
        return main([*arguments, "--sequence", str(sequence), *more, "--store", str(self.folder / "store")])


class House(Maker):
    """The same with a server that devices reach over HTTP."""

    def __init__(self, folder):
        super().__init__(folder)
        self.public = self.key.with_name("release.pem.pub").read_bytes()
        self.port = free_port("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.port}"
        held = self.workspace
        devices = DeviceService(held.endpoints, held.objects, folder / "store" / "edge", held.prediction_logs(),
                                held.recording.redactors, held.clock)  # fmt: skip
        services = {noun: getattr(held, noun) for noun in SERVICES} | {"devices": devices}
        access = Access("127.0.0.1", self.port, {"admin": OWNER, "viewer": VIEWER})
        self.application = build(
            Parts(
                services=services, journal=self.workspace.journal_log, database=self.workspace.database, access=access
            )
        )
        self.remote = Remote(self.url, OWNER)
        self.devices = self.remote.service("devices", DeviceService)
        self._thread = threading.Thread(target=asyncio.run, args=[self._serve()])
        self._thread.start()
        self._wait()

    async def _serve(self):
        self._loop = asyncio.get_running_loop()
        self._server = Listener(self.application.asgi)
        await self._server.start("127.0.0.1", self.port)
        await self._server.serve()

    def _wait(self):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with suppress(Exception):
                self.remote.get("/livez")
                return
            time.sleep(0.05)
        raise AssertionError("the server did not begin")

    def release(self):
        """Let v2 answer, and publish it."""
        self.deploy(2)
        publish_folder(self.devices, self.folder / "out2")

    def source(self):
        return Server(self.url, VIEWER, timeout=20)

    def stop(self):
        self._loop.call_soon_threadsafe(self._server.stop)
        self._thread.join(20)
        self.remote.close()
        self.workspace.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A store in which visits@v1 is published, both versions' bundles, and a device that runs v1; to be copied."""
    folder, later = tmp_path_factory.mktemp("house"), tmp_path_factory.mktemp("later")
    make_key(folder / "release.pem")
    made = Maker(folder)
    made.workspace.data.declare(VISITS, ("paid_at",))
    made.deploy(1)
    assert made.export(folder / "out1", 1, "--publish") == 0
    made.workspace.close()
    Device(folder / "device").install(Folder(folder / "out1"), "visits", (folder / "release.pem.pub").read_bytes())
    shutil.copytree(folder, later, dirs_exist_ok=True)
    made = Maker(later)
    made.deploy(2)
    assert made.export(folder / "out2", 2) == 0
    made.workspace.close()
    return folder


@pytest.fixture
def house(template, tmp_path):
    """A house with visits@v1 published."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    made = House(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def device(house):
    """A device that runs v1."""
    return Device(house.folder / "device")


def rows(count, seed=5):
    random = np.random.default_rng(seed)
    began = datetime.now(UTC) - timedelta(hours=1)
    return [
        {
            "visit": f"v{seed}-{place}",
            "at": (began + timedelta(seconds=place)).isoformat(),
            "price": float(np.float32(random.normal())),
            "city": ["Rome", "Berlin"][place % 2],
            "hour": place % 24,
        }
        for place in range(count)
    ]


# ---------------------------------------------------------------- releases


def test_a_device_follows_the_champion_and_downloads_what_changed(house, device):
    before = device.state()
    assert device.update(house.source()) == (False, 1, 1, 0, 0)
    house.deploy(2)
    with pytest.raises(EdgeError, match="has no release for devices"):
        device.update(house.source())
    publish_folder(house.devices, house.folder / "out2")
    done = device.update(house.source())
    assert (done.changed, done.version, done.sequence) == (True, 2, 2)
    runtime = sum(path.stat().st_size for path in (house.folder / "out2" / "kilter_edge").iterdir())
    assert done.kept == runtime
    changed = [house.folder / "out2" / name for name in ("visits.onnx", "graphs.json", "test_vector.json")]
    assert done.fetched == sum(path.stat().st_size for path in changed)
    after = device.state()
    assert after["previous"] == before["current"] != after["current"]
    with Workspace.open(house.folder / "store") as workspace:
        version = workspace.models.get("visits")
        loaded = Runtime.of(parts_of(workspace, version.bundle))
    found = Predictor(device).predict(rows(20))
    wanted = loaded.predict(loaded.encoding.rows(rows(20)))
    np.testing.assert_allclose(np.ravel(found), wanted, atol=1e-5)


def test_only_the_right_key_is_believed(house, device, tmp_path):
    other = tmp_path / "other.pem"
    make_key(other)
    assert other.stat().st_mode & 0o077 == 0
    out = house.folder / "out2"
    arguments = ["export", "visits", "--target", "edge", "--out", str(tmp_path / "forged"), "--sign", str(other)]
    assert main([*arguments, "--sequence", "9", "--store", str(house.folder / "store")]) == 0
    for change in ("signature", "release", "forged"):
        forged = tmp_path / change
        if change != "forged":
            shutil.copytree(out, forged)
        if change == "signature":
            (forged / "release.sig").write_bytes(bytes(64))
        if change == "release":
            text = (forged / "release.json").read_text().replace('"sequence": 2', '"sequence": 7')
            (forged / "release.json").write_text(text)
        before = device.state()
        with pytest.raises(Refused, match="signature"):
            device.update(Folder(forged))
        assert device.state() == before
    with pytest.raises(EdgeError, match="visits is installed already"):
        device.install(Folder(tmp_path / "forged"), "visits", (tmp_path / "other.pem.pub").read_bytes())


def test_a_changed_file_is_refused_and_nothing_changes(house, device, tmp_path):
    out = tmp_path / "bad"
    shutil.copytree(house.folder / "out2", out)
    (out / "visits.onnx").write_bytes((out / "visits.onnx").read_bytes()[:-1] + b"x")
    before = device.state()
    with pytest.raises(Refused, match=r"visits\.onnx is not the file"):
        device.update(Folder(out))
    assert device.state() == before
    assert len(list((device.root / "releases").iterdir())) == 1


def test_older_and_replayed_releases_are_refused_unless_allowed(house, device):
    old = house.folder / "out1"
    house.release()
    device.update(house.source())
    with pytest.raises(Refused, match="not newer than release 2"):
        device.update(Folder(old))
    assert device.state()["version"] == 2
    assert device.update(Folder(old), allow_downgrade=True).version == 1
    assert device.update(house.source()).version == 2
    (house.folder / "out2" / "note.txt").write_bytes(b"other")
    other = resigned(house, house.folder / "out2", 2, 2)
    with pytest.raises(Conflict, match="the model has release 2"):
        publish_folder(house.devices, other)


def resigned(house, folder, version, sequence):
    """Sign a folder's files again, with the house's own key."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    kept = {name: (folder / name).read_bytes() for name in names}
    for name in ("release.json", "release.sig", "manifest.json"):
        kept.pop(name, None)
    for name, data in signed_files(kept, "visits", version, "b", sequence, house.key).items():
        (folder / name).write_bytes(data)
    return folder


def test_a_release_that_fails_its_self_test_never_runs(house, device, tmp_path):
    out = house.folder / "out1"
    bad = tmp_path / "bad"
    shutil.copytree(out, bad)
    vector = json.loads((bad / "test_vector.json").read_text())
    vector["answers"][0][0] += 0.5
    (bad / "test_vector.json").write_text(json.dumps(vector))
    resigned(house, bad, 1, 5)
    before = device.state()
    with pytest.raises(Refused, match=r"self test failed.*off by 0\.5"):
        device.update(Folder(bad))
    assert {**device.state(), "refused": {}} == before
    with pytest.raises(Refused, match="was refused before"):
        device.update(Folder(bad))
    assert len(Predictor(device).predict(rows(2))) == 2


def test_a_release_that_breaks_later_gives_way_to_the_one_before(house, device):
    house.release()
    device.update(house.source())
    state = device.state()
    (device.folder(state["current"]) / "visits.onnx").write_bytes(b"broken by the disk")
    assert len(Predictor(device).predict(rows(3))) == 3
    after = device.state()
    assert (after["current"], after["version"]) == (state["previous"], 1)
    with pytest.raises(Refused, match="refused before"):
        device.update(house.source())
    assert device.update(house.source(), allow_downgrade=True).version == 2


def test_an_update_that_is_cut_short_leaves_the_old_release(house, device):
    house.release()
    before = device.state()
    source = house.source()
    taken = []

    class Cut:
        latest = source.latest

        def file(self, *about):
            if taken:
                raise Unreachable("the network went away")
            taken.append(about)
            return source.file(*about)

    with pytest.raises(Unreachable):
        device.update(Cut())
    assert device.state() == before
    assert len(Predictor(device).predict(rows(1))) == 1
    assert device.update(source).version == 2


UPDATER = """
import sys
from pathlib import Path
from kilter.packaging.export.device.sources import Folder
from kilter.packaging.export.device.updating import Device
print("began", flush=True)
class Slow(Folder):
    def file(self, *about):
        print(about[2].path, flush=True)
        sys.stdin.readline()
        return super().file(*about)
Device(Path(sys.argv[1])).update(Slow(Path(sys.argv[2])))
"""


@pytest.mark.crash
@pytest.mark.parametrize("files", [1, 3])
def test_an_update_that_is_killed_leaves_the_old_release(house, device, files):
    before = device.state()
    command = [sys.executable, "-c", UPDATER, str(device.root), str(house.folder / "out2")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for place in range(files + 1):
            assert process.stdout.readline()
            if 0 < place < files:
                process.stdin.write("\n")
                process.stdin.flush()
        process.kill()
    assert device.state() == before
    assert len(Predictor(device).predict(rows(1))) == 1
    house.release()
    assert device.update(house.source()).version == 2
    assert len(list((device.root / "releases").iterdir())) == 2


def test_a_running_program_takes_the_new_release_when_asked(house, device):
    predictor = Predictor(device)
    assert not predictor.refresh()
    before = predictor.predict(rows(5))
    house.release()
    device.update(house.source())
    assert predictor.predict(rows(5)) == before
    assert predictor.refresh()
    assert predictor.predict(rows(5)) != before


def test_the_command_line_publishes_at_the_store_and_through_its_server(house, device, monkeypatch):
    house.deploy(2)
    assert house.export(house.folder / "cli", 3, "--publish") == 0
    assert device.update(house.source())[:3] == (True, 2, 3)
    house.deploy(3)
    out = ["--target", "edge", "--out", str(house.folder / "far"), "--sign", str(house.key), "--sequence", "4"]
    monkeypatch.setenv("KILTER_TOKEN", OWNER)
    assert main(["export", "visits", *out, "--publish", "--store", house.url]) == 0
    assert device.update(house.source())[:3] == (True, 3, 4)


# ---------------------------------------------------------------- predictions


def uploaded(house, device, log, name="kiosk_1"):
    return upload(device.root, name, log, house.source())


def test_predictions_made_offline_reach_the_label_join_once(house, device):
    log = EdgeLog(device.root / "log")
    predictor = Predictor(device, log)
    made = [predictor.predict(rows(10, seed))[0] for seed in range(5)]
    assert log.waiting == len(made) == 5
    with pytest.raises(EdgeError, match="no key"):
        uploaded(house, device, log)
    key = device_key(device.root)
    with pytest.raises(EdgeError, match="no enrolled device signed this"):
        uploaded(house, device, log)
    house.devices.enrol("kiosk_1", key)
    assert uploaded(house, device, log) == (5, 0, 0, 0)
    assert uploaded(house, device, log) == (0, 0, 0, 0)
    (known,) = house.devices.all()
    assert (known.name, known.version, known.dropped) == ("kiosk_1", 1, 0)
    assert known.seen_at is not None
    house.workspace.data.append(
        "visits",
        [
            {"visit": row["visit"], "at": row["at"], "paid_at": row["at"], "spent": place % 2}
            for place, row in enumerate(rows(10, 3))
        ],
    )
    join = LabelJoin(house.workspace.prediction_logs(), house.workspace.data)
    join.watch("visits", VISITS, Label(lambda: pl.col("spent") > 0, "paid_at"))
    join.catch_up()
    frame = join.predictions("visits")
    join.close()
    assert frame.height == 50
    assert set(frame["version"]) == {1}
    labelled = frame.filter(pl.col("label").is_not_null())
    assert labelled["key"].to_list() == [f"v3-{place}" for place in range(10)]
    assert labelled["label"].to_list() == [place % 2 for place in range(10)]
    assert frame["x_city"].to_list()[:3] == ["Rome", "Berlin", "Rome"]
    one = house.workspace.endpoints.prediction(frame["id"][0])
    assert (one.key, one.arm, one.version) == ("v0-0", "champion", 1)
    assert one.value == made[0][0]
    log.close()


def test_an_upload_whose_answer_was_lost_is_not_taken_twice(house, device):
    house.devices.enrol("kiosk_1", device_key(device.root))
    log = EdgeLog(device.root / "log")
    predictor = Predictor(device, log)
    for seed in range(4):
        predictor.predict(rows(2, seed))

    class Deaf(Server):
        def call(self, verb, arguments):
            super().call(verb, arguments)
            raise Unreachable("the answer was lost")

    with pytest.raises(Unreachable):
        upload(device.root, "kiosk_1", log, Deaf(house.url, VIEWER))
    predictor.predict(rows(2, 9))
    assert uploaded(house, device, log) == (1, 4, 0, 0)
    log.close()


def test_what_another_signs_or_says_is_refused(house, device, tmp_path):
    house.devices.enrol("kiosk_1", device_key(device.root))
    log = EdgeLog(device.root / "log")
    Predictor(device, log).predict(rows(1))
    device_key(tmp_path / "thief")
    with pytest.raises(EdgeError, match="no enrolled device"):
        upload(tmp_path / "thief", "kiosk_1", log, house.source())
    remote = Remote(house.url, VIEWER)
    with pytest.raises(Forbidden):
        remote.service("devices", DeviceService).enrol("thief", device_key(tmp_path / "thief"))
    remote.close()
    log.append({"at": "2026-01-01T00:00:00Z", "model": "visits", "version": 1, "keys": ["a"], "times": [], "width": 1,
                "values": [1.0], "inputs": {}})  # fmt: skip
    with pytest.raises(EdgeError, match="not equally long"):
        uploaded(house, device, log)
    assert log.waiting == 2
    house.devices.forget("kiosk_1")
    with pytest.raises(EdgeError, match="no enrolled device"):
        uploaded(house, device, log)
    log.close()


def test_the_runtime_in_the_bundle_needs_nothing_of_the_house(house, tmp_path):
    """As on a device: ``python -m kilter_edge`` in an interpreter that can't import kilter."""
    out = house.folder / "out1"
    lone = tmp_path / "lone"
    shutil.copytree(out / "kilter_edge", lone / "kilter_edge")
    (lone / "sitecustomize.py").write_text("import sys\nsys.modules['kilter'] = None\nsys.modules['msgspec'] = None\n")
    root = tmp_path / "root"

    def edge(*arguments, given=""):
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(lone), "KILTER_TOKEN": VIEWER}
        return subprocess.run([sys.executable, "-m", "kilter_edge", *map(str, arguments)], input=given, env=environment,
                              capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)  # fmt: skip

    public = house.key.with_name("release.pem.pub")
    done = edge("install", "--root", root, "--from", out, "--model", "visits", "--key", public)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["version"] == 1
    done = edge("predict", "--root", root, given=json.dumps(rows(3)))
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 3
    key = json.loads(edge("key", "--root", root).stdout)["public_key"]
    house.devices.enrol("lone", key)
    done = edge("upload", "--root", root, "--to", house.url, "--name", "lone")
    assert json.loads(done.stdout) == {"sent": 1, "known": 0, "left": 0, "dropped": 0}
    assert edge("update", "--root", root, "--from", "http://127.0.0.1:9").returncode == 4
    assert edge("go-back", "--root", root).returncode == 1
    assert edge("predict", "--root", root, given="no rows").returncode == 1
    assert (
        edge("predict", "--root", root, given='[{"price": "dear"}]').stderr
        == "input price is a str, expected a number\n"
    )
    assert (
        edge("install", "--root", tmp_path / "x", "--from", out, "--model", "visits", "--key", out / "none").returncode
        == 1
    )
    assert json.loads(edge("status", "--root", root).stdout)["sequence"] == 1
