"""Batch scoring: any number of rows, in bounded memory, and from where it was after a kill.

The rows of a piece (a file, a version of a Delta table, a query) are cut into parts of a fixed number of rows. A part is scored in
batches by several threads and written whole, in the order of the rows; the last part that is there says where to go on.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, NamedTuple, Protocol, TypeVar

import msgspec
import polars as pl

from kilter.core.digests import digest_json
from kilter.core.errors import InvalidInput
from kilter.engines.files.reading import Format, Piece, batches, count, head, pieces
from kilter.engines.files.writing import NOWHERE, Job, Output
from kilter.packaging.formats import Matrix
from kilter.serving.scoring.model import ERROR, Scorer
from kilter.serving.scoring.quality import Expected, Kind, Limits, Quality, Seen

_BATCH_ROWS = 65_536
_PART_ROWS = 524_288


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch did.

    Args:
        model: The version.
        input: What was read.
        output: What was written.
        rows: Rows written by this run.
        parts: Parts written by this run.
        kept: Whether an earlier run had written some of the output.
        bad_rows: Rows of this run that could not be used: they have a null, or are in ``apart``.
        apart: Where bad rows are, with the reason; empty when they are not kept apart.
        seconds: How long this run took.
        rows_per_second: Rows of the input per second.
        seen: What was seen of the inputs: of all rows when there are limits, else of those of this run; None when nothing
            was left to do.
    """

    model: str
    input: str
    output: str
    rows: int
    parts: int
    kept: bool
    bad_rows: int
    apart: str = ""
    seconds: float = 0.0
    rows_per_second: float = 0.0
    seen: Seen | None = None


class Input(Protocol):
    """Rows in an order that stays, in pieces."""

    @property
    def pieces(self) -> Sequence[Piece]:
        """What there is to read."""
        ...

    def batches(self, piece: Piece, rows: int, skip: int, kinds: Mapping[str, pl.DataType]) -> Iterator[pl.DataFrame]:
        """Yield a piece's rows but the first ``skip``, in frames of at most ``rows``."""
        ...

    def head(self, piece: Piece, kinds: Mapping[str, pl.DataType]) -> pl.DataFrame:
        """Return a piece's columns, without rows."""
        ...

    def total(self) -> int | None:
        """Return how many rows there are, or None when only reading them would tell."""
        ...


class Files:
    """Files of one format in a folder or a bucket, or a Delta table.

    Args:
        place: Where.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._rows: list[int | None] = []
        self.pieces = pieces(place)

    def batches(self, piece: Piece, rows: int, skip: int, kinds: Mapping[str, pl.DataType]) -> Iterator[pl.DataFrame]:
        """Yield a piece's rows but the first ``skip``, in frames of at most ``rows``."""
        return batches(piece, self._place, rows=rows, skip=skip, kinds=kinds)

    def head(self, piece: Piece, kinds: Mapping[str, pl.DataType]) -> pl.DataFrame:
        """Return a piece's columns, without rows."""
        return head(piece, self._place, kinds)

    def total(self) -> int | None:
        """Return how many rows there are, or None when only reading them would tell."""
        self._rows = [count(piece, self._place) for piece in self.pieces]
        return None if None in self._rows else sum(rows for rows in self._rows if rows is not None)

    def rows(self, number: int) -> int:
        """Return how many rows a piece has, as far as the total has told; else 0."""
        return (self._rows[number] or 0) if self._rows else 0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How rows are scored.

    Args:
        model: The version, for people: ``flight-delay@v7``.
        bundle: Digest of its bundle.
        input: Where the rows come from, for the answer.
        output: Where the predictions go, for the answer.
        keep: Columns of the input that go beside the predictions; None for the key and the time, ``("*",)`` for all.
        key: The column that identifies a row, when it is not the model's; it is kept, too.
        bad_rows: ``fail``; ``null`` for an empty prediction with the reason beside it; ``apart`` for a place of their own.
        apart: That place, for the answer.
        limits: How much may be wrong with a column.
        run: The name of this run; the same batch under another name is another job.
        part_rows: Rows per part.
        batch_rows: Rows per call of the model.
        threads: How many batches are scored at once; 0 for as many as there are processors.
    """

    model: str
    bundle: str
    input: str
    output: str
    keep: tuple[str, ...] | None = None
    key: str = ""
    bad_rows: Literal["fail", "null", "apart"] = "fail"
    apart: str = ""
    limits: Limits = Limits()
    run: str = ""
    part_rows: int = _PART_ROWS
    batch_rows: int = _BATCH_ROWS
    threads: int = 0

    @property
    def most_threads(self) -> int:
        """How many threads score."""
        return self.threads or os.cpu_count() or 1


def job_of(plan: Plan, given: Input, format: Format | None = None) -> Job:  # noqa: A002
    """Return the name of a batch: the digest of all that decides what comes out of it."""
    if plan.part_rows < 1 or plan.batch_rows < 1 or plan.threads < 0:
        raise InvalidInput("a size is not positive", where="batch", allowed="part rows and batch rows from 1 on")
    decides = [
        plan.bundle,
        tuple(given.pieces),
        plan.keep,
        plan.key,
        plan.bad_rows,
        plan.apart,
        plan.limits if plan.bad_rows == "apart" else None,
        plan.run,
        plan.part_rows,
        plan.output,
        format,
    ]
    return Job(digest_json(decides), {"kilter.model": plan.model, "kilter.bundle": plan.bundle})


def quality_of(scorer: Scorer, expected: Mapping[str, Expected]) -> Quality:
    """Return what counts what is wrong with a model's rows.

    Args:
        scorer: The model.
        expected: What the version's reference profile says, by column.
    """
    encoding = scorer.manifest.signature.encoding
    return Quality(encoding.names, encoding.categories, expected)


def check_columns(scorer: Scorer, plan: Plan, given: Input) -> None:
    """Refuse an input whose columns the model can't take, before anything is written.

    Raises:
        InvalidInput: When a column is absent or of a wrong type; it is named.
    """
    for piece in given.pieces:
        frame = given.head(piece, scorer.reader.kinds())
        scorer.reader.matrix(frame)
        _kept(scorer, plan, frame)


def look(scorer: Scorer, plan: Plan, given: Input, quality: Quality) -> Seen:
    """Count what is wrong with all rows, without scoring any.

    Args:
        scorer: The model, whose reader reads the rows.
        plan: How.
        given: The rows.
        quality: Counts.
    """

    def one(frame: pl.DataFrame, start: int) -> None:
        quality.count(scorer.reader.matrix(frame, start)[0], frame)

    kinds = scorer.reader.kinds()
    with ThreadPoolExecutor(plan.most_threads, "kilter-batch") as pool:
        for piece in given.pieces:
            frames = given.batches(piece, plan.batch_rows, 0, kinds)
            deque(_in_order(pool, one, frames, 0, 2 * plan.most_threads), maxlen=0)
    return quality.seen()


def score(
    scorer: Scorer,
    plan: Plan,
    given: Input,
    output: Output,
    tell: Callable[[int], None] = lambda _rows: None,
    *,
    quality: Quality | None = None,
    seen: Seen | None = None,
    apart: Output | None = None,
) -> Scored:
    """Score rows.

    Args:
        scorer: The model.
        plan: How.
        given: The rows.
        output: Where the predictions go; it goes on from the last part that is there.
        tell: Is told of rows that are done, whether in this run or an earlier one.
        quality: Counts what is wrong with the rows; by what the signature says, if not given.
        seen: What was seen of all rows beforehand, when there are limits.
        apart: Where bad rows go, when they are kept apart.

    Raises:
        InvalidInput: When a column or a row can't be used.
        Conflict: When the output holds something else.
        Damaged: When a file of the input can't be read to its end.
    """
    began = time.monotonic()
    last = output.last()
    over = () if seen is None else tuple((name, kind) for name, kind, _, _ in seen.over(plan.limits))
    quality = quality or quality_of(scorer, {})
    run = _Run(scorer, plan, given, output, tell, quality, over, apart)
    with ThreadPoolExecutor(plan.most_threads, "kilter-batch") as pool:
        for number, piece in enumerate(given.pieces):
            if number >= last[0]:
                run.piece(pool, number, piece, last[1] + 1 if number == last[0] else 0)
            elif isinstance(given, Files):
                tell(given.rows(number))
    if apart is not None:
        apart.finish()
    output.finish()
    seconds = time.monotonic() - began
    return Scored(
        model=plan.model,
        input=plan.input,
        output=plan.output,
        rows=run.rows,
        parts=run.parts,
        kept=last != NOWHERE,
        bad_rows=run.bad_rows,
        apart=plan.apart,
        seconds=round(seconds, 3),
        rows_per_second=round(run.read / seconds, 1) if seconds else 0.0,
        seen=seen or (quality.seen() if run.parts else None),
    )


class _Batch(NamedTuple):
    """A batch that was scored: how many rows were read, what goes to the output, and what is kept apart."""

    read: int
    good: pl.DataFrame
    bad: pl.DataFrame | None


class _Run:
    """One run over the pieces of a job."""

    def __init__(
        self,
        scorer: Scorer,
        plan: Plan,
        given: Input,
        output: Output,
        tell: Callable[[int], None],
        quality: Quality,
        over: Sequence[tuple[str, Kind]],
        apart: Output | None,
    ) -> None:
        self._scorer = scorer
        self._plan = plan
        self._given = given
        self._kinds = scorer.reader.kinds()
        self._output = output
        self._tell = tell
        self._quality = quality
        self._over = over
        self._apart = apart
        self._lenient = plan.bad_rows == "null"
        self.read = 0
        self.rows = 0
        self.parts = 0
        self.bad_rows = 0

    def piece(self, pool: ThreadPoolExecutor, number: int, piece: Piece, first: int) -> None:
        """Score a piece from its part ``first`` on."""
        plan = self._plan
        skip = first * plan.part_rows
        self._tell(skip)
        part = first
        held: list[_Batch] = []
        size = 0
        for batch in _in_order(pool, self._score, self._batches(piece, skip), skip, 2 * plan.most_threads):
            held.append(batch)
            size += batch.read
            if size == plan.part_rows:
                self._write(number, part, held)
                held, size, part = [], 0, part + 1
        if held or (first == 0 and part == 0):
            self._write(number, part, held or [self._score(self._given.head(piece, self._kinds), 0)])

    def _batches(self, piece: Piece, skip: int) -> Iterator[pl.DataFrame]:
        """Yield batches that no end of a part falls into."""
        plan = self._plan
        left = plan.part_rows
        for frame in self._given.batches(piece, plan.batch_rows, skip, self._kinds):
            rest = frame
            while rest.height:
                batch = rest.head(left)
                rest = rest.slice(batch.height)
                left = left - batch.height or plan.part_rows
                yield batch

    def _score(self, frame: pl.DataFrame, start: int) -> _Batch:
        matrix, unusable = self._scorer.reader.matrix(frame, start)
        self._quality.count(matrix, frame)
        if self._apart is None:
            return _Batch(frame.height, self._answered(frame, matrix, unusable, start), None)
        reasons = self._quality.reasons(matrix, frame, self._over) | unusable
        if ERROR in frame.columns:
            raise _twice(ERROR)
        errors = pl.Series(ERROR, [reasons.get(row) for row in range(frame.height)], dtype=pl.String)
        usable = errors.is_null()
        good = frame.filter(usable) if reasons else frame
        matrix = matrix[usable.to_numpy()] if reasons else matrix
        bad = frame.with_columns(errors).filter(~usable)
        return _Batch(frame.height, self._answered(good, matrix, {}, start), bad)

    def _answered(self, frame: pl.DataFrame, matrix: Matrix, unusable: dict[int, str], start: int) -> pl.DataFrame:
        found = self._scorer.answers(matrix, unusable, start=start, lenient=self._lenient)
        kept = frame.select(_kept(self._scorer, self._plan, frame))
        taken = [one.name for one in found if one.name in kept.columns]
        if taken:
            raise _twice(taken[0])
        return kept.with_columns(found)

    def _write(self, piece: int, part: int, batches: list[_Batch]) -> None:
        frame = pl.concat([batch.good for batch in batches])
        if self._apart is not None:
            # Before the part itself, which says that both are there.
            bad = pl.concat([batch.bad for batch in batches if batch.bad is not None])
            self._apart.write(piece, part, bad)
            self.bad_rows += bad.height
        self._output.write(piece, part, frame)
        read = sum(batch.read for batch in batches)
        self.read += read
        self.rows += frame.height
        self.parts += 1
        if self._lenient:
            self.bad_rows += frame.height - frame[ERROR].null_count()
        self._tell(read)


T = TypeVar("T")


def _in_order(
    pool: ThreadPoolExecutor,
    work: Callable[[pl.DataFrame, int], T],
    frames: Iterator[pl.DataFrame],
    start: int,
    most: int,
) -> Iterator[T]:
    """Yield what comes of each frame, in order, with a few of them under way at once."""
    under_way: deque[Future[T]] = deque()
    try:
        for frame in frames:
            under_way.append(pool.submit(work, frame, start))
            start += frame.height
            if len(under_way) >= most:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        for future in under_way:
            future.cancel()


def _kept(scorer: Scorer, plan: Plan, frame: pl.DataFrame) -> Sequence[str]:
    keep = plan.keep
    if keep is None:
        wanted = (plan.key, scorer.reader.key, scorer.reader.time)
        return list(dict.fromkeys(name for name in wanted if name and name in frame.columns))
    if keep == ("*",):
        return frame.columns
    missing = [name for name in keep if name not in frame.columns]
    if missing:
        raise InvalidInput(f"there is no column {missing[0]!r}", where="keep", allowed=", ".join(frame.columns))
    return list(keep)


def _twice(name: str) -> InvalidInput:
    return InvalidInput(
        f"the input has a column {name!r}, which the output adds", where="keep", fix="keep other columns"
    )
