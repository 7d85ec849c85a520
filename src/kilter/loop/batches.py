"""A batch of the loop's schedule, run in a worker process: ``kilter batch`` with what the declaration says.

It can be killed at any moment and run again: a run has the name of its time, so it goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec

from kilter.core.errors import KilterError, NotFound
from kilter.engines.sql.places import hidden
from kilter.loop.declaration.sources import declared
from kilter.loop.declare import Batch
from kilter.loop.jobs import Failure
from kilter.loop.store import Store
from kilter.loop.versions.batch import batch
from kilter.loop.workspace import Workspace
from kilter.serving.scoring.quality import Limits

SLOT = "{slot}"
"""What a run's time takes the place of."""


class BatchJob(msgspec.Struct, frozen=True, kw_only=True):
    """What to score.

    Args:
        store: Where everything is.
        loop: The loop's name.
        spec: Digest of the declaration.
        batch: The batch's name.
        version: The version that scores.
        slot: The time of its schedule.
    """

    store: Store
    loop: str
    spec: str
    batch: str
    version: int
    slot: datetime


class BatchDone(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What came of it.

    Args:
        rows: Rows of the input.
        bad_rows: Rows that this attempt could not use.
        output: Where the answers are.
    """

    rows: int
    bad_rows: int
    output: str


BatchAnswer = BatchDone | Failure


def slot_text(slot: datetime) -> str:
    """Return a run's time as it stands in a place: a day, or a day and the time of it."""
    midnight = slot.hour == slot.minute == slot.second == 0
    return f"{slot:%Y-%m-%d}" if midnight else f"{slot:%Y-%m-%dT%H-%M-%S}"


def run(payload: bytes) -> bytes:
    """Score one batch; see `BatchJob`."""
    job = msgspec.json.decode(payload, type=BatchJob)
    try:
        with Workspace(job.store) as workspace:
            return msgspec.json.encode(_scored(workspace, job))
    except KilterError as error:
        # What is not there yet may come: whoever writes the input is late.
        retryable = error.retryable or isinstance(error, NotFound)
        return msgspec.json.encode(Failure(reason=str(error), retryable=retryable))


def _scored(workspace: Workspace, job: BatchJob) -> BatchDone:
    loop = declared(workspace.database, workspace.objects, job.spec).loop
    asked = next(one for one in loop.batch if one.name == job.batch)
    totals: list[int | None] = []

    def starting(total: int | None) -> Callable[[int], None]:
        totals.append(total)
        return lambda _rows: None

    found = batch(
        f"{job.loop}@v{job.version}",
        placed(asked.input, job.slot),
        placed(asked.output, job.slot),
        store=workspace,
        query=placed(asked.query, job.slot),
        key=asked.key,
        keep=list(asked.keep) or None,
        bad_rows=placed(asked.bad_rows, job.slot),
        limits=limits_of(asked),
        run=f"{job.loop}/{job.batch} {slot_text(job.slot)}",
        starting=starting,
    )
    total = totals[-1] if totals else None
    return BatchDone(rows=found.rows if total is None else total, bad_rows=found.bad_rows, output=hidden(found.output))


def placed(place: str, slot: datetime) -> str:
    """Return a place of a run."""
    return place.replace(SLOT, slot_text(slot))


def limits_of(asked: Batch) -> Limits:
    """Return a batch's limits."""
    return Limits(nulls=asked.max_nulls, unknown=asked.max_unknown, outside=asked.max_outside)
