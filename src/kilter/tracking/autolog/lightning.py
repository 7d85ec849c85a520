"""PyTorch Lightning: ``Trainer.fit``. Not covered by the tests, which have no Lightning."""

from __future__ import annotations

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
        """Logs what the module logs, at the end of each epoch and every few batches."""

        def __init__(self, session: Session) -> None:
            super().__init__()
            self._session = session

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step % max(trainer.log_every_n_steps, 1) == 0:
                self._log(trainer)

        def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
            self._log(trainer)

        def on_validation_epoch_end(self, trainer: Any, *_: Any) -> None:
            if not trainer.sanity_checking:
                self._log(trainer)

        def _log(self, trainer: Any) -> None:
            try:
                for name, value in trainer.callback_metrics.items():
                    self._session.run.metric(metric_name(str(name)), float(value), trainer.global_step)
            except Exception as problem:  # noqa: BLE001 - a training is never broken by us
                complain(problem)

    return Callback


def _done(session: Session, _result: Any, given: tuple[Any, ...], _named: dict[str, Any]) -> None:
    trainer = given[0]
    trainer.callbacks[:] = [one for one in trainer.callbacks if type(one).__module__ != __name__]
    best = getattr(getattr(trainer, "checkpoint_callback", None), "best_model_path", "")
    if best and Path(best).is_file():
        session.run.artifact(best, f"checkpoints/{Path(best).name}")
