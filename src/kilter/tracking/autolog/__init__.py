"""Autologging in one call: ``kilter.autolog()``.

In: the fits of other libraries. Out: a run for each, with parameters, metrics and the model. Guaranteed: a fit does what it did before,
called once with its own arguments, whatever goes wrong here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kilter.core.errors import InvalidInput
from kilter.tracking.autolog.hooks import forget, when_imported
from kilter.tracking.autolog.patches import Choice, choose, restore

FRAMEWORKS = {
    "sklearn": "sklearn.base",
    "lightgbm": "lightgbm",
    "xgboost": "xgboost",
    "lightning": "lightning.pytorch",
    "pytorch_lightning": "pytorch_lightning",
    "keras": "keras",
    "transformers": "transformers.trainer",
}
"""What is known, and the module whose import makes it ready."""


def autolog(
    frameworks: Sequence[str] | None = None,
    *,
    disable: bool = False,
    models: bool = True,
    experiment: str = "autolog",
    store: str | Path | None = None,
) -> None:
    """Track every fit from now on: into the run that goes on, or into one of its own when there is none.

    Nothing is imported: a library is prepared when the program imports it. Within a run, the first fit becomes part of it and each
    further one a run within it.

    Args:
        frameworks: Only these; all that are known, if not said.
        disable: Put everything back as it was.
        models: Keep the models.
        experiment: What runs belong to that are made here.
        store: Where they go; see :func:`kilter.run`.

    Raises:
        InvalidInput: When a framework is not known.
    """
    forget()
    restore()
    if disable:
        return
    wanted = list(FRAMEWORKS) if frameworks is None else list(frameworks)
    for name in wanted:
        if name not in FRAMEWORKS:
            raise InvalidInput(f"{name!r} can't be logged by itself", where="frameworks", allowed=", ".join(FRAMEWORKS))
    choose(Choice(models=models, experiment=experiment, store=store))
    for name in wanted:
        when_imported(FRAMEWORKS[name], f"kilter.tracking.autolog.{_FILES.get(name, name)}")


_FILES = {"sklearn": "estimators", "lightgbm": "light", "xgboost": "xg", "pytorch_lightning": "lightning"}
