"""What neptune-exporter saved of Neptune: Parquet files with a row for each value, and the files beside them.

A project is an experiment. Forks keep their parent and the step at which they began. Neptune's steps have six decimals: where a run
uses them, all its steps are multiplied by the same power of ten, which its tag ``neptune.step_multiplier`` names.
Source: https://github.com/neptune-ai/neptune-exporter (README, "Parquet schema").
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kilter.core.errors import Damaged, InvalidInput, KilterError
from kilter.tracking.history.memory import Spool
from kilter.tracking.history.places import Places, existing, opener
from kilter.tracking.history.records import Broken, Ended, FileSeen, LeftOut, Measured, Piece, RunSeen, Said
from kilter.tracking.records import MetricPoint, Status, spelled

if TYPE_CHECKING:
    import polars as pl

_CHUNK = 50_000
_PART = re.compile(r"(?P<run>.+)_part_(?P<part>\d+)\.parquet")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_VALUES: Final = {
    "float": "float_value",
    "int": "int_value",
    "string": "string_value",
    "bool": "bool_value",
    "datetime": "datetime_value",
    "string_set": "string_set_value",
}
_COLUMNS: Final = ("project_id", "run_id", "attribute_path", "attribute_type", "step", "timestamp", "float_value")
_SETS: Final = {"sys/tags": "neptune.tag", "sys/group_tags": "neptune.group_tag"}
_KNOWN: Final = {"sys/description": "mlflow.note.content", "sys/owner": "mlflow.user"}
_CONSOLE: Final = ("stdout", "stderr")


class NeptuneSource:
    """Runs that were exported.

    Args:
        folder: The exporter's ``--data-path``, or a project's folder of it.
        files: The exporter's ``--files-path``; the folder ``files`` beside the data, if not said.
    """

    kind = "neptune"

    def __init__(self, folder: Path, files: Path | None = None) -> None:
        if not folder.is_dir():
            raise InvalidInput("there is no such folder", where=str(folder))
        if (folder / "data").is_dir() and not any(folder.glob("*.parquet")):
            folder = folder / "data"
        found: dict[tuple[Path, str], list[tuple[int, Path]]] = {}
        for path in sorted(folder.rglob("*.parquet")):
            named = _PART.fullmatch(path.name)
            if named and not path.is_symlink():
                found.setdefault((path.parent, named["run"]), []).append((int(named["part"]), path))
        self._parts = {key: [path for _, path in sorted(parts)] for key, parts in sorted(found.items())}
        if not self._parts:
            raise InvalidInput(
                "there is no export of Neptune",
                where=str(folder),
                allowed="RUN_part_N.parquet, as neptune-exporter writes",
            )
        self._files = files or existing([folder.parent / "files", folder.parent.parent / "files"])
        self._places = Places.of(self._files)

    def experiments(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Yield nothing: a project has no tags here."""
        return iter(())

    def runs(self) -> Iterator[RunSeen | Broken | LeftOut]:
        """Yield the runs, the oldest first: a fork comes after what it was forked from."""
        found: list[RunSeen] = []
        for (_, name), parts in self._parts.items():
            try:
                if parts[0].name.rpartition("_part_")[2] != "0.parquet":
                    raise Damaged("the export was cut off: part 0, which comes last, is missing", where=name)
                found.append(self._seen(parts))
            except (KilterError, OSError) as error:
                yield Broken(name, str(error))
        yield from sorted(found, key=lambda run: (run.started_at, run.origin))

    def _seen(self, parts: list[Path]) -> RunSeen:
        import polars as pl  # noqa: PLC0415 - half a second that only this source pays

        rows = 0
        about: dict[str, Any] = {}
        first: dict[str, Any] = {}
        try:
            for path in parts:
                frame = pl.scan_parquet(path, glob=False)
                missing = set(_COLUMNS) - set(frame.collect_schema().names())
                if missing:
                    raise Damaged(f"the column {min(missing)!r} is missing", where=path.name)
                rows += int(frame.select(pl.len()).collect().item())
                if not first:
                    first = next(iter(frame.select("project_id", "run_id").head(1).collect().to_dicts()), {})
                single = pl.col("attribute_type").is_in(list(_VALUES))
                system = frame.filter(pl.col("attribute_path").str.starts_with("sys/") & single)
                about |= {row["attribute_path"]: _single(row) for row in system.collect().to_dicts()}
        except pl.exceptions.PolarsError as error:
            raise Damaged(f"the file can't be read: {_line(error)}", where=path.name) from None
        run = str(about.get("sys/custom_run_id") or first.get("run_id") or "")
        if not run:
            raise Damaged("the export names no run", where=parts[0].name)
        began = about.get("sys/creation_time")
        sizes = sum(path.stat().st_size for path in parts)
        tags = {name: str(value) for name, value in about.items() if isinstance(value, str)}
        return RunSeen(
            origin=f"{first.get('project_id')}/{run}",
            experiment=str(first.get("project_id") or "neptune"),
            name=str(about.get("sys/name") or run),
            started_at=began if isinstance(began, datetime) else _EPOCH,
            version=f"{rows}-{sizes}-{about.get('sys/modification_time')}",
            work=rows,
            status=str(about.get("sys/state") or ""),
            tags=tags,
            at=(parts, about, str(first.get("project_id"))),
        )

    def read(self, run: RunSeen) -> Iterator[Piece]:
        """Yield a run's pieces, in the order of its files."""
        import polars as pl  # noqa: PLC0415

        parts, about, project = run.at
        with Spool() as spool:
            try:
                reading = _Reading(run, spool, self._places, self._files, _multiplier(parts))
                for path in parts:
                    frame = pl.scan_parquet(path, glob=False)
                    for batch in frame.collect_batches(chunk_size=_CHUNK, maintain_order=True):
                        yield from reading.batch(batch)
            except pl.exceptions.PolarsError as error:
                raise Damaged(f"the file can't be read: {_line(error)}", where=path.name) from None
            yield from reading.end(about, project)

    def close(self) -> None:
        """Nothing is held."""


class _Reading:
    """One run's rows on their way."""

    def __init__(self, run: RunSeen, spool: Spool, places: Places, files: Path | None, multiplier: int) -> None:
        self._run = run
        self._spool = spool
        self._places = places
        self._files = files
        self._multiplier = multiplier
        self._params: dict[str, Any] = {}
        self._last = run.started_at

    def batch(self, rows: pl.DataFrame) -> Iterator[Piece]:
        """Yield what some rows say."""
        import polars as pl  # noqa: PLC0415

        series = rows.filter(pl.col("attribute_type") == "float_series")
        yield Measured(self._points(series), rows.height)
        for row in rows.filter(pl.col("attribute_type") != "float_series").iter_rows(named=True):
            yield from self._row(row)

    def _points(self, rows: pl.DataFrame) -> list[MetricPoint]:
        import polars as pl  # noqa: PLC0415

        step = (pl.col("step") * self._multiplier).round(0).cast(pl.Int64).fill_null(0)
        plain = rows.select("attribute_path", "float_value", step, "timestamp")
        found = []
        for name, value, at_step, at in plain.iter_rows():
            when = self._run.started_at if at is None else at
            self._last = max(self._last, when)
            found.append(
                MetricPoint(name=name, value="NaN" if value is None else spelled(value), step=at_step, at=when)
            )
        return found

    def _row(self, row: dict[str, Any]) -> Iterator[Piece]:
        path, kind = str(row["attribute_path"]), str(row["attribute_type"])
        if kind in _VALUES:
            if not path.startswith("sys/"):
                value = _single(row)
                self._params[path] = value.isoformat() if isinstance(value, datetime) else value
            return
        step = row.get("step")
        at = row.get("timestamp")
        about = {"step": _plain_step(step), "at": None if at is None else at.isoformat()}
        match kind:
            case "string_series" if path.rpartition("/")[2] in _CONSOLE:
                self._spool.line(f"{path}.log", str(row.get("string_value") or "").removesuffix("\n"))
            case "string_series":
                self._spool.line(f"series/{path}.jsonl", json.dumps(about | {"value": row.get("string_value")}))
            case "histogram_series":
                self._spool.line(f"histograms/{path}.jsonl", json.dumps(about | {"value": row.get("histogram_value")}))
            case "file" | "file_series" | "artifact" | "file_set":
                yield from self._file(path, kind, (row.get("file_value") or {}).get("path"), about["step"])
            case _:
                yield LeftOut(f"attribute of the type {kind}")

    def _file(self, path: str, kind: str, place: str | None, step: Any) -> Iterator[Piece]:
        if not place or self._files is None:
            yield LeftOut("file that was not exported (give the exporter's --files-path with --files)")
            return
        folder, real = self._places.folder(self._files / place), self._places.file(self._files / place)
        if folder is not None:
            yield from self._places.files(folder, f"{path}/")
        elif real is None:
            yield LeftOut("file that was not exported (give the exporter's --files-path with --files)")
        else:
            ending = real.suffix if not path.endswith(real.suffix) else ""
            name = f"{path}/step_{step}{real.suffix}" if kind == "file_series" else f"{path}{ending}"
            yield FileSeen(name, opener(real))

    def end(self, about: dict[str, Any], project: str) -> Iterator[Piece]:
        """Yield what is known when all rows are read."""
        tags = {"neptune.project": project, "neptune.run": self._run.origin.removeprefix(f"{project}/")}
        for name, value in about.items():
            if name in _SETS and isinstance(value, list):
                tags |= {f"{_SETS[name]}.{tag}": "true" for tag in value}
            elif value not in {None, ""} if not isinstance(value, list) else bool(value):
                said = value.isoformat() if isinstance(value, datetime) else value
                tags[_KNOWN.get(name, f"neptune.{name}")] = said if isinstance(said, str) else json.dumps(said)
        if self._multiplier != 1:
            tags["neptune.step_multiplier"] = str(self._multiplier)
        parent = about.get("sys/forking/parent")
        yield Said(params=self._params, tags=tags, parent=f"{project}/{parent}" if parent else "")
        yield from self._spool.files()
        changed = about.get("sys/modification_time")
        ended = max(self._last, changed) if isinstance(changed, datetime) else self._last
        status: Status = "FAILED" if about.get("sys/failed") else "FINISHED"
        yield Ended(status, ended, deleted=bool(about.get("sys/trashed")))


def _multiplier(parts: list[Path]) -> int:
    """Return the power of ten that makes all of a run's steps whole."""
    import polars as pl  # noqa: PLC0415

    steps = pl.scan_parquet([str(path) for path in parts], glob=False).select(pl.col("step").drop_nulls())
    for power in range(6):
        factor = 10**power
        fraction = (pl.col("step").cast(pl.Float64) * factor) % 1.0
        # Steps beyond 2**53 have no fractions in a float: those are whole.
        if not steps.select(((fraction > 1e-6) & (fraction < 1 - 1e-6)).any()).collect().item():
            return int(factor)
    return 10**6


def _single(row: dict[str, Any]) -> Any:
    return row.get(_VALUES[row["attribute_type"]])


def _plain_step(step: Any) -> Any:
    if isinstance(step, Decimal):
        return int(step) if step == step.to_integral_value() else float(step)
    return step


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
