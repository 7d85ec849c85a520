"""Tiny networks of each framework, made without downloads, for the tests of those who stand beside their fits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")

DICE = np.random.default_rng(0)
X = DICE.normal(size=(32, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("float32")

QUIET = pytest.mark.filterwarnings("ignore")  # of the frameworks: each has some of its own


def keras_model() -> tuple[Any, Any]:
    """Return Keras and a compiled model; skip where there is none."""
    pytest.importorskip("torch")
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1, activation="sigmoid")]
    model = keras.Sequential(layers)
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return keras, model


def lightning_module() -> tuple[Any, Any, Any]:
    """Return Lightning, a module and what loads its data; skip where there is none."""
    torch = pytest.importorskip("torch")
    lightning = pytest.importorskip("lightning")
    loss_of = torch.nn.functional.binary_cross_entropy_with_logits

    class Net(lightning.LightningModule):
        def __init__(self, width: int = 3, lr: float = 0.1) -> None:  # noqa: ARG002 - save_hyperparameters reads it
            super().__init__()
            self.save_hyperparameters()
            self.net = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))

        def training_step(self, batch: Any, _place: int) -> Any:
            loss = loss_of(self.net(batch[0])[:, 0], batch[1])
            self.log("train_loss", loss)
            self.log("mean_loss", loss, on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch: Any, _place: int) -> None:
            self.log("val_loss", loss_of(self.net(batch[0])[:, 0], batch[1]))

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), self.hparams.lr)

    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    return lightning, Net(), torch.utils.data.DataLoader(data, batch_size=8)


def lightning_trainer(lightning: Any, folder: Path, **more: Any) -> Any:
    """Return a trainer of two epochs that says nothing."""
    return lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(folder),
        log_every_n_steps=1,
        **more,
    )


def transformer(folder: Path, **more: Any) -> Any:
    """Return a trainer of a BERT of a few hundred numbers; skip where there is none."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=50, max_position_embeddings=16, **sizes)
    words = torch.ones(4, dtype=torch.long)
    rows = [
        {"input_ids": torch.tensor([1, 2, 3, place]), "attention_mask": words, "labels": place % 2}
        for place in range(16)
    ]
    asked = {"report_to": [], "save_strategy": "no", **more}
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=2,
        per_device_train_batch_size=4,
        logging_steps=2,
        disable_tqdm=True,
        use_cpu=True,
        eval_strategy="epoch",
        **asked,
    )
    model = transformers.BertForSequenceClassification(config)
    return transformers.Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
