"""What a worker of a cluster does: it scores one stretch of the rows with the function of the local job, and puts its parts aside.

What goes to it and what comes back is JSON, so that no engine has an object of ours to pickle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import msgspec
import polars as pl

from kilter.core.errors import (
    Conflict,
    Damaged,
    Expired,
    Forbidden,
    InvalidInput,
    KilterError,
    NotFound,
    Unavailable,
)
from kilter.engines.files.reading import Piece, batches, head
from kilter.engines.files.writing import NOWHERE, Job, Output, open_output
from kilter.engines.objects.store import ObjectStore
from kilter.packaging.bundle import fetch
from kilter.serving.scoring.files import Plan, quality_of, score
from kilter.serving.scoring.model import Scorer
from kilter.serving.scoring.quality import Expected, Seen

_ERRORS: dict[str, type[KilterError]] = {
    kind.code: kind for kind in (InvalidInput, NotFound, Expired, Conflict, Forbidden, Damaged, Unavailable)
}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a cluster is reached, and what its machines reach.

    Args:
        objects: URL of the store's objects; the machines fetch the bundle there.
        online: Folder of the online features, for models that look some up; empty for none.
        address: The cluster: ``auto`` or ``ray://HOST:PORT`` of Ray, a master's URL of Spark. Empty starts one on this machine, for
            as long as the job takes.
        workers: Stretches that are scored at once; 0 for as many as the cluster has processors.
        stage: Where parts are kept until all are there: a folder or a prefix that all machines reach, and that is used for
            this output alone. A place beside the output if not said.
    """

    objects: str
    online: str = ""
    address: str = ""
    workers: int = 0
    stage: str = ""


class Stretch(msgspec.Struct, frozen=True):
    """What one worker scores at once.

    Args:
        number: The place of the piece in the input.
        piece: The file, or the version of a Delta table.
        first: Its first part.
        parts: How many parts; 0 for all up to the piece's end.
    """

    number: int
    piece: Piece
    first: int
    parts: int


class Work(msgspec.Struct, frozen=True):
    """What every worker is told.

    Args:
        plan: How rows are scored.
        job: The job, under whose name parts are written.
        options: What it reaches.
        stretches: All stretches, to be named by their place.
        stage: Where parts are kept until all are there.
        apart: The same for the rows that are kept apart; empty without.
        expected: What the reference profile says of the inputs.
        seen: What was seen of all rows beforehand, when there are limits.
    """

    plan: Plan
    job: Job
    options: Options
    stretches: tuple[Stretch, ...]
    stage: str
    apart: str = ""
    expected: dict[str, Expected] = {}
    seen: Seen | None = None


class Failure(msgspec.Struct, frozen=True):
    """An error of ours, on its way to whoever asked."""

    code: str
    message: str
    where: str
    allowed: str
    fix: str


class Done(msgspec.Struct, frozen=True):
    """What became of a stretch.

    Args:
        rows: Rows scored.
        bad_rows: Rows among them that could not be used.
        seen: What was seen of the inputs.
        failure: Why it was not scored.
    """

    rows: int = 0
    bad_rows: int = 0
    seen: Seen | None = None
    failure: Failure | None = None


def carry_out(work: bytes, place: int) -> bytes:
    """Score one stretch: what a worker of a cluster does.

    Args:
        work: The work, as JSON.
        place: The stretch's place in it.

    Returns:
        What became of it, as JSON. An error of ours is told so, and not raised: to try again would not help, or whoever asked
        is to decide. Anything else is raised, and the cluster tries again.
    """
    told = _told(work)
    stretch, plan, options = told.stretches[place], told.plan, told.options
    try:
        scorer = _scorer(options.objects, options.online, plan.bundle)
        apart = open_output(told.apart, told.job, format="arrow") if told.apart else None
        found = score(
            scorer,
            msgspec.structs.replace(plan, threads=plan.threads or 1),
            _OneStretch(stretch, plan),
            _OneOutput(stretch, open_output(told.stage, told.job, format="arrow")),
            quality=quality_of(scorer, told.expected),
            seen=told.seen,
            apart=_OneOutput(stretch, apart) if apart is not None else None,
        )
    except KilterError as error:
        failure = Failure(error.code, error.message, error.where, error.allowed, error.fix)
        return msgspec.json.encode(Done(failure=failure))
    return msgspec.json.encode(Done(found.rows, found.bad_rows, found.seen if told.seen is None else None))


class _OneStretch:
    """The rows of a stretch, as an input of one piece."""

    def __init__(self, stretch: Stretch, plan: Plan) -> None:
        self.pieces = (stretch.piece,)
        self._place = plan.input
        self._most = stretch.parts * plan.part_rows

    def batches(self, piece: Piece, rows: int, skip: int, kinds: Mapping[str, pl.DataType]) -> Iterator[pl.DataFrame]:
        """Yield the rows from ``skip`` on, as many as the stretch has."""
        left = self._most
        for frame in batches(piece, self._place, rows=rows, skip=skip, kinds=kinds):
            yield frame.head(left) if self._most else frame
            left -= frame.height
            if self._most and left <= 0:
                return

    def head(self, piece: Piece, kinds: Mapping[str, pl.DataType]) -> pl.DataFrame:
        """Return the piece's columns, without rows."""
        return head(piece, self._place, kinds)

    def total(self) -> int | None:
        """Return nothing: nobody asks."""
        return None


class _OneOutput:
    """The parts of a stretch, which say that those before it are there: so the job begins at its first one."""

    def __init__(self, stretch: Stretch, parts: Output) -> None:
        self._stretch = stretch
        self._parts = parts

    def last(self) -> tuple[int, int]:
        """Return the part before the first one."""
        return (0, self._stretch.first - 1) if self._stretch.first else NOWHERE

    def write(self, piece: int, number: int, frame: pl.DataFrame) -> None:
        """Write a part under the number of the stretch's own piece."""
        del piece
        self._parts.write(self._stretch.number, number, frame)

    def finish(self) -> None:
        """Do nothing: a stretch is not the end."""


@lru_cache(maxsize=1)
def _told(work: bytes) -> Work:
    return msgspec.json.decode(work, type=Work)


@lru_cache(maxsize=1)
def _scorer(objects: str, online: str, bundle: str) -> Scorer:
    """Return the model, which a process loads once."""
    parts = fetch(bundle, ObjectStore.open(objects))
    if not parts.manifest.signature.views or not online or not Path(online).is_dir():
        return Scorer(parts)  # it says so itself when it needs features
    from kilter.engines.online.store import OnlineStore  # noqa: PLC0415 - a model without features needs none of these
    from kilter.features.online import OnlineFeatures  # noqa: PLC0415
    from kilter.serving.front.process import lookup_of  # noqa: PLC0415

    return Scorer(parts, lookup_of(OnlineFeatures(OnlineStore.open(online, readonly=True))))


def raised(failure: Failure) -> KilterError:
    """Return a worker's error as the error that it was."""
    kind = _ERRORS.get(failure.code, KilterError)
    return kind(failure.message, where=failure.where, allowed=failure.allowed, fix=failure.fix)
