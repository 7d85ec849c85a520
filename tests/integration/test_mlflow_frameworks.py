"""MLflow's own autologging of Keras, Lightning and transformers against a running server, where the frameworks are installed."""

from __future__ import annotations

import os
from collections import Counter
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from kilter.testing.server import RunningServer

from .networks import QUIET, X, Y, keras_model, lightning_module, lightning_trainer, transformer

pytestmark = [QUIET, pytest.mark.slow]


@pytest.fixture(scope="module")
def mlflow() -> ModuleType:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    return pytest.importorskip("mlflow")


@pytest.fixture
def client(mlflow, tmp_path):
    with RunningServer(tmp_path / "store") as server:
        mlflow.set_tracking_uri(server.url)
        yield mlflow.MlflowClient(server.url)


def only(client: Any, experiment: str) -> tuple[Any, dict[str, int]]:
    """Return the run of an experiment, and how many points each of its metrics has."""
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert run.info.status == "FINISHED"
    return run, {name: len(client.get_metric_history(run.info.run_id, name)) for name in run.data.metrics}


def test_keras(mlflow, client):
    _, model = keras_model()
    mlflow.set_experiment("keras")
    mlflow.keras.autolog()
    try:
        model.fit(X, Y, epochs=3, batch_size=8, verbose=0, validation_split=0.25)
    finally:
        mlflow.keras.autolog(disable=True)
    run, counts = only(client, "keras")
    assert {name: counts[name] for name in ("accuracy", "loss", "val_loss")} == {
        "accuracy": 3,
        "loss": 3,
        "val_loss": 3,
    }
    assert run.data.params["epochs"] == "3"
    assert run.data.params["optimizer_name"].startswith("adam")  # numbered, from the second of a process on
    (made,) = client.search_logged_models([run.info.experiment_id])
    assert made.status == "READY"
    # the client says the first points twice, with the model once it has one: they are there once
    said = Counter((one.key, one.step) for one in made.metrics)
    assert [said[name, step] for name in ("loss", "accuracy", "val_loss") for step in range(3)] == [1] * 9
    back = mlflow.keras.load_model(f"models:/{made.model_id}")
    assert np.array_equal(back.predict(X, verbose=0), model.predict(X, verbose=0))


def test_lightning(mlflow, client, tmp_path):
    lightning, module, data = lightning_module()
    mlflow.set_experiment("lightning")
    mlflow.pytorch.autolog(checkpoint=True, checkpoint_monitor="val_loss", log_every_n_step=2, log_models=False)
    try:
        lightning_trainer(lightning, tmp_path).fit(module, data, data)
    finally:
        mlflow.pytorch.autolog(disable=True)
    run, counts = only(client, "lightning")
    assert (counts["train_loss"], counts["val_loss"], run.data.params["optimizer_name"]) == (4, 2, "Adam")
    back = mlflow.pytorch.load_checkpoint(type(module), run.info.run_id)
    assert back.hparams.width == 3


def test_transformers(mlflow, client, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "transformers")
    mlflow.set_experiment("transformers")
    transformer(tmp_path, report_to=["mlflow"]).train()
    mlflow.end_run()
    run, counts = only(client, "transformers")
    assert (counts["loss"], counts["eval_loss"]) == (4, 2)
    assert run.data.params["num_train_epochs"] == "2"
    assert len(run.data.params) > 100
