"""Scoring many rows without an endpoint, with a version of the registry: ``kilter.batch``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import msgspec

from kilter.core.digests import digest_json
from kilter.core.errors import InvalidInput
from kilter.engines.files.reading import Format
from kilter.engines.files.writing import Job, open_output
from kilter.engines.sql.places import has_password, hidden, is_database, parse_place
from kilter.loop.store import DEFAULT_STORE
from kilter.loop.versions.places import notes, open_input, open_target
from kilter.loop.versions.scoring import lookup, version_of
from kilter.loop.workspace import Workspace
from kilter.monitoring.profile import CategoricalBins, NumericBins, ReferenceProfile
from kilter.packaging.bundle import fetch
from kilter.registry.records import ModelVersion
from kilter.serving.scoring.cluster import score_on
from kilter.serving.scoring.files import Input, Plan, Scored, check_columns, job_of, look, quality_of
from kilter.serving.scoring.files import score as score_here
from kilter.serving.scoring.lines import transform_lines
from kilter.serving.scoring.model import Scorer
from kilter.serving.scoring.quality import Expected, Limits, Quality, Seen, refuse
from kilter.serving.scoring.queries import QueryRows, write_note
from kilter.serving.scoring.stretches import Options

On = Literal["local", "ray", "spark"]
Starting = Callable[[int | None], Callable[[int], None]]

FENCE = 3.0
"""How many times the distance between the lowest and the highest tenth of the training rows a number has to lie outside of them to
be far outside: Tukey's outer fence, with tenths in place of quarters."""


def batch(
    model: str,
    input: str | os.PathLike[str],  # noqa: A002 - the word that everybody uses
    output: str | os.PathLike[str],
    *,
    store: str | os.PathLike[str] | Workspace = DEFAULT_STORE,
    query: str = "",
    key: str = "",
    keep: Sequence[str] | None = None,
    format: Format | None = None,  # noqa: A002
    bad_rows: str | os.PathLike[str] = "fail",
    limits: Limits | None = None,
    run: str = "",
    part_rows: int = 524_288,
    batch_rows: int = 65_536,
    threads: int = 0,
    overwrite: bool = False,
    on: On = "local",
    cluster: str = "",
    workers: int = 0,
    starting: Starting = lambda _total: lambda _rows: None,
) -> Scored:
    """Score the rows of files, a table or a query; a second call goes on where a killed one was.

    Args:
        model: A model's champion (``"flight-delay"``) or one version of it (``"flight-delay@v7"``).
        input: A Parquet, CSV or Arrow file, a folder of them, a Delta table, each also as ``s3://bucket/path``;
            ``table:NAME``, a table of the store; or a database, ``postgresql://user@host/name?query=SELECT...``.
        output: A file that ends in .parquet, .csv or .arrow, a folder for parts, ``table:NAME``, ``online:NAME`` for the
            online store, or a database, ``postgresql://user@host/name?table=NAME``.
        store: The store that has the model.
        query: The query, when it is not in the address.
        key: The column that identifies a row; the model's, if not said. A query's rows are read in its order.
        keep: Columns of the input that go beside the predictions; the key and the time if not said, ``["*"]`` for all.
        format: The format of the parts in a folder (Parquet if not said), or ``"delta"`` for a Delta table.
        bad_rows: ``"fail"`` at the first row that can't be used; ``"null"``: no prediction, and the reason beside it; or a
            place, as of an output, where they go with the reason: a row that can't be used, and each row with what its
            column has too much of.
        limits: How much of a column may be wrong; a batch that is over one is refused before anything is written, unless bad
            rows have a place.
        run: The name of this run: the same batch under another name is done anew.
        part_rows: Rows per part: what a killed batch has to do again at most.
        batch_rows: Rows per call of the model; with ``threads`` it bounds the memory.
        threads: Batches that are scored at once; 0 for as many as there are processors.
        overwrite: Replace the output of an earlier batch.
        on: Where rows are scored: on this machine, or on a cluster of Ray or Spark.
        cluster: The cluster's address; empty for one on this machine.
        workers: How many of the cluster's workers; 0 for as many as it has.
        starting: Is told how many rows there are (None when only reading them would tell), and returns what is told how many
            more are done.

    Returns:
        What was done, and what was seen of the rows.

    Raises:
        NotFound: When there is no such model or no file.
        InvalidInput: When a column or a row can't be used, or a limit is passed; it names the column.
        Conflict: When the output holds something else.
        Unavailable: When a database or a cluster can't be reached.
    """
    place = os.fspath(bad_rows)
    apart = "" if place in ("fail", "null") else place
    plan = Plan(
        model=model,
        bundle="",
        input=os.fspath(input),
        output=os.fspath(output),
        keep=None if keep is None else tuple(keep),
        key=key,
        bad_rows="apart" if apart else "null" if place == "null" else "fail",
        apart=apart,
        limits=(limits or Limits()).checked(),
        run=run,
        part_rows=part_rows,
        batch_rows=batch_rows,
        threads=threads,
    )
    _refuse_passwords(plan)
    if is_database(plan.input) and not key:
        plan = msgspec.structs.replace(plan, key=parse_place(plan.input).key)
    with _opened(store) as workspace:
        version = version_of(workspace, model)
        work = _Work(
            workspace, msgspec.structs.replace(plan, model=version.reference, bundle=version.bundle), version, query
        )
        found = work.done(
            format, overwrite=overwrite, on=on, options=_options(workspace, cluster, workers), starting=starting
        )
    return msgspec.structs.replace(found, input=hidden(found.input), output=hidden(found.output))


class _Work:
    """One call of ``batch``: what it reads, and what it does."""

    def __init__(self, workspace: Workspace, plan: Plan, version: ModelVersion, query: str) -> None:
        self._workspace = workspace
        self._plan = plan
        parts = fetch(version.bundle, workspace.objects)
        self._signature = parts.manifest.signature
        self._scorer = Scorer(parts, lookup(workspace, parts))
        self._expected = expected(workspace, version)
        self._quality = quality_of(self._scorer, self._expected)
        self._given: Input = open_input(workspace, plan, self._signature, query)

    def done(self, format: Format | None, *, overwrite: bool, on: On, options: Options, starting: Starting) -> Scored:  # noqa: A002
        """Do what is left of the batch."""
        plan, given = self._plan, self._given
        job = job_of(plan, given, format)
        check_columns(self._scorer, plan, given)
        seen = self._seen(job)
        if isinstance(given, QueryRows):  # not before: what is only looked at says nothing of where parts end
            given.remember(notes(self._workspace) / f"{job.digest}.keys.json")
        output = open_target(self._workspace, plan, job, self._signature, format, overwrite=overwrite)
        # A job of its own, which no place can have beside the other.
        bad = Job(digest_json([job.digest, "bad rows"]), job.about)
        apart = open_output(plan.apart, bad, overwrite=overwrite) if plan.apart else None
        tell = starting(given.total())
        if on != "local":
            options = msgspec.structs.replace(options, stage=str(notes(self._workspace) / "cluster" / job.digest))
            return score_on(
                on, plan, job, given, output, options, tell, expected=self._expected, seen=seen, apart=apart
            )
        return score_here(self._scorer, plan, given, output, tell, quality=self._quality, seen=seen, apart=apart)

    def _seen(self, job: Job) -> Seen | None:
        """Look at all rows when there are limits; what was seen is noted, so that a batch goes on with the same verdict.

        Raises:
            InvalidInput: When a limit is passed, and bad rows have no place.
        """
        plan = self._plan
        if not plan.limits.declared:
            return None
        note = notes(self._workspace) / f"{job.digest}.seen.json"
        seen = _noted(note)
        if seen is None:
            counted = Quality.like(self._quality)
            seen = look(self._scorer, plan, self._given, counted)
            if plan.apart or not seen.over(plan.limits):
                write_note(note, msgspec.json.encode(seen))
        if not plan.apart:
            refuse(seen, plan.limits)
        return seen


def transform(
    model: str,
    input: str | os.PathLike[str],  # noqa: A002
    output: str | os.PathLike[str],
    *,
    store: str | os.PathLike[str] | Workspace = DEFAULT_STORE,
    join: bool = False,
    threads: int = 0,
    starting: Starting = lambda _total: lambda _rows: None,
) -> Scored:
    """Score files of lines, one row each, into files of lines, as SageMaker's batch transform does.

    Source: SageMaker's ``CreateTransformJob`` with ``SplitType=Line``, ``AssembleWith=Line``, and ``JoinSource=Input``.

    Args:
        model: A model's champion or one version of it.
        input: A .jsonl file (an object per line), a .csv file without a heading (the model's columns in their order), or a folder.
        output: A folder; ``NAME.out`` is made of each ``NAME``.
        store: The store that has the model.
        join: Whether an answer is its line with the prediction: as ``SageMakerOutput`` in an object, or as further columns.
        threads: Files that are scored at once; 0 for as many as there are processors.
        starting: As in :func:`batch`.

    Raises:
        InvalidInput: When a line can't be used; it is named.
    """
    with _opened(store) as workspace:
        version = version_of(workspace, model)
        scorer = Scorer(fetch(version.bundle, workspace.objects))
        return transform_lines(
            scorer,
            version.reference,
            version.bundle,
            Path(input),
            Path(output),
            join=join,
            threads=threads,
            tell=starting(None),
        )


def expected(workspace: Workspace, version: ModelVersion) -> dict[str, Expected]:
    """Return what a version's reference profile says of its inputs; nothing for a version without one."""
    if not version.lineage.profile:
        return {}
    profile = msgspec.json.decode(workspace.objects.get(version.lineage.profile), type=ReferenceProfile)
    return {bins.name: _expected(bins) for bins in profile.inputs}


def _expected(bins: NumericBins | CategoricalBins) -> Expected:
    rows = sum(bins.counts)
    nulls = bins.counts[-1] / rows if rows else None
    if isinstance(bins, CategoricalBins) or len(bins.edges) < 2:
        return Expected(nulls=nulls)
    low, high = bins.edges[0], bins.edges[-1]
    reach = FENCE * (high - low)
    return Expected(nulls=nulls, low=low - reach, high=high + reach)


@contextmanager
def _opened(store: str | os.PathLike[str] | Workspace) -> Iterator[Workspace]:
    if isinstance(store, Workspace):
        yield store
        return
    with Workspace.open(store) as workspace:
        yield workspace


def _options(workspace: Workspace, cluster: str, workers: int) -> Options:
    online = workspace.store.folder / "online"
    return Options(
        objects=workspace.store.objects, online=str(online) if online.is_dir() else "", address=cluster, workers=workers
    )


def _noted(note: Path) -> Seen | None:
    with suppress(FileNotFoundError, msgspec.MsgspecError):
        return msgspec.json.decode(note.read_bytes(), type=Seen)
    return None


def _refuse_passwords(plan: Plan) -> None:
    for where, place in (("input", plan.input), ("output", plan.output)):
        if has_password(place):
            raise InvalidInput(
                "the address has a password in it, which would be kept with the job",
                where=where,
                allowed="postgresql://user:${NAME}@host/name",
                fix="put it into a variable of the environment and name that",
            )
