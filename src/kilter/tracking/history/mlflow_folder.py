"""An ``mlruns`` folder: MLflow's store of files.

``EXPERIMENT/RUN/{meta.yaml,params,metrics,tags,inputs,outputs,artifacts}``, ``EXPERIMENT/{datasets,models,tags}``, and what was deleted
in ``.trash``. Source: mlflow/store/tracking/file_store.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kilter.core.errors import Damaged, InvalidInput, KilterError
from kilter.tracking.history.mlflow import NAMES, OWN, PARENT, ended, moment, number
from kilter.tracking.history.places import Places, local_path
from kilter.tracking.history.records import (
    Broken,
    DataSeen,
    FileSeen,
    LeftOut,
    Measured,
    ModelRead,
    ModelSeen,
    Piece,
    RunSeen,
    Said,
)
from kilter.tracking.records import DatasetInput, LoggedStatus, MetricPoint, ModelMetric

_CHUNK = 5000
_LONGEST_META = 4 << 20
_LONGEST_LINE = 4096
_MODELS: dict[str, LoggedStatus] = {"1": "PENDING", "2": "READY", "3": "FAILED"}


class FolderSource:
    """Runs in a folder.

    Args:
        folder: The folder ``mlruns``.
        files: A further folder that artifacts may come from.
    """

    kind = "mlflow"

    def __init__(self, folder: Path, files: Path | None = None) -> None:
        self._folder = folder
        self._places = Places.of(folder, files)
        self._experiments = {
            path: meta
            for root in (folder, folder / ".trash")
            for path in sorted(root.glob("*/meta.yaml"))
            if "run_id" not in (meta := _quietly(path)) and "name" in meta
        }
        if not self._experiments:
            raise InvalidInput(
                "the folder holds no experiment of MLflow", where=str(folder), allowed="an mlruns folder"
            )

    def experiments(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Yield the experiments with their tags."""
        for path, meta in self._experiments.items():
            yield str(meta["name"]), dict(_texts(path.parent / "tags"))

    def runs(self) -> Iterator[RunSeen | Broken | LeftOut]:
        """Yield the runs, the oldest of an experiment first: parents begin before their children."""
        for path, meta in self._experiments.items():
            found: list[RunSeen] = []
            for run in sorted(path.parent.glob("*/meta.yaml")):
                try:
                    about = _meta(run)
                    if "run_id" in about or "run_uuid" in about:
                        found.append(self._seen(run.parent, about, str(meta["name"])))
                except (KilterError, OSError) as error:
                    yield Broken(str(run.parent), str(error))
            yield from sorted(found, key=lambda one: (one.started_at, one.origin))

    def _seen(self, folder: Path, about: dict[str, Any], experiment: str) -> RunSeen:
        sizes = [path.stat().st_size for path in folder.glob("metrics/**/*") if path.is_file()]
        latest = max(path.stat().st_mtime_ns for path in folder.rglob("*") if not path.is_symlink())
        tags = {name: value for name, value in _texts(folder / "tags") if len(value) < 1000}
        identity = str(about.get("run_id") or about["run_uuid"])
        return RunSeen(
            origin=identity,
            experiment=experiment,
            name=str(about.get("run_name") or tags.get("mlflow.runName") or identity),
            started_at=moment(about.get("start_time")),
            version=f"{sum(sizes)}-{latest}",
            work=sum(sizes) + 1,
            status=NAMES.get(str(about.get("status")), str(about.get("status", ""))),
            tags=tags,
            at=(folder, about),
        )

    def read(self, run: RunSeen) -> Iterator[Piece]:
        """Yield a run's pieces: words, metrics by name and in the order of writing, data, models, files."""
        folder, about = run.at
        tags = dict(_texts(folder / "tags"))
        user = {"mlflow.user": str(about["user_id"])} if about.get("user_id") else {}
        yield Said(
            params=dict(_texts(folder / "params")),
            tags=user | {name: value for name, value in tags.items() if name not in OWN},
            parent=tags.get(PARENT, ""),
        )
        for path in _files(folder / "metrics"):
            yield from _points(path, path.relative_to(folder / "metrics").as_posix())
        yield from self._inputs(folder)
        for path in sorted((folder.parent / "models").glob("*/meta.yaml")):
            model = _meta(path)
            if str(model.get("source_run_id") or "") == run.origin:
                yield from self._model(path.parent, model)
        if (folder / "traces").is_dir():
            yield LeftOut("trace")
        yield from self._artifacts(folder, str(about.get("artifact_uri") or ""))
        yield ended(about.get("status"), about.get("end_time"), deleted=_is_deleted(folder, about))

    def close(self) -> None:
        """Nothing is held."""

    def _artifacts(self, folder: Path, uri: str) -> Iterator[Piece]:
        inside, named = folder / "artifacts", local_path(uri)
        if self._places.folder(inside) is not None:
            yield from self._places.files(inside)
        elif named is not None and (elsewhere := self._places.folder(named)) is not None:
            yield from self._places.files(elsewhere)
        elif uri and not (named is not None and named.name == "artifacts" and not named.exists()):
            yield LeftOut(
                "run's artifacts elsewhere (import from the running server, or give their folder with --files)"
            )

    def _inputs(self, folder: Path) -> Iterator[Piece]:
        found = []
        for path in sorted(folder.glob("inputs/*/meta.yaml")):
            about = _meta(path)
            if str(about.get("source_type")) in {"MODEL", "MODEL_INPUT"}:
                yield ModelRead(str(about.get("source_id")))
                continue
            data = _meta(folder.parent / "datasets" / _segment(about.get("source_id")) / "meta.yaml")
            found.append(
                DatasetInput(
                    name=str(data.get("name", "")),
                    digest=str(data.get("digest", "")),
                    source_type=str(data.get("source_type") or ""),
                    source=str(data.get("source") or ""),
                    schema=str(data.get("schema") or ""),
                    profile=str(data.get("profile") or ""),
                    tags={str(name): str(value) for name, value in (about.get("tags") or {}).items()},
                )
            )
        if found:
            yield DataSeen(found)

    def _model(self, folder: Path, about: dict[str, Any]) -> Iterator[Piece]:
        metrics = []
        for path in _files(folder / "metrics"):
            name = path.relative_to(folder / "metrics").as_posix()
            for words in _lines(path):
                at, value, step, run, *data = [*words, "", "", ""][:6]
                point = MetricPoint(name=name, value=number(value), step=int(step or 0), at=moment(at))
                metrics.append(ModelMetric(point=point, run=run, dataset=data[0], dataset_digest=data[1]))
        files: list[FileSeen] = []
        for found in self._places.files(folder / "artifacts"):
            if isinstance(found, FileSeen):
                files.append(found)
            else:
                yield found
        yield ModelSeen(
            origin=str(about.get("model_id")),
            name=str(about.get("name") or about.get("model_id")),
            type=str(about.get("model_type") or ""),
            status=_MODELS.get(str(about.get("status")), "READY"),
            params=dict(_texts(folder / "params")),
            tags=dict(_texts(folder / "tags")),
            metrics=metrics,
            files=files,
        )


def _is_deleted(folder: Path, about: dict[str, Any]) -> bool:
    return str(about.get("lifecycle_stage")) == "deleted" or ".trash" in folder.parts


def _segment(name: Any) -> str:
    text = str(name)
    if "/" in text or text in {"", ".", ".."} or "\x00" in text:
        raise Damaged(f"{text[:60]!r} is no id", where="mlflow")
    return text


def _quietly(path: Path) -> dict[str, Any]:
    try:
        return _meta(path)
    except (KilterError, OSError):
        return {}


def _meta(path: Path) -> dict[str, Any]:
    """Return what a ``meta.yaml`` says; only plain values are read, no tags that would make objects."""
    import yaml  # noqa: PLC0415 - of all sources only this one needs it

    if not path.is_file():
        raise Damaged("there is no meta.yaml", where=str(path.parent))
    if path.stat().st_size > _LONGEST_META:
        raise Damaged("the file is too long", where=str(path), allowed=f"{_LONGEST_META:,} bytes")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - a safe one
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise Damaged(f"the file is no YAML: {str(error).splitlines()[0]}", where=str(path)) from None
    if not isinstance(found, dict):
        raise Damaged("the file says nothing by name", where=str(path))
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _texts(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield names and texts of a folder with a file for each."""
    for path in _files(folder):
        if path.stat().st_size <= _LONGEST_META:
            yield (
                path.relative_to(folder).as_posix(),
                path.read_text(encoding="utf-8", errors="replace").removesuffix("\n"),
            )


def _lines(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        while line := file.readline(_LONGEST_LINE):
            if not line.endswith("\n") and len(line) == _LONGEST_LINE:
                raise Damaged("a line is too long", where=str(path))
            if words := line.split():
                yield words


def _points(path: Path, name: str) -> Iterator[Piece]:
    points: list[MetricPoint] = []
    work, place = 0, 0
    for place, words in enumerate(_lines(path), 1):
        try:
            step = int(words[2]) if len(words) > 2 else 0
            points.append(MetricPoint(name=name, value=number(words[1]), step=step, at=moment(words[0])))
        except (ValueError, IndexError):
            raise Damaged("a line is no point of a metric", where=f"metric {name}, line {place:,}") from None
        work += sum(map(len, words)) + len(words)
        if len(points) >= _CHUNK:
            yield Measured(points, work)
            points, work = [], 0
    if points:
        yield Measured(points, work)
