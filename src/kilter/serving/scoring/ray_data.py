"""Stretches on Ray Data: one actor per processor, each with the model loaded, fed as they become free."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.data
from ray.exceptions import RayError

from kilter.core.errors import Unavailable
from kilter.serving.ray.cluster import joined
from kilter.serving.scoring.stretches import carry_out


class Actor:
    """A process that scores stretches; what it has loaded stays.

    Args:
        work: The work, as JSON.
    """

    def __init__(self, work: bytes) -> None:
        self._work = work

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        """Score the stretches of a batch."""
        return {"done": [carry_out(self._work, int(place)) for place in batch["id"]]}


def run(work: bytes, stretches: int, *, address: str, workers: int) -> Iterator[bytes]:
    """Score; see :class:`kilter.serving.scoring.cluster.Run`.

    Raises:
        Unavailable: When the cluster can't be reached, or lost the job.
    """
    with joined(address, processors=workers), _quiet():
        most = workers or _processors()
        # The numbers are made here: tasks that read them would compete with the actors for the processors, and lose.
        numbers = ray.data.from_items([{"id": place} for place in range(stretches)], override_num_blocks=stretches)
        data = numbers.map_batches(
            Actor,
            fn_constructor_args=(work,),
            batch_size=1,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(most, stretches)),
        )
        try:
            for row in data.iter_rows():
                yield bytes(row["done"])
        except RayError as error:
            raise Unavailable(
                f"the cluster lost the job: {_cause(error)}",
                where="ray",
                fix="give the same command again: what is scored is kept",
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Ray draw no progress and tell no plans of its own."""
    context = ray.data.DataContext.get_current()
    log = logging.getLogger("ray.data")
    before = context.enable_progress_bars, log.level
    context.enable_progress_bars = False
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars = before[0]
        log.setLevel(before[1])


def _processors() -> int:
    resources: Callable[[], dict[str, float]] = ray.cluster_resources
    return max(int(resources().get("CPU", 1)), 1)


def _cause(error: BaseException) -> str:
    """Return what began it, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[-1]}" if said else type(error).__name__
