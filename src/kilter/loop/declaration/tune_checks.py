"""What types can't say about how a loop's parameters are searched for."""

from __future__ import annotations

from typing import get_args

from kilter.core.errors import InvalidInput
from kilter.evaluation.declare import Metric, log_loss
from kilter.loop.declaration.faults import Faults, shown
from kilter.loop.tuning.declare import Pruner, PrunerName, Sampler, Tune
from kilter.loop.tuning.space import space_of_params


def check_tune(faults: Faults) -> None:
    """Note what is wrong with ``tune``."""
    given_tune: object = faults.loop.tune
    if given_tune is None:
        return
    if not isinstance(given_tune, Tune):
        faults.kind("tune", given_tune, (Tune,), "Tune(...)")
        return
    said = given_tune
    faults.literal("tune.sampler", said.sampler, get_args(Sampler))
    if isinstance(said.pruner, Pruner):
        faults.literal("tune.pruner", said.pruner.kind, get_args(PrunerName))
    else:
        faults.literal("tune.pruner", said.pruner, get_args(PrunerName))
    counts: tuple[tuple[str, object], ...] = (("trials", said.trials), ("folds", said.folds))
    for field, given in counts:
        if isinstance(given, bool) or not isinstance(given, int) or given < 1:
            faults.wrong(f"tune.{field}", f"{given!r} was given", allowed="a whole number, 1 or more")
    metrics: tuple[object, ...] = said.metric if isinstance(said.metric, tuple) else (said.metric or log_loss,)
    for metric in metrics:
        if not isinstance(metric, Metric):
            faults.wrong(
                "tune.metric", f"{shown(metric)} was given", allowed="a metric such as log_loss, or a tuple of them"
            )
    try:
        space_of_params(faults.loop.params, said.space)
    except InvalidInput as error:
        field = error.where if error.where.startswith("tune.") else f"tune.space ({error.where})"
        faults.wrong(field, error.message, allowed=error.allowed, fix=error.fix)
