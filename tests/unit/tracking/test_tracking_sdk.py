"""The surface of the native client: what it keeps, what it records, and that it never gets in the way."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import threading
import time
import wave
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

import kilter
from kilter.core.clock import SystemClock
from kilter.core.errors import InvalidInput, Unavailable
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.engines.streams.log import Log
from kilter.tracking.sdk import recording, system
from kilter.tracking.sdk.media import audio_bytes, data_digest, figure_bytes, image_bytes, table_bytes
from kilter.tracking.sdk.recording import Recorded
from kilter.tracking.sdk.settings import plain
from kilter.tracking.sdk.sync import left, sync_buffer
from kilter.tracking.service import RunService


@pytest.fixture(autouse=True)
def _still(monkeypatch):
    monkeypatch.setenv("KILTER_SYSTEM_METRICS", "0")


def service(store: Path) -> RunService:
    return RunService(
        Database.open(f"sqlite:///{store / 'kilter.db'}"), ObjectStore.open(str(store / "objects")), SystemClock()
    )


def test_everything_that_a_run_can_keep(tmp_path):
    with kilter.run("all", store=tmp_path, record=False) as run:
        run.params({"learning rate": 0.1, "layers": (3, 4), "lr": np.float32(0.5)}, depth=6, limit=float("inf"))
        run.metrics(3, {"valid/loss": 0.25}, auc=0.5)
        run.history("curve", np.arange(5.0))
        run.text("notes", "hello")
        run.table("rows", [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}])
        run.image("noise", np.zeros((4, 5, 3), dtype=np.uint8), step=2)
        run.audio("tone", np.sin(np.arange(800) / 10), 8000)
        run.dataset("train", pl.DataFrame({"a": [1, 2]}))
        run.dataset("lake", version="17", source="s3://bucket/table", context="test")
        (tmp_path / "model.txt").write_text("tree")
        run.model("trees", tmp_path / "model.txt", type="lightgbm", params={"depth": 6})
        run.tags(team="ops")
        assert run.wait()
        assert run.url == ""
    runs = service(tmp_path)
    found = runs.get(run.id)
    assert found.params == {"learning rate": 0.1, "layers": [3, 4], "lr": 0.5, "depth": 6, "limit": "inf"}
    assert {one.name: (one.count, one.last_step) for one in found.metrics} == {
        "valid/loss": (1, 3),
        "auc": (1, 3),
        "curve": (5, 4),
    }
    assert {kept.name for kept in found.artifacts} == {
        "notes.txt",
        "rows.parquet",
        "noise/00000002.png",
        "tone.wav",
        "models/trees/model.txt",
    }
    assert pl.read_parquet(io.BytesIO(runs.artifact(run.id, "rows.parquet")))["a"].to_list() == [1, 2]
    lake, train = sorted(found.inputs.datasets, key=lambda one: one.name)
    assert (lake.digest, lake.source, lake.tags) == ("17", "s3://bucket/table", {"mlflow.data.context": "test"})
    assert train.digest == data_digest(pl.DataFrame({"a": [1, 2]}))[0]
    (use,) = found.inputs.models
    model = runs.logged_model(use.model)
    assert (model.name, model.type, model.status, model.params) == ("trees", "lightgbm", "READY", {"depth": "6"})
    assert runs.model_file(use.model, "model.txt") == b"tree"
    assert list((tmp_path / "buffer").iterdir()) == []


def test_children_decorators_and_the_active_run(tmp_path):
    assert kilter.active_run() is None
    with kilter.run("outer", store=tmp_path, record=False) as outer:
        assert kilter.active_run() is outer
        with outer.child("fold-1", params={"fold": 1}) as fold:
            assert kilter.active_run() is fold
            seen: list[object] = []
            thread = threading.Thread(target=lambda: seen.append(kilter.active_run()))
            thread.start()
            thread.join()
            assert seen == [fold]
        assert kilter.active_run() is outer

    @kilter.run("decorated", store=tmp_path, record=False)
    def train(depth: int, data: object, rate: float = 0.1) -> int:
        """Doc."""
        run = kilter.active_run()
        assert run is not None
        run.metric("depth", depth)
        return depth + 1

    assert train(3, object()) == 4
    assert (train.__name__, train.__doc__) == ("train", "Doc.")
    assert train(4, None) == 5
    runs = service(tmp_path)
    child = runs.get(fold.id)
    assert (child.tags, child.params, child.experiment) == ({"mlflow.parentRunId": outer.id}, {"fold": 1}, "outer")
    first, second = runs.list("decorated", order="started").runs
    assert (first.name, first.params, second.params) == (
        "train",
        {"depth": 3, "rate": 0.1},
        {"depth": 4, "data": None, "rate": 0.1},
    )


def test_a_run_goes_on_later(tmp_path):
    with kilter.run("x", store=tmp_path, params={"a": 1}, record=False) as run:
        run.metric("loss", 1.0)
    with kilter.run(resume=run.id, store=tmp_path, record=False) as again:
        again.metric("loss", 0.5)
        again.params(a=1, b=2)
    found = service(tmp_path).get(run.id)
    assert (again.id, again.experiment, found.status, found.params) == (run.id, "x", "FINISHED", {"a": 1, "b": 2})
    assert [point.step for point in service(tmp_path).metrics(run.id, "loss")] == [0, 1]


def test_what_a_run_records(tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder)]
    (folder / "a.py").write_text("a = 1\n")
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "remote", "add", "origin", "https://me:secret@example.com/x.git"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    (folder / "a.py").write_text("a = 2\n")
    (folder / "new.py").write_text("")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "orig_argv", ["python", "a.py", "--api-key", "abc", "--lr=1", "db://u:p@h/x", "TOKEN=xyz"])
    with kilter.run("x", store=tmp_path / "store", seed=5) as run:
        pass
    runs = service(tmp_path / "store")
    found = msgspec.json.decode(runs.artifact(run.id, "recorded.json"), type=Recorded)
    assert found.command == (
        "python",
        "a.py",
        "--api-key",
        "[redacted]",
        "--lr=1",
        "db://[redacted]@h/x",
        "TOKEN=[redacted]",
    )
    assert found.redacted
    assert found.code is not None
    assert (found.code.dirty, found.code.untracked, found.code.remote) == (
        True,
        ("new.py",),
        "https://example.com/x.git",
    )
    assert b"+a = 2" in runs.artifact(run.id, "code.diff")
    assert (found.hardware.cores > 0, found.hardware.memory > 0, found.seeds["run"]) == (True, True, "5")
    assert runs.get(run.id).tags["git.commit"] == found.code.commit
    assert recording.code_of(tmp_path) == (None, b"")


def test_system_metrics_are_sampled(tmp_path):
    with kilter.run("x", store=tmp_path, system_metrics=0.1, record=False):
        time.sleep(0.35)
    (run,) = service(tmp_path).list().runs
    found = {one.name: one for one in run.metrics}
    assert found["system/memory_used_mb"].count >= 2
    assert found["system/process_memory_mb"].last > 1
    assert (system.seconds_between(None), system.seconds_between(True), system.seconds_between(3)) == (0.0, 10.0, 3.0)


def test_a_call_is_cheap_and_nothing_is_lost_when_the_writer_is_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("kilter.tracking.sdk.buffer._MOST", 3000)
    with kilter.run("x", store=tmp_path, record=False) as run:
        took = []
        for step in range(30_000):
            began = time.perf_counter_ns()
            run.metric("loss", 0.5, step)
            took.append(time.perf_counter_ns() - began)
    assert sorted(took)[len(took) // 2] < 10_000
    assert service(tmp_path).get(run.id).metrics[0].count == 30_000


def test_a_full_disk_does_not_stop_the_training(tmp_path, monkeypatch, caplog):
    whole = Log.append

    def full(log: Log, payload: bytes, *, fresh: bool = False) -> int:
        if len(taken) >= 2:
            raise Unavailable("no space left on device", where="log")
        taken.append(payload)
        return whole(log, payload, fresh=fresh)

    taken: list[bytes] = []
    monkeypatch.setattr(Log, "append", full)
    with caplog.at_level(logging.WARNING), kilter.run("x", store=tmp_path, record=False) as run:
        for step in range(10):
            run.metric("loss", step, step)
            run.flush()
        run.text("note", "kept")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    found = service(tmp_path).get(run.id)
    assert (found.status, found.metrics[0].count) == ("FINISHED", 10)  # memory held what the disk did not take
    assert [point.step for point in service(tmp_path).metrics(run.id, "loss")] == list(range(10))


def test_what_a_store_refuses_is_kept_aside_and_the_rest_arrives(tmp_path, monkeypatch):
    with kilter.run("x", store=tmp_path, record=False) as run:
        run.params(a=1)
        assert run.wait()
        run._known_params.clear()  # as another process would: it knows nothing of the first value
        run.params(a=2)
        run.params(b=3)
    assert service(tmp_path).get(run.id).params == {"a": 1, "b": 3}
    refusal = (tmp_path / "buffer" / "refused.jsonl").read_text()
    assert run.id in refusal
    assert "'a': 2" in refusal


def test_a_process_that_ends_without_a_word_is_sent_later(tmp_path):
    program = (
        f"import os, kilter\nrun = kilter.run('x', store={str(tmp_path)!r}, record=False)\nrun.start()\n"
        "run._sender.close(0)\nrun.metric('loss', 1.0)\nrun.flush()\nos._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=False, env={**os.environ, "KILTER_QUIET": "1"})
    ((folder, one),) = left([tmp_path / "buffer"])
    assert (one.writing, one.experiment) == (False, "x")
    assert sync_buffer(folder).state == "sent"
    found = service(tmp_path).get(one.run)
    assert (found.status, found.reason, found.metric("loss")) == (
        "INTERRUPTED",
        "its process ended without a word",
        1.0,
    )


def test_notebooks_and_silence(tmp_path, monkeypatch, capsys):
    run = kilter.run("<b>x</b>", name="<script>", store=tmp_path, params={"a": "<i>"}, record=False)
    assert "not started" in repr(run)
    run.start()
    run.metric("loss", 0.25)
    shown = run._repr_html_()
    assert "<script>" not in shown
    assert "<i>" not in shown
    assert "0.25" in shown
    monkeypatch.setenv("KILTER_QUIET", "1")
    run.finish()
    assert capsys.readouterr().err == ""
    assert service(tmp_path).get(run.id).status == "FINISHED"
    run.metric("loss", 1.0)  # after the end: nothing happens, and nothing breaks
    run.finish()


def test_pictures_sounds_and_tables_are_what_others_read():
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(image_bytes(pixels)))) == pixels).all()
    assert (np.asarray(Image.open(io.BytesIO(image_bytes(np.eye(3))))) == np.eye(3) * 255).all()
    assert image_bytes(Image.fromarray(pixels)).startswith(b"\x89PNG")
    with wave.open(io.BytesIO(audio_bytes(np.zeros((10, 2)), 8000))) as sound:
        assert (sound.getnchannels(), sound.getframerate(), sound.getnframes()) == (2, 8000, 10)
    import pandas as pd

    for table in (pd.DataFrame({"a": [1]}), pl.DataFrame({"a": [1]}).lazy(), {"a": [1]}, [{"a": 1}]):
        assert pl.read_parquet(io.BytesIO(table_bytes(table))).rows() == [(1,)]

    class Figure:
        def savefig(self, target, **_):
            target.write(b"png")

    assert figure_bytes(Figure()) == (b"png", ".png")
    for make in (
        lambda: image_bytes(np.zeros((2, 2, 7))),
        lambda: image_bytes(np.full((2, 2), 3.5)),
        lambda: image_bytes(np.full((2, 2), np.nan)),
        lambda: audio_bytes(np.zeros((2, 2, 2)), 8000),
        lambda: audio_bytes(np.zeros(3), 0),
        lambda: table_bytes(object()),
        lambda: figure_bytes(object()),
        lambda: data_digest(object()),
        lambda: data_digest(np.array([object()])),
        lambda: plain(object()),
    ):
        with pytest.raises(InvalidInput):
            make()


def test_a_notebook_keeps_the_cells_that_ran(tmp_path, monkeypatch):
    import types

    history = types.SimpleNamespace(input_hist_raw=["", "a = 1"])
    shell = types.SimpleNamespace(history_manager=history)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    run = kilter.run("notebook", store=tmp_path)
    run.start()
    history.input_hist_raw.append("b = 2")
    run.finish()
    kept = service(tmp_path).artifact(run.id, "source.py").decode()
    assert "# In [1]\na = 1" in kept
    assert "# In [2]\nb = 2" in kept


def test_graphics_cards_are_asked_through_nvml(tmp_path, monkeypatch):
    import types

    from kilter.tracking.sdk import gpu

    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    assert (gpu.nvml(), gpu.names()) == (None, ((), ""))
    card = types.SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda place: place,
        nvmlDeviceGetName=lambda _: b"Card",
        nvmlSystemGetDriverVersion=lambda: "580.1",
        nvmlDeviceGetMemoryInfo=lambda _: types.SimpleNamespace(used=2e9),
        nvmlDeviceGetUtilizationRates=lambda _: types.SimpleNamespace(gpu=50),
        nvmlDeviceGetPowerUsage=lambda _: 250_000,
    )
    monkeypatch.setitem(sys.modules, "pynvml", card)
    assert gpu.names() == (("Card",), "580.1")
    with kilter.run("x", store=tmp_path, system_metrics=0.1, record=False) as run:
        time.sleep(0.3)
    found = service(tmp_path).get(run.id)
    assert (found.metric("system/gpu0_percent"), found.metric("system/gpu0_power_watts")) == (50, 250)
