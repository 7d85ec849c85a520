"""Scoring rows outside an endpoint, with a version of the registry: ``kilter.score``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import polars as pl

from kilter.core.errors import InvalidInput, NotFound
from kilter.data.declare import Table
from kilter.data.service import DataService
from kilter.engines.files.reading import Format, Piece
from kilter.engines.files.writing import NOWHERE, Job, Output, open_output
from kilter.engines.online.store import OnlineStore
from kilter.features.online import OnlineFeatures
from kilter.loop.store import DEFAULT_STORE
from kilter.loop.workspace import Workspace
from kilter.packaging.bundle import Parts, fetch
from kilter.registry.records import ModelVersion
from kilter.serving.scoring.files import Files, Input, Plan, Scored, job_of
from kilter.serving.scoring.files import score as score_rows
from kilter.serving.scoring.lines import transform_lines
from kilter.serving.scoring.model import Scorer

if TYPE_CHECKING:
    from kilter.serving.answering.group import Lookup

TABLE = "table:"
"""What begins the name of a table of the store, where files could be meant."""


def score(
    model: str,
    input: str | os.PathLike[str],  # noqa: A002 - the word that everybody uses
    output: str | os.PathLike[str],
    *,
    store: str | os.PathLike[str] | Workspace = DEFAULT_STORE,
    keep: Sequence[str] | None = None,
    format: Format | None = None,  # noqa: A002
    bad_rows: Literal["fail", "null"] = "fail",
    part_rows: int = 524_288,
    batch_rows: int = 65_536,
    threads: int = 0,
    overwrite: bool = False,
    starting: Callable[[int | None], Callable[[int], None]] = lambda _total: lambda _rows: None,
) -> Scored:
    """Score the rows of files or of a table; a second call goes on where a killed one was.

    Args:
        model: A model's champion (``"flight-delay"``) or one version of it (``"flight-delay@v7"``).
        input: A Parquet, CSV or Arrow file, a folder of them, a Delta table, each also as ``s3://bucket/path``; or
            ``table:NAME``, a table of the store.
        output: A file that ends in .parquet, .csv or .arrow, a folder for parts, or ``table:NAME``.
        store: The store that has the model.
        keep: Columns of the input that go beside the predictions; the key and the time if not said, ``["*"]`` for all.
        format: The format of the parts in a folder (Parquet if not said), or ``"delta"`` for a Delta table.
        bad_rows: ``"fail"`` at the first row that can't be used, or ``"null"``: no prediction, and the reason beside it.
        part_rows: Rows per part: what a killed scoring has to do again at most.
        batch_rows: Rows per call of the model; with ``threads`` it bounds the memory.
        threads: Batches that are scored at once; 0 for as many as there are processors.
        overwrite: Replace the output of an earlier scoring.
        starting: Is told how many rows there are (None when only reading them would tell), and returns what is told how many
            more are done.

    Returns:
        What was done.

    Raises:
        NotFound: When there is no such model or no file.
        InvalidInput: When a column or a row can't be used; it names both.
        Conflict: When the output holds something else.
    """
    workspace = store if isinstance(store, Workspace) else Workspace.open(store)
    try:
        version = version_of(workspace, model)
        parts = fetch(version.bundle, workspace.objects)
        scorer = Scorer(parts, lookup(workspace, parts))
        plan = Plan(
            model=version.reference,
            bundle=version.bundle,
            input=os.fspath(input),
            output=os.fspath(output),
            keep=None if keep is None else tuple(keep),
            bad_rows=bad_rows,
            part_rows=part_rows,
            batch_rows=batch_rows,
            threads=threads,
        )
        given = _input(workspace, plan.input)
        job = job_of(plan, given, format)
        out = _output(workspace, plan.output, job, parts, format, overwrite=overwrite)
        return score_rows(scorer, plan, given, out, starting(given.total()))
    finally:
        if workspace is not store:
            workspace.close()


def transform(
    model: str,
    input: str | os.PathLike[str],  # noqa: A002
    output: str | os.PathLike[str],
    *,
    store: str | os.PathLike[str] | Workspace = DEFAULT_STORE,
    join: bool = False,
    threads: int = 0,
    starting: Callable[[int | None], Callable[[int], None]] = lambda _total: lambda _rows: None,
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
        starting: As in :func:`score`.

    Raises:
        InvalidInput: When a line can't be used; it is named.
    """
    workspace = store if isinstance(store, Workspace) else Workspace.open(store)
    try:
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
    finally:
        if workspace is not store:
            workspace.close()


def version_of(workspace: Workspace, model: str) -> ModelVersion:
    """Return the version that ``MODEL`` (its champion), ``MODEL@v7`` or ``MODEL@champion`` names.

    Raises:
        NotFound: When there is none.
    """
    name, _, version = model.partition("@")
    number = version.removeprefix("v")
    return workspace.models.get(name, int(number) if number.isdecimal() else version or "champion")


def lookup(workspace: Workspace, parts: Parts) -> Lookup | None:
    """Return what looks a model's features up; None when it has none, or the store serves none."""
    folder = workspace.store.folder / "online"
    if not parts.manifest.signature.views or not folder.is_dir():
        return None
    from kilter.serving.front.process import lookup_of  # noqa: PLC0415 - a model without features needs no front

    return lookup_of(OnlineFeatures(OnlineStore.open(folder, readonly=True)))


class TableRows:
    """The rows of a table of the store, as they are known now, in the order of their keys.

    Args:
        data: The tables.
        name: Which.
    """

    def __init__(self, data: DataService, name: str) -> None:
        self._frame = data.frame(name).sort(data.info(name).key)
        self.pieces = (Piece(f"{TABLE}{name}", "parquet", self._frame.height, data.version(name).digest),)

    def batches(self, piece: Piece, rows: int, skip: int, kinds: Mapping[str, pl.DataType]) -> Iterator[pl.DataFrame]:
        """Yield the rows but the first ``skip``, in frames of at most ``rows``."""
        del piece, kinds
        return self._frame.slice(skip).iter_slices(rows)

    def head(self, piece: Piece, kinds: Mapping[str, pl.DataType]) -> pl.DataFrame:
        """Return the columns, without rows."""
        del piece, kinds
        return self._frame.clear()

    def total(self) -> int | None:
        """Return how many rows there are."""
        return self._frame.height


class TableOutput:
    """Parts that go into a table of the store; a part that comes twice changes nothing, because rows have a key.

    Args:
        data: The tables.
        name: Which; it is declared if it is not there.
        job: The job.
        parts: The model, whose key and time are the table's.
        notes: The folder that remembers how far a job is.

    Raises:
        InvalidInput: When the model's rows have no key or no time.
    """

    def __init__(self, data: DataService, name: str, job: Job, parts: Parts, notes: Path) -> None:
        signature = parts.manifest.signature
        if not signature.key or not signature.time:
            raise InvalidInput(
                "a table needs a key and a time, and the model's rows have none", where="output", fix="write to files"
            )
        try:
            data.info(name)
        except NotFound:
            data.declare(Table(name, signature.key, signature.time))
        self._data = data
        self._name = name
        self._note = notes / f"{job.digest}.json"

    def last(self) -> tuple[int, int]:
        """Return the piece and the number of the last part that is there."""
        return msgspec.json.decode(self._note.read_bytes(), type=tuple[int, int]) if self._note.exists() else NOWHERE

    def write(self, piece: int, number: int, frame: pl.DataFrame) -> None:
        """Take a part's rows into the table."""
        if frame.height:
            self._data.ingest(self._name, frame)
        self._note.parent.mkdir(parents=True, exist_ok=True)
        aside = self._note.with_suffix(".new")
        aside.write_bytes(msgspec.json.encode((piece, number)))
        aside.replace(self._note)

    def finish(self) -> None:
        """Do nothing: the last part says it all."""


def _input(workspace: Workspace, place: str) -> Input:
    if place.startswith(TABLE):
        return TableRows(workspace.data, place.removeprefix(TABLE))
    return Files(place)


def _output(
    workspace: Workspace,
    place: str,
    job: Job,
    parts: Parts,
    format: Format | None,  # noqa: A002
    *,
    overwrite: bool,
) -> Output:
    if not place.startswith(TABLE):
        return open_output(place, job, format=format, overwrite=overwrite)
    if format is not None:
        raise InvalidInput(f"a table of the store has no format {format!r}", where="format", fix="leave it out")
    notes = workspace.store.folder / "log" / "scoring"
    return TableOutput(workspace.data, place.removeprefix(TABLE), job, parts, notes)
