"""An exported container's own start command, run without a container: it serves exactly the version, and nothing else."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import get_args

import httpx
import numpy as np
import pytest

import kilter
from kilter.cli import export
from kilter.cli.main import main
from kilter.core.errors import Conflict, Damaged, Forbidden, InvalidInput
from kilter.loop.versions.exported import command, prepare, trimming
from kilter.loop.versions.exporting import TARGETS
from kilter.loop.workspace import Workspace
from kilter.packaging.export.clouds import vertex_files
from kilter.packaging.export.container import Exposed
from kilter.packaging.export.devices import DeviceTarget
from kilter.packaging.export.folder import read
from kilter.packaging.export.platform import Sizing

lightgbm = pytest.importorskip("lightgbm")

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements" / "dev.lock"


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(1).normal(size=(40, 3))


@pytest.fixture(scope="module")
def model(rows):
    return lightgbm.LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1).fit(
        np.tile(rows, (5, 1)), np.tile(rows[:, 0] > 0, 5)
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory, model, rows):
    """A store in which churn@v2 is the champion."""
    store = tmp_path_factory.mktemp("store")
    kilter.deploy(lightgbm.LGBMClassifier(n_estimators=1, verbose=-1, n_jobs=1).fit(rows, rows[:, 1] > 0),
                  name="churn", example=rows, store=store)  # fmt: skip
    kilter.deploy(model, name="churn", example=rows, store=store, fallback=0.25)
    return store


@pytest.fixture(scope="module")
def container(tmp_path_factory, store):
    out = tmp_path_factory.mktemp("exports") / "container"
    assert main(["export", "churn", "--target", "container", "--out", str(out), "--store", str(store)]) == 0
    return out


def started(folder: Path) -> list[str]:
    """Return what a container of this Dockerfile would run, with this Python and the folder in place of the image's."""
    lines = (folder / "Dockerfile").read_text().splitlines()
    (entry,) = (json.loads(line.removeprefix("ENTRYPOINT ")) for line in lines if line.startswith("ENTRYPOINT "))
    (extra,) = (json.loads(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD "))
    said = [*entry, *extra]
    assert said[0] == "python"
    return [sys.executable, *(word.replace("/opt/kilter/model", str(folder / "model")) for word in said[1:])]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def running(folder: Path, tmp_path: Path, **environment: str):
    """Run a container's command on the wheel that it brings along, and yield a client once it is ready."""
    code = tmp_path / "site"
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(code)  # noqa: S202 - our own
    port = free_port()
    settings = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(code),
        "KILTER_STORE": str(tmp_path / "var"),
        "OMP_NUM_THREADS": "1",
        **{name: str(port) if value == "PORT" else value for name, value in environment.items()},
    }
    process = subprocess.Popen(started(folder), cwd=tmp_path, env=settings)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            until = time.monotonic() + 60
            while not ready(client):
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.02)
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def ready(client: httpx.Client) -> bool:
    with suppress(httpx.TransportError):
        return client.get("/v2/health/ready").status_code == 200
    return False


def test_the_containers_command_serves_the_version(container, tmp_path, model, rows):
    bearer = {"Authorization": "Bearer a-token-of-enough-length"}
    with running(container, tmp_path, KILTER_PORT="PORT", KILTER_TOKEN="a-token-of-enough-length") as client:
        assert client.get("/v2/health/live").status_code == 200
        body = {"inputs": [{"name": "input", "shape": [40, 3], "datatype": "FP64", "data": rows.ravel().tolist()}]}
        assert client.post("/v2/models/churn/infer", json=body).status_code == 401
        found = client.post("/v2/models/churn/infer", json=body, headers=bearer)
        assert found.status_code == 200, found.text
        np.testing.assert_allclose(found.json()["outputs"][0]["data"], model.predict_proba(rows)[:, 1], rtol=1e-12)
        told = client.get("/v2/models/churn", headers=bearer).json()
        assert told["versions"] == ["2"]
        trim = ["log", "trim", "--no-archive", "--size", "1 MB", "--store", str(tmp_path / "var")]
        assert main(trim) == 0  # beside the front, as the container does
        assert ready(client)
    assert read(container).version == 2  # whoever runs it writes nothing beside the model
    assert {path.name for path in (container / "model").iterdir()} == {
        "bundle.json",
        "endpoint.json",
        "example.bin",
        "model.bin",
    }


def test_a_platform_that_guards_its_port_names_it(container, tmp_path, model, rows):
    routes = vertex_files(Exposed(name="churn", version=2, bundle=""), Sizing())["upload-model.json"]
    spec = json.loads(routes)["model"]["containerSpec"]
    named = {"AIP_PREDICT_ROUTE": spec["predictRoute"], "AIP_HEALTH_ROUTE": spec["healthRoute"]}
    with running(container, tmp_path, SAGEMAKER_BIND_TO_PORT="PORT", KILTER_GUARDED_BY="a cloud", **named) as client:
        assert client.get("/ping").status_code == 200
        csv = "\n".join(",".join(map(repr, row)) for row in rows.tolist())
        found = client.post("/invocations", content=csv, headers={"Content-Type": "text/csv"})
        assert found.status_code == 200, found.text
        np.testing.assert_allclose(found.json()["predictions"], model.predict_proba(rows)[:, 1], rtol=1e-9)
        found = client.post(spec["predictRoute"], json={"instances": rows.tolist()})
        assert found.status_code == 200, found.text
        np.testing.assert_allclose(found.json()["predictions"], model.predict_proba(rows)[:, 1], rtol=1e-9)
        assert client.get(spec["healthRoute"]).status_code == 200
        body = {"input_data": {"columns": ["x0", "x1", "x2"], "data": rows.tolist()}}
        found = client.post("/score", json=body)
        assert found.status_code == 200, found.text
        np.testing.assert_allclose(found.json(), model.predict_proba(rows)[:, 1], rtol=1e-9)


def test_without_a_token_it_refuses_to_listen(container, tmp_path):
    settings = {"PATH": os.environ["PATH"], "KILTER_STORE": str(tmp_path / "var"), "KILTER_PORT": str(free_port())}
    run = subprocess.run(started(container), env=settings, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode != 0
    assert "KILTER_TOKEN" in run.stderr


def test_the_store_is_made_once_and_a_changed_model_is_refused(container, tmp_path):
    for _ in range(2):
        assert prepare(container / "model", tmp_path / "var") == "churn"
    with Workspace.open(tmp_path / "var") as workspace:
        plan = workspace.endpoints.plan("churn")
        assert (plan.champion, plan.generation, plan.fallback) == (2, 1, 0.25)
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in (container / "model").iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    (changed / "model.bin").write_bytes((changed / "model.bin").read_bytes() + b" ")
    with pytest.raises(Damaged):
        prepare(changed, tmp_path / "other")
    with pytest.raises(Damaged):
        prepare(tmp_path, tmp_path / "other")


def test_ports_and_tokens_come_from_the_platform(container, tmp_path):
    (tmp_path / "secret").write_text("told-by-reference\n")
    given = {
        "KILTER_STORE": str(tmp_path / "var"),
        "AIP_HTTP_PORT": "9000",
        "KILTER_TOKEN_FILE": str(tmp_path / "secret"),
    }
    arguments, settings = command(container / "model", given)
    assert shlex.join(arguments[-4:]) == "--host 0.0.0.0 --port 9000"
    assert settings["KILTER_TOKEN"] == "told-by-reference"
    plain = {"KILTER_STORE": str(tmp_path / "var"), "KILTER_GUARDED_BY": "vertex"}
    assert command(container / "model", plain, ["--replicas", "2"])[0][-2:] == ["--replicas", "2"]
    assert command(container / "model", plain)[0][-1] == "8080"
    with pytest.raises(Forbidden):
        command(container / "model", {**plain, "KILTER_GUARDED_BY": ""})
    for wrong in ({"KILTER_PORT": "http"}, {"KILTER_TOKEN_FILE": str(tmp_path / "none")}):
        with pytest.raises(InvalidInput):
            command(container / "model", {"KILTER_STORE": str(tmp_path / "var"), **wrong})


def test_the_log_is_trimmed_as_long_as_the_front_lives(tmp_path):
    with pytest.raises(InvalidInput):
        trimming(str(tmp_path), "much", 1)
    shell, _, loop = trimming(str(tmp_path / "a store"), "1 MB", os.getpid(), every=5)
    assert f"kill -0 {os.getpid()}" in loop
    words = shlex.split(loop.partition("|| ")[2].partition(" >&-")[0])
    assert words[:3] == [sys.executable, "-m", "kilter.cli.main"]
    assert main([*words[3:], "--json"]) == 0
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    ended = subprocess.run(trimming(str(tmp_path), "1 MB", int(gone.stdout)), timeout=30, check=True)
    assert (shell, ended.returncode) == ("/bin/sh", 0)


def double(X):
    return X[:, 0] * 2.0


def test_a_function_is_handed_on_by_whoever_trusts_it(tmp_path, monkeypatch):
    monkeypatch.setenv("KILTER_TRUST", str(tmp_path / "mine"))
    kilter.deploy(double, name="double", example=np.ones((2, 2)), store=tmp_path / "store")
    arguments = ["export", "double", "--target", "container", "--store", str(tmp_path / "store"), "--out"]
    assert main([*arguments, str(tmp_path / "out")]) == 0
    settings = {"KILTER_STORE": str(tmp_path / "var"), "KILTER_TOKEN": "x" * 20}
    told = command(tmp_path / "out" / "model", settings)[1]["KILTER_TRUST"]
    assert Path(told).read_text() == (tmp_path / "mine").read_text()
    monkeypatch.setenv("KILTER_TRUST", str(tmp_path / "others"))
    assert main([*arguments, str(tmp_path / "refused")]) == Forbidden.exit_code
    assert not (tmp_path / "refused").exists()


def test_the_requirements_take_over_hashes(store, tmp_path):
    out = tmp_path / "locked"
    arguments = ["export", "churn", "--target", "container", "--out", str(out), "--store", str(store)]
    assert main([*arguments, "--lock", str(LOCK)]) == 0
    text = (out / "requirements.txt").read_text()
    pins = [line for line in text.splitlines() if not line.startswith(" ")]
    assert {line.partition("==")[0] for line in pins} >= {"lightgbm", "numpy", "litestar", "sqlalchemy"}
    assert all(line.endswith(" \\") for line in pins)
    assert text.count("--hash=sha256:") >= len(pins)
    assert "://" not in text
    assert "--require-hashes" in (out / "Dockerfile").read_text()
    short = tmp_path / "short.lock"
    short.write_text("numpy==0.0.1 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    assert main([*arguments, "--force", "--lock", str(short)]) == 2
    assert (out / "requirements.txt").read_text() == text


def test_the_same_version_gives_the_same_bytes(store, tmp_path):
    container, again = tmp_path / "container", tmp_path / "again"
    for out in (container, again):
        assert main(["export", "churn@v2", "--target", "container", "--out", str(out), "--store", str(store)]) == 0
    one, two = ({path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
                for root in (container, again))  # fmt: skip
    assert one == two


def test_the_wheel_is_one(container):
    with zipfile.ZipFile(next(container.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        assert {"kilter/loop/versions/exported.py", "kilter/py.typed", "kilter/server/ui/templates/base.html"} <= names
        (record,) = (name for name in names if name.endswith("/RECORD"))
        assert {line.split(",")[0] for line in wheel.read(record).decode().splitlines()} == names
        assert not any("__pycache__" in name for name in names)


def test_sagemakers_archive_is_what_the_container_looks_for(store, tmp_path):
    out = tmp_path / "sagemaker"
    assert main(["export", "churn", "--target", "sagemaker", "--out", str(out), "--store", str(store)]) == 0
    with tarfile.open(out / "model.tar.gz") as archive:
        assert all(member.mtime == 0 for member in archive)
        archive.extractall(tmp_path / "ml", filter="data")
    assert prepare(tmp_path / "ml", tmp_path / "var") == "churn"


def test_a_folder_that_holds_something_is_kept(store, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["export", "churn", "--target", "c", "--out", str(out), "--store", str(store)]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == ["churn.c", "churn.h", "churn_test.c", "test_vector.json"]
    assert main(arguments) == Conflict.exit_code
    assert main([*arguments, "--force"]) == 0
    (out / "manifest.json").unlink()
    assert main([*arguments, "--force"]) == Conflict.exit_code
    assert "other things" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_the_command_line_refuses_what_no_platform_takes(store, tmp_path):
    assert set(export._TARGETS) == {*TARGETS, *get_args(DeviceTarget)}
    arguments = ["export", "churn", "--out", str(tmp_path / "out"), "--store", str(store), "--target"]
    for wrong in (
        ["c", "--canary", "10"],
        ["kserve", "--canary", "101"],
        ["kubernetes", "--replicas", "3:2"],
        ["kubernetes", "--replicas", "many"],
        ["kubernetes", "--memory", "much"],
        ["kubernetes", "--namespace", "Not One"],
        ["kubernetes", "--image", "a b"],
    ):
        assert main([*arguments, *wrong]) == 2
    assert not (tmp_path / "out").exists()
