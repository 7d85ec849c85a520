"""Keras 3: ``Model.fit``. Not covered by the tests, which have no Keras."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from kilter.tracking.autolog.patches import Session, complain, current, metric_name, patch

_SIMPLE = ("epochs", "batch_size", "steps_per_epoch", "validation_split")
_CALLBACKS = 5
"""The place of ``callbacks`` among the arguments of ``fit``, the model itself counted."""


def prepare(keras: ModuleType) -> None:
    """Stand beside ``fit``."""

    class Callback(keras.callbacks.Callback):  # type: ignore[misc,name-defined]  # the class of an optional package
        """Logs the values of each epoch."""

        def __init__(self, session: Session) -> None:
            super().__init__()
            self._session = session

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            try:
                for name, value in (logs or {}).items():
                    self._session.run.metric(metric_name(name), float(value), epoch)
            except Exception as problem:  # noqa: BLE001 - a training is never broken by us
                complain(problem)

    def begin(given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Session | None, tuple[Any, ...], dict[str, Any]]:
        if current() is not None or len(given) > _CALLBACKS:
            return None, given, named
        session = Session(type(given[0]).__name__, "keras")
        session.params({name: named[name] for name in _SIMPLE if name in named})
        optimizer = getattr(given[0], "optimizer", None)
        if optimizer is not None:
            session.params(optimizer.get_config(), "optimizer.")
        kept = named.get("callbacks") or []
        named["callbacks"] = [*(kept if isinstance(kept, list | tuple) else [kept]), Callback(session)]
        return session, given, named

    patch(keras.Model, "fit", begin, _done)


def _done(session: Session, _history: Any, given: tuple[Any, ...], _named: dict[str, Any]) -> None:
    model = given[0]

    def save(path: Path) -> None:
        model.save(str(path))

    session.keep_model(save, "model.keras", parameters=int(model.count_params()))
