"""PyTorch Lightning: ``Trainer.fit``, of ``lightning`` and of ``pytorch_lightning``."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from kilter.tracking.autolog.patches import Session, complain, current, metric_name, patch


def prepare(lightning: ModuleType) -> None:
    """Stand beside ``fit``."""
    callback = _callback(lightning)

    def begin(given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Session | None, tuple[Any, ...], dict[str, Any]]:
        trainer = given[0]
        if current() is not None or not trainer.is_global_zero:
            return None, given, named
        module = given[1] if len(given) > 1 else named.get("model")
        session = Session(type(module).__name__, "lightning")
        session.params({"max_epochs": trainer.max_epochs, "precision": str(trainer.precision)})
        session.params(dict(getattr(module, "hparams", {}) or {}))
        trainer.callbacks.append(callback(session))
        return session, given, named

    patch(lightning.Trainer, "fit", begin, _done)


def _callback(lightning: ModuleType) -> Callable[[Session], Any]:
    class Callback(lightning.Callback):  # type: ignore[misc,name-defined]  # the class of an optional package
        """Logs what the module logs: of batches every few steps, of validations and epochs at their end.

        The trainer shows all values together, those of the last validation among those of each batch. A value belongs to where it
        appeared first, and is logged there only; what batches say is logged at the end of an epoch too, where it was not yet.
        """

        def __init__(self, session: Session) -> None:
            super().__init__()
            self._session = session
            self._from: dict[str, str] = {}
            self._logged: dict[str, int] = {}

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self._log(trainer, "batch", now=trainer.global_step % max(trainer.log_every_n_steps, 1) == 0)

        def on_validation_epoch_end(self, trainer: Any, *_: Any) -> None:
            if not trainer.sanity_checking:
                self._log(trainer, "validation")

        def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
            self._log(trainer, "epoch")
            self._log(trainer, "batch", once=True)

        def _log(self, trainer: Any, moment: str, *, now: bool = True, once: bool = False) -> None:
            try:
                step = int(trainer.global_step)
                for name, value in trainer.callback_metrics.items():
                    here = self._from.setdefault(str(name), moment) == moment
                    if here and now and not (once and self._logged.get(str(name)) == step):
                        self._logged[str(name)] = step
                        self._session.run.metric(metric_name(str(name)), float(value), step)
            except Exception as problem:  # noqa: BLE001 - a training is never broken by us
                complain(problem)

    return Callback


def _done(session: Session, _result: Any, given: tuple[Any, ...], _named: dict[str, Any]) -> None:
    trainer = given[0]
    trainer.callbacks[:] = [one for one in trainer.callbacks if type(one).__module__ != __name__]
    best = getattr(getattr(trainer, "checkpoint_callback", None), "best_model_path", "")

    def save(path: Path) -> None:
        if best and Path(best).is_file():
            shutil.copyfile(best, path)
        else:
            trainer.save_checkpoint(path)

    if not best and trainer.world_size > 1:
        return  # a checkpoint is written by all processes together, and only this one is here
    session.keep_model(save, "model.ckpt", **({"checkpoint": Path(best).name} if best else {}))
