"""Scoring files on the machines of a cluster: the local job, cut into stretches that each machine scores by itself.

A stretch is one part of a file, or a whole file of text, whose rows nobody can count without reading them. Whoever gets it reads
the rows, scores them with the very function of the local job, and writes the parts aside, whole or not at all. When all are
there, the parts go to the output in their order, under the same name of the job: what was begun on a cluster can be ended
without one. Ray and Spark only say who scores which stretch; no row and no model passes through them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from kilter.core.errors import InvalidInput, Unavailable
from kilter.engines.files.reading import Piece, count
from kilter.engines.files.staging import clear_stage, read_staged, stage_beside, stage_of, staged
from kilter.engines.files.writing import NOWHERE, Job, Output, open_output
from kilter.serving.scoring.files import Files, Input, Plan, Scored
from kilter.serving.scoring.quality import Expected, Seen
from kilter.serving.scoring.stretches import Done, Options, Stretch, Work, raised

_NO_FILES = re.compile(r"^(?!s3://|file://)[a-z][a-z0-9+]+:")
Engine = Literal["ray", "spark"]
"""What a cluster is run by."""


class Run(Protocol):
    """An engine: has every stretch scored, and yields what became of each as JSON, in any order."""

    def __call__(self, work: bytes, stretches: int, *, address: str, workers: int) -> Iterator[bytes]:
        """Score.

        Args:
            work: The work, as JSON.
            stretches: How many stretches it has.
            address: The cluster; empty for one on this machine.
            workers: Stretches at once; 0 for as many as there are processors.
        """
        ...


def score_on(
    engine: Engine,
    plan: Plan,
    job: Job,
    given: Input,
    output: Output,
    options: Options,
    tell: Callable[[int], None] = lambda _rows: None,
    *,
    expected: Mapping[str, Expected] | None = None,
    seen: Seen | None = None,
    apart: Output | None = None,
) -> Scored:
    """Score rows on a cluster; what comes out is what :func:`kilter.serving.scoring.files.score` gives.

    Args:
        engine: What the cluster is run by.
        plan: How.
        job: The job's name, as the output has it.
        given: The rows; files that all machines of the cluster reach.
        output: Where the predictions go. Nothing is there before all rows are scored.
        options: The cluster.
        tell: Is told of rows that are done.
        expected: What the reference profile says of the inputs.
        seen: What was seen of all rows beforehand, when there are limits.
        apart: Where bad rows go, when they are kept apart.

    Raises:
        InvalidInput: When a column or a row can't be used, or the rows are not in files.
        Conflict: When the output holds something else.
        Unavailable: When the engine is not installed, or its cluster can't be reached or lost the job.
    """
    if not isinstance(given, Files):
        raise InvalidInput(
            "a cluster's machines read files, and these rows are in none",
            where="input",
            fix="score them on this machine, or write them to files first",
        )
    root = _root(plan, options)
    run = _engine(engine)
    began = time.monotonic()
    last = output.last()
    work = _work(plan, job, given, last, root, options, expected or {}, seen, kept_apart=apart is not None)
    done = _carried_out(run, work, tell) if work.stretches else []
    parts = _commit(work, last, output, apart)
    clear_stage(root)
    seconds = time.monotonic() - began
    rows, bad = sum(one.rows for one in done), sum(one.bad_rows for one in done)
    return Scored(
        model=plan.model,
        input=plan.input,
        output=plan.output,
        rows=rows,
        parts=parts,
        kept=last != NOWHERE,
        bad_rows=bad,
        apart=plan.apart,
        seconds=round(seconds, 3),
        rows_per_second=round((rows + (bad if plan.apart else 0)) / seconds, 1) if seconds else 0.0,
        seen=seen or _together([one.seen for one in done if one.seen is not None]),
    )


def _work(
    plan: Plan,
    job: Job,
    given: Files,
    last: tuple[int, int],
    root: str,
    options: Options,
    expected: Mapping[str, Expected],
    seen: Seen | None,
    *,
    kept_apart: bool,
) -> Work:
    """Return what is to be done, with the places aside made ready."""
    stage = stage_of(root, job.digest)
    apart = stage_of(root, f"{job.digest[:16]}-apart") if kept_apart else ""
    clear_stage(root, but=job.digest[:16])
    for place in filter(None, (stage, apart)):
        open_output(place, job, format="arrow")
    stretches = tuple(_left(plan, given.pieces, last, staged(stage)))
    return Work(plan, job, options, stretches, stage, apart, dict(expected), seen)


def _root(plan: Plan, options: Options) -> str:
    """Return where parts are kept.

    Raises:
        InvalidInput: When there is no place beside the output.
    """
    if options.stage:
        return options.stage
    if _NO_FILES.match(plan.output):
        raise InvalidInput(
            "there is no place for parts beside this output", where="stage", fix="name a folder that all machines reach"
        )
    return stage_beside(plan.output)


def _carried_out(run: Run, work: Work, tell: Callable[[int], None]) -> list[Done]:
    found: list[Done] = []
    options = work.options
    text = msgspec.json.encode(work)
    for answer in run(text, len(work.stretches), address=options.address, workers=options.workers):
        done = msgspec.json.decode(answer, type=Done)
        if done.failure is not None:
            raise raised(done.failure)
        found.append(done)
        tell(done.rows + (done.bad_rows if work.apart else 0))
    return found


def _left(
    plan: Plan, found: Sequence[Piece], last: tuple[int, int], there: Collection[tuple[int, int]]
) -> Iterator[Stretch]:
    """Yield what is to be scored still: parts that are neither in the output nor aside."""
    for number, piece in enumerate(found):
        if number < last[0]:
            continue
        first = last[1] + 1 if number == last[0] else 0
        rows = count(piece, plan.input)
        if rows is None:
            while (number, first) in there:
                first += 1
            yield Stretch(number, piece, first, 0)
            continue
        for part in range(first, max(-(-rows // plan.part_rows), 1)):
            if (number, part) not in there:
                yield Stretch(number, piece, part, 1)


def _commit(work: Work, last: tuple[int, int], output: Output, apart: Output | None) -> int:
    """Put the parts that are aside to the output, in order, and return how many there were."""
    parts = 0
    bad = staged(work.apart) if work.apart else {}
    for name, piece in sorted(staged(work.stage).items()):
        if name > last:
            if apart is not None:
                apart.write(*name, read_staged(work.apart, bad[name]))
            output.write(*name, read_staged(work.stage, piece))
            parts += 1
    if apart is not None:
        apart.finish()
    output.finish()
    return parts


def _together(parts: Sequence[Seen]) -> Seen | None:
    """Return what all stretches have seen together."""
    if not parts:
        return None
    columns = zip(*(one.columns for one in parts), strict=True)
    return Seen(
        rows=sum(one.rows for one in parts),
        columns=tuple(
            msgspec.structs.replace(
                column[0],
                nulls=sum(one.nulls for one in column),
                unknown=sum(one.unknown for one in column),
                outside=None if column[0].outside is None else sum(one.outside or 0 for one in column),
            )
            for column in columns
        ),
    )


def _engine(engine: Engine) -> Run:
    try:
        match engine:
            case "ray":
                from kilter.serving.scoring.ray_data import run as on_ray  # noqa: PLC0415 - an extra

                return on_ray
            case "spark":
                from kilter.serving.scoring.spark import run as on_spark  # noqa: PLC0415 - an extra

                return on_spark
    except ImportError as error:
        raise Unavailable(
            f"{error.name} is not installed", where="on", fix=f'pip install "kilter[{engine}]"'
        ) from error
