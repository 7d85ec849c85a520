"""Hugging Face transformers: ``Trainer.train``."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from kilter.tracking.autolog.patches import Session, complain, current, metric_name, patch

_NOTHING = (None, "None")


def prepare(trainer: ModuleType) -> None:
    """Stand beside ``train``, of the module that has the trainer: a program that imports transformers without it loads no more."""

    class Callback(trainer.TrainerCallback):  # type: ignore[misc,name-defined]  # the class of an optional package
        """Logs what the trainer logs."""

        def __init__(self, session: Session) -> None:
            self._session = session

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002 - their signature
            try:
                for name, value in (logs or {}).items():
                    if state.is_world_process_zero and isinstance(value, int | float):
                        self._session.run.metric(metric_name(name), float(value), state.global_step)
            except Exception as problem:  # noqa: BLE001 - a training is never broken by us
                complain(problem)

    def begin(given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Session | None, tuple[Any, ...], dict[str, Any]]:
        own = given[0]
        if current() is not None or not own.is_world_process_zero():
            return None, given, named
        session = Session(type(own.model).__name__, "transformers")
        # Nothing is spelled out as text there, by the hundred.
        session.params({name: value for name, value in own.args.to_sanitized_dict().items() if value not in _NOTHING})
        own.add_callback(Callback(session))
        return session, given, named

    def done(session: Session, _result: Any, given: tuple[Any, ...], _named: dict[str, Any]) -> None:
        own = given[0]
        own.remove_callback(Callback)

        def save(path: Path) -> None:
            own.save_model(str(path))

        session.keep_model(save, "model")

    patch(trainer.Trainer, "train", begin, done)
