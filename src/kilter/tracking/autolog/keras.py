"""Keras 3: ``Model.fit``, on any backend."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

from kilter.tracking.autolog.patches import Session, complain, current, metric_name, patch

_SIMPLE = ("epochs", "batch_size", "steps_per_epoch", "validation_split")


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
        if current() is not None:
            return None, given, named
        # By name from here on: callbacks stand far back among the arguments, and one is added to them.
        bound = accepted.bind(*given, **named).arguments
        given, named = given[:1], {name: value for name, value in bound.items() if name != "self"}
        session = Session(type(given[0]).__name__, "keras")
        session.params({name: named[name] for name in _SIMPLE if name in named})
        optimizer = getattr(given[0], "optimizer", None)
        if optimizer is not None:
            session.params(optimizer.get_config(), "optimizer.")
        kept = named.get("callbacks") or []
        named["callbacks"] = [*(kept if isinstance(kept, list | tuple) else [kept]), Callback(session)]
        return session, given, named

    accepted = inspect.signature(keras.Model.fit)
    patch(keras.Model, "fit", begin, _done)


def _done(session: Session, _history: Any, given: tuple[Any, ...], _named: dict[str, Any]) -> None:
    model = given[0]

    def save(path: Path) -> None:
        model.save(str(path))

    session.keep_model(save, "model.keras", parameters=int(model.count_params()))
