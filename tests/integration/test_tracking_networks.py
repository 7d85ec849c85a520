"""Fits of Keras, Lightning and transformers are tracked by themselves, with the frameworks themselves where they are installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kilter
from kilter.core.clock import SystemClock
from kilter.core.errors import NotFound
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.tracking.records import Run
from kilter.tracking.service import RunService

from .networks import QUIET, X, Y, keras_model, lightning_module, lightning_trainer, transformer

pytestmark = [QUIET, pytest.mark.slow]


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("KILTER_SYSTEM_METRICS", "0")
    kilter.autolog(store=tmp_path / "store")
    yield tmp_path / "store"
    kilter.autolog(disable=True)


def service(store: Path) -> RunService:
    return RunService(
        Database.open(f"sqlite:///{store / 'kilter.db'}"), ObjectStore.open(str(store / "objects")), SystemClock()
    )


def only(store: Path) -> Run:
    (run,) = service(store).list().runs
    assert run.status == "FINISHED"
    return run


def counts(run: Run) -> dict[str, int]:
    return {metric.name: metric.count for metric in run.metrics}


def kept(store: Path, run: Run, name: str) -> bytes:
    content = service(store).artifact(run.id, f"models/model/{name}")
    return content if isinstance(content, bytes) else b"".join(content)


def test_keras(store, tmp_path):
    keras, model = keras_model()
    model.fit(X, Y, 8, 3, 0, validation_split=0.25)
    run = only(store)
    assert (run.name, run.params["epochs"], run.params["batch_size"]) == ("Sequential", 3, 8)
    assert run.params["optimizer.beta_1"] == pytest.approx(0.9)
    assert counts(run) == {"accuracy": 3, "loss": 3, "val_accuracy": 3, "val_loss": 3}
    (tmp_path / "back.keras").write_bytes(kept(store, run, "model.keras"))
    back = keras.saving.load_model(tmp_path / "back.keras")
    assert np.array_equal(back.predict(X, verbose=0), model.predict(X, verbose=0))


def test_keras_goes_on_without_us(store):
    _, model = keras_model()
    with pytest.raises(TypeError, match="nothing"):
        model.fit(X, Y, nothing=1)
    model.fit(X, Y, 8, 1, 0, [])
    assert counts(only(store)) == {"accuracy": 1, "loss": 1}


@pytest.mark.parametrize("checkpoints", [True, False])
def test_lightning(store, tmp_path, checkpoints):
    lightning, module, data = lightning_module()
    trainer = lightning_trainer(lightning, tmp_path, enable_checkpointing=checkpoints)
    trainer.fit(module, data, data)
    assert [one for one in trainer.callbacks if "kilter" in type(one).__module__] == []
    run = only(store)
    assert (run.name, run.params["width"], run.params["lr"], run.params["max_epochs"]) == ("Net", 3, 0.1, 2)
    # each value where it was said: of each batch, of each epoch, of each validation, and none a second time
    assert counts(run) == {"train_loss": 8, "mean_loss": 2, "val_loss": 2}
    (tmp_path / "back.ckpt").write_bytes(kept(store, run, "model.ckpt"))
    back = type(module).load_from_checkpoint(tmp_path / "back.ckpt")
    for name, value in module.state_dict().items():
        assert np.array_equal(back.state_dict()[name].numpy(), value.numpy())


def test_lightning_without_models(store, tmp_path):
    lightning, module, data = lightning_module()
    kilter.autolog(["lightning"], models=False, store=store)
    lightning_trainer(lightning, tmp_path).fit(module, data)
    run = only(store)
    with pytest.raises(NotFound):
        kept(store, run, "model.ckpt")
    assert counts(run) == {"train_loss": 8, "mean_loss": 2}


def test_transformers(store, tmp_path):
    trainer = transformer(tmp_path)
    trainer.train()
    run = only(store)
    assert (run.name, run.params["num_train_epochs"]) == ("BertForSequenceClassification", 2)
    assert not [name for name, value in run.params.items() if value in {None, "None"}]
    found = counts(run)
    assert (found["loss"], found["eval_loss"], found["train_loss"]) == (4, 2, 1)
    names = {artifact.name for artifact in run.artifacts}
    assert {"models/model/config.json", "models/model/model.safetensors"} <= names
    folder = tmp_path / "back"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes(kept(store, run, name))
    back = type(trainer.model).from_pretrained(folder)
    for name, value in trainer.model.state_dict().items():
        assert np.array_equal(back.state_dict()[name].numpy(), value.numpy())


def test_nothing_is_loaded_for_it(tmp_path):
    pytest.importorskip("transformers")
    program = (
        "import sys, kilter\n"
        f"kilter.autolog(store={str(tmp_path / 's')!r})\n"
        "import transformers\n"
        "assert 'transformers.trainer' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
